"""What the server knows about a listener: the run's log, read when they first ask, and the feedback received since.

Feedback counts from the moment it is on disk: the next recommendation for that listener sees it. Interactions are made
of events by the same code that makes them for training, so a served prompt is the prompt that training would write.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Mapping
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
from data.schema import SURFACE_CODE, polars_schema
from data.sessions import GAP_MINUTES, sessionize
from data.store import LogStore, bucket_of

T = TypeVar("T")

# Events kept per listener: far more than the interactions of any prompt are made of.
KEPT_EVENTS = 400
KEPT_LISTENERS = 50_000


@dataclass(frozen=True)
class Past:
    """One listener's interactions, oldest first. H of them, all int64.

    settled: microseconds from when on it counts as known (an interaction that goes on holds back those after it).
    time: of the first event, us. item: catalog row. action: code of the strongest reaction.
    """

    settled: np.ndarray[tuple[int], np.dtype[np.int64]]
    time: np.ndarray[tuple[int], np.dtype[np.int64]]
    item: np.ndarray[tuple[int], np.dtype[np.int64]]
    action: np.ndarray[tuple[int], np.dtype[np.int64]]
    zone: str


class Listeners:
    """Histories by user id. Thread safe; a log store is optional (without one everybody is new)."""

    def __init__(
        self,
        row_of: Mapping[str, int],
        store: LogStore | None,
        history_length: int,
        feedback: pl.DataFrame | None = None,
    ) -> None:
        """`row_of` gives the catalog row of an item id; `feedback` is what earlier servers received (events schema)."""
        self._row_of = row_of
        self._store = store
        self._length = history_length
        self._gap_minutes = store.gap_minutes if store else GAP_MINUTES
        self._lock = Lock()
        self._feedback: defaultdict[str, list[pl.DataFrame]] = defaultdict(list)
        self._past: OrderedDict[str, Past] = OrderedDict()
        self._base: OrderedDict[str, tuple[pl.DataFrame, str]] = OrderedDict()
        if feedback is not None:
            self.add(feedback)

    def add(self, events: pl.DataFrame) -> None:
        """Take in feedback: validated rows of the events schema."""
        for (user,), rows in events.group_by("user_id", maintain_order=True):
            with self._lock:
                self._feedback[str(user)].append(rows)
                self._past.pop(str(user), None)

    def remembered(self, user_id: str) -> bool:
        """Whether `context` can answer for this listener without reading the log."""
        return user_id in self._past

    def context(
        self, user_id: str, surface: str, now: datetime, steer: str | None = None, zone: str | None = None
    ) -> Contexts:
        """What is known about one listener at `now` (aware): one row, for `Prompt.encode`.

        `zone` (IANA) overrides the log's time zone of the listener; where neither says, it is UTC. Reads the log the
        first time a listener is asked for, so call it off the event loop unless `remembered`.
        """
        past = self._past.get(user_id) or self._remember(user_id)
        micros = round(now.timestamp() * 1e6)
        known = int(np.searchsorted(past.settled, micros, side="left"))
        item = np.full((1, self._length), -1, dtype=np.int32)
        action = np.full((1, self._length), -1, dtype=np.int8)
        last = min(known, self._length)
        if last:
            item[0, -last:] = past.item[known - last : known]
            action[0, -last:] = past.action[known - last : known]
        gap = (micros - past.time[known - 1]) / MICROSECONDS_PER_HOUR if known else np.nan
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

    def _remember(self, user_id: str) -> Past:
        logged, zone = self._logged(user_id)
        with self._lock:
            received = list(self._feedback.get(user_id, ()))
        events = pl.concat([logged, *received]) if received else logged
        past = self._interactions(events, zone)
        with self._lock:
            if len(self._feedback.get(user_id, ())) == len(received):  # else feedback came in between: do not keep it
                _keep(self._past, user_id, past)
        return past

    def _interactions(self, events: pl.DataFrame, zone: str) -> Past:
        events = sessionize(events, self._gap_minutes)
        served = [item in self._row_of for item in events["item_id"].to_list()]
        made = interactions(events.filter(pl.Series(served, dtype=pl.Boolean)))
        rows = [self._row_of[item] for item in made["item_id"].to_list()]
        return Past(
            settled=made["settled"].cum_max().to_physical().to_numpy().astype(np.int64),
            time=made["time"].to_physical().to_numpy().astype(np.int64),
            item=np.array(rows, dtype=np.int64),
            action=made["action"].to_numpy().astype(np.int64),
            zone=zone,
        )

    def _logged(self, user_id: str) -> tuple[pl.DataFrame, str]:
        """The listener's last events in the run's log, and their time zone."""
        if user_id in self._base:
            return self._base[user_id]
        events, zone = pl.DataFrame(schema=polars_schema("events")), DEFAULT_ZONE
        if self._store is not None:
            bucket = int(bucket_of(pl.Series([user_id]), self._store.buckets)[0])
            mine = pl.col("user_id") == user_id
            events = self._store.events(bucket).filter(mine).tail(KEPT_EVENTS).select(events.columns)
            users = self._store.users(bucket)
            known = [] if users is None else users.filter(mine)["time_zone"].drop_nulls().to_list()
            zone = known[0] if known else DEFAULT_ZONE
        with self._lock:
            _keep(self._base, user_id, (events, zone))
        return events, zone


def _keep(cache: OrderedDict[str, T], key: str, value: T) -> None:
    cache[key] = value
    cache.move_to_end(key)
    while len(cache) > KEPT_LISTENERS:
        cache.popitem(last=False)
