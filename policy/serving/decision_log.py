"""What was served, durably: append-only JSON-lines segments in the `decisions` and `events` schemas.

A row is on disk (written and fsynced) before `append` answers, so a response that was sent can always be judged later.
Rows that arrive while a sync is running share the next one (group commit): the cost of durability is per disk sync, not
per request.

    served/decisions/decisions-20260115T080000000000-4242.jsonl     one segment per process, rotated by size
    served/events/events-20260115T080000000000-4242.jsonl

A process killed while writing leaves at most one torn last line in its segment; its response was never sent, and
readers leave it out. A torn line anywhere else is damage and is an error.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from data.errors import InputError
from data.schema import polars_schema, validate

ROTATE_BYTES = 64 * 1024 * 1024


class SegmentLog:
    """Append-only log of one table. Thread safe; rows are acknowledged after fsync.

    Raises InputError if the folder cannot be written.
    """

    def __init__(self, folder: Path, table: str, rotate_bytes: int = ROTATE_BYTES) -> None:
        self.folder = folder
        self.table = table
        self._rotate_bytes = rotate_bytes
        self._descriptor: int | None = None
        self._size = 0
        self._segments = 0
        self._pending: list[tuple[bytes, Future[None]]] = []
        self._wake = threading.Condition()
        self._closed = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror
            raise InputError(f"{folder}: cannot keep the {table} log here ({reason}); choose another folder") from error
        self._writer = threading.Thread(target=self._write_batches, name=f"{table}-log", daemon=True)
        self._writer.start()

    def append(self, rows: Sequence[Mapping[str, object]]) -> Future[None]:
        """Queue rows; the future is done once they are on disk, or carries the OSError that kept them off it."""
        lines = b"".join(_line(row) for row in rows)
        done: Future[None] = Future()
        with self._wake:
            if self._closed:
                raise RuntimeError(f"the {self.table} log is closed")
            self._pending.append((lines, done))
            self._wake.notify()
        return done

    def close(self) -> None:
        """Write what is queued, then close the segment."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._writer.join()
        self._close_segment()

    def _write_batches(self) -> None:
        while True:
            with self._wake:
                while not self._pending and not self._closed:
                    self._wake.wait()
                batch, self._pending = self._pending, []
            if not batch:
                return
            try:
                self._commit(b"".join(lines for lines, _ in batch))
            except OSError as error:
                for _, done in batch:
                    done.set_exception(error)
            else:
                for _, done in batch:
                    done.set_result(None)

    def _commit(self, lines: bytes) -> None:
        if self._descriptor is None or self._size >= self._rotate_bytes:
            self._close_segment()
            self._open_segment()
        assert self._descriptor is not None
        try:
            written = 0
            while written < len(lines):
                written += os.write(self._descriptor, lines[written:])
            os.fsync(self._descriptor)
        except OSError:
            # Nobody was told these rows are safe: cut them off, so that the segment stays whole, and start another.
            os.ftruncate(self._descriptor, self._size)
            self._close_segment()
            raise
        self._size += len(lines)

    def _open_segment(self) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        path = self.folder / f"{self.table}-{stamp}-{os.getpid()}-{self._segments}.jsonl"
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        self._size = 0
        self._segments += 1
        parent = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(parent)  # the file's name must survive too
        finally:
            os.close(parent)

    def _close_segment(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def read_decision_log(folder: Path) -> pl.DataFrame:
    """All decisions served into `folder`, oldest segment first, in the `decisions` schema.

    Raises InputError naming the segment and line if one is damaged, or if a row breaks the schema.
    """
    return _read(folder, "decisions")


def read_event_log(folder: Path) -> pl.DataFrame:
    """All feedback received into `folder`, in the `events` schema. Raises as `read_decision_log`."""
    return _read(folder, "events")


def event_rows(folder: Path) -> list[dict[str, object]]:
    """The raw rows of the events log, times as ISO strings: what a restarted gateway reads its memory from."""
    return [row for path in _segments(folder, "events") for row in _rows(path)]


def _read(folder: Path, table: str) -> pl.DataFrame:
    rows = [row for path in _segments(folder, table) for row in _rows(path)]
    return rows_to_frame(rows, table, str(folder))


def rows_to_frame(rows: Sequence[Mapping[str, object]], table: str, source: str) -> pl.DataFrame:
    """Rows with ISO 8601 times as a validated frame of `table`. Raises InputError naming `source`."""
    wanted = polars_schema(table)
    plain = {name: pl.String() if isinstance(kind, pl.Datetime) else kind for name, kind in wanted.items()}
    times = [
        pl.col(name).str.to_datetime(time_unit="us", time_zone="UTC", strict=True)
        for name, kind in wanted.items()
        if isinstance(kind, pl.Datetime)
    ]
    try:
        frame = pl.DataFrame([dict(row) for row in rows], schema=plain, strict=False).with_columns(times)
    except (pl.exceptions.PolarsError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{source}: {table}: a value does not fit its column ({reason}): mend the row") from error
    return validate(frame, table, source)


def _line(row: Mapping[str, object]) -> bytes:
    return json.dumps(row, separators=(",", ":"), allow_nan=False, default=_plain).encode() + b"\n"


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"naive time {value}: give it a time zone")
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    raise TypeError(f"{type(value).__name__} cannot be logged")


def _segments(folder: Path, table: str) -> list[Path]:
    return sorted(folder.glob(f"{table}-*.jsonl"))


def _rows(path: Path) -> list[dict[str, object]]:
    whole, _, _torn = path.read_bytes().rpartition(b"\n")
    rows = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise InputError(f"{path}: line {number} is not JSON; restore the segment or move it away") from error
    return rows
