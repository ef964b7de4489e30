"""What the server knows about a listener: the run's log, read when they are first asked for, and what came in since.

Feedback counts from the moment it is in the state (`policy.serving.state`): the next recommendation for that listener,
by whichever replica, sees it. Interactions are made of events by the same code that makes them for training, so a
served prompt is the prompt that training would write.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Lock
from typing import TypeVar
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

from data.histories import MICROSECONDS_PER_HOUR, Contexts
from data.interactions import interactions
from data.local_time import DEFAULT_ZONE
from data.schema import ACTIONS, SURFACE_CODE, polars_schema
from data.sessions import GAP_MINUTES, sessionize
from data.store import LogStore, bucket_of
from policy.serving.segments import rows_to_frame
from policy.serving.state import KEPT_EVENTS, Glance, State, StateError

K = TypeVar("K")
V = TypeVar("V")

KEPT_LISTENERS = 50_000
KEPT_BUCKETS = 32
# An event that was replayed into the log is still in the state; only what sessionizing adds may differ.
_SAME_EVENT = [name for name in polars_schema("events") if name != "session_id"]


@dataclass(frozen=True)
class Past:
    """One listener's interactions, oldest first. H of them.

    settled (H,): microseconds from when on it counts as known (an interaction that goes on holds back those after it).
    time (H,): of the first event, us. item: their ids. action (H,): code of the strongest reaction. surface (H,): code.
    """

    settled: np.ndarray[tuple[int], np.dtype[np.int64]]
    time: np.ndarray[tuple[int], np.dtype[np.int64]]
    item: Sequence[str]
    action: np.ndarray[tuple[int], np.dtype[np.int64]]
    surface: np.ndarray[tuple[int], np.dtype[np.int64]]
    zone: str


@dataclass(frozen=True)
class Listener:
    """What is known about one listener now: their past, and the items that may not be shown to them."""

    past: Past
    blocked: frozenset[str]

    def context(
        self,
        row_of: Mapping[str, int],
        length: int,
        surface: str,
        now: datetime,
        steer: str | None = None,
        zone: str | None = None,
    ) -> Contexts:
        """One row, for `Prompt.encode`, as known at `now` (aware): the last `length` items of the catalog `row_of`.

        `zone` (IANA) overrides the log's time zone of the listener; where neither says, it is UTC.
        """
        past, micros = self.past, round(now.timestamp() * 1e6)
        known = int(np.searchsorted(past.settled, micros, side="left"))
        said = [place for place in range(known) if past.item[place] in row_of]  # an item may have left the catalog
        last = said[-length:]
        item = np.full((1, length), -1, dtype=np.int32)
        action = np.full((1, length), -1, dtype=np.int8)
        if last:
            item[0, -len(last) :] = [row_of[past.item[place]] for place in last]
            action[0, -len(last) :] = past.action[last]
        gap = (micros - past.time[last[-1]]) / MICROSECONDS_PER_HOUR if last else np.nan
        local = now.astimezone(ZoneInfo(zone or past.zone))
        return Contexts(
            time=np.array([micros], dtype=np.int64),
            hour_of_week=np.array([local.weekday() * 24 + local.hour], dtype=np.int16),
            surface=np.array([SURFACE_CODE[surface]], dtype=np.int8),
            gap_hours=np.array([gap], dtype=np.float32),
            item=item,
            action=action,
            steer=[steer],
        )

    def lately(self, count: int) -> list[tuple[str, str, datetime]]:
        """The last interactions, newest first: (item id, strongest reaction, when)."""
        past = self.past
        zone = ZoneInfo(past.zone)
        return [
            (past.item[place], ACTIONS[past.action[place]], datetime.fromtimestamp(past.time[place] / 1e6, zone))
            for place in reversed(range(max(0, len(past.item) - count), len(past.item)))
        ]


class Listeners:
    """Histories by user id, from a log store (None: everybody is new) and the state. For one event loop."""

    def __init__(self, store: LogStore | None, state: State) -> None:
        self._logged = _Logged(store) if store is not None else None
        self._gap_minutes = store.gap_minutes if store else GAP_MINUTES
        self._state = state
        self._known: OrderedDict[str, tuple[Glance, Past]] = OrderedDict()
        self.state_errors = 0

    async def look(self, user_id: str) -> Listener:
        """The listener as of now. With the state out of reach: as last seen, or as the log has them."""
        known = self._known.get(user_id)
        try:
            glance = await self._state.glance(user_id)
            if known is not None and known[0].revision == glance.revision:
                return Listener(known[1], glance.blocked)
            received = await self._state.recent(user_id) if glance.revision else []
        except StateError:
            self.state_errors += 1
            if known is not None:
                return Listener(known[1], known[0].blocked)
            return Listener(await self._past(user_id, []), frozenset())
        past = await self._past(user_id, received)
        _keep(self._known, user_id, (glance, past), KEPT_LISTENERS)
        return Listener(past, glance.blocked)

    async def blocked(self, user_id: str) -> frozenset[str]:
        """What may not be shown to this listener; with the state out of reach, as last seen."""
        try:
            return (await self._state.glance(user_id)).blocked
        except StateError:
            self.state_errors += 1
            return self._known[user_id][0].blocked if user_id in self._known else frozenset()

    def some(self, count: int) -> list[str]:
        """A few listeners of the log, for a page to begin with. Reads a bucket: call it off the event loop."""
        return self._logged.some(count) if self._logged is not None else []

    async def _past(self, user_id: str, received: list[dict[str, object]]) -> Past:
        logged = _NOTHING
        if self._logged is not None:
            found = self._logged.of(user_id)
            logged = found if found is not None else await asyncio.to_thread(self._logged.read, user_id)
        made = logged.made
        if received:
            new = rows_to_frame(received, "events", "the state")
            events = pl.concat([logged.events, new]).unique(_SAME_EVENT, keep="first", maintain_order=True)
            made = interactions(sessionize(events, self._gap_minutes))
        return _past_of(made, logged.zone)


def nobody() -> Past:
    """Of a listener about whom nothing is known."""
    return _past_of(_NOTHING.made, DEFAULT_ZONE)


def _past_of(made: pl.DataFrame, zone: str) -> Past:
    return Past(
        settled=made["settled"].cum_max().to_physical().to_numpy().astype(np.int64),
        time=made["time"].to_physical().to_numpy().astype(np.int64),
        item=made["item_id"].to_list(),
        action=made["action"].to_numpy().astype(np.int64),
        surface=made["surface"].to_numpy().astype(np.int64),
        zone=zone,
    )


@dataclass(frozen=True)
class _Known:
    """What the log says of one listener, or of a bucket of them: their last events, and what was made of them."""

    events: pl.DataFrame
    made: pl.DataFrame
    zone: str = DEFAULT_ZONE


_EVENTS = pl.DataFrame(schema=polars_schema("events"))
_NOTHING = _Known(_EVENTS, interactions(_EVENTS))
_Places = dict[str, tuple[int, int]]


class _Logged:
    """The last events of the run's log by listener: a bucket is read once, when one of its listeners is asked for.

    Interactions are made for the whole bucket then: for one listener at a time they would cost every first request
    several milliseconds.
    """

    def __init__(self, store: LogStore) -> None:
        self._store = store
        self._lock = Lock()
        self._buckets: OrderedDict[int, tuple[_Known, _Places, _Places, dict[str, str]]] = OrderedDict()

    def of(self, user_id: str) -> _Known | None:
        """What is known about the listener, or None while their bucket has not been read."""
        held = self._buckets.get(self._bucket(user_id))
        if held is None:
            return None
        all_of, events, made, zones = held
        return _Known(
            all_of.events.slice(*events.get(user_id, (0, 0))),
            all_of.made.slice(*made.get(user_id, (0, 0))),
            zones.get(user_id, DEFAULT_ZONE),
        )

    def read(self, user_id: str) -> _Known:
        """As `of`, reading the bucket where need be."""
        with self._lock:
            if (found := self.of(user_id)) is not None:
                return found
            bucket = self._bucket(user_id)
            columns = list(polars_schema("events"))
            events = self._store.events(bucket).select(columns).group_by("user_id", maintain_order=True)
            kept = events.tail(KEPT_EVENTS).select(columns)
            made = interactions(sessionize(kept, self._store.gap_minutes))
            users = self._store.users(bucket)
            zones = {} if users is None else dict(users.select("user_id", "time_zone").drop_nulls().iter_rows())
            held = _Known(kept, made), _places(kept), _places(made), zones
            _keep(self._buckets, bucket, held, KEPT_BUCKETS)
        found = self.of(user_id)
        assert found is not None
        return found

    def some(self, count: int) -> list[str]:
        for bucket in range(self._store.buckets):
            events = self._store.rows_as_given("events", bucket)
            if events.height:
                return events["user_id"].unique(maintain_order=True).head(count).to_list()
        return []

    def _bucket(self, user_id: str) -> int:
        return int(bucket_of(pl.Series([user_id]), self._store.buckets)[0])


def _places(frame: pl.DataFrame) -> _Places:
    """Where each listener's rows are in a frame that has them together: first row and how many."""
    runs = frame.select(pl.col("user_id").rle()).unnest("user_id")
    ends = runs["len"].cum_sum()
    return {user: (end - length, length) for user, length, end in zip(runs["value"], runs["len"], ends, strict=True)}


def _keep(cache: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    cache[key] = value
    cache.move_to_end(key)
    while len(cache) > most:
        cache.popitem(last=False)
