"""A source's columns: its files found, each value turned into what the column claims to hold, and what is not counted.

A reader names the columns it maps and the kind of each:

| kind | values | becomes |
|---|---|---|
| id | a whole number that names something | String |
| text | text; blanks around it are cut, empty is null | String |
| whole | a whole number (12, or 12.0 where a column had gaps) | Int64 |
| number, amount | a number that float32 holds; an amount is not negative | Float64 |
| flag | 0 or 1, false or true | Boolean |
| time | a timestamp; one without a zone is in UTC, as in every source read here | Datetime, UTC |
| day | a calendar day | Datetime, its midnight in UTC |
| seconds, milliseconds | since 1970-01-01 UTC | Datetime, UTC |

A kind that ends in "?" may be null, and so may its whole column. A row with a null or a misfit where there must be a
value is set aside with its row (from 0, the header not counted) and its reason; a misfit where there may be none
becomes null and is counted in the notes. Times outside 1980 to 2099 are misfits: one such row would move the log's
end, and with it every window. A file in which no row at all can be used is not what it claims to be: an InputError.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from data.errors import InputError
from data.logs import REJECTED
from data.schema import EARLIEST, LATEST, polars_schema
from data.store import read_parquet
from data.text_files import NO_SEPARATOR, read_text

NO_CLOCK = datetime(2000, 1, 1, tzinfo=UTC)
"""Where time starts in a log that has an order, or a clock of its own, but no dates. It stands for no real day."""

_TIME = pl.Datetime("us", "UTC")
_MEANING = {
    "id": "a whole number",
    "whole": "a whole number",
    "number": "a finite number",
    "amount": "a finite number, zero or more",
    "flag": "0 or 1",
    "text": "text",
    "time": "a time from 1980 to 2099",
    "day": "a day from 1980 to 2099",
    "seconds": "a time in seconds since 1970, from 1980 to 2099",
    "milliseconds": "a time in milliseconds since 1970, from 1980 to 2099",
}


@dataclass(frozen=True)
class Rows:
    """The usable rows of one or more files, with the columns asked for, `row` and `file` (its name up to the dot).

    rejected: table, row, reason of the others. blanked: "file, column" -> optional values that could not be read.
    several: rows of more than one file are, or will be, counted together, so a reason starts with the file.
    """

    frame: pl.DataFrame
    rejected: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=REJECTED))
    blanked: Mapping[str, int] = field(default_factory=dict)
    several: bool = False

    def reject(self, reason: str, where: pl.Expr, table: str = "events") -> Rows:
        """These rows without those `where` holds, which are set aside for `reason`."""
        marked = self.frame.select("row", "file", bad=where.fill_null(False))
        told = _told(pl.lit(reason), self.several)
        out = marked.filter("bad").select(table=pl.lit(table), row="row", reason=told)
        return replace(self, frame=self.frame.filter(~marked["bad"]), rejected=pl.concat([self.rejected, out]))


def find(path: Path, *patterns: str) -> list[Path]:
    """The files that `path` means: itself, or those in the folder whose names match, .gz and .zst copies included.

    Of a file and its compressed copy, the file is taken. Raises InputError when `path` is not there.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder: check the path")
    found: dict[str, Path] = {}
    for pattern in patterns:
        for suffix in ("", ".gz", ".zst"):
            for file in sorted(path.glob(pattern + suffix)):
                if file.is_file():
                    found.setdefault(str(file).removesuffix(suffix), file)
    return list(found.values())


def must_find(path: Path, *patterns: str) -> list[Path]:
    """`find`, where at least one file must be there: raises InputError naming what was looked for."""
    found = find(path, *patterns)
    if not found:
        raise InputError(f"{path}: no {' or '.join(patterns)} here: give the folder that holds it, or the file itself")
    return found


def stem(path: Path) -> str:
    """A file's name up to its first dot: ratings for ratings.csv.gz."""
    return path.name.split(".")[0]


