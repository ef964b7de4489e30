"""Ingest: a log becomes a store, or a further part of one.

What is wrong with the whole of a log stops it before anything is written; rows that are wrong one by one are left out
and kept, counted by reason, beside it. A part may bring late events, people and items that were not known before, and
rows that are there already: those are left out too, so that the same export twice, or two that overlap, add nothing
twice.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from data.errors import InputError
from data.logs import REJECTED, Logs
from data.schema import TABLES, split_rejected, validate
from data.sessions import GAP_MINUTES, SLATE_SIZE
from data.store import STORE_VERSION, LogStore, bucket_of, write_parquet

LEAST_BUCKETS = 16
EVENTS_A_BUCKET = 400_000
BY_USER = ("events", "decisions", "users")


@dataclass(frozen=True)
class StoreSettings:
    """What a store is made with, once and for all its parts.

    buckets: into how many files users are spread, each of which is dealt with whole; None: as many as the first part
    needs, one per 400,000 events and 16 at least. gap_minutes: the silence that ends a session. slate_size: how many
    items of a session stand for its slate, where a log has no decisions. minimum_users: fewer are no log to learn from
    and to judge on.
    """

    buckets: int | None = None
    gap_minutes: float = GAP_MINUTES
    slate_size: int = SLATE_SIZE
    minimum_users: int = 2


def write_store(
    logs: Logs, folder: Path, settings: StoreSettings = StoreSettings(), *, source: str = "the log"
) -> None:
    """Write `logs` as a new store in `folder` (made if need be; for an atomic write see `data.artifacts`).

    Raises InputError, before anything is written, for faults of structure (see `data.schema.validate`), an empty log,
    one with too few users, and an item in events or decisions that items do not have.
    """
    kept, rejected = _sifted(logs, source)
    items = kept["items"].drop("row")
    _check_items(items, logs, source)
    _check_size(kept["events"], settings.minimum_users, source)
    start, end = _span(kept, logs, source)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "store.json").unlink(missing_ok=True)
    facts = {
        "version": STORE_VERSION,
        "buckets": settings.buckets or max(LEAST_BUCKETS, -(-kept["events"].height // EVENTS_A_BUCKET)),
        "organic": "decisions" not in kept,
        "gap_minutes": settings.gap_minutes,
        "slate_size": settings.slate_size,
        "start": start.isoformat(),
        "end": end.isoformat(),
        "actions": sorted(kept["events"]["action"].unique().to_list()),
        "has_seconds": kept["events"]["seconds"].null_count() < kept["events"].height,
        "notes": dict(logs.notes),
        "labels": None if logs.labels is None else sorted(logs.labels),
        "parts": [],
    }
    _write_part(folder, kept, items, rejected, facts, source)


def append(logs: Logs, folder: Path, *, source: str = "the log", again: bool = False) -> None:
    """Add `logs` to the store in `folder` as a new part; nothing that is there is written into.

    Items and users that are there already take what the new part says of them and keep their place. Rows that are in
    the store already are rejected as such. A source that is asked `again` adds no part where it has nothing new. Raises
    InputError, before anything is written, for what `write_store` does, and for decisions where the store has none,
    whose sessions stand for them.
    """
    store = LogStore(folder)
    facts = json.loads((folder / "store.json").read_text())
    kept, rejected = _sifted(logs, source)
    items = _newest(store.items(), kept["items"].drop("row"), "item_id")
    _check_items(items, logs, source)
    if store.organic and "decisions" in kept:
        fix = "ingest both into a new store"
        raise InputError(f"{source}: it has decisions, the store in {folder} has none (sessions stand for them): {fix}")
    for table in ("events", "decisions"):
        if table in kept:
            kept[table], known = _new_rows(store, table, kept[table])
            rejected.append(known)
    if again and _nothing_new(store, kept, items):
        return
    if kept["events"].height:
        start, end = _span(kept, logs, source)
        facts["start"], facts["end"] = min(store.start, start).isoformat(), max(store.end, end).isoformat()
    facts["actions"] = sorted({*store.actions, *kept["events"]["action"].to_list()})
    facts["has_seconds"] = store.has_seconds or kept["events"]["seconds"].null_count() < kept["events"].height
    facts["notes"] = dict(store.notes) | dict(logs.notes)
    if logs.labels is not None:
        facts["labels"] = sorted({*logs.labels} & {*(store.labels if store.labels is not None else logs.labels)})
    _write_part(folder, kept, items, rejected, facts, source)


def _sifted(logs: Logs, source: str) -> tuple[dict[str, pl.DataFrame], list[pl.DataFrame]]:
    """Every table that `logs` have, validated, without the rows that carry nothing usable; and those, with reasons.

    A `row` column says where in the source a kept row stood.
    """
    given = {table: getattr(logs, table) for table in TABLES}
    valid = {table: validate(frame, table, f"{source}, {table}") for table, frame in given.items() if frame is not None}
    kept, rejected = {}, []
    for table, frame in valid.items():
        good, out = split_rejected(frame, table)
        places = pl.int_range(frame.height, eager=True)
        rows = logs.rows.get(table, places)
        kept[table] = good.with_columns(row=rows.filter(~places.is_in(out["row"].implode())))
        rejected.append(_as_rejected(out.with_columns(row=rows.gather(out["row"])), table))
    if logs.rejected is not None:
        rejected.append(logs.rejected.select(REJECTED.names()).cast(REJECTED))
    return kept, rejected


def _nothing_new(store: LogStore, kept: Mapping[str, pl.DataFrame], items: pl.DataFrame) -> bool:
    """Whether the store has all of it already, and says the same of every item and user."""
    if any(kept[table].height for table in ("events", "decisions") if table in kept) or not items.equals(store.items()):
        return False
    if "users" not in kept:
        return True
    known = store.users()
    users = kept["users"].drop("row")
    return known is not None and users.join(known, on=users.columns, how="anti", nulls_equal=True).is_empty()


def _new_rows(store: LogStore, table: str, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(rows of `frame` that the store does not have, the others with their reason), looked up bucket by bucket.

    Only what the store has of the same span of time is read: the cost of next day's log does not grow with the log.
    """
    columns = [name for name in frame.columns if name != "row"]
    again = []
    for b, part in _by_bucket(frame, store.buckets).items():
        files = store.files(table, b)
        if not files:
            continue
        old = pl.scan_parquet(files, glob=False)
        span = pl.col("time").is_between(part["time"].min(), part["time"].max())
        same = part.join(old.filter(span).collect(), on=columns, how="semi", nulls_equal=True)
        again.append(same.with_columns(reason=pl.lit("already in the store")))
        if table == "decisions":
            ids = old.select("decision_id").collect()
            taken = part.join(same, on="row", how="anti").join(ids, on="decision_id", how="semi")
            again.append(taken.with_columns(reason=pl.lit("the store has another decision of this decision_id")))
    out = pl.concat([frame.clear().with_columns(reason=pl.lit("")), *again])
    return frame.join(out, on="row", how="anti", maintain_order="left"), _as_rejected(out, table)


