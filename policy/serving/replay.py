"""Closing the loop: what was served becomes a part of the run's own log, which the next policy learns from.

    served/decisions/*.parquet + served/events/*.parquet  ->  served/replayed/0003/{items,events,decisions}.parquet
                                                          ->  logs/ (a further part, see data/ingest.py)

A replay takes the segments that are sealed and were not replayed before. Killed at any point it can be run again: what
is in the store already adds nothing.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from data.artifacts import extend
from data.catalog import Catalog
from data.errors import InputError
from data.ingest import append
from data.readers import longplay
from data.schema import polars_schema
from data.store import LogStore, read_parquet, write_parquet
from data.world.opportunities import HOLD_ID
from policy.serving.segments import seal_abandoned, sealed_segments

TABLES = ("decisions", "events")
RECORD = "replayed.json"
HOLD = {"item_id": HOLD_ID, "kind": "message", "title": "Send nothing", "tags": ["hold"]}


@dataclass(frozen=True)
class Replayed:
    """Rows that the log has more by a replay, and rows left out with their reasons ("table: reason" -> rows)."""

    decisions: int = 0
    events: int = 0
    rejected: tuple[tuple[str, int], ...] = ()


def replay(run: Path, served: Path) -> Replayed:
    """Append what was served into `served` since the last replay to the log in run/logs.

    Raises InputError when there is no log, a segment is damaged, or the log has no decisions of its own.
    """
    LogStore(run / "logs")  # that there is one, before anything is touched
    for table in TABLES:
        seal_abandoned(served / table, table)
    record = served / RECORD
    done: list[str] = json.loads(record.read_text()) if record.is_file() else []
    new = {table: [s for s in sealed_segments(served / table, table) if s.name not in done] for table in TABLES}
    if not any(new.values()):
        return Replayed()
    source = served / "replayed" / f"{len(LogStore(run / 'logs').parts):04d}"
    _gather(new, Catalog.load(run / "catalog"), run, source)
    grown = extend(
        run / "logs",
        source=source,
        make=lambda place: append(longplay.read(source), place, source=str(source)),
    )
    _write_json(record, sorted([*done, *(segment.name for segments in new.values() for segment in segments)]))
    if not grown:
        return Replayed()
    part = LogStore(run / "logs").parts[-1]
    rejected = tuple(sorted(part["rejected"].items()))
    return Replayed(part["rows"].get("decisions", 0), part["rows"]["events"], rejected)


def _gather(new: dict[str, list[Path]], catalog: Catalog, run: Path, place: Path) -> None:
    """Write the new segments as tables that the longplay reader takes."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    known = LogStore(run / "logs").items()
    newer = catalog.items.join(known, on="item_id", how="anti").select(known.columns).cast(known.schema)
    items = pl.concat([known, newer])
    frames = {}
    for table, segments in new.items():
        empty = pl.DataFrame(schema=polars_schema(table))
        frames[table] = pl.concat([empty, *(read_parquet(segment) for segment in segments)]).sort("time")
    if HOLD_ID not in items["item_id"] and frames["decisions"]["slate"].list.contains(HOLD_ID).any():
        # Asked for messages, a run that has none decides to hold, and that is a decision too.
        items = pl.concat([items, pl.DataFrame([HOLD], schema=items.schema)])
    write_parquet(items, place / "items.parquet")
    for table, frame in frames.items():
        if table == "events" or frame.height:
            write_parquet(frame, place / f"{table}.parquet")


def _write_json(path: Path, value: object) -> None:
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_text(json.dumps(value, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}): free some space and replay again") from error
    os.replace(new, path)
