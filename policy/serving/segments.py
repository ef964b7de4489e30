"""Segments of the served logs: how they are named, read, and sealed as Parquet.

    served/decisions/decisions-20260115T080000000000-4242-0.jsonl      being written, one per process
    served/decisions/decisions-20260115T075900000000-4242-7.parquet    sealed: whole, in the schema of data/schema.py

A segment is sealed by writing its Parquet file beside it and then removing it, so at any moment a row is in one file
that counts: where both are there, the Parquet file does. A process killed while writing leaves at most one torn last
line; its response was never sent, and it is left out. A torn line anywhere else is damage and is an error.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from data.errors import InputError
from data.schema import polars_schema, validate
from data.store import read_parquet, write_parquet


def read_decision_log(folder: Path) -> pl.DataFrame:
    """All decisions served into `folder`, oldest segment first, in the `decisions` schema.

    Raises InputError naming the segment and line if one is damaged, or if a row breaks the schema.
    """
    return _read(folder, "decisions")


def read_event_log(folder: Path) -> pl.DataFrame:
    """All feedback received into `folder`, in the `events` schema. Raises as `read_decision_log`."""
    return _read(folder, "events")


def sealed_segments(folder: Path, table: str) -> list[Path]:
    """The Parquet segments of a table, oldest first. None of them is ever written into again."""
    return sorted(folder.glob(f"{table}-*.parquet"))


def seal(segment: Path, table: str) -> Path | None:
    """Turn a segment that nobody writes into any more into Parquet; where that is, or None if it held no whole row.

    Raises InputError as `read_decision_log`, and leaves the segment as it is.
    """
    place = segment.with_suffix(".parquet")
    frame = rows_to_frame(_rows(segment), table, str(segment))
    if frame.height:
        new = place.with_name(f".{place.name}.new")
        write_parquet(frame, new)
        with new.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(new, place)
        sync_folder(segment.parent)
    segment.unlink()
    return place if frame.height else None


def seal_abandoned(folder: Path, table: str) -> list[Path]:
    """Seal the segments whose writers have gone (a writer holds a lock on its segment). Raises as `seal`."""
    sealed = []
    for segment in sorted(folder.glob(f"{table}-*.jsonl")):
        try:
            with segment.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if segment.exists() and (place := seal(segment, table)) is not None:
                    sealed.append(place)
        except (BlockingIOError, FileNotFoundError):
            continue  # its writer lives, or somebody else has just sealed it
    return sealed


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


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(folder: Path, table: str) -> pl.DataFrame:
    # A segment may be sealed while we read: then its rows are in the Parquet file, which is looked for again.
    frames: dict[str, pl.DataFrame] = {}
    for segment in sorted(folder.glob(f"{table}-*.jsonl")):
        try:
            rows = _rows(segment)
        except FileNotFoundError:
            continue
        frames[segment.stem] = rows_to_frame(rows, table, str(segment))
    for segment in sealed_segments(folder, table):
        frames[segment.stem] = read_parquet(segment)
    empty = pl.DataFrame(schema=polars_schema(table))
    return pl.concat([empty, *(frames[name] for name in sorted(frames))])


def _rows(path: Path) -> list[dict[str, object]]:
    whole, _, _torn = path.read_bytes().rpartition(b"\n")
    rows = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise InputError(f"{path}: line {number} is not JSON; restore the segment or move it away") from error
    return rows
