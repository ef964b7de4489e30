"""What a gateway must remember between requests: each listener's latest events, and the items blocked for them.

One interface, two places to keep it. SQLite is embedded and shared by all processes of a machine; Redis is shared by
machines (`policy.serving.redis_state`). The gateway itself keeps nothing that a restart or another replica would miss:

    state = open_state("sqlite:///runs/demo/served/state.sqlite")   # or redis://host:6379/0
    await state.add(rows)                   # events, as dictionaries of the events schema with ISO times
    await state.glance("u1")                # how many events were ever added for u1, and what is blocked for them
    await state.recent("u1")                # the latest KEPT_EVENTS of them, oldest first

What `add` has taken in, every later `glance` and `recent` of any replica knows.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Protocol
from urllib.parse import urlsplit

from data.errors import InputError

# Far more than the interactions of any prompt are made of.
KEPT_EVENTS = 400
# Blocked for everybody: what was taken down. No listener has this id.
EVERYBODY = ""

Row = Mapping[str, object]


class StateError(Exception):
    """The state cannot be reached just now. A request is answered without it rather than not at all."""


@dataclass(frozen=True)
class Glance:
    """revision: events ever added for this listener. blocked: item ids not to show them, everybody's included."""

    revision: int = 0
    blocked: frozenset[str] = frozenset()


class State(Protocol):
    """Recent events and blocked items by listener. Every method raises StateError when the place is out of reach."""

    async def glance(self, user_id: str) -> Glance:
        """Cheap, asked for at every request: what tells whether a remembered history is still the newest."""
        ...

    async def recent(self, user_id: str) -> list[dict[str, object]]:
        """The listener's latest events, oldest first, at most KEPT_EVENTS."""
        ...

    async def add(self, rows: Sequence[Row]) -> None:
        """Append events; of each listener the latest KEPT_EVENTS are kept."""
        ...

    async def block(self, user_id: str, item_ids: Sequence[str]) -> None:
        """Never show these items to this listener; EVERYBODY for all."""
        ...

    async def unblock(self, user_id: str, item_ids: Sequence[str]) -> None:
        """Undo `block`."""
        ...

    async def close(self) -> None: ...


def open_state(url: str) -> State:
    """The state at `url`: sqlite:///path/to/file, or redis://host:port/db (rediss:// with TLS).

    Raises InputError for any other URL, a file that cannot be written, or a missing redis client.
    """
    scheme = urlsplit(url).scheme
    if scheme == "sqlite" and url.startswith("sqlite:///") and len(url) > len("sqlite:///"):
        return SqliteState(Path(url.removeprefix("sqlite:///")))
    if scheme in ("redis", "rediss", "unix"):
        try:
            from policy.serving.redis_state import RedisState
        except ModuleNotFoundError as error:
            raise InputError("the redis client is not installed: pip install redis, or keep state in sqlite") from error
        return RedisState(url)
    raise InputError(f"no state at {url!r}: give sqlite:///path/to/state.sqlite or redis://host:6379/0")


def by_user(rows: Iterable[Row]) -> Iterable[tuple[str, list[str]]]:
    """(user_id, its rows as JSON) in order of arrival within each listener."""

    def user(row: Row) -> str:
        return str(row["user_id"])

    for user_id, mine in groupby(sorted(rows, key=user), user):
        yield user_id, [json.dumps(row, separators=(",", ":")) for row in mine]


class SqliteState:
    """State in one SQLite file, in write-ahead mode: readers never wait for a writer, in this process or another.

    An added row survives the end of the process at once and the end of the machine within a checkpoint; the event log
    is what must never lose one.
    """

    def __init__(self, path: Path) -> None:
        """Raises InputError when the file cannot be opened or is no database."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._reader, self._writer = _connect(path), _connect(path)
            with self._writer:
                self._writer.executescript(_TABLES)
        except (OSError, sqlite3.Error) as error:
            raise InputError(f"{path}: cannot keep state here ({error}): choose another file with --state") from error
        self._writing = Lock()
        self._reading = Lock()

    async def glance(self, user_id: str) -> Glance:
        try:
            with self._reading:
                ((revision,),) = self._reader.execute("SELECT max(number) FROM events WHERE user_id = ?", (user_id,))
                blocked = self._reader.execute(
                    "SELECT item_id FROM blocked WHERE user_id IN (?, ?)", (user_id, EVERYBODY)
                ).fetchall()
        except sqlite3.Error as error:
            raise StateError(str(error)) from error
        return Glance(revision or 0, frozenset(item for (item,) in blocked))

    async def recent(self, user_id: str) -> list[dict[str, object]]:
        try:
            with self._reading:
                found = self._reader.execute(
                    "SELECT row FROM events WHERE user_id = ? ORDER BY number", (user_id,)
                ).fetchall()
        except sqlite3.Error as error:
            raise StateError(str(error)) from error
        return [json.loads(row) for (row,) in found[-KEPT_EVENTS:]]

    async def add(self, rows: Sequence[Row]) -> None:
        await asyncio.to_thread(self._write, self._add, rows)

    async def block(self, user_id: str, item_ids: Sequence[str]) -> None:
        pairs = [(user_id, item) for item in item_ids]
        statement = "INSERT OR IGNORE INTO blocked VALUES (?, ?)"
        await asyncio.to_thread(self._write, lambda _: self._writer.executemany(statement, pairs), ())

    async def unblock(self, user_id: str, item_ids: Sequence[str]) -> None:
        pairs = [(user_id, item) for item in item_ids]
        statement = "DELETE FROM blocked WHERE user_id = ? AND item_id = ?"
        await asyncio.to_thread(self._write, lambda _: self._writer.executemany(statement, pairs), ())

    async def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def _write(self, change: object, rows: Sequence[Row]) -> None:
        assert callable(change)
        try:
            with self._writing, self._writer:
                self._writer.execute("BEGIN IMMEDIATE")  # two processes must not both read the same last number
                change(rows)
        except sqlite3.Error as error:
            raise StateError(str(error)) from error

    def _add(self, rows: Sequence[Row]) -> None:
        for user_id, lines in by_user(rows):
            ((last,),) = self._writer.execute("SELECT max(number) FROM events WHERE user_id = ?", (user_id,))
            numbered = [(user_id, (last or 0) + place, line) for place, line in enumerate(lines, start=1)]
            self._writer.executemany("INSERT INTO events VALUES (?, ?, ?)", numbered)
            oldest = numbered[-1][1] - KEPT_EVENTS
            self._writer.execute("DELETE FROM events WHERE user_id = ? AND number <= ?", (user_id, oldest))


_TABLES = """
CREATE TABLE IF NOT EXISTS events (user_id TEXT, number INTEGER, row TEXT, PRIMARY KEY (user_id, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blocked (user_id TEXT, item_id TEXT, PRIMARY KEY (user_id, item_id)) WITHOUT ROWID;
"""


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection
