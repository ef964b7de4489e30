"""The log store: a log as Parquet files, split by user so that all about one user is in one bucket.

    folder/items.parquet  events/00.parquet ...  decisions/00.parquet ...  users/00.parquet ...
    folder/rejected.parquet   rows left out, with table, row and reason
    folder/store.json         buckets, time span, notes, counts; written last: a folder without it is not a store

Everything that runs over a log runs bucket by bucket, so memory is bounded by a bucket, not by the log. Events are
sessionized on the way in. A log without decisions gets one organic decision per session (`data.sessions`).
"""

import json
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from data.errors import InputError
from data.logs import Logs
from data.schema import split_rejected, validate
from data.sessions import distinct_session_ids, link_sessions, session_decisions, sessionize

STORE_VERSION = 2
BUCKETS = 16
ROW_GROUP = 262_144


def write_store(
    logs: Logs,
    folder: Path,
    buckets: int = BUCKETS,
    *,
    gap_minutes: float = 30.0,
    slate_size: int = 5,
    minimum_users: int = 2,
    source: str = "the log",
) -> None:
    """Validate `logs`, sessionize, and write them to `folder` (made if need be; for an atomic write see artifacts).

    Raises InputError, before anything is written, for faults of structure (see `data.schema.validate`), an empty log,
    one with fewer than `minimum_users` users, and an item in events or decisions that items do not have.
    """
    given = {"items": logs.items, "events": logs.events, "decisions": logs.decisions, "users": logs.users}
    valid = {name: validate(frame, name, f"{source}, {name}") for name, frame in given.items() if frame is not None}
    parts = {name: split_rejected(frame, name) for name, frame in valid.items()}
    rejected = [_rejected(left_out, name) for name, (_, left_out) in parts.items()]
    if logs.rejected is not None:
        rejected.append(logs.rejected.select(pl.col("table"), pl.col("row").cast(pl.Int64), pl.col("reason")))
    items, events = parts["items"][0], parts["events"][0]
    _check_items(items, valid["events"], valid.get("decisions"), source)
    decisions = parts["decisions"][0] if "decisions" in parts else None
    users = parts["users"][0] if "users" in parts else None
    _check_size(events, minimum_users, source)

    events = sessionize(events, gap_minutes)
    organic = decisions is None
    if decisions is None:
        events = link_sessions(distinct_session_ids(events))
        decisions = session_decisions(events, slate_size)
    decisions = decisions.sort("user_id", "time", "decision_id")

    first, last = _span(events, decisions)
    if logs.end is not None and logs.end < last:
        raise InputError(f"{source}: its end {logs.end} is before its last row {last}: give the later time")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "store.json").unlink(missing_ok=True)
    write_parquet(items, folder / "items.parquet")
    tables = {"events": events, "decisions": decisions} | ({} if users is None else {"users": users})
    for name, frame in tables.items():
        (folder / name).mkdir(exist_ok=True)
        for bucket, part in enumerate(_split(frame, buckets)):
            write_parquet(part, folder / name / f"{bucket:02d}.parquet")
    out = pl.concat(rejected)
    write_parquet(out, folder / "rejected.parquet")
    facts = {
        "version": STORE_VERSION,
        "buckets": buckets,
        "organic": organic,
        "gap_minutes": gap_minutes,
        "start": first.isoformat(),
        "end": (logs.end or last).astimezone(UTC).isoformat(),
        "actions": sorted(events["action"].unique().to_list()),
        "has_seconds": events["seconds"].null_count() < events.height,
        "notes": dict(logs.notes),
        "rows": {"items": items.height} | {name: frame.height for name, frame in tables.items()},
        "rejected": {
            f"{t}: {r}": n for t, r, n in out.group_by("table", "reason").len().sort("table", "reason").rows()
        },
    }
    (folder / "store.json").write_text(json.dumps(facts, indent=1) + "\n")


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
        self.rows: Mapping[str, int] = facts["rows"]
        self.rejected: Mapping[str, int] = facts["rejected"]

    def items(self) -> pl.DataFrame:
        """The items table."""
        return read_parquet(self.folder / "items.parquet")

    def events(self, bucket: int | None = None) -> pl.DataFrame:
        """Events of one bucket (or all), sorted by (user, time), every one with a session_id."""
        return self._table("events", bucket)

    def decisions(self, bucket: int | None = None) -> pl.DataFrame:
        """Decisions of one bucket (or all), sorted by (user, time)."""
        return self._table("decisions", bucket)

    def users(self, bucket: int | None = None) -> pl.DataFrame | None:
        """Users of one bucket (or all); None where the log has no such table."""
        return self._table("users", bucket) if "users" in self.rows else None

    def _table(self, name: str, bucket: int | None) -> pl.DataFrame:
        if bucket is None:
            return pl.concat([self._table(name, b) for b in range(self.buckets)])
        return read_parquet(self.folder / name / f"{bucket:02d}.parquet")


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


def _split(frame: pl.DataFrame, buckets: int) -> list[pl.DataFrame]:
    bucket = bucket_of(frame["user_id"], buckets)
    return [frame.filter(bucket == b) for b in range(buckets)]


def _rejected(frame: pl.DataFrame, table: str) -> pl.DataFrame:
    return frame.select(table=pl.lit(table), row=pl.col("row").cast(pl.Int64), reason=pl.col("reason"))


def _span(events: pl.DataFrame, decisions: pl.DataFrame) -> tuple[datetime, datetime]:
    times = pl.concat([events["time"], decisions["time"]])
    first, last = times.min(), times.max()
    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    return first, last


def _check_size(events: pl.DataFrame, minimum_users: int, source: str) -> None:
    if events.is_empty():
        raise InputError(f"{source}: there are no events (0 rows): give a log with at least {minimum_users} users")
    users = events["user_id"].n_unique()
    if users < minimum_users:
        fix = f"at least {minimum_users} are needed, to learn from some and to judge on others"
        raise InputError(f"{source}, events: column 'user_id' has {users} user only ({events['user_id'][0]!r}): {fix}")


def _check_items(items: pl.DataFrame, events: pl.DataFrame, decisions: pl.DataFrame | None, source: str) -> None:
    known = items["item_id"].implode()
    bad = events["item_id"].is_not_null() & ~events["item_id"].is_in(known)
    if bad.any():
        row = bad.arg_true()[0]
        raise InputError(
            f"{source}, events: column 'item_id', row {row}: {events['item_id'][row]!r} is not in items: "
            "add the item, or leave item_id null"
        )
    if decisions is not None:
        shown = decisions.select("slate").with_row_index("row").explode("slate")
        shown = shown.filter(pl.col("slate").is_not_null() & ~pl.col("slate").is_in(known))
        if not shown.is_empty():
            row, item = shown["row"][0], shown["slate"][0]
            raise InputError(f"{source}, decisions: column 'slate', row {row}: {item!r} is not in items: add it")