def read_rows(
    paths: Path | Sequence[Path],
    columns: Mapping[str, str],
    table: str = "events",
    *,
    separator: str = ",",
    header: bool = True,
    quote: str | None = None,
    key: str | None = None,
    unroll: bool = False,
    name: str | None = None,
) -> Rows:
    """The rows of `paths` (Parquet by name; anything else is text with a `separator`) as `columns` (name -> kind).

    Without a `header`, `columns` name the file's columns from the left. `quote` is needed only where a value may hold
    the separator: a stray quote then costs the rows up to the next one, so it is off for logs. A row whose `key` was
    there before is rejected. `unroll` makes rows of a Parquet file's lists, before rows are counted. Where there are
    several files, a reason starts with its file's; a reader that takes them one by one gives each its `name`. Raises
    InputError, naming the file, the column, the row and the fix.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    several = len(files) > 1 or name is not None
    parts = []
    for file in files:
        if file.suffix == ".parquet":
            raw, text = read_parquet(file), False
            raw = raw.select(name for name in raw.columns if name in columns)
            raw = _unrolled(raw, file) if unroll else raw
        else:
            raw, text = read_text(file, list(columns), separator, header=header, quote=quote), True
        parts.append(_checked(raw, columns, table, file, text, name or stem(file), several))
    frame = pl.concat([part.frame for part in parts])
    rows = Rows(frame, rejected(*parts), {k: n for part in parts for k, n in part.blanked.items()}, several)
    return rows if key is None else rows.reject(f"{key} is there twice", ~pl.col(key).is_first_distinct(), table)


def read_lines(
    file: Path, pattern: str, columns: Mapping[str, str], table: str = "events", *, header: bool = False
) -> Rows:
    """The rows of a text file whose lines are cut into `columns` by the groups of a regular expression.

    For separators of more than one letter, and for free text in the middle of a line. A line that does not match is
    rejected. Text is UTF-8, or else Latin-1; .gz is read too. Raises InputError as `read_rows` does.
    """
    if file.suffix == ".zst":  # which Polars can unpack and Python cannot; no line holds the separator
        lines = read_text(file, ["line"], NO_SEPARATOR, header=False)["line"]
    else:
        try:
            data = file.read_bytes()
            data = gzip.decompress(data) if file.suffix == ".gz" else data
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{file}: cannot be read ({error}): write or copy it again") from None
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
        lines = pl.Series("line", text.replace("\r\n", "\n").removesuffix("\n").split("\n"), dtype=pl.String)
    cut = pl.col("line").str.extract_groups(pattern).struct.rename_fields(list(columns))
    raw = lines[header:].to_frame().select(cut.alias("cut")).unnest("cut")
    return _checked(raw, columns, table, file, True, stem(file), False)


def read_objects(file: Path, kind: type, meaning: str) -> dict[str, Any]:
    """A JSON object whose values are all of one `kind`, which `meaning` says in words; bytes not UTF-8 are replaced.

    Raises InputError naming the file, the key and its place among the keys.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig", errors="replace"))
        # JSON can spell half a surrogate pair, which no UTF-8 column can hold.
        found = json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read as JSON ({error}): write or copy it again") from None
    if not isinstance(found, dict):
        raise InputError(
            f"{file}: a JSON {type(found).__name__}, must be an object: is this the log the reader is for?"
        )
    for row, (key, value) in enumerate(found.items()):
        if not isinstance(value, kind):
            raise InputError(f"{file}: column {key[:40]!r}, row {row}: {value!r:.40} is not {meaning}: mend the entry")
    return found


def rejected(*parts: Rows) -> pl.DataFrame:
    """What all of these set aside, as `Logs.rejected`."""
    return pl.concat([part.rejected for part in parts])


def noted(notes: Mapping[str, str], *parts: Rows) -> Mapping[str, str]:
    """A reader's notes, and which optional values of this very log could not be read."""
    blanked = {name: n for part in parts for name, n in part.blanked.items()}
    if not blanked:
        return notes
    return {**notes, "left null": "; ".join(f"{name}: {n} unreadable values" for name, n in blanked.items())}


