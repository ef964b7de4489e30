"""Sources: where a table of our own comes from, and its values as the types the table wants.

| source | in log.yaml | what it is |
|---|---|---|
| file | `{file: events.csv.gz}` | Parquet, CSV, TSV, JSON lines, plain, .gz or .zst; a folder of them is one table |
| DuckDB | `{duckdb: warehouse.db, query: "select ..."}` | a query, read-only |
| PostgreSQL | `{postgresql: LOG_DATABASE, query: "select ..."}` | the address is in that environment variable |
| Hugging Face | `{dataset: name or folder, split: train}` | a dataset, from the hub or the disk |

Text has no types, so they are read out of it: an empty field is null, a time is ISO 8601 with its zone, a list is a
JSON array or its words with `|` between. A row with a value that cannot be read is rejected with its reason, and the
others are kept; a time without a zone is not a bad row but a log written by another rule, and stops the import.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from data.errors import InputError
from data.logs import REJECTED
from data.schema import TABLES, polars_schema, validate
from data.store import read_parquet
from data.text_files import NO_SEPARATOR, read_text

FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
PACKED = (".gz", ".zst")
CONNECT_SECONDS = 10
QUERY_SECONDS = 600
DESCRIPTION = "log.yaml"
MAY_BE_EMPTY = {("items", "title")}  # everywhere else an empty text says that there is none
_KEYS = {"file": (), "duckdb": ("query",), "postgresql": ("query",), "dataset": ("split",)}

Table = tuple[pl.DataFrame, pl.DataFrame]
"""A table's rows as they were found, and the rejected ones: table, row, reason."""


def sources_of(path: Path) -> tuple[Mapping[str, Any], Path]:
    """(table -> its source, the folder that relative paths start at) of a folder of tables, or of a log.yaml.

    A source is the path of a file or folder, or a mapping as `read_source` takes it. Raises InputError where `path` is
    neither, and for tables that are strangers or there twice.
    """
    description = path / DESCRIPTION if path.is_dir() else path
    if path.suffix in (".yaml", ".yml") or (path.is_dir() and description.is_file()):
        return _described(description), description.parent
    if not path.is_dir():
        raise InputError(f"{path}: not a folder: the longplay reader takes a folder with tables, or a {DESCRIPTION}")
    return _files(path), path


def may_have_grown(path: Path) -> bool:
    """Whether the tables at `path` come from elsewhere (a log.yaml's query, dataset or file): its bytes say nothing."""
    return (path / DESCRIPTION).is_file() or path.suffix in (".yaml", ".yml")


def read_source(source: Mapping[str, Any], table: str, beside: Path) -> Table:
    """The rows of `table` from a source as described in log.yaml; relative paths start at the folder `beside`.

    Raises InputError, in one line that names the source and the fix, where it cannot be read.
    """
    kinds = [kind for kind in _KEYS if kind in source]
    if len(kinds) != 1:
        raise InputError(f"source of {table}: {dict(source)} must have exactly one of {', '.join(_KEYS)}")
    kind = kinds[0]
    for key in (kind, *_KEYS[kind]):
        if not isinstance(source.get(key), str) or not source[key]:
            raise InputError(f"source of {table}: {kind} needs {key!r} as text: add it")
    strangers = sorted(set(source) - {kind, *_KEYS[kind]})
    if strangers:
        raise InputError(
            f"source of {table}: unknown key {strangers[0]!r}: {kind} takes {', '.join((kind, *_KEYS[kind]))}"
        )
    if kind == "file":
        return read_file(beside / source["file"], table)
    if kind == "duckdb":
        frame = _from_duckdb(beside / source["duckdb"], source["query"])
    elif kind == "postgresql":
        frame = _from_postgresql(source["postgresql"], source["query"])
    else:
        frame = _from_dataset(source["dataset"], source["split"], beside)
    return typed(frame, table, f"{kind} source of {table}")


def format_of(path: Path) -> str | None:
    """parquet, csv, tsv or jsonl by the file's name, .gz and .zst aside; None for other names."""
    name = path.with_suffix("") if path.suffix in PACKED else path
    return FORMATS.get(name.suffix)


