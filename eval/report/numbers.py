"""report.json: every number of the report, as one plain dictionary. The page and the terminal read only this.

Paths that other programs may rely on:
    world.policies.<name>.<metric>.{mean, lo, hi}
    world.paired_vs_sft.<name>.<metric>.{diff, lo, hi}     (several seeds add seeds_lo, seeds_hi, by_seed)
    world.paired_vs_logging.<name>.<metric>.{diff, lo, hi} the same, against today's policy
    world.gap_closed.<name>.{share, lo, hi}
    rewards.heads.<label>.{auc or c_index, baseline, ece, ece_chance}
    ope.<policy>.<estimator>.{value, lo, hi, ess, refused}      ope_about.{support, overlap, checks, ...}
    ranking.<policy>.{hr@10, ndcg@10}                      (and hr@10_lo, hr@10_hi, ...)
    fairness.gains.<policy>.<segment>.{diff, lo, hi, people}     fairness.{by_tenth, by_kind}.<policy or consumed>
    pareto.points[].{weights, gain, error, dominated}      pareto.sentences[]
    comparison.paired.<name>.<metric>.{diff, lo, hi}       this run less another one, on the same listeners
    semantic_ids[].{level, size, used, perplexity, share, random}
    habit.tenths[].{tenth, people, low, high, measures.<measure>.{mean, lo, hi, people}}    habit.overall.<measure>
    habit.returns.<group>, habit.time_to_habit: {times, survival, lo, hi, at_risk, events, rows, people}
    world_shown.{policies, message_policies}.<name>.<metric>.{mean, lo, hi}
    world_shown.habit.<policy>.{mean[], lo[], hi[]}        by day
    messages.policies.<name>.<metric>.{mean, lo, hi}       and paired_vs_<reference>, by_day, front, examples
    timing.<stage>                                         seconds
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from eval.estimators import ESTIMATORS
from eval.off_policy import OffPolicyValue
from eval.ranking import RankingResult
from eval.report.answer import answer
from eval.report.compare import comparison_rows
from eval.report.fairness import fairness_json
from eval.report.habit import habit_json
from eval.report.inputs import HeadQuality, ListenerSlates, ReportInputs, ShownItem
from eval.report.messages import messages_json
from eval.report.pareto import pareto_json
from eval.report.world import portrait_json
from eval.rollout import between_runs_json, world_json
from eval.sensitivity import tipping_point

REPORT_FORMAT = 1
Json = dict[str, object]


def report_numbers(inputs: ReportInputs) -> Json:
    """The whole report as JSON-ready dictionaries; sections that are not there are absent. nan becomes null."""
    report: Json = {
        "format": REPORT_FORMAT,
        "run": inputs.run,
        "source": inputs.source,
        "preset": inputs.preset,
    }
    if inputs.world is not None:
        report["world"] = {"name": inputs.world.world, **world_json(inputs.world.rollouts)}
    if inputs.rewards is not None:
        report["rewards"] = {
            "heads": {label: head_json(head) for label, head in inputs.rewards.heads.items()},
            "advantage": dict(inputs.rewards.advantage),
        }
    if inputs.off_policy is not None:
        values = inputs.off_policy.values
        report["ope"] = {policy: estimates_json(value) for policy, value in values.items()}
        report["ope_about"] = {
            "reward": inputs.off_policy.reward,
            "left_out": dict(inputs.off_policy.left_out),
            "support": {policy: asdict(value.support) for policy, value in values.items()},
            "logging": {policy: asdict(value.logging) for policy, value in values.items()},
            "by_weights": {
                policy: {family: asdict(support) for family, support in value.supports.items() if family != "slate"}
                for policy, value in values.items()
            },
            "checks": {policy: [asdict(check) for check in made] for policy, made in inputs.off_policy.checks.items()},
            "overlap": {
                policy: {segment: asdict(support) for segment, support in by.items()}
                for policy, by in inputs.off_policy.overlap.items()
            },
            "sensitivity": {
                policy: {"bounds": [asdict(bound) for bound in bounds], "tips_at": tipping_point(bounds)}
                for policy, bounds in inputs.off_policy.sensitivity.items()
            },
            "estimators": {
                name: {"formula": known.formula, "assumption": known.assumption, "paper": known.paper}
                for name, known in ESTIMATORS.items()
                if any(name in value.estimates for value in values.values())
            },
        }
    if inputs.ranking is not None:
        report["ranking"] = {name: ranking_json(result) for name, result in inputs.ranking.results.items()}
        sizes = {result.targets for result in inputs.ranking.results.values()}
        report["ranking_about"] = {"about": inputs.ranking.about, "targets": max(sizes, default=0)}
    if inputs.exposure is not None:
        report["exposure"] = {policy: dict(found) for policy, found in inputs.exposure.policies.items()}
    if inputs.fairness is not None:
        report["fairness"] = fairness_json(inputs.fairness)
    if inputs.pareto is not None:
        report["pareto"] = pareto_json(inputs.pareto)
    if inputs.semantic_ids:
        report["semantic_ids"] = [asdict(level) for level in inputs.semantic_ids]
    if inputs.habit is not None:
        report["habit"] = habit_json(inputs.habit)
    if inputs.portrait is not None:
        report["world_shown"] = portrait_json(inputs.portrait)
    if inputs.messages is not None:
        report["messages"] = messages_json(inputs.messages)
    if inputs.slates:
        report["slates"] = slates_json(inputs.slates)
    if inputs.missing:
        report["missing"] = [asdict(missing) for missing in inputs.missing]
    if inputs.notes:
        report["notes"] = list(inputs.notes)
    report["timing"] = dict(inputs.timing)
    report["manifest"] = dict(inputs.manifest)
    report = plain(report)
    if inputs.comparison is not None:
        report["comparison"] = comparison_json(report, inputs)
    report["answer"] = answer(report, inputs.candidate)
    return report


def comparison_json(report: Json, inputs: ReportInputs) -> Json:
    """The other run beside this one: paired on the same listeners where both were played to them, and row by row."""
    other = inputs.comparison
    assert other is not None
    found: Json = {"label": other.label, "rows": comparison_rows(report, other.report)}
    if inputs.world is not None and other.rollout is not None:
        found["paired"] = between_runs_json(inputs.world.rollouts[0], other.rollout)
    return plain(found)


def head_json(head: HeadQuality) -> Json:
    """One head: its score by name, the best baseline's, calibration."""
    best = max(head.baselines, key=head.baselines.__getitem__, default=None)
    found: Json = {
        head.score_name: head.score,
        "baseline": None if best is None else head.baselines[best],
        "baseline_name": best,
        "baselines": dict(head.baselines),
        "ece": head.ece,
        "ece_chance": head.ece_chance,
        "rows": head.rows,
    }
    if head.reliability is not None:
        found["reliability"] = asdict(head.reliability)
    return found