def per_action(rows: pl.DataFrame, actions: Mapping[str, pl.Expr]) -> pl.DataFrame:
    """One event for each of `actions` that its condition says happened in a row; all take the row's other columns."""
    happened = [rows.filter(where).with_columns(action=pl.lit(action)) for action, where in actions.items()]
    return pl.concat(happened)


def only(table: str, frame: pl.DataFrame) -> pl.DataFrame:
    """The columns of `frame` that our `table` has."""
    return frame.select(name for name in polars_schema(table).names() if name in frame.columns)


def with_items_seen(items: pl.DataFrame | None, seen: pl.Series, kind: str) -> pl.DataFrame:
    """The catalogue, and after it what only the log knows: items with an id, a kind and an empty title."""
    bare = pl.DataFrame({"item_id": seen.drop_nulls().unique(maintain_order=True)}).with_columns(
        kind=pl.lit(kind), title=pl.lit("")
    )
    if items is None:
        return bare
    bare = bare.filter(~pl.col("item_id").is_in(items["item_id"].implode()))
    return pl.concat([items.with_columns(pl.col("title").fill_null("")), bare], how="diagonal")


def _unrolled(raw: pl.DataFrame, file: Path) -> pl.DataFrame:
    lists = [name for name, kind in raw.schema.items() if isinstance(kind, pl.List)]
    if not lists:
        return raw
    try:
        return raw.filter(pl.col(lists[0]).list.len() > 0).explode(lists)
    except pl.exceptions.PolarsError:
        why = f"columns {', '.join(map(repr, lists))} hold lists that are not of one length in every row"
        raise InputError(f"{file}: {why}: mend the file") from None


def _told(reason: pl.Expr, several: bool) -> pl.Expr:
    return pl.col("file") + ": " + reason if several else reason


def _checked(
    raw: pl.DataFrame, columns: Mapping[str, str], table: str, file: Path, text: bool, name: str, several: bool
) -> Rows:
    raw = raw.with_row_index("row")
    values, doubtful = [], []
    reason = pl.lit(None, dtype=pl.String)
    for column, asked in reversed(list(columns.items())):
        kind, optional = asked.removesuffix("?"), asked.endswith("?")
        if column not in raw.columns:
            if not optional:
                raise InputError(
                    f"{file}: column {column!r} (row 0) is missing: is this the log that the reader is for?"
                )
            raw = raw.with_columns(pl.lit(None, dtype=pl.String).alias(column))
        elif not text and not _holds(kind, raw.schema[column]):
            raise InputError(
                f"{file}: column {column!r} (row 0) is {raw.schema[column]}, must be {_MEANING[kind]}: convert it"
            )
        given = _cleaned(raw, column)
        value = _value(given, kind, raw.schema[column])
        values.append(value.alias(column))
        misfit = given.is_not_null() & value.is_null()
        if optional:
            doubtful.append(misfit.sum().alias(column))
        else:
            reason = pl.when(misfit).then(pl.lit(f"{column} is not {_MEANING[kind]}")).otherwise(reason)
            reason = pl.when(given.is_null()).then(pl.lit(f"{column} is null")).otherwise(reason)
    marked = raw.select(pl.col("row").cast(pl.Int64), *reversed(values), file=pl.lit(name), reason=reason)
    bad = marked["reason"].is_not_null()
    if bad.all() and marked.height:
        why = marked["reason"][0]
        column = why.split(" is ")[0]
        shown = f" ({str(raw[column][0])[:40]!r})"
        raise InputError(f"{file}: column {column!r}, row 0: {why}{shown}, and no other row can be used: mend the file")
    out = marked.filter(bad).select(table=pl.lit(table), row="row", reason=_told(pl.col("reason"), several))
    unread = raw.select(doubtful).row(0, named=True) if doubtful else {}
    blanked = {f"{name}, {column}": n for column, n in unread.items() if n}
    return Rows(marked.filter(~bad).drop("reason"), out, blanked, several)