def read_file(path: Path, table: str) -> Table:
    """The rows of one file, or of all files of a folder in the order of their names (rows are counted through)."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if format_of(file))
        if not files:
            raise InputError(f"{path}: no file of {table} here: give one that ends in {', '.join(FORMATS)}")
        parts, start = [], 0
        for file in files:
            frame, rejected = read_file(file, table)
            parts.append((validate(frame, table, str(file)), rejected.with_columns(pl.col("row") + start)))
            start += frame.height + rejected.height
        return pl.concat([frame for frame, _ in parts]), pl.concat([rejected for _, rejected in parts])
    form = format_of(path)
    if form is None:
        raise InputError(f"{path}: not a kind of file that can be read: use {', '.join(FORMATS)} (.gz and .zst too)")
    if form == "parquet":
        return typed(read_parquet(path), table, str(path))
    if form == "jsonl":
        frame, broken = _json_lines(path)
    else:
        frame, broken = read_text(path, None, "\t" if form == "tsv" else ",", quote='"'), None
    return typed(frame, table, str(path), broken)


def typed(frame: pl.DataFrame, table: str, source: str, broken: pl.Series | None = None) -> Table:
    """`frame` with its text columns read as the types of `table`; rows of `broken` and misfits are rejected.

    Columns that are not text, and those that the table does not know, are left for `data.schema.validate` to judge.
    Raises InputError for times without a zone.
    """
    wanted = polars_schema(table)
    reason: pl.Expr = pl.lit(None, dtype=pl.String)
    columns = []
    for name, found in frame.schema.items():
        if found != pl.String or name not in wanted or wanted[name] == pl.String:
            column = pl.col(name).replace("", None) if found == pl.String else pl.col(name)
            columns.append(column.fill_null("") if (table, name) in MAY_BE_EMPTY else column)
            continue
        text = pl.col(name).str.strip_chars().replace("", None)
        read = _read(text, wanted[name])
        if isinstance(wanted[name], pl.Datetime):
            _refuse_naive(frame, text, read, name, source)
        columns.append(read.alias(name))
        said = pl.lit(f"{name} is not {_meaning(wanted[name])}")
        reason = pl.when(text.is_not_null() & read.is_null()).then(said).otherwise(reason)
    marked = frame.with_row_index("row").with_columns(reason=reason)
    if broken is not None and len(broken):
        torn = pl.col("row").is_in(broken.implode())
        marked = marked.with_columns(reason=pl.when(torn).then(pl.lit("the line is not JSON")).otherwise("reason"))
    bad = marked["reason"].is_not_null()
    rejected = marked.filter(bad).select(table=pl.lit(table), row=pl.col("row").cast(pl.Int64), reason="reason")
    return frame.filter(~bad).select(columns), rejected.cast(REJECTED)


def _read(text: pl.Expr, wanted: pl.DataType) -> pl.Expr:
    if isinstance(wanted, pl.Datetime):
        return text.str.replace(" ", "T", literal=True).str.to_datetime(
            "%+", time_unit="us", time_zone="UTC", strict=False
        )
    if isinstance(wanted, pl.List):
        inner = pl.Float64 if wanted.inner == pl.Float32 else pl.String
        array = text.str.starts_with("[")
        words = pl.when(array).then(None).otherwise(text).str.split("|")
        kind = pl.List(inner)
        listed = pl.when(array).then(text).map_elements(_array, return_dtype=pl.List(pl.String), skip_nulls=True)
        return pl.coalesce(listed.cast(kind, strict=False), words.cast(kind, strict=False))
    return text.cast(wanted, strict=False)


def _array(text: str) -> list[str] | None:
    """A JSON array's values as text; None where it is none. One by one: a broken array must cost its own row only."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list):
        return None
    return [value for value in map(_as_text, found) if value is not None]


def _meaning(wanted: pl.DataType) -> str:
    if isinstance(wanted, pl.Datetime):
        return "a time (ISO 8601 with its zone)"
    if isinstance(wanted, pl.List):
        return "a list"
    return "a whole number" if wanted.is_integer() else "a number"


def _refuse_naive(frame: pl.DataFrame, text: pl.Expr, read: pl.Expr, name: str, source: str) -> None:
    """A value that is a time but for its zone says that the whole column was written without one."""
    naive = text.str.replace(" ", "T", literal=True).str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", strict=False)
    bad = frame.select((read.is_null() & naive.is_not_null()).fill_null(False)).to_series().arg_true()
    if len(bad):
        fix = "say which zone it is in, e.g. 2024-05-01T08:30:00Z"
        raise InputError(f"{source}: column {name!r}, row {bad[0]}: {frame[name][bad[0]]!r} has no zone: {fix}")


