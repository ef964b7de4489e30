"""What is known of a listener when a message to them is decided: the run's log, its plans, and what came in since.

The contexts are made by the code that makes them from a log (`data.message_log`), so that what is decided upon here is
what training and a judge of the replayed log will read. Opt-outs and sends come from the state as well, where no
replica misses one; a listener about whom the log says nothing has agreed to nothing.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from threading import Lock
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.artifacts import fingerprint
from data.catalog import listenable
from data.local_time import DEFAULT_ZONE
from data.message_log import message_items, message_log
from data.opportunities import DOMAINS, OpportunityRegistry, Submission, as_signals, from_signals
from data.schema import polars_schema
from data.store import LogStore, bucket_of, read_parquet
from data.world.environment import MessageContexts
from data.world.message_record import OPPORTUNITIES as SCHEMA
from data.world.message_record import SIGNALS
from data.world.opportunities import HOLD_ID
from data.world.settings import CHANNELS
from policy.messaging.grammar import HOURS
from policy.messaging.offers import SUBMITTED, limits, told_to
from policy.messaging.prompt import MessagePrompt, message_words
from policy.messaging.rules import allowed_by_clock
from policy.prompt import Prompt
from policy.serving.mailing import Mailing
from policy.serving.segments import rows_to_frame
from policy.serving.state import KEPT_EVENTS, LASTING, Mail
from rewards.messages import NAME as REWARD
from rewards.messages import MessageReward

PLANS = "plans"
_KEPT_BUCKETS = 16
_KEPT_DECISIONS = 100  # of a listener, about messages: far more than a context remembers
# The decision that is to be made, while its context is made: of decisions at one moment it is the last.
_ASKED = "\U0010ffff"


@dataclass(frozen=True)
class Letter:
    """A decision to be made about one listener. contexts: one row; None where nobody has anything to tell them.

    allowed (M, channels, 24): what may be sent. told: the opportunities (OPPORTUNITIES), a row for each column. later:
    whether something was sent after this moment (somebody asked for a later one before), so that no count of a week
    would be right.
    """

    contexts: MessageContexts | None
    allowed: NDArray[np.bool_]
    told: pl.DataFrame
    zone: ZoneInfo
    later: bool

    @property
    def candidates(self) -> list[str]:
        return [*self.told["item_id"].to_list(), HOLD_ID]


@dataclass(frozen=True)
class _Bucket:
    """Of its listeners, all together: last and lasting events, decisions about messages, planned ones too, standing."""

    events: pl.DataFrame
    decisions: pl.DataFrame
    users: pl.DataFrame


_DECISIONS = polars_schema("decisions")
_EVENTS = polars_schema("events")
_USERS = polars_schema("users")
_SAME_EVENT = [name for name in _EVENTS if name != "session_id"]


@dataclass
class Correspondence:
    """Messages of a run: what there is to send, and to whom what may be sent. store: its log, if it has one."""

    run: Path
    store: LogStore | None
    _buckets: OrderedDict[tuple[int, tuple[str, ...]], _Bucket] = field(default_factory=OrderedDict, init=False)
    _lock: Lock = field(default_factory=Lock, init=False)
    _prompt: MessagePrompt | None = field(default=None, init=False)

    @cached_property
    def items(self) -> pl.DataFrame:
        """The items table of the log; empty without one."""
        return self.store.items() if self.store is not None else pl.DataFrame(schema=polars_schema("items"))

    @cached_property
    def messages(self) -> pl.Series:
        """Ids of what can be said, to hold included; a place here is the number in MessageContexts.eligible."""
        return message_items(self.items)["item_id"]

    @cached_property
    def reward(self) -> tuple[MessageReward, str] | None:
        """The run's message reward and its version; None where it has none. Raises InputError for a broken one."""
        folder = self.run / "rewards" / REWARD
        return (MessageReward.load(folder), fingerprint(folder)[:10]) if folder.is_dir() else None

    def prompt(self, spoken: Prompt) -> MessagePrompt:
        """Of the policy that speaks so, about these messages."""
        if self._prompt is None or self._prompt.prompt is not spoken:
            self._prompt = MessagePrompt(spoken, message_words(self.items))
        return self._prompt

    def zone(self, user_id: str, given: str | None) -> ZoneInfo:
        """The listener's: as given, or as the log says. Reads files: call it off the event loop."""
        return _zone(self._logged(user_id).users) if given is None else ZoneInfo(given)

    @cached_property
    def titles(self) -> dict[str, str]:
        """Of messages, by item id."""
        return dict(message_items(self.items).select("item_id", "title").iter_rows())

    @cached_property
    def _registry(self) -> OpportunityRegistry:
        sendable = [item for item in self.messages.to_list() if item != HOLD_ID]
        return OpportunityRegistry(self.run / SUBMITTED, DOMAINS, sendable)

    @cached_property
    def _signals(self) -> pl.DataFrame:
        """The value signals of the log; empty without them."""
        file = self.run / "logs" / SIGNALS
        return read_parquet(file) if file.is_file() else pl.DataFrame(schema=SCHEMA)

    def submit(self, rows: Sequence[Mapping[str, object]], domain: str | None) -> Submission:
        """Take opportunities in: on the disk when this returns. domain: who submits, where that is known."""
        frame = pl.DataFrame(rows, infer_schema_length=None)
        with self._lock:
            return self._registry.submit(frame, domain)

    def counts(self) -> dict[str, dict[str, int]]:
        """By domain: opportunities accepted, and rejected by reason."""
        with self._lock:
            return self._registry.counts() if (self.run / SUBMITTED).is_dir() else {}

    def live(self, at: datetime, live_days: float) -> pl.DataFrame:
        """What domains would have sent at a time, as the planner finds it."""
        with self._lock:
            if (self.run / SUBMITTED).is_dir():
                return self._registry.live(at)
        table = from_signals(self._signals, self.items, live_days)
        return table.filter((pl.col("created_at") <= at) & (pl.col("expires_at") > at))

    def look(
        self,
        user_id: str,
        now: datetime,
        mail: Mail,
        received: Sequence[Mapping[str, object]],
        mailing: Mailing,
        row_of: Mapping[str, int],
        zone: str | None,
    ) -> Letter:
        """The decision to be made about a listener at `now`. Reads files: call it off the event loop.

        mail, received: their messages and their latest events, of the state. row_of: catalog rows by item id. zone: to
        go by instead of the log's.
        """
        logged = self._logged(user_id)
        sent = logged.decisions
        if mail.sends:
            new = rows_to_frame(mail.sends, "decisions", "the state")
            sent = pl.concat([sent, new]).unique("decision_id", keep="first", maintain_order=True)
        users = logged.users
        if users.is_empty():
            users = pl.DataFrame([{"user_id": user_id, "consents": []}], schema=_USERS)
        if zone is not None:
            users = users.with_columns(time_zone=pl.lit(zone))
        later = not sent.filter(pl.col("channel").is_not_null() & (pl.col("time") > now)).is_empty()
        who = pl.DataFrame({"user_id": [user_id], "time": [now]}, schema_overrides={"time": _DECISIONS["time"]})
        told = told_to(self.live(now, mailing.live_days), who, self.messages, mailing.most)
        if told.is_empty():
            return Letter(None, np.zeros((0, len(CHANNELS), HOURS), np.bool_), told, _zone(users), later)
        events = logged.events
        if received or mail.lasting:
            new = rows_to_frame([*mail.lasting, *received], "events", "the state")
            events = pl.concat([events, new]).unique(_SAME_EVENT, keep="first", maintain_order=True)
        asked = who.with_columns(
            decision_id=pl.lit(_ASKED),
            candidates=pl.Series([told["item_id"].to_list()], dtype=pl.List(pl.String)),
            surface=pl.lit("other"),
            policy=pl.lit("none"),
            slate=pl.lit([HOLD_ID], dtype=pl.List(pl.String)),
        )
        log = message_log(
            events,
            pl.concat([sent, asked], how="diagonal_relaxed"),
            users,
            self._readable(row_of),
            now,
            lambda ids: np.array([row_of.get(item, -1) for item in ids], dtype=np.int32),
            as_signals(told, [user_id]),
        )
        contexts = log.take(np.array([name == _ASKED for name in log.decision_id])).contexts
        expires, by = limits(contexts.eligible, [user_id], told, self.messages)
        may = allowed_by_clock(contexts, mailing.rules, expires, by)[0]
        spent = [mail.spent.get(channel, 0) >= mailing.budgets.get(channel, math.inf) for channel in CHANNELS]
        may[:, spent] = False
        return Letter(contexts, may, told, _zone(users), later)

    def _readable(self, row_of: Mapping[str, int]) -> pl.DataFrame:
        """The items that histories and messages are read with: an item may have left the catalog."""
        known = pl.Series(list(row_of), dtype=pl.String)
        others = listenable(self.items)["item_id"]
        return self.items.filter(pl.col("item_id").is_in(known.implode()) | ~pl.col("item_id").is_in(others.implode()))

    def _logged(self, user_id: str) -> _Bucket:
        """What the log and the plans say of one listener."""
        if self.store is None:
            return _NOTHING
        bucket = int(bucket_of(pl.Series([user_id]), self.store.buckets)[0])
        plans = sorted((self.run / PLANS).glob("*/decisions.parquet"))
        key = bucket, tuple(plan.parent.name for plan in plans)
        with self._lock:
            if key not in self._buckets:
                self._buckets[key] = self._read(self.store, bucket, plans)
            self._buckets.move_to_end(key)
            while len(self._buckets) > _KEPT_BUCKETS:
                self._buckets.popitem(last=False)
            held = self._buckets[key]
        mine = pl.col("user_id") == user_id
        return _Bucket(held.events.filter(mine), held.decisions.filter(mine), held.users.filter(mine))

    def _read(self, store: LogStore, bucket: int, plans: Sequence[Path]) -> _Bucket:
        events = store.events(bucket).select(list(_EVENTS))
        last = pl.int_range(pl.len()).reverse().over("user_id") < KEPT_EVENTS
        kept = events.filter(last | pl.col("action").is_in(LASTING))
        of_messages = pl.col("channel").is_not_null() | pl.col("slate").list.first().is_in(self.messages.implode())
        made = [store.decisions(bucket).select(list(_DECISIONS)).filter(of_messages)]
        for plan in plans:
            rows = read_parquet(plan)
            mine = rows.filter(bucket_of(rows["user_id"], store.buckets) == bucket)
            made.append(mine)
        decisions = pl.concat(made, how="diagonal_relaxed").unique("decision_id", keep="first").sort("time")
        users = store.users(bucket)
        return _Bucket(
            kept,
            decisions.group_by("user_id", maintain_order=True).tail(_KEPT_DECISIONS).select(list(_DECISIONS)),
            pl.DataFrame(schema=_USERS) if users is None else users.select(list(_USERS)),
        )


def _zone(users: pl.DataFrame) -> ZoneInfo:
    return ZoneInfo((None if users.is_empty() else users["time_zone"][0]) or DEFAULT_ZONE)


_NOTHING = _Bucket(*(pl.DataFrame(schema=schema) for schema in (_EVENTS, _DECISIONS, _USERS)))
