"""What a gateway must remember between requests: each listener's latest events, and the items blocked for them.

One interface, two places to keep it. SQLite is embedded and shared by all processes of a machine; Redis is shared by
machines (`policy.serving.redis_state`). The gateway itself keeps nothing that a restart or another replica would miss:

    state = open_state("sqlite:///runs/demo/served/state.sqlite")   # or redis://host:6379/0
    await state.add(rows)                   # events, as dictionaries of the events schema with ISO times
    await state.glance("u1")                # how many events were ever added for u1, and what is blocked for them
    await state.recent("u1")                # the latest KEPT_EVENTS of them, oldest first
    await state.mail("u1", "2026-01-05")    # what was sent to u1, and to anybody on that day
    await state.send("u1", row, 3, spending)  # a fourth, unless somebody else sent meanwhile, or a budget is spent

What `add` has taken in, every later `glance` and `recent` of any replica knows. `send` is what keeps two replicas that
decide about one listener at once from sending one message too many.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any, ParamSpec, Protocol, TypeVar
from urllib.parse import urlsplit

from data.errors import InputError

# Far more than the interactions of any prompt are made of.
KEPT_EVENTS = 400
# Far more than a week's cap can be.
KEPT_SENDS = 64
# Events that no later ones may push out: whoever left a channel has left it.
LASTING = ("opt_out", "convert")
# How long one process waits for another's lock on the file.
BUSY_SECONDS = 5.0
# Blocked for everybody: what was taken down. No listener has this id.
EVERYBODY = ""

Row = Mapping[str, object]
P = ParamSpec("P")
R = TypeVar("R")


class StateError(Exception):
    """The state cannot be reached just now. A request is answered without it rather than not at all."""


@dataclass(frozen=True)
class Glance:
    """revision: events ever added for this listener. blocked: item ids not to show them, everybody's included."""

    revision: int = 0
    blocked: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Mail:
    """count: messages ever sent to this listener. sends: rows of the latest KEPT_SENDS, oldest first. lasting: their
    LASTING events. spent: messages sent to anybody on one day, by channel.
    """

    count: int = 0
    sends: list[dict[str, object]] = field(default_factory=list)
    lasting: list[dict[str, object]] = field(default_factory=list)
    spent: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Spending:
    """What a message is paid from: one more by `channel` on `day` (ISO date), of `budget` at most; None: no limit."""

    day: str
    channel: str
    budget: int | None = None


class State(Protocol):
    """Recent events, messages and blocked items by listener. Where the place is out of reach, all raise StateError."""

    async def glance(self, user_id: str) -> Glance:
        """Cheap, asked for at every request: what tells whether a remembered history is still the newest."""
        ...

    async def recent(self, user_id: str) -> list[dict[str, object]]:
        """The listener's latest events, oldest first, at most KEPT_EVENTS."""
        ...

    async def add(self, rows: Sequence[Row]) -> None:
        """Append events; of each listener the latest KEPT_EVENTS are kept."""
        ...

    async def mail(self, user_id: str, day: str) -> Mail:
        """What was sent to the listener, and on that day (ISO date) to anybody."""
        ...

    async def send(self, user_id: str, row: Row, count: int, spending: Spending) -> bool:
        """Note one more message to the listener. False, and nothing noted, where more than `count` were sent to them by
        now, or the budget is spent."""
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

    async def mail(self, user_id: str, day: str) -> Mail:
        def asked(what: str, *values: str) -> list[tuple[Any, ...]]:
            return self._reader.execute(what, values).fetchall()

        try:
            with self._reading:
                sends = asked("SELECT number, row FROM sends WHERE user_id = ? ORDER BY number", user_id)
                lasting = asked("SELECT row FROM lasting WHERE user_id = ?", user_id)
                spent = asked("SELECT channel, sends FROM spent WHERE day = ?", day)
        except sqlite3.Error as error:
            raise StateError(str(error)) from error
        rows = [json.loads(row) for _, row in sends]
        return Mail(sends[-1][0] if sends else 0, rows, [json.loads(row) for (row,) in lasting], dict(spent))

    async def send(self, user_id: str, row: Row, count: int, spending: Spending) -> bool:
        return await asyncio.to_thread(self._write, self._send, user_id, json.dumps(row), count, spending)

    def _send(self, user_id: str, row: str, count: int, spending: Spending) -> bool:
        ((last,),) = self._writer.execute("SELECT max(number) FROM sends WHERE user_id = ?", (user_id,))
        paid = self._writer.execute(
            "SELECT sends FROM spent WHERE day = ? AND channel = ?", (spending.day, spending.channel)
        ).fetchone()
        if (last or 0) > count or (spending.budget is not None and (paid or (0,))[0] >= spending.budget):
            return False
        self._writer.execute("INSERT INTO sends VALUES (?, ?, ?)", (user_id, count + 1, row))
        self._writer.execute("DELETE FROM sends WHERE user_id = ? AND number <= ?", (user_id, count + 1 - KEPT_SENDS))
        self._writer.execute(
            "INSERT INTO spent VALUES (?, ?, 1) ON CONFLICT (day, channel) DO UPDATE SET sends = sends + 1",
            (spending.day, spending.channel),
        )
        return True

    async def block(self, user_id: str, item_ids: Sequence[str]) -> None:
        pairs = [(user_id, item) for item in item_ids]
        statement = "INSERT OR IGNORE INTO blocked VALUES (?, ?)"
        await asyncio.to_thread(self._write, self._writer.executemany, statement, pairs)

    async def unblock(self, user_id: str, item_ids: Sequence[str]) -> None:
        pairs = [(user_id, item) for item in item_ids]
        statement = "DELETE FROM blocked WHERE user_id = ? AND item_id = ?"
        await asyncio.to_thread(self._write, self._writer.executemany, statement, pairs)

    async def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def _write(self, change: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with self._writing, self._writer:
                self._writer.execute("BEGIN IMMEDIATE")  # two processes must not both read the same last number
                return change(*args, **kwargs)
        except sqlite3.Error as error:
            raise StateError(str(error)) from error

    def _add(self, rows: Sequence[Row]) -> None:
        for user_id, lines in by_user(rows):
            ((last,),) = self._writer.execute("SELECT max(number) FROM events WHERE user_id = ?", (user_id,))
            numbered = [(user_id, (last or 0) + place, line) for place, line in enumerate(lines, start=1)]
            self._writer.executemany("INSERT INTO events VALUES (?, ?, ?)", numbered)
            oldest = numbered[-1][1] - KEPT_EVENTS
            self._writer.execute("DELETE FROM events WHERE user_id = ? AND number <= ?", (user_id, oldest))
        for user_id, lines in by_user(row for row in rows if row.get("action") in LASTING):
            self._writer.executemany("INSERT OR IGNORE INTO lasting VALUES (?, ?)", [(user_id, line) for line in lines])


_TABLES = """
CREATE TABLE IF NOT EXISTS events (user_id TEXT, number INTEGER, row TEXT, PRIMARY KEY (user_id, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blocked (user_id TEXT, item_id TEXT, PRIMARY KEY (user_id, item_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sends (user_id TEXT, number INTEGER, row TEXT, PRIMARY KEY (user_id, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lasting (user_id TEXT, row TEXT, PRIMARY KEY (user_id, row)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spent (day TEXT, channel TEXT, sends INTEGER, PRIMARY KEY (day, channel)) WITHOUT ROWID;
"""


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    _write_ahead(connection)
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Whoever opens a new file while another does is refused this one statement at once: its timeout is not kept."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.005)
