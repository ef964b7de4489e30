"""A run's policies, put to every question the report asks. Each function makes one section from what a run holds.

What a policy may have learned from ends at the run's cut; everything here that reads the log reads what came after it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from scipy.stats import spearmanr

from data.catalog import Catalog
from data.histories import Contexts, Decisions, Histories, contexts
from data.outcomes import matured_at, read_outcomes
from data.schema import ACTIONS
from data.world import PRESETS, SlatePolicy, World, lived_in
from eval.diagnostics import Check, overlap, placebo
from eval.exposure import Exposure, of_slates
from eval.fairness import (
    TENTHS,
    consumption,
    creator_tenths,
    gains_by_segment,
    kind_shares,
    people_by_segment,
    segments_at,
    shares,
)
from eval.messages import BURN_IN_DAYS, FRESH_LISTENERS
from eval.off_policy import OffPolicySettings, OffPolicyValue, off_policy_value
from eval.ranking import RankingSettings, evaluate_ranking, floors, next_item_targets
from eval.report.inputs import (
    FairnessSection,
    HeadQuality,
    ListenerSlates,
    OffPolicySection,
    ParetoSection,
    RankingSection,
    Reliability,
    RewardSection,
    ShownItem,
)
from eval.report.metrics import is_candidate
from eval.rollout import Rollout, RolloutSettings, play
from eval.rounds import LoggedRounds
from eval.scorable import scorable
from eval.slates import logged_by, plackett_luce_positions, plackett_luce_prefixes
from eval.support import Support
from policy.agent import LanguageModelPolicy, position_log_probs, slate_log_probs, top_items
from policy.checkpoint import Speaker
from rewards.model import RewardModel
from rewards.pareto import sweep
from rewards.recency import recency_features
from rewards.segments import SEGMENTS, segments

FEWEST_ROUNDS = 100
POSITION_SAMPLES = 2  # slates drawn per decision for the probability of an item at a position
CANDIDATES = 64  # slates to choose among at each decision, for the Pareto front
TRADED_LABELS = ("plays", "completes", "minutes_1d")  # what return is traded against: the first that the reward has
BUILT_IN = ("logging", "oracle")  # policies of a world, between which trained ones are told
OBJECTIVE_LABELS = ("active_days_28", "habit_28", "returned_7d", "active_days_7", "returned_1d")
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class Judged:
    """What a run offers for judgement. cut: us since 1970. speakers: policy name -> trained policy.

    logging: Plackett-Luce scores (B, catalog) of the policy that wrote the log, where it can still be asked. A log has
    the probability of whole slates only; slate estimators need that of each position.
    """

    catalog: Catalog
    histories: Histories
    decisions: Decisions
    cut: int
    speakers: Mapping[str, Speaker]
    logging: Callable[[Contexts], NDArray[np.floating]] | None = None

    def later(self, most: int, seed: int) -> NDArray[np.int64]:
        """At most `most` decisions after the cut that have a history, by rows, in order."""
        known = self.decisions.start > self.histories.offsets[self.decisions.user]
        rows = np.flatnonzero((self.decisions.time >= self.cut) & known)
        return np.sort(np.random.default_rng(seed).permutation(rows)[:most])


def world_rollout(
    catalog: Catalog,
    world: str,
    world_seed: int,
    listeners: int,
    policies: Mapping[str, SlatePolicy],
    built_in: Sequence[str] = (),
    progress: Progress | None = None,
) -> Rollout:
    """Truth: `policies`, and those of the world that are `built_in`, played to fresh listeners with the same luck."""
    settings = PRESETS[world].with_listeners(listeners)
    lived = lived_in(settings, world_seed, BURN_IN_DAYS, world_seed + FRESH_LISTENERS)
    evening, log = lived.branch(), lived.log()
    assert log.end is not None
    segments = segments_at(log, catalog.index_of, int(log.end.timestamp() * 1e6))
    played = {**policies, **{name: evening.built_in(name) for name in built_in}}
    return replace(play(evening, played, RolloutSettings(), world_seed, progress), segments=segments)


def reward_section(folder: Path, truth: Mapping[str, float] = MappingProxyType({})) -> RewardSection:
    """The quality report that training wrote beside the reward model, and what a world adds (`advantage_truth`)."""
    quality = json.loads((folder / "quality.json").read_text())
    heads = {}
    for label, head in quality["heads"].items():
        score = "auc" if "auc" in head else "c_index"
        if score not in head:
            continue
        heads[label] = HeadQuality(
            score_name=score,
            score=head[score],
            baselines=head.get("baseline", {}),
            ece=head.get("ece"),
            ece_chance=head.get("ece_chance"),
            rows=head.get("n"),
            reliability=Reliability(**head["reliability"]) if "reliability" in head else None,
        )
    numbers = {}
    for label in (name for name in OBJECTIVE_LABELS if name in quality["advantage"]):
        found = quality["advantage"][label]
        numbers[f"{label}: spread of the slate's effect under logging"] = float(found["sd_under_logging"])
        numbers[f"{label}: uncertainty of a slate's effect"] = float(found["mean_spread"])
    return RewardSection(heads=heads, advantage=numbers | dict(truth))


def advantage_truth(
    judged: Judged, rewards: Mapping[str, RewardModel], world: str, world_seed: int
) -> dict[str, float]:
    """What only a world can say of a reward: does it rank items by how good they truly are, or by how they tempt?

    Spearman correlation over items of each reward's mean advantage (of the item alone, over 100 later contexts) with
    the world's hidden quality and allure.
    """
    items = World(PRESETS[world].with_listeners(2), world_seed).items
    decisions = judged.decisions.take(judged.later(100, 0))
    alone = torch.arange(len(judged.catalog))[None, :, None].expand(len(decisions), -1, -1)
    found = {}
    for name, reward in rewards.items():
        states = reward.encode(judged.histories, decisions)
        value = reward.objective().value(reward.advantage(states, alone)).mean(0).numpy()
        for hidden in ("quality", "allure"):
            truth = spearmanr(value, getattr(items, hidden)).statistic
            found[f"{name} reward: rank correlation with hidden {hidden}"] = float(truth)
    return found


def ranking_section(judged: Judged, cases: int, seed: int) -> RankingSection:
    """Next-item ranking of every policy on interactions after the cut, beside both floors."""
    settings = RankingSettings(max_targets=cases)
    targets = next_item_targets(judged.histories, judged.cut, settings, seed)
    most = max(settings.cutoffs)
    rankers = floors(judged.histories, targets, len(judged.catalog), judged.cut, most)
    for name, spoken in judged.speakers.items():
        known = contexts(judged.histories, targets, spoken.settings.history_length)
        rankers[name] = top_items(spoken, known, most)
    results = evaluate_ranking(rankers, targets, settings)
    return RankingSection(results=results, about="The next item that a listener took after the cut.")


def off_policy_section(
    judged: Judged, outcomes: Path, reward: RewardModel, labels: Sequence[str], rounds: int, seed: int
) -> OffPolicySection | None:
    """The value of every policy from logged decisions after the cut, or why the log cannot say.

    It is of the first of `labels` whose window closed within the log for at least FEWEST_ROUNDS of them; None without.

    q is the reward model's expectation for the logged slate, v its mean over four slates drawn from the policy. Where
    whole slates support no value and the logging policy can be asked, single positions are (`pi`, `pi_dr`). Decisions
    that the policies cannot be asked about again are left out and counted (`eval.scorable`).
    """
    sizes = {spoken.settings.slate_size for spoken in judged.speakers.values()}
    later, left_out = scorable(judged.decisions, judged.later(len(judged.decisions), seed), sizes)
    for label in (name for name in labels if name in reward.labels):
        known_label = _labels(outcomes, label, judged.decisions)
        rows = later[~np.isnan(known_label[later])]
        if len(rows) >= FEWEST_ROUNDS:
            break
    else:
        return None
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:rounds])
    decisions = judged.decisions.take(rows)
    organic = bool(np.isnan(decisions.log_propensity).all())
    if sizes and not organic:  # in a log with longer slates all are padded to the longest
        decisions = replace(decisions, slate=decisions.slate[:, : max(sizes)])
    states = reward.encode(judged.histories, decisions)
    column = reward.labels.index(label)
    base = reward.outcomes(states)[label]
    logged = torch.from_numpy(decisions.slate.astype(np.int64))[:, None]
    q = base + reward.advantage(states, logged).mean[:, 0, column].numpy()
    values: dict[str, OffPolicyValue] = {}
    checks: dict[str, list[Check]] = {}
    overlaps: dict[str, dict[str, Support]] = {}
    segment = np.array(SEGMENTS)[segments(recency_features(judged.histories, decisions))]
    # How much a listener had done before: no slate can have changed it.
    before = {"interactions before the decision": np.log1p(decisions.start - judged.histories.offsets[decisions.user])}
    settings = OffPolicySettings()
    user, truth = decisions.user, known_label[rows]
    on_log = LoggedRounds(decisions.log_propensity, decisions.log_propensity, truth, user, q, q)
    values["logging"] = off_policy_value(on_log, settings)
    positions = None if organic else _logged_positions(judged, decisions, seed)
    for name, spoken in judged.speakers.items():
        known = contexts(judged.histories, decisions, spoken.settings.history_length)
        if organic:  # without propensities every value is refused, whatever the policy's own probabilities are
            log_p, v = np.zeros(len(rows)), q
        else:
            log_p = slate_log_probs(spoken, known, decisions.slate, decisions.move)
            v = base + _expected(spoken, judged, decisions, reward, states, column, seed)
        found = LoggedRounds(decisions.log_propensity, np.minimum(log_p, 0.0), truth, user, q, v)
        values[name] = off_policy_value(found, settings)
        if not organic:
            overlaps[name] = overlap(found, segment)
        if values[name].support.refused is None:
            checks[name] = placebo(found, before)
        elif positions is not None and is_candidate(name):  # whole slates say nothing: do their positions?
            generator = torch.Generator().manual_seed(seed)
            new = position_log_probs(spoken, known, decisions.slate, POSITION_SAMPLES, generator)
            by_position = replace(found, position_log=positions, position_new=np.minimum(new, 0.0))
            values[name] = off_policy_value(by_position, settings)
    return OffPolicySection(label, values, checks, overlaps, left_out=left_out)


def _logged_positions(judged: Judged, decisions: Decisions, seed: int) -> NDArray[np.float64] | None:
    """Log-probabilities (B, K) of logged items at their positions; None where the logging policy cannot be asked.

    It says no move: a log with moves in it is, in part, that of a server and of other policies. Raises InputError where
    what it says now is not what it said when it wrote the log.
    """
    if judged.logging is None or any(move is not None for move in decisions.move):
        return None
    scores = judged.logging(contexts(judged.histories, decisions))
    logged_by(plackett_luce_prefixes(scores, decisions.slate), decisions.log_propensity)
    return plackett_luce_positions(scores, decisions.slate, np.random.default_rng(seed))


def listener_slates(judged: Judged, count: int, seed: int, length: int = 6) -> list[ListenerSlates]:
    """What a few listeners had done, and a slate of each policy, drawn as in service, beside the one that was logged.

    The first one asked for something in words, where anybody did.
    """
    rows = judged.later(len(judged.decisions), seed)
    rows = np.random.default_rng(seed).permutation(rows)
    asked = np.array([judged.decisions.steer[row] is not None for row in rows.tolist()], dtype=bool)
    rows = np.concatenate([rows[asked][:1], rows[~asked]])[:count]
    decisions = judged.decisions.take(rows)
    past = contexts(judged.histories, decisions, length)
    items = judged.catalog.items
    shown: dict[str, NDArray[np.int32]] = {"logging": decisions.slate}
    for name, spoken in judged.speakers.items():
        known = contexts(judged.histories, decisions, spoken.settings.history_length)
        shown[name], _ = LanguageModelPolicy(name, spoken).choose(known, np.random.default_rng(seed))
    return [
        ListenerSlates(
            listener=judged.histories.user_ids[int(decisions.user[row])],
            moment=_moment(int(decisions.hour_of_week[row])),
            history=[
                _item(items, item, ACTIONS[action])
                for item, action in zip(past.item[row].tolist(), past.action[row].tolist(), strict=True)
                if item >= 0
            ],
            slates={
                name: [_item(items, item) for item in slates[row].tolist() if item >= 0]
                for name, slates in shown.items()
            },
            says=decisions.steer[row],
        )
        for row in range(len(decisions))
    ]


def shown_by(judged: Judged, rollout: Rollout | None, most: int, seed: int) -> dict[str, Exposure]:
    """What each policy shows: while it was played in a world, else on at most `most` contexts after the cut."""
    if rollout is not None:
        return dict(rollout.exposure)
    decisions = judged.decisions.take(judged.later(most, seed))
    found = {"logging": of_slates(decisions.slate, len(judged.catalog))}
    for name, spoken in judged.speakers.items():
        known = contexts(judged.histories, decisions, spoken.settings.history_length)
        slates, log_p = LanguageModelPolicy(name, spoken).choose(known, np.random.default_rng(seed))
        found[name] = of_slates(slates, len(judged.catalog), log_p)
    return found


def fairness_section(judged: Judged, shown: Mapping[str, Exposure], rollout: Rollout | None) -> FairnessSection:
    """How the gain is spread over segments of listeners (in a world), and showings over creators and kinds."""
    items = judged.catalog.items
    consumed = consumption(judged.histories, judged.cut, len(judged.catalog))
    tenth, ranked, count = creator_tenths(consumed, items)
    counted = {"consumed": consumed, **{name: found.shown for name, found in shown.items()}}
    by_tenth = {name: shares(counts, tenth, TENTHS) for name, counts in counted.items()}
    by_kind = {name: kind_shares(counts, items) for name, counts in counted.items()}
    people, gains = {}, {}
    if rollout is not None and rollout.settings.reference in rollout.metrics:
        people = people_by_segment([rollout])
        gains = gains_by_segment([rollout], rollout.settings.headline, rollout.settings.reference)
    return FairnessSection(ranked, count, by_tenth, by_kind, people, gains)


def pareto_section(judged: Judged, reward: RewardModel, decisions: int, seed: int) -> ParetoSection | None:
    """What the reward model would trade for what, on `decisions` later decisions; None with fewer than two outcomes.

    Candidates are slates that the log showed to somebody. One network chooses, the other says what the slate is worth.
    """
    first = next((label for label in OBJECTIVE_LABELS if label in reward.labels), None)
    second = next((label for label in TRADED_LABELS if label in reward.labels), None)
    rows = judged.later(decisions, seed)
    pool = judged.decisions.slate[(judged.decisions.slate >= 0).all(1)]
    if first is None or second is None or len(rows) < FEWEST_ROUNDS or len(pool) < 2:
        return None
    states = reward.encode(judged.histories, judged.decisions.take(rows))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(pool), (len(rows), CANDIDATES), generator=generator)
    slates = torch.from_numpy(pool.astype(np.int64))[drawn]
    choose, value = (one.advantage(own, slates) for one, own in reward.apart(states))
    return ParetoSection(sweep(reward.moments, (first, second), choose, value), len(rows), CANDIDATES)


def _labels(outcomes: Path, label: str, decisions: Decisions) -> NDArray[np.float64]:
    """The label of each decision (D,), nan where its window had not closed."""
    table = read_outcomes(outcomes)
    closed = table.table.filter(matured_at(label) <= table.end)
    found = pl.DataFrame({"decision_id": decisions.decision_id}).join(
        closed.select("decision_id", pl.col(label).cast(pl.Float64)),
        on="decision_id",
        how="left",
        maintain_order="left",
    )
    return found[label].fill_null(float("nan")).to_numpy()


@torch.no_grad()
def _expected(
    spoken: Speaker,
    judged: Judged,
    decisions: Decisions,
    reward: RewardModel,
    states: torch.Tensor,
    column: int,
    seed: int,
    samples: int = 4,
) -> NDArray[np.float64]:
    """Mean modelled advantage (B,) of slates drawn from the policy."""
    generator = torch.Generator().manual_seed(seed)
    means = []
    for start in range(0, len(decisions), 256):
        block = np.arange(start, min(start + 256, len(decisions)))
        known = contexts(judged.histories, decisions.take(block), spoken.settings.history_length)
        ids, mask = spoken.prompt.encode(known, None)
        heard = spoken.hearing.prior(spoken.grammar.trie, known.steer)
        drawn = spoken.legal.draw(ids, mask, samples=samples, generator=generator, prior=heard)
        _, items = spoken.grammar.decode(drawn.tokens.flatten(0, 1))
        scores = reward.advantage(states[block], items.view(len(block), samples, -1))
        means.append(scores.mean[..., column].mean(1))
    return torch.cat(means).double().numpy()


def _moment(hour_of_week: int) -> str:
    return f"{WEEKDAYS[hour_of_week // 24]}, {hour_of_week % 24}:00 their time" if hour_of_week >= 0 else "time unknown"


def _item(items: pl.DataFrame, row: int, reaction: str | None = None) -> ShownItem:
    found = items.row(row, named=True)
    return ShownItem(
        title=found["title"] or found["item_id"],
        creator=found["creator"],
        kind=found["kind"],
        tags=found["tags"] or (),
        reaction=reaction,
    )
