"""How many users, how many days: power for several metrics at once, from a log or from moments that are given.

The errors are those of the decision (eval/experiments/decide.py): success metrics share alpha (Bonferroni, which Holm
only improves on), guardrails do not. An arm ships only if its success metric wins and G guardrails hold and nothing
gives a false alarm, so each of the G + 1 tests may miss with

    beta' = (beta - alpha / 2 - quality_alpha x checks) / (G + 1)

at most, by Boole's inequality under any dependence (in the manner of Schultzberg et al. 2024, section 4). Users come
from tea-tasting's power of a difference in means on one row a user, which holds CUPED, ratios and clustering; a hazard
ratio's from lifelines (Schoenfeld's formula). A sequential plan pays for its looks with the level that its interval has
at the planned end: it will often stop sooner, never later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
import tea_tasting as tt
from lifelines.statistics import sample_size_necessary_under_cph
from scipy.stats import norm

from data.errors import InputError
from eval.experiments.metric import Metric
from eval.experiments.sample import Sample, per_user
from eval.experiments.sequential import reach
from eval.experiments.traffic import Traffic
from policy.assignment import checked_shares


@dataclass(frozen=True)
class PlanSettings:
    """What the decision may get wrong, and how the users come.

    sequential: plan for always-valid intervals.
    """

    shares: Mapping[str, float]
    traffic: Traffic
    alpha: float = 0.05
    power: float = 0.8
    quality_alpha: float = 0.001
    sequential: bool = False

    def __post_init__(self) -> None:
        checked_shares(self.shares)
        if not 0 < self.alpha < 1 or not 0 < self.power < 1:
            raise InputError(f"alpha {self.alpha} and power {self.power} must lie between 0 and 1")


@dataclass(frozen=True)
class MetricPlan:
    """One metric's need. change: what is to be seen (the effect, or a guardrail's margin), in the metric's unit.

    sd: of a user's value before CUPED; variance_reduction: the share that CUPED takes away. users: in all arms.
    days: to get them, and then to close the metric's window. detectable: days of enrolment -> smallest change seen.
    """

    metric: str
    role: str
    baseline: float
    sd: float
    variance_reduction: float
    change: float
    alpha: float
    power: float
    users: int
    days: int
    detectable: Mapping[int, float]


@dataclass(frozen=True)
class Plan:
    """Users (all arms) and days that satisfy every metric, and which metric asks for them."""

    metrics: tuple[MetricPlan, ...]
    users: int
    enrol_days: int
    days: int
    longest: str
    settings: PlanSettings

    def as_json(self) -> dict[str, Any]:
        """users, enrol_days, days, longest, metrics[], settings."""
        return {
            "users": self.users,
            "enrol_days": self.enrol_days,
            "days": self.days,
            "longest": self.longest,
            "metrics": [asdict(one) for one in self.metrics],
            "settings": asdict(self.settings),
        }


HORIZONS = (7, 14, 21, 28)  # days of enrolment for which the smallest change is given


def plan(metrics: Sequence[Metric], settings: PlanSettings, log: Sample | None = None) -> Plan:
    """Plan for all metrics but the quality ones. `log`: users like those to come, whatever arms they had.

    Raises InputError for a success metric without an effect, a metric without moments and without a log, and a power
    that the corrections cannot leave room for.
    """
    planned = [metric for metric in metrics if metric.role != "quality"]
    success = [metric for metric in planned if metric.role == "success"]
    if not success:
        raise InputError("plan: no success metric, so nothing could ship; add one with role=success effect=...")
    arms = len(settings.shares) - 1
    checks = 1 + len(metrics) - len(planned)
    miss = 1 - settings.power - settings.alpha / 2 - settings.quality_alpha * checks
    miss /= len(planned) - len(success) + 1
    if miss <= 0:
        raise InputError(
            f"power {settings.power:g} is more than alpha {settings.alpha:g} leaves room for: ask for less"
        )
    parts = []
    for metric in planned:
        alpha = settings.alpha / (len(success) * arms) if metric.role == "success" else settings.alpha
        parts.append(_plan_one(metric, settings, _effective(alpha, settings), 1 - miss, log))
    longest = max(parts, key=lambda part: (part.days, part.users))
    users = max(part.users for part in parts)
    return Plan(tuple(parts), users, settings.traffic.days_for(users), longest.days, longest.metric, settings)


def _effective(alpha: float, settings: PlanSettings) -> float:
    """The level of a fixed test that is as strict as the sequential one at the planned end."""
    if not settings.sequential:
        return alpha
    return float(2 * norm.sf(reach(alpha, 1.0, 1.0, tuned=settings.alpha)))


def _plan_one(metric: Metric, settings: PlanSettings, alpha: float, power: float, log: Sample | None) -> MetricPlan:
    wanted = metric.effect if metric.role == "success" else metric.margin
    if wanted is None:
        raise InputError(f"metric {metric.name}: say which change would matter: add effect=2% (or 0.02)")
    shares = list(settings.shares.values())
    control, arm = shares[0], min(shares[1:])
    pair = control + arm  # other arms' users do not help this comparison
    if metric.estimand == "hazard_ratio" and metric.kind == "survival":
        return _plan_hazard(metric, settings, alpha, power, log, arm / control, pair)
    moments = _from_log(metric, log) if log is not None else _given(metric)
    baseline = moments.mean("top") / moments.mean("bottom")
    change = wanted.of(baseline)
    if change == 0:
        raise InputError(f"metric {metric.name}: {wanted} of a mean of 0 is no change: give it in the metric's unit")
    users = _solve(moments, "n_obs", alpha, power, arm / control, effect_size=change).n_obs / pair
    detectable = {
        days: float(
            _solve(
                moments,
                "effect_size",
                alpha,
                power,
                arm / control,
                n_obs=max(4, int(settings.traffic.users_after(days) * pair)),
            ).effect_size
        )
        for days in HORIZONS
    }
    sd = math.sqrt(moments.ratio_var("top", "bottom"))
    reduction = moments.ratio_cov("top", "bottom", "covariate", None) ** 2 / (sd**2 * moments.var("covariate"))
    return _made(metric, settings, baseline, sd, reduction, change, alpha, power, users, detectable)


def _made(
    metric: Metric,
    settings: PlanSettings,
    baseline: float,
    sd: float,
    reduction: float,
    change: float,
    alpha: float,
    power: float,
    users: float,
    detectable: Mapping[int, float],
) -> MetricPlan:
    whole = math.ceil(users - 1e-9)
    days = settings.traffic.days_for(whole) + math.ceil(metric.window or 0)
    return MetricPlan(
        metric.name, metric.role, baseline, sd, reduction, change, alpha, power, whole, days, dict(detectable)
    )


def _solve(
    moments: tt.aggr.Aggregates,
    what: str,
    alpha: float,
    power: float,
    ratio: float,
    effect_size: float | None = None,
    n_obs: int | None = None,
) -> Any:
    test = tt.RatioOfMeans(
        "top",
        "bottom",
        "covariate",
        alternative="greater",
        alpha=alpha / 2,
        power=power,
        ratio=ratio,
        effect_size=effect_size,
        n_obs=n_obs,
        equal_var=False,
        use_t=False,  # t has no distribution yet where the search for uneven arms begins, at three users
    )
    return test.solve_power_from_aggregates(moments, what)[0]


COLUMNS = ("top", "bottom", "covariate")
_PAIRS = [("top", "bottom"), ("top", "covariate"), ("bottom", "covariate")]


def _from_log(metric: Metric, log: Sample) -> tt.aggr.Aggregates:
    """Moments of one row a user over all arms of the log."""
    merged = Sample(log.rows.with_columns(pl.lit("all").alias(log.arm)), log.user, log.arm, ("all",))
    users = per_user(merged, metric)
    if "covariate" not in users.columns:
        # A constant covariate takes nothing away, but its variance must not be zero to be divided by.
        users = users.with_columns(covariate=pl.lit(0.0))
    found = tt.aggr.read_aggregates(
        users.select(COLUMNS), None, has_count=True, mean_cols=COLUMNS, var_cols=COLUMNS, cov_cols=_PAIRS
    )
    if found.var_["covariate"] == 0:
        found.var_["covariate"] = 1.0
    if found.ratio_var("top", "bottom") <= 0:
        raise InputError(f"metric {metric.name}: does not vary in this log, so its power cannot be planned from it")
    return found


def _given(metric: Metric) -> tt.aggr.Aggregates:
    """Moments of one row a user from those of the metric: a user's mean of `rows` rows that correlate by `icc`."""
    if metric.baseline is None:
        raise InputError(f"metric {metric.name}: no log to plan from, so say its mean: add baseline=0.19 (and sd=...)")
    mean, sd = metric.baseline, metric.sd
    if sd is None and 0 < mean < 1 and metric.kind != "ratio":
        sd = math.sqrt(mean * (1 - mean))  # a share
    if sd is None or sd <= 0:
        raise InputError(f"metric {metric.name}: say how much it varies between rows: add sd=...")
    variance = sd**2 * (1 + (metric.rows - 1) * metric.icc) / metric.rows
    covariance = metric.correlation * math.sqrt(variance)
    return tt.aggr.Aggregates(
        count_=1000,
        mean_={"top": mean, "bottom": 1.0, "covariate": 0.0},
        var_={"top": variance, "bottom": 0.0, "covariate": 1.0},
        cov_={("top", "bottom"): 0.0, ("top", "covariate"): covariance, ("bottom", "covariate"): 0.0},
    )


