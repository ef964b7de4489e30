"""Histories and decisions as arrays: the one form that every model, policy and estimator reads.

An interaction is one listener's dealing with one item in one sitting (a session, and within it a decision), with its
strongest reaction. Interactions of a user are in time order; a decision knows those that were settled, down to their
last event, strictly before it was made. So an earlier item of the same session is known, a reaction that comes after
the decision is not, and what the decision itself brought about never precedes it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from data.catalog import listenable
from data.interactions import interactions
from data.labels_reach import departures
from data.local_time import hour_of_week, local_clock, with_time_zone
from data.schema import SURFACE_CODE
from data.store import LogStore

HISTORY_LENGTH = 12
MICROSECONDS_PER_HOUR = 3_600_000_000
STAYED = np.iinfo(np.int64).max  # the moment of leaving of one who never left

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
    `left_at` is when a user first opted out or bounced (us; STAYED: never).
    """

    user_ids: list[str]
    offsets: Int64  # (U + 1,)
    item: Int32  # (E,)
    action: Int8  # (E,) the strongest reaction
    time: Int64  # (E,) of the first event
    surface: Int8  # (E,)
    hour_of_week: Int16  # (E,)
    left_at: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))  # (U,); empty = nobody is known to have left

    def left(self, decisions: "Decisions") -> Int64:
        """The moment of leaving (D,) of each decision's user, whenever that was."""
        if not len(self.left_at):
            return np.full(len(decisions), STAYED)
        return self.left_at[decisions.user]


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
    # (D,) the log names candidates, and they are not the whole catalog; empty = not read
    restricted: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))

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
            restricted=self.restricted[index] if self.restricted.size else self.restricted,
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


def load(
    store: LogStore, item_index: Callable[[Sequence[str]], npt.NDArray[np.integer]]
) -> tuple[Histories, Decisions]:
    """All interactions and decisions of a store; `item_index` turns item ids into catalog rows (it raises for others).

    Users are numbered in the order of (bucket, user_id). Bucket by bucket; the arrays take about 24 bytes an
    interaction and 80 a decision. Messages are left out where a log has anything else: what is sent is decided
    apart from what is played (`data.catalog.listenable`).
    """
    item_ids = listenable(store.items())["item_id"]
    rows = np.asarray(item_index(item_ids.to_list()), dtype=np.int32)
    index = pl.DataFrame({"item_id": item_ids, "row": rows})
    parts = [_load_bucket(store, bucket, index) for bucket in range(store.buckets)]
    user_ids: list[str] = []
    past, made, left_at = [], [], []
    for users, history, decisions, left in parts:
        left_at.append(left)
        past.append(history.with_columns(pl.col("user") + len(user_ids)))
        made.append(decisions.with_columns(pl.col("user") + len(user_ids)))
        user_ids += users
    history, decisions = pl.concat(past), pl.concat(made)
    counts = np.bincount(history["user"].to_numpy(), minlength=len(user_ids))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    histories = Histories(
        user_ids=user_ids,
        offsets=offsets,
        item=history["row"].to_numpy(),
        action=history["action"].to_numpy(),
        time=history["time"].to_physical().to_numpy(),
        surface=history["surface"].to_numpy(),
        hour_of_week=history["hour_of_week"].to_numpy(),
        left_at=np.concatenate(left_at),
    )
    slots = max(1, int(decisions.select(pl.col("slate").list.len().max().fill_null(1)).item()))
    user = decisions["user"].to_numpy()
    return histories, Decisions(
        decision_id=decisions["decision_id"].to_list(),
        user=user,
        start=offsets[user] + decisions["known"].to_numpy(),
        time=decisions["time"].to_physical().to_numpy(),
        hour_of_week=decisions["hour_of_week"].to_numpy(),
        surface=decisions["surface"].to_numpy(),
        slate=_padded(decisions["slate"], slots, -1).astype(np.int32),
        log_propensity=decisions["propensity"].log().fill_null(float("nan")).to_numpy(),
        steer=decisions["steer"].to_list(),
        reaction=_padded(decisions["reaction"], slots, -1).astype(np.int8),
        seconds=_padded(decisions["seconds"], slots, 0).astype(np.float32),
        move=decisions["move"].to_list(),
        restricted=decisions["restricted"].to_numpy(),
    )