def _newest(old: pl.DataFrame, new: pl.DataFrame, key: str) -> pl.DataFrame:
    """`old` with the rows of `new` in their places, and those it did not have after them."""
    both = pl.concat([old.with_columns(fresh=pl.lit(False)), new.with_columns(fresh=pl.lit(True))])
    last = both.unique(key, keep="last").select(key, pl.exclude(key, "fresh"))
    order = both.select(key).unique(key, keep="first", maintain_order=True)
    return order.join(last, on=key, how="left", maintain_order="left").select(old.columns)


def _write_part(
    folder: Path,
    kept: Mapping[str, pl.DataFrame],
    items: pl.DataFrame,
    rejected: list[pl.DataFrame],
    facts: dict[str, object],
    source: str,
) -> None:
    """Write the next part's files, then the store's description, which makes them part of it."""
    parts = facts["parts"]
    assert isinstance(parts, list)
    name = f"{len(parts):04d}.parquet"
    buckets = facts["buckets"]
    assert isinstance(buckets, int)
    for table in (table for table in BY_USER if table in kept):
        frame = kept[table].drop("row")
        if table != "users":
            frame = frame.sort("user_id", "time", maintain_order=True)
        of_bucket = _by_bucket(frame, buckets)
        for b in range(buckets):
            place = folder / table / f"{b:02d}"
            place.mkdir(parents=True, exist_ok=True)
            write_parquet(of_bucket.get(b, frame.clear()), place / name)
    out = pl.concat(rejected)
    (folder / "rejected").mkdir(exist_ok=True)
    write_parquet(out, folder / "rejected" / name)
    counts = out.group_by("table", "reason").len().sort("table", "reason").rows()
    rows = {table: frame.height for table, frame in kept.items()}
    parts.append({"source": Path(source).name, "rows": rows, "rejected": {f"{t}: {r}": n for t, r, n in counts}})
    _replace(folder / "items.parquet", lambda path: write_parquet(items, path))
    _replace(folder / "store.json", lambda path: path.write_text(json.dumps(facts, indent=1) + "\n"))