def _json_lines(path: Path) -> tuple[pl.DataFrame, pl.Series]:
    """(a text column per key, rows that are no JSON object). Nested values keep their JSON text."""
    text = read_text(path, ["line"], NO_SEPARATOR, header=False)["line"].drop_nulls().to_list()
    lines = [line for line in text if line.strip()]
    rows: list[dict[str, str | None]] = []
    broken = []
    for row, line in enumerate(lines):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            broken.append(row)
            found = {}
        rows.append({key: _as_text(value) for key, value in found.items()})
    keys = list(dict.fromkeys(key for row in rows for key in row))
    frame = pl.DataFrame({key: [row.get(key) for row in rows] for key in keys}, schema=dict.fromkeys(keys, pl.String))
    if not keys:
        raise InputError(f"{path}: no line of it is a JSON object: write one object a line")
    return frame, pl.Series("row", broken, dtype=pl.UInt32)


def _as_text(value: object) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode(errors="replace").decode()  # half of a character, which JSON can spell and UTF-8 cannot


def _from_duckdb(path: Path, query: str) -> pl.DataFrame:
    try:
        import duckdb
    except ImportError:
        raise InputError("a DuckDB source needs the package duckdb: pip install '.[sources]'") from None
    if not path.is_file():
        raise InputError(f"{path}: no such database: check the path")
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            found = connection.sql(query)
            frame = None if found is None else pl.from_arrow(found.to_arrow_table())
    except duckdb.Error as error:
        raise InputError(f"{path}: the query failed ({str(error).splitlines()[0]}): mend it") from None
    if not isinstance(frame, pl.DataFrame):
        raise InputError(f"{path}: the query {query!r} gives no rows: use a select")
    return frame


def _from_postgresql(variable: str, query: str) -> pl.DataFrame:
    address = os.environ.get(variable)
    if not address:
        raise InputError(f"the environment variable {variable} is not set: put the database's address into it")
    try:
        from adbc_driver_manager import Error
        from adbc_driver_postgresql import dbapi
    except ImportError:
        fix = "pip install '.[sources]'"
        raise InputError(f"a PostgreSQL source needs the package adbc-driver-postgresql: {fix}") from None
    limits = f"connect_timeout={CONNECT_SECONDS}&options=-c%20statement_timeout%3D{QUERY_SECONDS * 1000}"
    try:
        with dbapi.connect(f"{address}{'&' if '?' in address else '?'}{limits}") as connection:
            return pl.read_database(query, connection)
    except Error as error:
        # The address holds a password; the driver's message may hold the address.
        why = str(error).splitlines()[0].replace(address, variable)
        raise InputError(
            f"the database of {variable}: the query failed ({why}): mend the query or the address"
        ) from None


def _from_dataset(name: str, split: str, beside: Path) -> pl.DataFrame:
    import datasets

    place = str(beside / name) if (beside / name).exists() else name
    try:
        found = datasets.load_dataset(place, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        why = str(error).splitlines()[0]
        raise InputError(f"dataset {name!r}, split {split!r}: cannot be loaded ({why}): check name and split") from None
    frame = found.to_polars()
    assert isinstance(frame, pl.DataFrame)
    return frame


def _files(folder: Path) -> dict[str, Path]:
    """table -> its file, or the folder that holds its files."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not (path.is_dir() or format_of(path)):
            continue
        table = path.name.split(".")[0]
        if table not in TABLES:
            raise InputError(f"{path}: not one of our tables: name it {', '.join(TABLES)}, or take it away")
        if table in found:
            raise InputError(f"{path}: {table} is there twice, as {found[table].name} too: keep one of them")
        found[table] = path
    return found


def _described(path: Path) -> Mapping[str, Any]:
    """table -> source, as a log.yaml says."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({error}): mend it") from None
    if not isinstance(found, dict) or not all(isinstance(source, dict) for source in found.values()):
        raise InputError(f"{path}: must be a source for each table, e.g. events: {{file: events.csv}}")
    strangers = sorted(set(found) - set(TABLES), key=str)
    if strangers:
        raise InputError(f"{path}: unknown table {strangers[0]!r}: use {', '.join(TABLES)}")
    return found