def _load_bucket(
    store: LogStore, bucket: int, index: pl.DataFrame
) -> tuple[list[str], pl.DataFrame, pl.DataFrame, Int64]:
    """(user ids in order, interactions, decisions, left_at) of one bucket; `user` counts from 0 within the bucket."""
    zones, events = store.users(bucket), store.events(bucket)
    past = interactions(events).join(index, on="item_id", how="inner", maintain_order="left")
    # Of a slate all items are messages or none is.
    made = store.decisions(bucket).filter(pl.col("slate").list.first().is_in(index["item_id"].implode()))
    names = pl.concat([past["user_id"], made["user_id"]]).unique().sort()
    users = pl.DataFrame({"user_id": names, "user": pl.Series(range(len(names)), dtype=pl.Int32)})
    left = users.join(departures(events), on="user_id", how="left", maintain_order="left")["left_at"]
    past, made = (
        with_time_zone(frame.join(users, on="user_id", how="left", maintain_order="left"), zones)
        for frame in (past, made)
    )
    past = past.with_columns(
        hour_of_week=hour_of_week(local_clock(past)),
        place=pl.int_range(pl.len()).over("user"),  # how many of the user's interactions come before
        # Interactions are a prefix of what is known, so one that goes on holds back those after it.
        settled=pl.col("settled").cum_max().over("user"),
    )
    made = made.with_columns(
        hour_of_week=hour_of_week(local_clock(made)),
        surface=pl.col("surface").replace_strict(SURFACE_CODE),
        restricted=(pl.col("candidates").list.n_unique() < index.height).fill_null(False),
    ).with_row_index("decision")
    before = known_before(made, past)
    own = past.group_by("decision_id").agg(own=pl.col("place").min())
    made = (
        made.join(before, on="decision", how="left", maintain_order="left")
        .join(own, on="decision_id", how="left", maintain_order="left")
        .with_columns(known=pl.min_horizontal("known", "own"))
    )
    reacted = past.unique(["decision_id", "item_id"], keep="first", maintain_order=True)
    shown = (
        made.select("decision", "decision_id", item_id="slate")
        .explode("item_id")
        .join(index, on="item_id", how="left", maintain_order="left")
        .join(
            reacted.select("decision_id", "item_id", "action", "seconds"),
            on=["decision_id", "item_id"],
            how="left",
            maintain_order="left",
        )
        .group_by("decision", maintain_order=True)
        .agg(
            slate=pl.col("row"),
            reaction=pl.col("action").fill_null(-1),
            seconds=pl.col("seconds").fill_null(0.0),
        )
    )
    made = made.drop("slate").join(shown, on="decision", how="left", maintain_order="left")
    columns = ["user", "time", "decision_id", "known", "hour_of_week", "surface", "slate", "propensity", "steer"]
    made = made.select(*columns, "reaction", "seconds", "move", "restricted").sort("user", "time", maintain_order=True)
    past = past.select("user", "row", "action", "time", "surface", "hour_of_week")
    return names.to_list(), past, made, left.to_physical().fill_null(STAYED).to_numpy()


def known_before(made: pl.DataFrame, past: pl.DataFrame) -> pl.DataFrame:
    """(decision, known): how many interactions of the decision's user had settled strictly before it was made.

    made: decision, user, time. past: user, place (0, 1, .. in the order of time) and settled, which never falls.
    """
    return (
        made.select("decision", "user", "time")
        .sort("time")
        .join_asof(
            past.select("user", "settled", pl.col("place") + 1).sort("settled", maintain_order=True),
            left_on="time",
            right_on="settled",
            by="user",
            allow_exact_matches=False,
            check_sortedness=False,
        )
        .select("decision", known=pl.col("place").fill_null(0))
        .sort("decision")
    )


def _padded(lists: pl.Series, width: int, fill: float) -> npt.NDArray[np.generic]:
    """A column of D lists as a (D, width) array, `fill` after the end of each."""
    lengths = lists.list.len().fill_null(0).to_numpy()
    out = np.full((len(lists), width), fill, dtype=np.float64)
    out[np.arange(width) < lengths[:, None]] = lists.explode(empty_as_null=False).to_numpy()
    return out
