"""Histories and decisions as arrays: the one form that every model, policy and estimator reads.

An interaction is one listener's dealing with one item in one sitting (a session, and within it a decision), with its
strongest reaction. Interactions of a user are in time order; a decision knows those that were settled, down to their
last event, strictly before it was made. So an earlier item of the same session is known, a reaction that comes after
the decision is not, and what the decision itself brought about never precedes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

HISTORY_LENGTH = 12
MICROSECONDS_PER_HOUR = 3_600_000_000

Int8 = npt.NDArray[np.int8]
Int16 = npt.NDArray[np.int16]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Histories:
    """Interactions of U users, E in all, as compressed rows: user u has rows offsets[u]:offsets[u + 1].

    Times are microseconds since 1970 UTC; `hour_of_week` is local to the user, 0 = Monday 00:00-00:59, 167 = Sunday
    23:00-23:59. `item` is a catalog row, `action` and `surface` are positions in `data.schema.ACTIONS`, `SURFACES`.
    """

    user_ids: list[str]
    offsets: Int64  # (U + 1,)
    item: Int32  # (E,)
    action: Int8  # (E,) the strongest reaction
    time: Int64  # (E,) of the first event
    surface: Int8  # (E,)
    hour_of_week: Int16  # (E,)


@dataclass(frozen=True)
class Decisions:
    """D decisions on slates of up to K items, sorted by (user, time); -1 fills a slate that is shorter than K.

    Interactions histories.offsets[user]:start are what was known when the decision was made. `seconds` is how long
    the listener stayed with each item of the slate, `reaction` the strongest reaction to it (-1: none).
    """

    decision_id: list[str]
    user: Int32  # (D,) row of histories.user_ids
    start: Int64  # (D,) absolute interaction row
    time: Int64  # (D,) us
    hour_of_week: Int16  # (D,)
    surface: Int8  # (D,)
    slate: Int32  # (D, K) catalog rows
    log_propensity: Float64  # (D,) nan = not known
    steer: list[str | None]
    reaction: Int8  # (D, K)
    seconds: Float32  # (D, K)
    move: list[str | None] = field(default_factory=list)  # the logged steer token; empty = not read

    def take(self, rows: npt.ArrayLike) -> "Decisions":
        """The decisions in `rows` (integer rows or a boolean mask (D,)), in that order."""
        index = np.asarray(rows)
        if index.dtype == np.bool_:
            index = np.flatnonzero(index)
        index = index.astype(np.int64)
        return Decisions(
            decision_id=[self.decision_id[i] for i in index.tolist()],
            user=self.user[index],
            start=self.start[index],
            time=self.time[index],
            hour_of_week=self.hour_of_week[index],
            surface=self.surface[index],
            slate=self.slate[index],
            log_propensity=self.log_propensity[index],
            steer=[self.steer[i] for i in index.tolist()],
            reaction=self.reaction[index],
            seconds=self.seconds[index],
            move=[self.move[i] for i in index.tolist()] if self.move else [],
        )

    def __len__(self) -> int:
        return len(self.decision_id)


@dataclass(frozen=True)
class Contexts:
    """What is known when B decisions are made: the one input of every policy, offline, in a world and when serving.

    `item` and `action` are left-padded with -1, the most recent interaction last. `gap_hours` is the time since that
    interaction (nan: there is none).
    """

    time: Int64  # (B,) us
    hour_of_week: Int16  # (B,)
    surface: Int8  # (B,)
    gap_hours: Float32  # (B,)
    item: Int32  # (B, H)
    action: Int8  # (B, H)
    steer: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: npt.ArrayLike) -> "Contexts":
        """The contexts in `rows` (integer rows or a boolean mask (B,)), in that order."""
        index = np.asarray(rows)
        if index.dtype == np.bool_:
            index = np.flatnonzero(index)
        index = index.astype(np.int64)
        return Contexts(
            time=self.time[index],
            hour_of_week=self.hour_of_week[index],
            surface=self.surface[index],
            gap_hours=self.gap_hours[index],
            item=self.item[index],
            action=self.action[index],
            steer=[self.steer[i] for i in index.tolist()],
        )


def contexts(histories: Histories, decisions: Decisions, length: int = HISTORY_LENGTH) -> Contexts:
    """The last `length` known interactions of each decision, aligned with the rows of `decisions`."""
    first = histories.offsets[decisions.user]  # (D,)
    rows = decisions.start[:, None] + np.arange(-length, 0)  # (D, H)
    known = rows >= first[:, None]
    if len(histories.item) == 0:
        item = np.full(rows.shape, -1, dtype=np.int32)
        action = np.full(rows.shape, -1, dtype=np.int8)
        gap = np.full(len(first), np.nan, dtype=np.float32)
    else:
        safe = np.where(known, rows, 0)
        item = np.where(known, histories.item[safe], np.int32(-1))
        action = np.where(known, histories.action[safe], np.int8(-1))
        last = np.maximum(decisions.start - 1, 0)
        hours = (decisions.time - histories.time[last]) / MICROSECONDS_PER_HOUR
        gap = np.where(decisions.start > first, hours, np.nan).astype(np.float32)
    return Contexts(
        time=decisions.time,
        hour_of_week=decisions.hour_of_week,
        surface=decisions.surface,
        gap_hours=gap,
        item=item,
        action=action,
        steer=decisions.steer,
    )
