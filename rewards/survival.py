"""Judging a predicted return curve where many have not returned yet: weights instead of guesses.

A row is followed until it returns on local day `day`, or is censored with `day` the last day that is known to have
passed without a return. That is not the label's number, which counts days: `last_day_known` makes the one of the other,
and whatever here and in `rewards.return_curves` takes `day` means the last day known. Whoever is still unseen when the
log ends is neither a return nor a stay, so those whose fate is known are weighted by one over the probability of having
been followed that long (inverse probability of censoring: Graf, Schmoor, Sauerbrei & Schumacher, 1999). Days are whole:
on one day returns come before censoring, so a row censored on day t is known not to have returned by the end of t, and
everything is weighted by G(t-), the probability of being followed up to the start of day t.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

Floats = NDArray[np.float64]
LEAST_FOLLOWED = 0.02  # weights are at most 50: past that, the log says nothing about such a day


def last_day_known(days: NDArray[np.integer], returned: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The last local day (n,) of which it is known whether a row had returned by its end; -1 where no day is.

    days (n,): return_days of `data.labels_return` (return_day of `rewards.heads.Targets`): the day of the return or,
    where none was seen, how many days were seen to their end, day 0 included. Of t days seen, 0 .. t - 1 are known to
    be without a return, and day t is not.
    """
    return np.where(returned, days, days - 1).astype(np.int64)


@dataclass(frozen=True)
class Followed:
    """How long rows were followed: last day known (n,), returned (n,), and G(t-) for t = 0, 1, .. (T,)."""

    day: NDArray[np.float64]
    returned: NDArray[np.bool_]
    times: Floats
    before: Floats

    @staticmethod
    def of(day: NDArray[np.generic], returned: NDArray[np.bool_]) -> "Followed":
        """Kaplan-Meier of the censoring. day (n,): of the return, or the last known to be without one."""
        when = day.astype(np.float64)
        times, at = np.unique(when, return_inverse=True)
        events = np.bincount(at, weights=returned, minlength=len(times))
        lost = np.bincount(at, weights=~returned, minlength=len(times))
        at_risk = len(when) - np.concatenate([[0.0], np.cumsum(events + lost)])[:-1]
        stays = 1.0 - lost / np.maximum(at_risk - events, 1e-300)
        after = np.cumprod(np.where(at_risk > events, stays, 1.0))
        return Followed(when, returned, times, np.concatenate([[1.0], after]))

    def chance(self, time: NDArray[np.generic] | float) -> Floats:
        """G(time-): the probability of not having been censored before `time`."""
        result: Floats = self.before[np.searchsorted(self.times, time, side="left")]
        return result

    def weights(self, time: float) -> tuple[Floats, Floats]:
        """Weight (n,) of the rows known to have returned by `time`, and of those known not to have; 0 for others."""
        chance = np.maximum(self.chance(self.day), LEAST_FOLLOWED)
        back = self.returned & (self.day <= time)
        away = ~back & (self.day >= time)
        return np.where(back, 1.0 / chance, 0.0), np.where(
            away, 1.0 / max(float(self.chance(time)), LEAST_FOLLOWED), 0.0
        )

    def horizon(self) -> float:
        """The last day about which enough rows say something."""
        enough = self.times[self.before[:-1] > LEAST_FOLLOWED]
        return float(enough[-1]) if len(enough) else 0.0


def brier_at(followed: Followed, returned_by: NDArray[np.floating], time: float) -> float:
    """Weighted mean squared error of the predicted probability (n,) of having returned by `time`."""
    return float(np.mean(squared_errors(followed, np.asarray(returned_by)[:, None], [time])))


def squared_errors(followed: Followed, returned_by: NDArray[np.floating], times: Sequence[float]) -> Floats:
    """Each row's part (n,) of the Brier score averaged over `times`: returned_by (n, times). For paired differences."""
    total = np.zeros(len(followed.day))
    for j, time in enumerate(times):
        back, away = followed.weights(time)
        total += back * (1.0 - returned_by[:, j]) ** 2 + away * returned_by[:, j] ** 2
    return total / len(times)


def integrated_brier(followed: Followed, returned_by: NDArray[np.floating], times: Sequence[float]) -> float:
    """Brier score over `times`, by trapezoids, per unit of time: returned_by (n, times)."""
    scores = [brier_at(followed, returned_by[:, j], time) for j, time in enumerate(times)]
    if len(scores) < 2:
        return scores[0] if scores else float("nan")
    return float(np.trapezoid(scores, times) / (times[-1] - times[0]))


def auc_at(followed: Followed, risk: NDArray[np.generic], time: float) -> float:
    """Cumulative/dynamic AUC (Uno, Cai, Tian & Wei, 2007): do those who returned by `time` have a higher risk (n,)
    than those who had not, the first weighted by inverse probability of censoring? NaN without both."""
    back, away = followed.weights(time)
    controls = np.sort(risk[away > 0])
    cases = back > 0
    if not len(controls) or not cases.any():
        return float("nan")
    below = np.searchsorted(controls, risk[cases], side="left")
    upto = np.searchsorted(controls, risk[cases], side="right")
    ahead = (below + upto) / (2.0 * len(controls))
    return float(np.average(ahead, weights=back[cases]))


def d_calibration(
    survival: Floats, day: NDArray[np.integer], returned: NDArray[np.bool_], bins: int = 10
) -> tuple[Floats, float]:
    """Shares (bins,) of rows by the survival predicted at their return, which should all be alike, and the p-value.

    D-calibration (Haider, Hoehn, Davis & Greiner, 2020): survival at the time of the event is uniform if a model means
    what it says; a censored row is spread evenly over what is left below its survival. survival (n, J): probability of
    not having returned by the end of day j. day (n,): of the return, or the last known to be without: of -1 nothing is
    known (`last_day_known`). A return on day j stands for all between S(j) and S(j - 1), because days are whole (Czado,
    Gneiting & Held, 2009); one from day J on is censored at J - 1. The p-value (chi-squared with bins - 1 degrees of
    freedom) is for independent rows: give one row per user.
    """
    J = survival.shape[1]
    seen = returned & (day < J)
    at = np.minimum(day, J - 1)
    rows = np.arange(len(day))
    low = np.where(seen, survival[rows, at], 0.0)
    high = np.where(seen, np.where(at > 0, survival[rows, np.maximum(at - 1, 0)], 1.0), survival[rows, at])
    high = np.where(~seen & (day < 0), 1.0, high)
    edges = np.linspace(0.0, 1.0, bins + 1)
    width = np.maximum(high - low, 1e-9)
    below = np.clip((edges[None, :] - low[:, None]) / width[:, None], 0.0, 1.0)
    shares: Floats = np.diff(below, axis=1).mean(0)
    statistic = len(day) * bins * float(np.sum((shares - 1.0 / bins) ** 2))
    return shares, float(chi2.sf(statistic, bins - 1))
