"""What an arm changed in one metric, with an interval of the fixed horizon or an always-valid one.

Values, variances, CUPED (Deng, Xu, Kohavi & Walker 2013) and Welch's test are tea-tasting's `RatioOfMeans` on one row a
user; hazard ratios are lifelines'. CUPED's slope is fitted over both arms together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl
import tea_tasting as tt
from scipy.stats import norm

from data.errors import InputError
from eval.experiments.metric import Metric
from eval.experiments.sample import Sample, per_user
from eval.experiments.sequential import FIRST_LOOK, always_valid_p, reach
from eval.experiments.survival import log_hazard_ratio


@dataclass(frozen=True)
class Reading:
    """How intervals are made. planned_users: None for one look at the planned end, else users of all arms to plan for
    and intervals that hold at every look."""

    alpha: float = 0.05
    planned_users: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha is {self.alpha}; it lies between 0 and 1, often 0.05")
        if self.planned_users is not None and self.planned_users < 2 * FIRST_LOOK:
            raise InputError(f"planned_users is {self.planned_users}; give at least {2 * FIRST_LOOK}, as planned")


@dataclass(frozen=True)
class Effect:
    """An arm less control. For a hazard ratio control is 0, treatment and diff are the log ratio, relative is None.

    lo, hi: the 1 - alpha interval of diff; p: two-sided, of no difference. relative: diff over control's value, None
    where that is not above zero. users: with a known value, both arms. unknown: rows without one, both arms.
    variance_reduction: share of the variance that CUPED took away, None without a covariate.
    """

    metric: str
    arm: str
    control: float
    treatment: float
    diff: float
    lo: float
    hi: float
    se: float
    p: float
    relative: float | None
    rel_lo: float | None
    rel_hi: float | None
    users: int
    unknown: int
    variance_reduction: float | None

    def p_above(self, bound: float, reading: Reading) -> float:
        """Two-sided p-value of diff = bound, by the same interval."""
        z = (self.diff - bound) / self.se
        return _p(z, self.users, reading)


def effect(sample: Sample, metric: Metric, arm: str, reading: Reading = Reading()) -> Effect:
    """The effect of `arm` against the control of `sample`.

    Raises InputError as `per_user`, for a metric that does not vary, and for a sequential look that is too early.
    """
    pair = sample.only(pl.col(sample.arm).is_in([sample.control, arm]))
    pair = Sample(pair.rows, sample.user, sample.arm, (sample.control, arm))
    if metric.kind == "survival" and metric.estimand == "hazard_ratio":
        return _hazard_ratio(pair, metric, reading)
    users = per_user(pair, metric)
    unknown = pair.rows.height - _known_rows(pair, metric)
    return effect_of_users(users, metric.name, (sample.control, arm), reading, unknown)


def effect_of_users(
    users: pl.DataFrame, name: str, arms: tuple[str, str], reading: Reading, unknown: int = 0
) -> Effect:
    """The same from one row a user: arm, top, bottom and perhaps covariate; raises InputError where nothing varies."""
    covariate = "covariate" if "covariate" in users.columns else None
    columns = ["top", "bottom"] + ([covariate] if covariate else [])
    pairs = [(a, b) for i, a in enumerate(columns) for b in columns[i + 1 :]]
    aggregates = tt.aggr.read_aggregates(
        users.select("arm", *columns), "arm", has_count=True, mean_cols=columns, var_cols=columns, cov_cols=pairs
    )
    control, treatment = aggregates[arms[0]], aggregates[arms[1]]
    with np.errstate(invalid="ignore"):  # of what does not vary, which is told below
        found = _analyse(covariate, reading.alpha, control, treatment)
        plain = _analyse(covariate, reading.alpha, control, treatment, use_t=False)
    se = (plain.effect_size_ci_upper - plain.effect_size) / float(norm.isf(reading.alpha / 2))
    if not math.isfinite(se) or se <= 1e-12 * max(abs(found.control), abs(found.treatment), 1e-300):
        raise InputError(f"metric {name}: does not vary between users, so there is nothing to compare")
    reduction = None
    if covariate is not None:
        raw = _analyse(None, reading.alpha, control, treatment, use_t=False)
        reduction = (
            1.0 - ((plain.effect_size_ci_upper - plain.effect_size) / (raw.effect_size_ci_upper - raw.effect_size)) ** 2
        )
    lo, hi, p = found.effect_size_ci_lower, found.effect_size_ci_upper, found.pvalue
    count = users.height
    relative: tuple[float, float, float] | None = None
    if found.control > 0 and found.treatment > 0 and math.isfinite(found.rel_effect_size):
        relative = (found.rel_effect_size, found.rel_effect_size_ci_lower, found.rel_effect_size_ci_upper)
    if reading.planned_users is not None:
        _not_too_early(users, name, arms)
        width = reach(reading.alpha, count, reading.planned_users)
        lo, hi = found.effect_size - width * se, found.effect_size + width * se
        p = _p(found.effect_size / se, count, reading)
        if relative is not None:  # the same interval on the log scale
            middle = math.log1p(relative[0])
            log_se = (math.log1p(plain.rel_effect_size_ci_upper) - middle) / float(norm.isf(reading.alpha / 2))
            relative = (relative[0], math.expm1(middle - width * log_se), math.expm1(middle + width * log_se))
    rel, rel_lo, rel_hi = relative or (None, None, None)
    return Effect(
        name,
        arms[1],
        found.control,
        found.treatment,
        found.effect_size,
        lo,
        hi,
        se,
        p,
        rel,
        rel_lo,
        rel_hi,
        count,
        unknown,
        reduction,
    )


def _analyse(
    covariate: str | None, alpha: float, control: tt.aggr.Aggregates, treatment: tt.aggr.Aggregates, use_t: bool = True
) -> tt.metrics.mean.MeanResult:
    metric = tt.RatioOfMeans("top", "bottom", covariate, confidence_level=1 - alpha, use_t=use_t, equal_var=False)
    try:
        return metric.analyze_aggregates(control, treatment)
    except OverflowError:
        # A value so near zero that its relative change has no number. The difference has: it is the same far from zero.
        by = max(math.sqrt(arm.var("top")) + abs(arm.mean("top")) for arm in (control, treatment))
        far = metric.analyze_aggregates(_risen(control, by, covariate), _risen(treatment, by, covariate))
        return far._replace(
            control=far.control - by, treatment=far.treatment - by, rel_effect_size=math.nan,
            rel_effect_size_ci_lower=math.nan, rel_effect_size_ci_upper=math.nan,
        )  # fmt: skip


def _risen(arm: tt.aggr.Aggregates, by: float, covariate: str | None) -> tt.aggr.Aggregates:
    """The moments of top + by x bottom, whose ratio to bottom lies `by` higher."""
    with_bottom = arm.cov("top", "bottom")
    mean = arm.mean_ | {"top": arm.mean("top") + by * arm.mean("bottom")}
    var = arm.var_ | {"top": arm.var("top") + 2 * by * with_bottom + by**2 * arm.var("bottom")}
    cov = {("top", "bottom"): with_bottom + by * arm.var("bottom")}
    if covariate is not None:
        pairs = {name: arm.cov(name, covariate) for name in ("top", "bottom")}
        cov |= {("top", covariate): pairs["top"] + by * pairs["bottom"], ("bottom", covariate): pairs["bottom"]}
    return tt.aggr.Aggregates(arm.count_, mean, var, cov)


def _hazard_ratio(pair: Sample, metric: Metric, reading: Reading) -> Effect:
    simple = per_user(pair, _as_rmst(metric))  # for its checks
    rows = pair.rows.filter(pl.all_horizontal(pl.col(name).is_not_null() for name in metric.columns))
    happened = rows[metric.observed].cast(pl.Boolean) if metric.observed else rows[metric.value].is_not_null()
    time = rows[metric.value].cast(pl.Float64).to_numpy()
    assert metric.window is not None
    seen = happened.to_numpy() & (time <= metric.window)
    treated = (rows[pair.arm] == pair.arms[1]).to_numpy()
    where = f"metric {metric.name}, arm {pair.arms[1]}"
    value, se = log_hazard_ratio(time.clip(max=metric.window), seen, treated, rows[pair.user].to_numpy(), where)
    width = float(norm.isf(reading.alpha / 2))
    if reading.planned_users is not None:
        _not_too_early(simple, metric.name, pair.arms)
        width = reach(reading.alpha, simple.height, reading.planned_users)
    return Effect(
        metric.name,
        pair.arms[1],
        0.0,
        value,
        value,
        value - width * se,
        value + width * se,
        se,
        _p(value / se, simple.height, reading),
        None,
        None,
        None,
        users=simple.height,
        unknown=pair.rows.height - rows.height,
        variance_reduction=None,
    )


def _as_rmst(metric: Metric) -> Metric:
    return Metric(
        metric.name,
        metric.role,
        "survival",
        metric.value,
        observed=metric.observed,
        window=metric.window,
        margin=metric.margin,
    )


def _p(z: float, users: int, reading: Reading) -> float:
    if reading.planned_users is None:
        return float(2 * norm.sf(abs(z)))
    return always_valid_p(z, users, reading.planned_users, reading.alpha)


def _known_rows(pair: Sample, metric: Metric) -> int:
    needed = [name for name in metric.columns if name != metric.covariate]
    return pair.rows.filter(pl.all_horizontal(pl.col(name).is_not_null() for name in needed)).height


def _not_too_early(users: pl.DataFrame, name: str, arms: tuple[str, ...]) -> None:
    for arm, count in users.group_by("arm").agg(pl.len()).iter_rows():
        if count < FIRST_LOOK and arm in arms:
            raise InputError(
                f"metric {name}: {count} users in arm {arm!r}; a sequential look needs {FIRST_LOOK} in each arm: wait"
            )
