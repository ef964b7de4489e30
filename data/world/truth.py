"""What a policy is worth, known because the world can be lived twice.

Every policy goes on from the same evening with the same people and the same luck, so the difference between two
policies, listener by listener, is the effect of what they chose; `paired` says how much that narrows the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError
from data.world.policies import SlatePolicy
from data.world.settings import WorldSettings
from data.world.world import World

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


def burned_in(settings: WorldSettings, seed: int, days: int, listener_seed: int | None = None) -> World:
    """A world whose listeners have lived `days` days under the logging policy, its log emptied.

    The catalog comes from `seed`; `listener_seed` (default: the same) draws other people for the same catalog.
    """
    world = World(settings, seed)
    if listener_seed is not None:
        world.reset(listener_seed)
    world.play(world.built_in("logging"), days, np.random.default_rng([world.listener_seed, 1]))
    return world.branch()


def truth(
    world: World, policy: SlatePolicy, horizon_days: int = 28, policy_seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Lives `horizon_days` (at least 28) from today under `policy`; `world` itself does not move.

    Returns one value per listener (U,) for each of METRICS:
        active_days_28: days with a visit, per 28 days.
        returned_7d: of the visits at least 7 days before the end, the share with another visit on one of the next 7
            local days; 0 without a visit.
        habit_28: weeks with at least 3 active days, per 28 days.
        plays_per_session: nan without a visit.
        minutes: listened, per 28 days.
        satisfaction: mean over days of the hidden average that drives return.
    """
    if horizon_days < 28:
        raise InputError(f"world: horizon_days is {horizon_days}; the metrics need at least 28")
    future, u = world.branch(), len(world.listeners)
    rng = np.random.default_rng([policy_seed, world.listener_seed, 2])
    visits = np.zeros((u, horizon_days), np.bool_)
    plays, minutes, satisfaction = np.zeros(u), np.zeros(u), np.zeros(u)
    for t in range(horizon_days):
        future.play(policy, 1, rng)
        today = future.days.pop()
        visits[today.listeners, t] = True
        plays[today.listeners] += today.session.played.sum(axis=1)
        minutes[today.listeners] += today.session.seconds.sum(axis=1) / 60.0
        satisfaction += future.state.satisfaction
    sessions = visits.sum(axis=1)
    per_28 = 28.0 / horizon_days
    whole_weeks = visits[:, : horizon_days // 7 * 7].reshape(u, -1, 7).sum(axis=2)
    return {
        "active_days_28": sessions * per_28,
        "returned_7d": _returned(visits),
        "habit_28": (whole_weeks >= _HABIT_DAYS).mean(axis=1) * 4.0,
        "plays_per_session": np.divide(plays, sessions, out=np.full(u, np.nan), where=sessions > 0),
        "minutes": minutes * per_28,
        "satisfaction": satisfaction / horizon_days,
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