def estimates_json(value: OffPolicyValue) -> Json:
    """estimator -> value, bounds, paired difference from logging, effective rounds, and why it is refused."""
    return {name: asdict(estimate) for name, estimate in value.estimates.items()}


def ranking_json(result: RankingResult) -> Json:
    """Metrics as plain numbers, their bounds beside them, and the paired gain over the transition count."""
    found: Json = {}
    for name, interval in result.metrics.items():
        found |= {name: interval.value, f"{name}_lo": interval.lo, f"{name}_hi": interval.hi}
    if result.over_floor:
        found["vs_transition_count"] = {
            name: {"diff": interval.value, "lo": interval.lo, "hi": interval.hi}
            for name, interval in result.over_floor.items()
        }
    return found


def slates_json(listeners: Sequence[ListenerSlates]) -> list[Json]:
    """Each listener's history and slates; each item of a slate with how many of these people the policy has it for."""
    among = Counter(
        (policy, shown)
        for listener in listeners
        for policy, slate in listener.slates.items()
        for shown in {(item.title, item.creator) for item in slate}
    )
    return [
        {
            "listener": listener.listener,
            "moment": listener.moment,
            "says": listener.says,
            "history": [item_json(item) for item in listener.history],
            "slates": {
                policy: [item_json(item) | {"listeners": among[policy, (item.title, item.creator)]} for item in slate]
                for policy, slate in listener.slates.items()
            },
        }
        for listener in listeners
    ]


def item_json(item: ShownItem) -> Json:
    """One item as a person would see it."""
    return {
        "title": item.title,
        "creator": item.creator,
        "kind": item.kind,
        "tags": list(item.tags),
        "reaction": item.reaction,
    }


def plain(value: object) -> Json:
    """`value` with every number a Python number, nan and infinities null, tuples lists: what JSON can carry."""
    converted = _plain(value)
    assert isinstance(converted, dict)
    return converted


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return _plain(value.tolist())
    return str(value)