def _holds(kind: str, found: pl.DataType) -> bool:
    """Whether a Parquet column of this type may hold values of `kind`; an all-null column may hold any."""
    if found == pl.Null:
        return True
    if kind == "text":
        return isinstance(found, pl.String | pl.Categorical | pl.Enum)
    if kind in ("time", "day"):
        return isinstance(found, pl.Datetime) or (kind == "day" and found == pl.Date)
    return found.is_numeric() or (kind == "flag" and found == pl.Boolean)


def _cleaned(raw: pl.DataFrame, column: str) -> pl.Expr:
    """The column, where it is text without the blanks around its values; nothing left is null."""
    found = pl.col(column)
    if not isinstance(raw.schema[column], pl.String | pl.Categorical | pl.Enum):
        return found
    bare = found.cast(pl.String).str.strip_chars()
    return pl.when(bare.str.len_bytes() > 0).then(bare)


def _value(given: pl.Expr, kind: str, found: pl.DataType) -> pl.Expr:
    text = isinstance(found, pl.String | pl.Categorical | pl.Enum)
    if kind == "text":
        return given.cast(pl.String)
    if kind == "flag":
        if found == pl.Boolean:
            return given
        number = given.str.to_lowercase().replace({"true": "1", "false": "0"}) if text else given
        number = number.cast(pl.Float64, strict=False)
        return pl.when(number.is_in([0.0, 1.0])).then(number == 1)
    if kind in ("number", "amount"):
        number = given.cast(pl.Float64, strict=False)
        fits = number.cast(pl.Float32, strict=False).is_finite() & number.is_finite()
        return pl.when(fits & (number >= 0) if kind == "amount" else fits).then(number)
    if kind in ("time", "day"):
        return _within(_parsed(given) if text else _in_utc(given, found))
    if text:
        whole = given.str.replace(r"\.0+$", "").cast(pl.Int64, strict=False)
    elif found.is_float():
        whole = pl.when(given == given.floor()).then(given).cast(pl.Int64, strict=False)
    else:
        whole = given.cast(pl.Int64, strict=False)
    if kind == "id":
        return whole.cast(pl.String)
    if kind == "whole":
        return whole
    per_second = 1 if kind == "seconds" else 1000
    # Out of range first: a number too large for microseconds would wrap around into some other century.
    lo, hi = (int(moment.timestamp()) * per_second for moment in (EARLIEST, LATEST))
    near = pl.when((whole >= lo) & (whole < hi)).then(whole)
    return (near * (1_000_000 // per_second)).cast(_TIME)


def _parsed(given: pl.Expr) -> pl.Expr:
    """Times as ISO 8601 writes them, with T or a blank, with a zone or, meaning UTC, without; or only the day."""
    plain = given.str.replace("T", " ").str.replace("Z$", "+00:00")
    zoned = plain.str.strptime(_TIME, "%Y-%m-%d %H:%M:%S%.f%#z", strict=False)
    bare = plain.str.strptime(pl.Datetime("us"), "%Y-%m-%d %H:%M:%S%.f", strict=False)
    day = plain.str.strptime(pl.Date, "%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    return pl.coalesce(zoned, pl.coalesce(bare, day).dt.replace_time_zone("UTC"))


def _in_utc(given: pl.Expr, found: pl.DataType) -> pl.Expr:
    if isinstance(found, pl.Datetime) and found.time_zone is not None:
        return given.dt.convert_time_zone("UTC").cast(_TIME, strict=False)
    return given.cast(pl.Datetime("us"), strict=False).dt.replace_time_zone("UTC")


def _within(moment: pl.Expr) -> pl.Expr:
    return pl.when((moment >= EARLIEST) & (moment < LATEST)).then(moment)
