"""Return curves without a network: Kaplan-Meier by segment, Cox, BG/NBD.

Each gives the probability of having returned by the end of day 0, 1, .. J - 1 after every decision, learned from the
rows that our hazard is learned from and with the same censoring: a day is that of the return, or the last known to be
without one (`rewards.survival.last_day_known`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from lifelines import CoxPHFitter
from lifelines.exceptions import ConvergenceError
from numpy.typing import NDArray

from data.errors import InputError
from rewards.bg_nbd import BgNbd, customers, fit_bg_nbd
from rewards.segments import SEGMENTS, segments

Floats = NDArray[np.float64]
MOST_ROWS = 10_000  # that Cox is fitted on
FEWEST_ROWS = 100
HALF_A_DAY = 0.5  # from a decision to the end of its day, on average; a later day ends whole days after that


@dataclass(frozen=True)
class Returns:
    """Counting features (D, F) of all decisions, the last day known (D,) and returned (D,), as far as may be known, the
    user (D,) of each; train: the rows to learn from, of which at least day 0 is known."""

    features: NDArray[np.float32]
    day: NDArray[np.int64]
    returned: NDArray[np.bool_]
    user: NDArray[np.int32]
    train: NDArray[np.int64]


def return_curves(returns: Returns, days: int, seed: int) -> Mapping[str, Floats]:
    """Curves (D, days) by name. What cannot be fitted on this log (too few rows, nobody came twice) is left out."""
    if len(returns.train) < FEWEST_ROWS or not returns.returned[returns.train].any():
        return {}
    found = {
        "by_segment": _by_segment(returns, days),
        "cox": _cox(returns, days, seed),
        "bg_nbd": _bg_nbd(returns, days),
    }
    return {name: curve for name, curve in found.items() if curve is not None}


def kaplan_meier(day: NDArray[np.int64], returned: NDArray[np.bool_], days: int) -> Floats:
    """Probability (days,) of having returned by the end of each day (Kaplan & Meier, 1958).

    day (n,): of the return, or the last known to be without one; rows at -1, of which no day is known, say nothing.
    """
    day, returned = day[day >= 0], returned[day >= 0]
    events = np.bincount(day[returned], minlength=days)[:days]
    gone = np.bincount(day, minlength=days)[:days]
    at_risk = len(day) - np.concatenate([[0], np.cumsum(gone)])[:-1]
    result: Floats = 1.0 - np.cumprod(1.0 - events / np.maximum(at_risk, 1))
    return result


def _by_segment(returns: Returns, days: int) -> Floats:
    code = segments(returns.features)
    train = returns.train
    curves = np.empty((len(SEGMENTS), days))
    for segment in range(len(SEGMENTS)):
        rows = train[code[train] == segment]
        rows = rows if len(rows) >= FEWEST_ROWS else train
        curves[segment] = kaplan_meier(returns.day[rows], returns.returned[rows], days)
    result: Floats = curves[code]
    return result


def _cox(returns: Returns, days: int, seed: int) -> Floats | None:
    train = returns.train
    if len(train) > MOST_ROWS:
        train = np.sort(np.random.default_rng(seed).choice(train, MOST_ROWS, replace=False))
    centre, scale = returns.features[train].mean(0), returns.features[train].std(0)
    kept = np.flatnonzero(scale > 1e-6)
    x = np.clip((returns.features[:, kept] - centre[kept]) / scale[kept], -5.0, 5.0).astype(np.float64)
    table = pl.DataFrame(x[train], schema=[f"x{j}" for j in kept]).with_columns(
        # Durations start at 1, so that a return later on the same day counts; what comes later than the curve is cut
        # off.
        day=pl.Series(np.minimum(returns.day[train], days - 1) + 1),
        returned=pl.Series(returns.returned[train] & (returns.day[train] < days)),
    )
    try:
        model = CoxPHFitter(penalizer=0.01).fit(table.to_pandas(), "day", "returned")
    except ConvergenceError:
        return None
    step = model.baseline_hazard_.iloc[:, 0]
    # Whole days carry large hazards: survival is the product of what stays, which exp(-hazard) would overstate.
    stays = np.concatenate([[0.0], np.cumsum(np.log1p(-np.minimum(step.to_numpy(), 1 - 1e-9)))])
    log_stays = stays[np.searchsorted(step.index.to_numpy(), np.arange(1, days + 1), side="right")]
    # lifelines centres the columns again at their means over the rows it was fitted on.
    away = x - x[train].mean(0)
    risk = np.exp(np.clip(away @ model.params_.to_numpy(), -30.0, 30.0))
    result: Floats = -np.expm1(risk[:, None] * log_stays[None, :])
    return result


def fit_customers(returns: Returns) -> BgNbd:
    """BG/NBD of all that is known of each user: up to the last decision to learn from, and of the days after it.

    Raises InputError where nobody came twice.
    """
    x, age = _at_the_decision(returns.features)
    _, at = np.unique(returns.user[returns.train][::-1], return_index=True)
    latest = returns.train[::-1][at]  # one row per user
    x, age, day, returned = x[latest], age[latest], returns.day[latest], returns.returned[latest]
    # Nobody drops out in the moment of a visit: who does is told by the silence after it, so a customer is followed on.
    # Without a return, t_x stays at the decision and T is the end of the last day known, as the curve below reads a
    # day's end. With one, the return is one more repeat and the last that the row knows of: t_x = T, which is as right
    # a place to stop at as any. Later on the same day it is no other day of use, and adds nothing.
    again = returned & (day > 0)
    followed = np.where(returned, day, day + HALF_A_DAY)
    return fit_bg_nbd(x + again, age + np.where(again, day, 0.0), age + followed)


def _bg_nbd(returns: Returns, days: int) -> Floats | None:
    try:
        model = fit_customers(returns)
    except InputError:
        return None
    x, age = _at_the_decision(returns.features)
    # The customer was there a moment ago and nothing has passed since: t_x = T.
    curve = [model.buys_within(x, age, age, float(day) + HALF_A_DAY) for day in range(days)]
    result: Floats = np.stack(curve, axis=1)
    return result


def _at_the_decision(features: NDArray[np.floating]) -> tuple[Floats, Floats]:
    # A decision is a visit: one repeat more than before it, or the customer's first, which is none.
    x, _, age = customers(features)
    return np.where(age > 0, x + 1.0, 0.0), age
