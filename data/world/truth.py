"""What a policy is worth, known because the world can be lived twice.

Every policy goes on from the same evening with the same people and the same luck, so the difference between two
policies, listener by listener, is the effect of what they chose; `paired` says how much that narrows the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.world.messages import Mailing
from data.world.record import Round

METRICS = (
    "active_days_28",
    "returned_7d",
    "habit_28",
    "sessions_28",
    "plays_per_session",
    "minutes",
    "satisfaction",
    "converted_28",
)
MESSAGE_METRICS = ("messages_28", "opens_28", "reachable_28")  # besides, where messages are sent
_RETURN_DAYS = 7
_HABIT_DAYS = 3  # active days that make a week count


@dataclass
class Tally:
    """What U listeners do over T days: visits (U, T), the rest (U,) sums over the horizon."""

    visits: NDArray[np.bool_]
    sessions: NDArray[np.float64]
    plays: NDArray[np.float64]
    seconds: NDArray[np.float64]
    satisfaction: NDArray[np.float64]  # sum over days of the hidden average that drives return
    converted: NDArray[np.float64]  # nan for those who had the subscription at the start
    messages: NDArray[np.float64]
    opens: NDArray[np.float64]

    @classmethod
    def of(cls, free: NDArray[np.bool_], days: int) -> Tally:
        """Nothing yet; `free` (U,) are those who could convert."""
        u = len(free)
        sessions, plays, seconds, satisfaction, messages, opens = np.zeros((6, u))
        converted = np.where(free, 0.0, np.nan)
        visits = np.zeros((u, days), np.bool_)
        return cls(visits, sessions, plays, seconds, satisfaction, converted, messages, opens)

    def add_round(self, day: int, lived: Round) -> None:
        """Counts the sessions of one slot of the horizon's day `day`."""
        who = lived.listeners
        self.visits[who, day] = True
        self.sessions[who] += 1
        self.plays[who] += lived.session.played.sum(axis=1)
        self.seconds[who] += lived.session.seconds.sum(axis=1)
        self.converted[who] = np.maximum(self.converted[who], lived.converted)  # nan stays nan

    def add_mailing(self, mailing: Mailing) -> None:
        """Counts what was sent and opened on one day."""
        self.messages[mailing.listeners] += mailing.sent >= 0
        self.opens[mailing.listeners] += mailing.opened >= 0


def metrics(tally: Tally) -> dict[str, NDArray[np.float64]]:
    """METRICS of U listeners, one value each (U,).

    active_days_28: days with a visit, per 28 days. returned_7d: of the days with a visit at least 7 days before the
    end, the share with another visit on one of the next 7 days; 0 without any. habit_28: weeks with at least 3 active
    days, per 28 days. sessions_28: per 28 days. plays_per_session: nan without a visit. minutes: listened, per 28 days.
    satisfaction: mean over days. converted_28: 1 for free listeners who subscribed over the horizon, nan for others.
    """
    visits = tally.visits
    per_28 = 28.0 / visits.shape[1]
    weeks = visits[:, : visits.shape[1] // 7 * 7].reshape(len(visits), -1, 7).sum(axis=2)
    none = np.full(len(visits), np.nan)
    return {
        "active_days_28": visits.sum(axis=1) * per_28,
        "returned_7d": _returned(visits),
        "habit_28": (weeks >= _HABIT_DAYS).mean(axis=1) * 4.0,
        "sessions_28": tally.sessions * per_28,
        "plays_per_session": np.divide(tally.plays, tally.sessions, out=none, where=tally.sessions > 0),
        "minutes": tally.seconds / 60.0 * per_28,
        "satisfaction": tally.satisfaction / visits.shape[1],
        "converted_28": tally.converted,
    }


def message_metrics(tally: Tally, reachable: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """MESSAGE_METRICS, (U,): sends and opens per 28 days; 1 for those who can still be reached by push or e-mail."""
    per_28 = 28.0 / tally.visits.shape[1]
    return {
        "messages_28": tally.messages * per_28,
        "opens_28": tally.opens * per_28,
        "reachable_28": reachable.astype(np.float64),
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
