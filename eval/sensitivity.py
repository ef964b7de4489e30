"""How wrong would estimated propensities have to be to change the answer?

Where propensities were estimated, something that nobody logged may have moved both the slate and the outcome. The
marginal sensitivity model (Tan 2006) lets the true odds of what was logged differ from the estimated ones by up to a
factor of `gamma` either way, differently in every round. The most and least that the self-normalised value can then be
is a linear-fractional programme whose solution puts large weights above a threshold of the reward and small ones below
(Zhao, Small & Bhattacharya 2019; for policies Kallus & Zhou 2018). Intervals bootstrap users and take
the outer percentiles (as they do).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.errors import InputError
from eval.intervals import LEVEL, Floats, cluster_codes
from eval.rounds import LoggedRounds, checked_columns


@dataclass(frozen=True)
class SensitivityBounds:
    """Under odds wrong by up to `gamma`: the least and most that value less logging mean can be, and the interval that
    covers that range at 95%."""

    gamma: float
    least: float
    most: float
    lo: float
    hi: float


def sensitivity(
    rounds: LoggedRounds, gammas: tuple[float, ...] = (1.0, 1.1, 1.25, 1.5, 2.0), draws: int = 200, seed: int = 0
) -> list[SensitivityBounds]:
    """Bounds of the self-normalised value less the logging policy's mean, for each gamma >= 1.

    gamma = 1 is the estimate itself with its bootstrap interval. Raises InputError on gamma below 1 and as
    `checked_columns`.
    """
    for gamma in gammas:
        if not gamma >= 1:
            raise InputError(f"gamma {gamma}: a factor on odds is at least 1, which means no confounding")
    columns = checked_columns(rounds)
    n = columns.r.size
    codes, users = cluster_codes(rounds.user, n)
    p_log = np.exp(np.minimum(np.asarray(rounds.log_p_log, np.float64), 0.0))
    order = np.argsort(columns.r, kind="stable")
    r, codes = columns.r[order], codes[order]
    w, certain = columns.w[order], (columns.w * p_log)[order]  # p_new (1 + (1/p - 1) x) = certain + (w - certain) x
    rng = np.random.default_rng(seed)
    counts = np.stack([np.bincount(rng.integers(0, users, users), minlength=users) for _ in range(draws)])
    found = []
    for gamma in gammas:
        low, high = certain + (w - certain) / gamma, certain + (w - certain) * gamma
        least, most = _extremes(low, high, r)
        drawn = np.array([_extremes(low * times[codes], high * times[codes], r, times[codes]) for times in counts])
        tail = 0.5 - LEVEL / 2
        lo, hi = np.quantile(drawn[:, 0], tail), np.quantile(drawn[:, 1], 1.0 - tail)
        found.append(SensitivityBounds(gamma, least, most, float(lo), float(hi)))
    return found


def tipping_point(bounds: Sequence[SensitivityBounds]) -> float | None:
    """The smallest gamma tried at which the interval holds zero; None where it never does. 1: it does without any."""
    for bound in sorted(bounds, key=lambda bound: bound.gamma):
        if bound.lo <= 0.0 <= bound.hi:
            return bound.gamma
    return None


def _extremes(low: Floats, high: Floats, r: Floats, times: Floats | None = None) -> tuple[float, float]:
    """Least and most of sum(w r) / sum(w) less mean(r) over low <= w <= high, for r sorted upwards."""
    mean = float(r.mean() if times is None else (times * r).sum() / times.sum())
    bottom_low, bottom_high = _cumulative(low), _cumulative(high)
    top_low, top_high = _cumulative(low * r), _cumulative(high * r)
    # The k smallest rewards take one bound, the others the other; the best k of n + 1.
    with np.errstate(invalid="ignore", divide="ignore"):
        most = (top_low + (top_high[-1] - top_high)) / (bottom_low + (bottom_high[-1] - bottom_high))
        least = (top_high + (top_low[-1] - top_low)) / (bottom_high + (bottom_low[-1] - bottom_low))
    if np.isnan(most).all():
        raise InputError("weights: all zero; the new policy never shows a logged slate, so nothing can be bounded")
    return float(np.nanmin(least)) - mean, float(np.nanmax(most)) - mean


def _cumulative(values: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(values)])