def _by_bucket(frame: pl.DataFrame, buckets: int) -> dict[int, pl.DataFrame]:
    """The rows of each bucket that has any, in their order."""
    marked = frame.with_columns(bucket=bucket_of(frame["user_id"], buckets))
    parts = marked.partition_by("bucket", as_dict=True, include_key=False, maintain_order=True)
    return {int(bucket): part for (bucket,), part in sorted(parts.items())}


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path` and rename over it: the file that was there may be linked from elsewhere, and stays whole."""
    new = path.with_name(f".{path.name}.new")
    write(new)
    os.replace(new, path)


def _as_rejected(frame: pl.DataFrame, table: str) -> pl.DataFrame:
    return frame.select(pl.lit(table).alias("table"), "row", "reason").cast(REJECTED)


def _span(kept: Mapping[str, pl.DataFrame], logs: Logs, source: str) -> tuple[datetime, datetime]:
    """From the first row to the last, or to where the log says that it is complete."""
    times = pl.concat([kept[table]["time"] for table in ("events", "decisions") if table in kept])
    first, last = times.min(), times.max()
    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    if logs.end is not None and logs.end < last:
        raise InputError(f"{source}: its end {logs.end} is before its last row {last}: give the later time")
    return first, (logs.end or last).astimezone(UTC)


def _check_size(events: pl.DataFrame, minimum_users: int, source: str) -> None:
    if events.is_empty():
        raise InputError(f"{source}: there are no events (0 rows): give a log with at least {minimum_users} users")
    users = events["user_id"].n_unique()
    if users < minimum_users:
        fix = f"at least {minimum_users} are needed, to learn from some and to judge on others"
        raise InputError(f"{source}, events: column 'user_id' has {users} user only ({events['user_id'][0]!r}): {fix}")


def _check_items(items: pl.DataFrame, logs: Logs, source: str) -> None:
    """Raises InputError where an event or a slate of `logs` names an item that is not among `items`."""
    known = items["item_id"].implode()
    named = logs.events["item_id"] if "item_id" in logs.events.columns else pl.Series(dtype=pl.String)
    bad = (named.is_not_null() & ~named.cast(pl.String).is_in(known)).arg_true()
    if len(bad):
        row = bad[0]
        raise InputError(
            f"{source}, events: column 'item_id', row {row}: {named[row]!r} is not in items: "
            "add the item, or leave item_id null"
        )
    if logs.decisions is not None:
        shown = logs.decisions.select(pl.col("slate").cast(pl.List(pl.String))).with_row_index("row").explode("slate")
        shown = shown.filter(pl.col("slate").is_not_null() & ~pl.col("slate").is_in(known))
        if not shown.is_empty():
            row, item = shown["row"][0], shown["slate"][0]
            raise InputError(f"{source}, decisions: column 'slate', row {row}: {item!r} is not in items: add it")
