"""Ship, hold or roll back: one stated rule over success, guardrail and quality metrics.

After Schultzberg, Ankargren & Franberg (2024), for each arm:

1. hold, unread, when a quality check fails: the experiment is broken, no number of it can be believed;
2. roll back when a success or guardrail metric is worse beyond chance (p-values by Holm over all of them and all arms);
3. ship when one success metric or more is better (by Holm, or Benjamini-Hochberg, over success metrics and arms) and
   every guardrail is at most its margin worse (each at the plain level: all must pass, so none needs adjusting);
4. hold otherwise, and say what is missing.

Tests are two-sided at alpha, so a false ship or a false alarm in one direction has alpha / 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import tea_tasting as tt
from tea_tasting.experiment import ExperimentResult

from data.errors import InputError
from eval.experiments.effect import Effect
from eval.experiments.metric import Metric
from eval.experiments.quality import Check

Correction = Literal["holm", "bh"]
Decision = Literal["ship", "hold", "roll back"]
Key = tuple[str, str]  # (arm, metric)


@dataclass(frozen=True)
class Verdict:
    """What to do with an arm, and why, one reason a line."""

    arm: str
    decision: Decision
    reasons: tuple[str, ...]


def adjusted(p: Mapping[Key, float], method: Correction) -> dict[Key, float]:
    """p-values adjusted over all keys: Holm (1979, any dependence) or Benjamini & Hochberg (1995). tea-tasting's."""
    if not p:
        return {}
    results = ExperimentResult({key: {"pvalue": value} for key, value in p.items()})
    if method == "holm":
        found = tt.adjust_fwer(results, alpha=0.05, method="bonferroni", arbitrary_dependence=True)
    elif method == "bh":
        found = tt.adjust_fdr(results, alpha=0.05)
    else:
        raise InputError(f"correction {method!r} is not known: choose holm or bh")
    (by_key,) = found.values()
    return {key: float(by_key[key]["pvalue_adj"]) for key in p}


def within_margin(metric: Metric, effect: Effect) -> bool:
    """Is the guardrail at most its margin worse, by the interval's worse end? A share is judged on the relative one."""
    assert metric.margin is not None
    worst = effect.lo if metric.sign > 0 else -effect.hi
    if metric.margin.relative:
        if effect.rel_lo is None or effect.rel_hi is None:
            raise InputError(
                f"metric {metric.name}: a margin in % needs a mean above zero: give it in its own unit, as margin=0.1"
            )
        worst = effect.rel_lo if metric.sign > 0 else -effect.rel_hi
    return worst > -metric.margin.value


def decide(
    metrics: Sequence[Metric],
    effects: Mapping[Key, Effect],
    better: Mapping[Key, float],
    worse: Mapping[Key, float],
    checks: Sequence[Check],
    arm: str,
    alpha: float,
) -> Verdict:
    """The verdict on `arm`. better, worse: adjusted p-values of success metrics, and of success and guardrails."""
    failed = [check for check in checks if not check.passed]
    if failed:
        reasons = [
            f"{check.name} fails (p = {check.p:.2g}): {check.says}; find out why before reading on" for check in failed
        ]
        return Verdict(arm, "hold", tuple(reasons))
    harmed = [
        f"{name} is worse by {abs(effects[arm, name].diff):.4g} (adjusted p = {p:.2g})"
        for (of, name), p in worse.items()
        if of == arm and p <= alpha and _gain(metrics, name, effects[arm, name]) < 0
    ]
    if harmed:
        return Verdict(arm, "roll back", tuple(harmed))
    won = [
        f"{name} is better by {abs(effects[arm, name].diff):.4g} (adjusted p = {p:.2g})"
        for (of, name), p in better.items()
        if of == arm and p <= alpha and _gain(metrics, name, effects[arm, name]) > 0
    ]
    open_guards = [
        f"guardrail {metric.name} may be worse by more than its margin of {metric.margin}"
        for metric in metrics
        if metric.role == "guardrail" and not within_margin(metric, effects[arm, metric.name])
    ]
    if won and not open_guards:
        held = [f"guardrail {m.name} is within its margin of {m.margin}" for m in metrics if m.role == "guardrail"]
        return Verdict(arm, "ship", (*won, *held))
    missing = [] if won else ["no success metric is better beyond chance"]
    return Verdict(arm, "hold", (*won, *missing, *open_guards))


def _gain(metrics: Sequence[Metric], name: str, effect: Effect) -> float:
    return next(metric.sign for metric in metrics if metric.name == name) * effect.diff
