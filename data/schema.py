"""The tables Longplay reads and writes: their columns, their vocabularies, and what is wrong with a frame.

A vocabulary is an ordered tuple; the code of a word is its position, so a tuple may grow at its end and nowhere else.

`validate` finds faults of structure (a missing column, a naive time, a propensity of 2), which stop a run: they mean
that the log was written by a different rule than it is about to be read by. `split_rejected` takes out single rows
that carry nothing usable (no user, no time), so that they are counted and kept beside the log, never lost silently.
"""

import difflib
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl
import pyarrow as pa

from data.errors import InputError

ACTIONS = (
    "play",
    "skip",
    "complete",
    "save",
    "like",
    "dislike",
    "open",
    "dismiss",
    "convert",
    "opt_out",
    "bounce",
)
KINDS = ("track", "podcast", "audiobook", "video", "message", "article", "product", "other")
SURFACES = ("now_playing", "home", "search", "push", "email", "in_app", "other")

# From weakest to strongest: of one item's actions in one sitting, the last one here is what the listener meant.
# A play that ends in a skip is a skip; a save outweighs a complete; a dislike outweighs all.
REACTION_STRENGTH = (
    "bounce",
    "dismiss",
    "open",
    "play",
    "skip",
    "complete",
    "save",
    "convert",
    "like",
    "opt_out",
    "dislike",
)
ACTION_CODE: Mapping[str, int] = MappingProxyType({action: code for code, action in enumerate(ACTIONS)})
SURFACE_CODE: Mapping[str, int] = MappingProxyType({surface: code for code, surface in enumerate(SURFACES)})

