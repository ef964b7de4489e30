"""The message decisions of a log as arrays: what was known, what was decided with which probability, what came of it.

A decision is about messages where its log names a channel, or where its slate is the item "hold" or any other message.
The contexts are those of `data.world.environment.MessageContexts`, so what is learned here can be asked of a world or a
server. Nothing that happened at or after a decision is in its context or in `past`.

The domains' value signals are not part of a decision. They are read from an `opportunities` table (user_id, item_id,
time, value): what had last been said of this item for this user when it was decided. Without one they are nan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.catalog import listenable
from data.errors import InputError
from data.histories import HISTORY_LENGTH, MICROSECONDS_PER_HOUR, known_before
from data.interactions import interactions
from data.local_time import day_start, hour_of_week, local_clock, local_day, with_time_zone
from data.schema import ACTION_CODE, SURFACE_CODE
from data.sessions import sessionize
from data.store import LogStore
from data.world.environment import MessageContexts
from data.world.message_record import OPPORTUNITIES
from data.world.opportunities import HOLD_ID
from data.world.settings import CHANNELS

REMEMBERED = 8  # earlier sends that a context knows of
ANSWERS = ("open", "dismiss", "opt_out")
ACTIVE = ("play", "skip", "complete", "save", "like", "dislike", "open", "convert")
PAST = ("visits_7", "visits_28", "days_7", "days_28", "sends_7", "sends_28", "days_known")
LABELS = ("active_today", "sessions_1d", "active_days_28", "converted_28", "opted_out_28")
_EMPTY = -1


@dataclass(frozen=True)
class MessageLog:
    """D message decisions, by user and time.

    column (position in contexts.eligible), channel, hour (local): -1 where it was held. opened, dismissed, opted_out:
    answers to this message so far. past (D, len(PAST)): counts of earlier visits and sends. labels: LABELS -> (D,), nan
    until the window has closed: active_today whether a visit starts later that local day, sessions_1d visits from the
    decision to the end of the next day, active_days_28 days with a visit among the decision's own (from then on) and
    the 28 after it, converted_28 and opted_out_28 whether that happened from the decision to the end of day D + 28.
    """

    contexts: MessageContexts
    decision_id: list[str]
    user: NDArray[np.int32]  # (D,) place in user_ids
    user_ids: list[str]
    column: NDArray[np.int32]
    channel: NDArray[np.int8]
    hour: NDArray[np.int8]
    log_propensity: NDArray[np.float64]  # (D,) nan = not logged
    opened: NDArray[np.bool_]
    dismissed: NDArray[np.bool_]
    opted_out: NDArray[np.bool_]
    past: NDArray[np.float32]
    labels: Mapping[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: NDArray[np.generic]) -> MessageLog:
        """The decisions in `rows` (integers or a mask)."""
        index = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows.astype(np.int64)
        return MessageLog(
            contexts=take_contexts(self.contexts, index),
            decision_id=[self.decision_id[i] for i in index.tolist()],
            user=self.user[index],
            user_ids=self.user_ids,
            column=self.column[index],
            channel=self.channel[index],
            hour=self.hour[index],
            log_propensity=self.log_propensity[index],
            opened=self.opened[index],
            dismissed=self.dismissed[index],
            opted_out=self.opted_out[index],
            past=self.past[index],
            labels={name: values[index] for name, values in self.labels.items()},
        )


def take_contexts(contexts: MessageContexts, rows: NDArray[np.integer]) -> MessageContexts:
    """The message contexts in `rows`, in that order."""
    given = {f.name: getattr(contexts, f.name) for f in fields(MessageContexts)}
    steer, zones = given.pop("steer"), given.pop("zones")
    taken = {name: values[rows] for name, values in given.items()}
    return MessageContexts(**taken, steer=[steer[i] for i in rows.tolist()], zones=zones)


def message_items(items: pl.DataFrame) -> pl.DataFrame:
    """The message items of an items table, "hold" included; a row here is the number in MessageContexts.eligible."""
    return items.filter(pl.col("kind") == "message")


def read_message_log(
    store: LogStore,
    item_index: Callable[[Sequence[str]], NDArray[np.integer]],
    opportunities: pl.DataFrame | None = None,
    end: datetime | None = None,
) -> MessageLog:
    """The message decisions of a store, as known at `end` (default: the log's); `item_index` as in `histories.load`.

    Raises InputError where the log has no message decisions.
    """
    items = store.items()
    until = store.end if end is None else min(end, store.end)
    return message_log(store.events(), store.decisions(), store.users(), items, until, item_index, opportunities)


def message_log(
    events: pl.DataFrame,
    decisions: pl.DataFrame,
    users: pl.DataFrame | None,
    items: pl.DataFrame,
    end: datetime,
    item_index: Callable[[Sequence[str]], NDArray[np.integer]],
    opportunities: pl.DataFrame | None = None,
) -> MessageLog:
    """The message decisions among `decisions`, as known at `end`. Raises InputError where there are none."""
    sent = message_items(items)["item_id"]
    of_messages = pl.col("channel").is_not_null() | pl.col("slate").list.first().is_in(sent.implode())
    made = decisions.filter(of_messages & (pl.col("time") <= end)).sort("user_id", "time", "decision_id")
    if made.is_empty():
        raise InputError("messages: the log has no decisions about messages: simulate --world messaging, or log some")
    events = sessionize(events.filter(pl.col("time") <= end))
    names = made["user_id"].unique().sort()
    place = pl.DataFrame({"user_id": names, "user": pl.Series(range(len(names)), dtype=pl.Int32)})
    made = with_time_zone(made.join(place, on="user_id", how="left", maintain_order="left"), users)
    events = with_time_zone(events.join(place, on="user_id", how="inner", maintain_order="left"), users)
    wall = local_clock(made)
    made = made.with_columns(day=local_day(wall), hour_of_week=hour_of_week(wall)).with_row_index("decision")

    eligible, column, value = _opportunities(made, sent, opportunities)
    channel = made["channel"].replace_strict({c: i for i, c in enumerate(CHANNELS)}, default=None).fill_null(_EMPTY)
    made = made.with_columns(pl.col("send_at").fill_null(pl.col("time")))
    local_send = local_clock(made, "send_at")
    made = made.with_columns(sent_day=local_day(local_send))
    held = column < 0
    own = _answers(events, made)
    sends = _earlier_sends(made, own, column, eligible, channel.to_numpy())
    item, action, gap = _histories(events, made, items, item_index)
    zones = made["time_zone"].unique().sort().to_list()
    consent, premium = _standing(events, made, users)
    visits = _visits(events)
    contexts = MessageContexts(
        time=made["time"].to_physical().to_numpy(),
        hour_of_week=made["hour_of_week"].to_numpy(),
        surface=np.full(made.height, SURFACE_CODE["other"], np.int8),
        gap_hours=gap,
        item=item,
        action=action,
        steer=made["steer"].to_list(),
        eligible=eligible,
        value=value,
        consent=consent,
        premium=premium,
        zone=made["time_zone"].replace_strict({z: i for i, z in enumerate(zones)}, return_dtype=pl.Int32).to_numpy(),
        zones=tuple(zones),
        sent_item=sends[0],
        sent_channel=sends[1],
        sent_days_ago=sends[2],
        sent_answer=sends[3],
    )
    return MessageLog(
        contexts=contexts,
        decision_id=made["decision_id"].to_list(),
        user=made["user"].to_numpy(),
        user_ids=names.to_list(),
        column=column,
        channel=np.where(held, _EMPTY, channel.to_numpy()).astype(np.int8),
        hour=np.where(held, _EMPTY, local_send.dt.hour().to_numpy()).astype(np.int8),
        log_propensity=made["propensity"].log().fill_null(float("nan")).to_numpy(),
        opened=own["open"].is_not_null().to_numpy(),
        dismissed=own["dismiss"].is_not_null().to_numpy(),
        opted_out=own["opt_out"].is_not_null().to_numpy(),
        past=_past(made, visits, held),
        labels=_labels(events, made, visits, end),
    )


def _opportunities(
    made: pl.DataFrame, sent: pl.Series, opportunities: pl.DataFrame | None
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """(eligible (D, M), the column chosen (D,), value signal (D, M)). Candidates default to what was sent."""
    index = pl.DataFrame({"item_id": sent, "item": pl.Series(range(len(sent)), dtype=pl.Int32)})
    offered = (
        made.select(
            "decision",
            "user_id",
            "time",
            chosen=pl.col("slate").list.first(),
            item_id=pl.coalesce("candidates", "slate"),
        )
        .explode("item_id")
        .filter(pl.col("item_id") != HOLD_ID)
        .join(index, on="item_id", how="inner", maintain_order="left")
        .with_columns(column=pl.int_range(pl.len()).over("decision"))
    )
    if opportunities is not None:
        said = opportunities.select(pl.col(name).cast(dtype) for name, dtype in OPPORTUNITIES.items())
        offered = offered.sort("time").join_asof(
            said.sort("time"), on="time", by=["user_id", "item_id"], check_sortedness=False
        )
    else:
        offered = offered.with_columns(value=pl.lit(None, dtype=pl.Float32))
    most = 1 if offered.is_empty() else int(offered["column"].max()) + 1  # type: ignore[arg-type]
    eligible = np.full((made.height, most), _EMPTY, np.int32)
    value = np.full((made.height, most), np.nan, np.float32)
    row, at = offered["decision"].to_numpy(), offered["column"].to_numpy()
    eligible[row, at] = offered["item"].to_numpy()
    value[row, at] = offered["value"].fill_null(float("nan")).to_numpy()
    column = np.full(made.height, _EMPTY, np.int32)
    taken = offered.filter(pl.col("item_id") == pl.col("chosen"))
    column[taken["decision"].to_numpy()] = taken["column"].to_numpy()
    return eligible, column, value


def _answers(events: pl.DataFrame, made: pl.DataFrame) -> pl.DataFrame:
    """Per decision: when it was opened, dismissed, and answered with an opt-out; null where it was not."""
    own = events.filter(pl.col("action").is_in(ANSWERS) & pl.col("decision_id").is_not_null())
    first = own.group_by("decision_id").agg(
        pl.col("time").filter(pl.col("action") == action).min().alias(action) for action in ANSWERS
    )
    return made.select("decision_id", "time", "user").join(first, on="decision_id", how="left", maintain_order="left")


def _earlier_sends(
    made: pl.DataFrame,
    own: pl.DataFrame,
    column: NDArray[np.int32],
    eligible: NDArray[np.int32],
    channel: NDArray[np.integer],
) -> tuple[NDArray[np.int32], NDArray[np.int8], NDArray[np.int32], NDArray[np.int8]]:
    """The last REMEMBERED sends before each decision, left-padded: item, channel, days ago, answer by then.

    Days are those of the listener's calendar on which a message went out, as caps count them.
    """
    decision, user, day, sent_day = (made[name].to_numpy() for name in ("decision", "user", "day", "sent_day"))
    time = made["time"].to_physical().to_numpy()
    sends = np.flatnonzero(column >= 0)
    # Decisions are by user and time, so the sends before a decision are those of lower rows of the same user.
    upto = np.searchsorted(sends, decision)
    rows = upto[:, None] + np.arange(-REMEMBERED, 0)
    safe = sends[np.maximum(rows, 0)] if len(sends) else np.zeros_like(rows)
    known = (rows >= 0) & (user[safe] == user[:, None])
    answer = np.full(rows.shape, _EMPTY, np.int8)
    for action in ANSWERS:  # from weakest to strongest
        when = own[action].to_physical().fill_null(np.iinfo(np.int64).max).to_numpy()
        answer = np.where(known & (when[safe] < time[:, None]), np.int8(ACTION_CODE[action]), answer)
    item = np.where(known, eligible[safe, np.maximum(column[safe], 0)], _EMPTY).astype(np.int32)
    return (
        item,
        np.where(known, channel[safe], _EMPTY).astype(np.int8),
        np.where(known, day[:, None] - sent_day[safe], 0).astype(np.int32),
        answer,
    )


def _histories(
    events: pl.DataFrame,
    made: pl.DataFrame,
    items: pl.DataFrame,
    item_index: Callable[[Sequence[str]], NDArray[np.integer]],
) -> tuple[NDArray[np.int32], NDArray[np.int8], NDArray[np.float32]]:
    """item and action (D, HISTORY_LENGTH) of the last known interactions, and the hours since the last one."""
    ids = listenable(items)["item_id"]
    index = pl.DataFrame({"item_id": ids, "row": np.asarray(item_index(ids.to_list()), dtype=np.int32)})
    past = interactions(events.drop("user"), "user_id").join(index, on="item_id", how="inner", maintain_order="left")
    past = past.join(made.select("user_id", "user").unique(), on="user_id", how="inner", maintain_order="left")
    past = past.with_columns(
        place=pl.int_range(pl.len()).over("user"), settled=pl.col("settled").cum_max().over("user")
    )
    known = known_before(made, past)["known"].to_numpy()
    users = int(made["user"].max()) + 1  # type: ignore[arg-type]
    past = past.sort("user", "place")
    first = np.concatenate([[0], np.cumsum(np.bincount(past["user"].to_numpy(), minlength=users))])
    start = first[made["user"].to_numpy()]
    rows = (start + known)[:, None] + np.arange(-HISTORY_LENGTH, 0)
    there = rows >= start[:, None]
    if past.is_empty():
        shape = rows.shape
        return np.full(shape, -1, np.int32), np.full(shape, -1, np.int8), np.full(len(rows), np.nan, np.float32)
    safe = np.where(there, rows, 0)
    since = made["time"].to_physical().to_numpy() - past["time"].to_physical().to_numpy()[safe[:, -1]]
    return (
        np.where(there, past["row"].to_numpy()[safe], np.int32(-1)),
        np.where(there, past["action"].to_numpy()[safe], np.int8(-1)).astype(np.int8),
        np.where(there[:, -1], since / MICROSECONDS_PER_HOUR, np.nan).astype(np.float32),
    )


def _standing(
    events: pl.DataFrame, made: pl.DataFrame, users: pl.DataFrame | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(consent (D, channels), premium (D,)): as users say at the start, less opt-outs and plus conversions by then."""
    consent = np.ones((made.height, len(CHANNELS)), np.bool_)
    premium = np.zeros(made.height, np.bool_)
    if users is not None:
        said = made.select("user_id").join(users, on="user_id", how="left", maintain_order="left")
        agreed, plan = said["consents"], said["attributes"].str.json_path_match("$.plan")
        for c, name in enumerate(CHANNELS):
            consent[:, c] = agreed.list.contains(name).fill_null(True).to_numpy()
        premium = (plan == "premium").fill_null(False).to_numpy().copy()
    time = made["time"].to_physical().to_numpy()
    for c, name in enumerate(CHANNELS):
        consent[:, c] &= _first(events, made, (pl.col("action") == "opt_out") & (pl.col("surface") == name)) >= time
    premium |= _first(events, made, pl.col("action") == "convert") < time
    return consent, premium


def _first(events: pl.DataFrame, made: pl.DataFrame, what: pl.Expr) -> NDArray[np.int64]:
    """(D,) the first time, us, that a decision's user did `what`; far in the future where they never did."""
    first = events.filter(what).group_by("user").agg(first=pl.col("time").min())
    found = made.select("user").join(first, on="user", how="left", maintain_order="left")["first"]
    times: NDArray[np.int64] = found.to_physical().fill_null(np.iinfo(np.int64).max).to_numpy()
    return times


@dataclass(frozen=True)
class _Starts:
    """V visits by user and time: keys that sort as (user, second) and as (user, local day)."""

    seconds: NDArray[np.int64]
    days: NDArray[np.int64]  # distinct (user, day)

    def between(self, user: NDArray[np.integer], since: NDArray[np.int64], until: NDArray[np.int64]) -> NDArray:  # type: ignore[type-arg]
        """(D,) visits of the user that start in (since, until], in us."""
        low, high = (_second_key(user, moment) for moment in (since, until))
        return np.searchsorted(self.seconds, high, "right") - np.searchsorted(self.seconds, low, "right")

    def active(self, user: NDArray[np.integer], first: NDArray[np.integer], last: NDArray[np.integer]) -> NDArray:  # type: ignore[type-arg]
        """(D,) local days first .. last with a visit."""
        low, high = (_day_key(user, day) for day in (first - 1, last))
        return np.searchsorted(self.days, high, "right") - np.searchsorted(self.days, low, "right")


def _second_key(user: NDArray[np.integer], us: NDArray[np.int64]) -> NDArray[np.int64]:
    # Tenths of a second since 1970 stay below 2^36 until 2187, and so leave room for 2^27 users.
    key: NDArray[np.int64] = (user.astype(np.int64) << 36) + us // 100_000
    return key


def _day_key(user: NDArray[np.integer], day: NDArray[np.integer]) -> NDArray[np.int64]:
    key: NDArray[np.int64] = (user.astype(np.int64) << 20) + day
    return key


def _visits(events: pl.DataFrame) -> _Starts:
    """Sessions with an active event, at the first of them; an answer to a message is one only where it was opened."""
    start = (
        events.filter(pl.col("action").is_in(ACTIVE))
        .group_by("user", "session_id")
        .agg(pl.col("time").min(), pl.col("time_zone").first())
        .sort("user", "time")
    )
    user = start["user"].to_numpy()
    day = local_day(local_clock(start)).to_numpy()
    return _Starts(_second_key(user, start["time"].to_physical().to_numpy()), np.unique(_day_key(user, day)))


def _past(made: pl.DataFrame, visits: _Starts, held: NDArray[np.bool_]) -> NDArray[np.float32]:
    """PAST of every decision, (D, len(PAST))."""
    user, day = made["user"].to_numpy(), made["day"].to_numpy()
    time = made["time"].to_physical().to_numpy()
    week = np.int64(7 * 24 * MICROSECONDS_PER_HOUR)
    sends = np.sort(_day_key(user, made["sent_day"].to_numpy())[~held])

    def sent(days: int) -> NDArray[np.integer]:
        return np.searchsorted(sends, _day_key(user, day)) - np.searchsorted(sends, _day_key(user, day - days))

    began = np.minimum.reduceat(day, np.unique(user, return_index=True)[1])
    return np.stack(
        [
            visits.between(user, time - week, time),
            visits.between(user, time - 4 * week, time),
            visits.active(user, day - 7, day - 1),
            visits.active(user, day - 28, day - 1),
            sent(7),
            sent(28),
            day - began[np.unique(user, return_inverse=True)[1]],
        ],
        axis=1,
    ).astype(np.float32)


def _labels(events: pl.DataFrame, made: pl.DataFrame, visits: _Starts, end: datetime) -> dict[str, NDArray[np.float64]]:
    """LABELS, nan where the window was still open at `end`."""
    user, day = made["user"].to_numpy(), made["day"].to_numpy()
    time = made["time"].to_physical().to_numpy()
    closes = {w: day_start(made, pl.col("day") + w + 1).to_physical().to_numpy() for w in (0, 1, 28)}
    later_today = visits.between(user, time, closes[0] - 1) > 0
    opt_out = np.sort(_second_key(*_moments(events, "opt_out")))
    convert = np.sort(_second_key(*_moments(events, "convert")))

    def happened(keys: NDArray[np.int64]) -> NDArray[np.bool_]:
        low, high = (_second_key(user, moment) for moment in (time, closes[28] - 1))
        found: NDArray[np.bool_] = np.searchsorted(keys, high, "right") > np.searchsorted(keys, low, "right")
        return found

    now = int(end.timestamp() * 1e6)
    found = {
        "active_today": (0, later_today),
        "sessions_1d": (1, visits.between(user, time, closes[1] - 1)),
        "active_days_28": (28, visits.active(user, day + 1, day + 28) + later_today),
        "converted_28": (28, happened(convert)),
        "opted_out_28": (28, happened(opt_out)),
    }
    return {name: np.where(closes[w] <= now, values.astype(np.float64), np.nan) for name, (w, values) in found.items()}


def _moments(events: pl.DataFrame, action: str) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    rows = events.filter(pl.col("action") == action)
    return rows["user"].to_numpy(), rows["time"].to_physical().to_numpy()
