"""What was served, durably: append-only JSON-lines segments in the `decisions` and `events` schemas.

A row is on disk (written and fsynced) before `append` answers, so a response that was sent can always be judged later.
Rows that arrive while a sync is running share the next one (group commit): the cost of durability is per disk sync, not
per request. A segment that is full, or a minute old, is sealed as Parquet (`policy.serving.segments`).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from data.errors import InputError
from policy.serving.segments import seal, seal_abandoned, sync_folder

ROTATE_BYTES = 16 * 1024 * 1024
ROTATE_SECONDS = 60.0


class SegmentLog:
    """Append-only log of one table. Thread safe; rows are acknowledged after fsync.

    Segments that an earlier process left behind are sealed first. Raises InputError if the folder cannot be written or
    one of those is damaged.
    """

    def __init__(
        self, folder: Path, table: str, rotate_bytes: int = ROTATE_BYTES, rotate_seconds: float = ROTATE_SECONDS
    ) -> None:
        self.folder = folder
        self.table = table
        self._rotate_bytes = rotate_bytes
        self._rotate_seconds = rotate_seconds
        self._descriptor: int | None = None
        self._path = folder
        self._size = 0
        self._opened = 0.0
        self._segments = 0
        self._pending: list[tuple[bytes, Future[None]]] = []
        self._wake = threading.Condition()
        self._closed = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror
            raise InputError(f"{folder}: cannot keep the {table} log here ({reason}); choose another folder") from error
        seal_abandoned(folder, table)
        self._sealer = ThreadPoolExecutor(1, f"{table}-seal")  # rows do not wait for Parquet
        self._writer = threading.Thread(target=self._write_until_closed, name=f"{table}-log", daemon=True)
        self._writer.start()

    def append(self, rows: Sequence[Mapping[str, object]]) -> Future[None]:
        """Queue rows; the future is done once they are on disk, or carries the OSError that kept them off it.

        Raises OSError when the log is closed.
        """
        lines = b"".join(_line(row) for row in rows)
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # a client that goes away cannot take a row back
        with self._wake:
            if self._closed:
                raise OSError(errno.EBADF, f"the {self.table} log is closed")
            self._pending.append((lines, done))
            self._wake.notify()
        return done

    def close(self) -> None:
        """Write what is queued, then seal the segment."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._writer.join()
        self._close_segment()
        self._sealer.shutdown()

    def _write_until_closed(self) -> None:
        batch: list[tuple[bytes, Future[None]]] = []
        try:
            self._write_batches(batch)
        finally:
            # However it ended: nobody may wait for a writer that is gone.
            with self._wake:
                self._closed = True
                lost, self._pending = [*batch, *self._pending], []
            for _, done in lost:
                done.set_exception(OSError(errno.EIO, f"the writer of the {self.table} log has ended"))

    def _write_batches(self, batch: list[tuple[bytes, Future[None]]]) -> None:
        while True:
            with self._wake:
                while not self._pending and not self._closed and not self._is_due():
                    self._wake.wait(self._rotate_seconds if self._descriptor is not None else None)
                batch[:], self._pending = self._pending, []
                closed = self._closed
            if self._is_due():
                self._close_segment()
            if not batch and closed:
                return
            if not batch:
                continue
            try:
                self._commit(b"".join(lines for lines, _ in batch))
            except OSError as error:
                for _, done in batch:
                    done.set_exception(error)
            else:
                for _, done in batch:
                    done.set_result(None)
            batch.clear()

    def _commit(self, lines: bytes) -> None:
        if self._descriptor is None:
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
        self._path = self.folder / f"{self.table}-{stamp}-{os.getpid()}-{self._segments}.jsonl"
        # It gets its name with the lock already on it, or another process could take it for abandoned.
        new = self._path.with_name(f".{self._path.name}.new")
        self._descriptor = os.open(new, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        os.rename(new, self._path)
        self._size = 0
        self._opened = time.monotonic()
        self._segments += 1
        sync_folder(self.folder)  # the file's name must survive too

    def _is_due(self) -> bool:
        if self._descriptor is None:
            return False
        return self._size >= self._rotate_bytes or time.monotonic() - self._opened >= self._rotate_seconds

    def _close_segment(self) -> None:
        if self._descriptor is None:
            return
        self._sealer.submit(self._seal, self._path, self._descriptor)
        self._descriptor = None

    def _seal(self, segment: Path, descriptor: int) -> None:
        try:
            seal(segment, self.table)
        except (InputError, OSError) as error:
            # The rows are safe where they are; readers will name what is wrong with them.
            sys.stderr.write(f"error: {segment} could not be sealed: {error}\n")
        finally:
            os.close(descriptor)  # and with it the lock that kept others from sealing


def _line(row: Mapping[str, object]) -> bytes:
    return json.dumps(row, separators=(",", ":"), allow_nan=False, default=_plain).encode() + b"\n"


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"naive time {value}: give it a time zone")
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    raise TypeError(f"{type(value).__name__} cannot be logged")