TIME = pa.timestamp("us", tz="UTC")
# A time outside is a broken clock, and one such row would move the log's end, and with it every window.
EARLIEST, LATEST = datetime(1980, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


ITEMS = pa.schema(
    [
        _required("item_id", pa.string()),
        _required("kind", pa.string()),
        _required("title", pa.string()),
        pa.field("creator", pa.string()),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("duration", pa.float32()),
        pa.field("released_at", TIME),
        pa.field("text", pa.string()),
        pa.field("embedding", pa.list_(pa.float32())),
    ]
)
EVENTS = pa.schema(
    [
        _required("user_id", pa.string()),
        _required("time", TIME),
        _required("surface", pa.string()),
        _required("action", pa.string()),
        pa.field("item_id", pa.string()),
        pa.field("session_id", pa.string()),
        pa.field("decision_id", pa.string()),
        pa.field("position", pa.int32()),
        pa.field("seconds", pa.float32()),
        pa.field("value", pa.float32()),
    ]
)
# `propensity` is the probability of the whole logged slate under the policy named in `policy`; where `move` (the
# steer token continue | deepen | explore | switch that the policy drew first) is logged, of the (move, slate) pair.
DECISIONS = pa.schema(
    [
        _required("decision_id", pa.string()),
        _required("user_id", pa.string()),
        _required("time", TIME),
        _required("surface", pa.string()),
        _required("policy", pa.string()),
        _required("slate", pa.list_(pa.string())),
        pa.field("propensity", pa.float64()),
        pa.field("candidates", pa.list_(pa.string())),
        pa.field("steer", pa.string()),
        pa.field("arm", pa.string()),
        pa.field("channel", pa.string()),
        pa.field("send_at", TIME),
        pa.field("move", pa.string()),
    ]
)
USERS = pa.schema(
    [
        _required("user_id", pa.string()),
        pa.field("attributes", pa.string()),  # one JSON object
        pa.field("consents", pa.list_(pa.string())),  # the channels the user agreed to be reached on
        pa.field("time_zone", pa.string()),
    ]
)
TABLES: Mapping[str, pa.Schema] = MappingProxyType(
    {"items": ITEMS, "events": EVENTS, "decisions": DECISIONS, "users": USERS}
)

_DTYPES: Mapping[pa.DataType, type[pl.DataType]] = MappingProxyType(
    {
        pa.string(): pl.String,
        pa.bool_(): pl.Boolean,
        pa.int8(): pl.Int8,
        pa.int16(): pl.Int16,
        pa.int32(): pl.Int32,
        pa.float32(): pl.Float32,
        pa.float64(): pl.Float64,
        pa.date32(): pl.Date,
    }
)
_WORDS = {("items", "kind"): KINDS, ("events", "action"): ACTIONS, ("events", "surface"): SURFACES}
_WORDS[("decisions", "surface")] = SURFACES
_KEYS = {"items": "item_id", "decisions": "decision_id", "users": "user_id"}
_NOT_NEGATIVE = {"items": ("duration",), "events": ("seconds",)}


def polars_schema(table: str) -> pl.Schema:
    """The columns of `table` ("items", "events", "decisions" or "users") as Polars types."""
    return as_polars(TABLES[table])


def as_polars(schema: pa.Schema) -> pl.Schema:
    """The same columns as Polars types. (`pl.from_arrow` would do, and import pandas for seconds to do it.)"""
    return pl.Schema({field.name: _dtype(field.type) for field in schema})


def _dtype(kind: pa.DataType) -> pl.DataType:
    if pa.types.is_list(kind):
        return pl.List(_dtype(kind.value_type))
    if pa.types.is_timestamp(kind):
        return pl.Datetime(kind.unit, kind.tz)
    return _DTYPES[kind]()


def validate(frame: pl.DataFrame, table: str, source: str) -> pl.DataFrame:
    """`frame` with exactly the columns and types of `table`, in its order; optional columns it lacks are null.

    Raises InputError, naming `source`, the column, the first bad row (counted from 0) and the fix, for: a missing or
    unknown column, a type that does not convert without loss of meaning, a naive time, an unknown action, kind or
    surface, a propensity outside (0, 1], a duplicate key, an unknown time zone.
    """
    wanted = polars_schema(table)
    required = [field.name for field in TABLES[table] if not field.nullable]
    for column in frame.columns:
        if column not in wanted:
            near = difflib.get_close_matches(column, wanted.names(), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"{table} has {', '.join(wanted.names())}"
            raise InputError(f"{source}: unknown column {column!r} (row 0) in {table}: rename or drop it; {hint}")
    for column in required:
        if column not in frame.columns:
            raise InputError(f"{source}: column {column!r} (row 0 and all others) is missing in {table}: add it")
    columns = [
        _convert(frame[name], dtype, source) if name in frame.columns else pl.Series(name, [None], dtype=dtype)
        for name, dtype in wanted.items()
    ]
    frame = pl.DataFrame([c if len(c) == frame.height else c.new_from_index(0, frame.height) for c in columns])
    for (of, column), words in _WORDS.items():
        if of == table:
            bad = frame[column].is_not_null() & ~frame[column].is_in(words)
            _refuse(frame, column, bad, source, f"is not a known {column}: map it to one of {', '.join(words)}")
    if table == "decisions":
        p = frame["propensity"]
        bad = (p.is_nan() | (p <= 0) | (p > 1)).fill_null(False)
        fix = "must lie in (0, 1]: log the slate's probability, or null where it is not known"
        _refuse(frame, "propensity", bad, source, fix)
    if table in _KEYS:
        key = _KEYS[table]
        bad = frame[key].is_not_null() & ~frame[key].is_first_distinct()
        _refuse(frame, key, bad, source, f"is there twice: every row of {table} needs its own {key}")
    if table == "users":
        known = {zone for zone in frame["time_zone"].drop_nulls().unique().to_list() if _is_time_zone(zone)}
        bad = frame["time_zone"].is_not_null() & ~frame["time_zone"].is_in(sorted(known))
        _refuse(frame, "time_zone", bad, source, "is not a time zone: use an IANA name such as Europe/Stockholm")
    return frame


def split_rejected(frame: pl.DataFrame, table: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A validated `frame` as (rows to keep, rows to reject); the rejected ones carry their `row` and a `reason`.

    Rejected are rows that nothing can be learned from: a null in a required column, a negative or non-finite
    duration, a time before 1980 or after 2099, an empty slate, a slate that shows an item twice, an event that is there
    twice in every column.
    """
    reason = pl.lit(None, dtype=pl.String)
    if table == "events":
        reason = pl.when(~pl.struct(frame.columns).is_first_distinct()).then(pl.lit("duplicate event"))
    if table == "decisions":
        slate = pl.col("slate")
        reason = pl.when(slate.list.n_unique() < slate.list.len()).then(pl.lit("slate repeats an item"))
        reason = pl.when(slate.list.len() == 0).then(pl.lit("empty slate")).otherwise(reason)
    for column in _NOT_NEGATIVE.get(table, ()):
        wrong = (pl.col(column) < 0) | ~pl.col(column).is_finite()
        reason = pl.when(wrong).then(pl.lit(f"{column} is negative or not finite")).otherwise(reason)
    if table in ("events", "decisions"):
        wrong = (pl.col("time") < EARLIEST) | (pl.col("time") >= LATEST)
        reason = pl.when(wrong).then(pl.lit("time is not from 1980 to 2099")).otherwise(reason)
    for field in reversed(list(TABLES[table])):
        if not field.nullable:
            reason = pl.when(pl.col(field.name).is_null()).then(pl.lit(f"{field.name} is null")).otherwise(reason)
    marked = frame.with_row_index("row").with_columns(reason.alias("reason"))
    keep = marked["reason"].is_null()
    return frame.filter(keep), marked.filter(~keep)


def _convert(column: pl.Series, dtype: pl.DataType, source: str) -> pl.Series:
    if column.dtype == dtype:
        return column
    name, found = column.name, column.dtype
    if isinstance(dtype, pl.Datetime) and isinstance(found, pl.Datetime) and found.time_zone is None:
        fix = "say which zone it is in, e.g. pl.col(name).dt.replace_time_zone('UTC')"
        raise InputError(f"{source}: column {name!r} has naive times (first in row 0, {column[0]}): {fix}")
    if found == pl.Null or _converts(found, dtype):
        try:
            return column.cast(dtype)
        except pl.exceptions.PolarsError:
            bad = column.is_not_null() & column.cast(dtype, strict=False).is_null()
            row = bad.arg_true()[0]
            raise InputError(
                f"{source}: column {name!r}, row {row}: {column[row]!r} does not fit {dtype}: mend the value"
            ) from None
    raise InputError(f"{source}: column {name!r} (row 0) is {found}, must be {dtype}: convert it before the import")


def _converts(found: pl.DataType, wanted: pl.DataType) -> bool:
    if isinstance(wanted, pl.List):
        inner = found.inner if isinstance(found, pl.List | pl.Array) else None
        return isinstance(inner, pl.DataType) and (inner == pl.Null or inner == wanted.inner or _plain(inner, wanted))
    if isinstance(wanted, pl.Datetime):
        return isinstance(found, pl.Datetime)
    if wanted.is_float():
        return found.is_numeric()
    if wanted.is_integer():
        return found.is_integer()
    return wanted == pl.String and isinstance(found, pl.Categorical | pl.Enum)


def _plain(inner: pl.DataType, wanted: pl.List) -> bool:
    return isinstance(wanted.inner, pl.DataType) and _converts(inner, wanted.inner)


def _refuse(frame: pl.DataFrame, column: str, bad: pl.Series, source: str, fix: str) -> None:
    if bad.any():
        row = bad.arg_true()[0]
        raise InputError(f"{source}: column {column!r}, row {row}: {frame[column][row]!r} {fix}")


def _is_time_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True