def _plan_hazard(
    metric: Metric,
    settings: PlanSettings,
    alpha: float,
    power: float,
    log: Sample | None,
    ratio: float,
    pair: float,
) -> MetricPlan:
    """Schoenfeld (1981): events decide. baseline is the share of users with the event within the window."""
    wanted = metric.effect if metric.role == "success" else metric.margin
    assert wanted is not None and metric.window is not None
    inflation = (1 + (metric.rows - 1) * metric.icc) / metric.rows  # of a user's mean over its rows
    if log is not None:
        share_metric = Metric(
            metric.name,
            kind="survival",
            value=metric.value,
            observed=metric.observed,
            window=metric.window,
            estimand="survival",
        )
        moments = _from_log(share_metric, log)
        event = 1.0 - moments.mean("top") / moments.mean("bottom")
        inflation = moments.ratio_var("top", "bottom") / (event * (1 - event)) if 0 < event < 1 else 1.0
    elif metric.baseline is not None:
        event = metric.baseline
    else:
        raise InputError(f"metric {metric.name}: no log to plan from, so say the share with the event: baseline=0.4")
    if not 0 < event < 1:
        raise InputError(
            f"metric {metric.name}: {event:g} of users have the event within the window; it must be in (0, 1)"
        )
    up = (metric.sign > 0) == (metric.role == "success")
    hazard = 1 + wanted.value if up else 1 - wanted.value
    if hazard <= 0:
        raise InputError(f"metric {metric.name}: a hazard cannot fall by {wanted}: give less")

    def needed(hazard: float) -> float:
        treated = 1 - (1 - event) ** hazard
        arm, control = sample_size_necessary_under_cph(power, ratio, treated, event, hazard, alpha)
        return float((arm + control) / pair * inflation)

    detectable = {}
    for days in HORIZONS:
        low, high = 1e-4, 20.0
        for _ in range(60):  # how far the hazard must rise for these users to be enough
            middle = math.sqrt(low * high)
            low, high = (low, middle) if needed(1 + middle) <= settings.traffic.users_after(days) else (middle, high)
        detectable[days] = high
    sd = float(np.sqrt(event * (1 - event)))
    return _made(metric, settings, event, sd, 0.0, hazard - 1, alpha, power, needed(hazard), detectable)
