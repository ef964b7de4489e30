"""The log store: a log as Parquet files, split by user so that all about one user is in one bucket.

    folder/items.parquet
    folder/events/00/0000.parquet  decisions/00/0000.parquet  users/00/0000.parquet   a folder a bucket, a file a part
    folder/rejected/0000.parquet   rows left out, with table, row and reason
    folder/store.json              buckets, parts, time span, notes; written last: a folder without it is not a store

A part is what one ingest added (`data.ingest`) and is never written into again. Everything that runs over a log runs
bucket by bucket, so memory is bounded by a bucket, not by the log. Events are sessionized when they are read, over all
parts, so that late ones find their place; a log without decisions gets one organic decision per session
(`data.sessions`).
"""

import json
import zlib
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from data.errors import InputError
from data.schema import polars_schema
from data.sessions import link_sessions, own_session_ids, session_decisions, sessionize

STORE_VERSION = 3
ROW_GROUP = 262_144


class LogStore:
    """A log store on disk. Raises InputError where the folder is not one, or a file in it is broken."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        try:
            facts = json.loads((self.folder / "store.json").read_text())
        except FileNotFoundError:
            raise InputError(f"{folder}: no log store here (no store.json): write one with scripts/ingest.py") from None
        except json.JSONDecodeError:
            raise InputError(f"{folder}/store.json is not JSON: delete the folder and ingest again") from None
        if facts.get("version") != STORE_VERSION:
            fix = f"this Longplay reads version {STORE_VERSION}; delete the folder and ingest again"
            raise InputError(f"{folder}: a log store of version {facts.get('version')}: {fix}")
        self.buckets: int = facts["buckets"]
        self.organic: bool = facts["organic"]
        """True where the log had no decisions: each stands for a session, without a propensity."""
        self.gap_minutes: float = facts["gap_minutes"]
        self.start = datetime.fromisoformat(facts["start"])
        self.end = datetime.fromisoformat(facts["end"])
        self.actions: tuple[str, ...] = tuple(facts["actions"])
        self.has_seconds: bool = facts["has_seconds"]
        """False where no event says how long it lasted."""
        self.notes: Mapping[str, str] = facts["notes"]
        self.labels: tuple[str, ...] | None = None if facts.get("labels") is None else tuple(facts["labels"])
        """The outcome labels that mean something in this log; None: all whose window it can carry."""
        self.parts: tuple[Mapping[str, Any], ...] = tuple(facts["parts"])
        """Per ingest, in order: source (its name), rows (table -> kept), rejected (table: reason -> rows)."""
        self._slate_size: int = facts["slate_size"]

    @property
    def rejected(self) -> Mapping[str, int]:
        """Rows left out, by table and reason, over all parts."""
        total: Counter[str] = Counter()
        for part in self.parts:
            total.update(part["rejected"])
        return dict(sorted(total.items()))

    @property
    def events_in_all(self) -> int:
        """How many events there are."""
        return sum(part["rows"]["events"] for part in self.parts)

    def items(self) -> pl.DataFrame:
        """The items table."""
        return read_parquet(self.folder / "items.parquet")

    def events(self, bucket: int | None = None) -> pl.DataFrame:
        """Events of one bucket (or all), sorted by (user, time), every one with a session_id."""
        if bucket is None:
            return pl.concat([self.events(b) for b in range(self.buckets)])
        events = sessionize(self.rows_as_given("events", bucket), self.gap_minutes)
        return link_sessions(own_session_ids(events)) if self.organic else events

    def decisions(self, bucket: int | None = None) -> pl.DataFrame:
        """Decisions of one bucket (or all), sorted by (user, time)."""
        if bucket is None:
            return pl.concat([self.decisions(b) for b in range(self.buckets)])
        if self.organic:
            made = session_decisions(self.events(bucket), self._slate_size)
        else:
            made = self.rows_as_given("decisions", bucket)
        return made.sort("user_id", "time", "decision_id")

    def users(self, bucket: int | None = None) -> pl.DataFrame | None:
        """Users of one bucket (or all), as the last part that has them says; None where the log has no such table."""
        if not any("users" in part["rows"] for part in self.parts):
            return None
        wanted = range(self.buckets) if bucket is None else [bucket]
        given = pl.concat([self.rows_as_given("users", b) for b in wanted])
        return given.unique("user_id", keep="last", maintain_order=True)

    def rows_as_given(self, table: str, bucket: int) -> pl.DataFrame:
        """One bucket's rows of a table in all parts, one part after the other."""
        there = [read_parquet(file) for file in self.files(table, bucket)]
        return pl.concat(there) if there else polars_schema(table).to_frame()

    def files(self, table: str, bucket: int) -> list[Path]:
        """The Parquet files of one bucket's rows of a table, a file for each part that has the table."""
        place = self.folder / table / f"{bucket:02d}"
        return [place / f"{number:04d}.parquet" for number, part in enumerate(self.parts) if table in part["rows"]]


def read_parquet(path: Path) -> pl.DataFrame:
    """A whole Parquet file; raises InputError when it is missing, truncated or not Parquet."""
    if not path.is_file():
        raise InputError(f"{path}: no such file: check the path")
    try:
        return pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        # Polars panics, which is no Exception, where a page of the file contradicts its own header.
        why = (str(error).splitlines() or [""])[0]
        raise InputError(f"{path}: truncated or not Parquet ({why}): write or copy it again") from None


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write a table so that the same rows give the same bytes."""
    # Row groups of a fixed size, or the bytes would follow from the number of threads.
    frame.rechunk().write_parquet(path, compression="zstd", statistics=True, row_group_size=ROW_GROUP)


def bucket_of(user_ids: pl.Series, buckets: int) -> pl.Series:
    """The bucket of each user: CRC-32 of the UTF-8 id, the same on every machine and in every version."""
    distinct = user_ids.unique()
    codes = [zlib.crc32(user.encode()) % buckets for user in distinct.to_list()]
    return user_ids.replace_strict(distinct, pl.Series(codes, dtype=pl.Int32), return_dtype=pl.Int32)
