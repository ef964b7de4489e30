"""What a policy is worth, known because the world can be lived twice.

Every policy goes on from the same evening with the same people and the same luck, so the difference between two
policies, listener by listener, is the effect of what they chose; `paired` says how much that narrows the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

METRICS = (
    "active_days_28",
    "returned_7d",
    "habit_28",
    "plays_per_session",
    "minutes",
    "satisfaction",
)
_RETURN_DAYS = 7
_HABIT_DAYS = 3  # active days that make a week count


def metrics(
    visits: NDArray[np.bool_],
    plays: NDArray[np.float64],
    minutes: NDArray[np.float64],
    satisfaction: NDArray[np.float64],
) -> dict[str, NDArray[np.float64]]:
    """METRICS of U listeners over a horizon of T local days.

    Args:
        visits: (U, T), whether the listener came on that day.
        plays: (U,) items played over the horizon.
        minutes: (U,) listened over the horizon.
        satisfaction: (U,) mean over days of the hidden average that drives return.

    Returns:
        One value per listener (U,) for each of METRICS:
        active_days_28: days with a visit, per 28 days.
        returned_7d: of the visits at least 7 days before the end, the share with another visit on one of the next 7
            local days; 0 without a visit.
        habit_28: weeks with at least 3 active days, per 28 days.
        plays_per_session: nan without a visit.
        minutes: listened, per 28 days.
        satisfaction: as given.
    """
    sessions = visits.sum(axis=1)
    per_28 = 28.0 / visits.shape[1]
    weeks = visits[:, : visits.shape[1] // 7 * 7].reshape(len(visits), -1, 7).sum(axis=2)
    none = np.full(len(visits), np.nan)
    return {
        "active_days_28": sessions * per_28,
        "returned_7d": _returned(visits),
        "habit_28": (weeks >= _HABIT_DAYS).mean(axis=1) * 4.0,
        "plays_per_session": np.divide(plays, sessions, out=none, where=sessions > 0),
        "minutes": minutes * per_28,
        "satisfaction": satisfaction,
    }


def _returned(visits: NDArray[np.bool_]) -> NDArray[np.float64]:
    counted = visits.shape[1] - _RETURN_DAYS
    so_far = np.concatenate([np.zeros((len(visits), 1), np.int64), np.cumsum(visits, axis=1)], axis=1)
    again = so_far[:, _RETURN_DAYS + 1 :] > so_far[:, 1 : counted + 1]  # a visit on days t+1 .. t+7
    seen = visits[:, :counted]
    share: NDArray[np.float64] = (again & seen).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
    return share


@dataclass(frozen=True)
class Paired:
    """A difference between two policies over the same listeners."""

    diff: float
    lo: float  # 95% interval, normal
    hi: float
    variance_reduction: float  # variance of an unpaired comparison of the same size over that of the paired one


def paired(a: NDArray[np.float64], b: NDArray[np.float64]) -> Paired:
    """Mean of a - b over listeners (U,), leaving out those for whom either is nan."""
    ok = ~(np.isnan(a) | np.isnan(b))
    gap = a[ok] - b[ok]
    error = float(gap.std(ddof=1) / np.sqrt(len(gap)))
    together, apart = float(gap.var(ddof=1)), float(a[ok].var(ddof=1) + b[ok].var(ddof=1))
    mean = float(gap.mean())
    return Paired(mean, mean - 1.96 * error, mean + 1.96 * error, apart / together if together > 0 else np.inf)
