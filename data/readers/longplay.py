"""Logs in our own tables: items and events, and, where there are, decisions and users.

    my-log/items.csv  my-log/events.parquet  my-log/decisions.jsonl.gz  my-log/users.tsv
    my-log/log.yaml         instead: where each table comes from (`data.sources`): a file, a query, a dataset

Each table is a file of that name in any format of `data.sources`, or a folder of such files. Columns and types are
those of `data.schema`. `decisions` is where propensities live; without it every session stands for one decision.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from data.errors import InputError
from data.logs import REJECTED, Logs
from data.schema import TABLES, validate
from data.sources import format_of, read_file, read_source

_MISSING = {
    "decisions": "the log has no decisions: a session stands for a decision, without propensity or impressions",
    "users": "the log has no users table: local days are days in UTC, and consents are not known",
}
DESCRIPTION = "log.yaml"


def read(path: Path) -> Logs:
    """Read and validate the tables of folder `path` (or of the log.yaml given); raises InputError naming what is wrong.

    Rows with a value that cannot be read are rejected with their reason.
    """
    path = Path(path)
    description = path / DESCRIPTION if path.is_dir() else path
    if path.suffix in (".yaml", ".yml") or (path.is_dir() and description.is_file()):
        sources: Mapping[str, Any] = _described(description)
    elif path.is_dir():
        sources = _files(path)
    else:
        raise InputError(f"{path}: not a folder: the longplay reader takes a folder with tables, or a {DESCRIPTION}")
    for table in TABLES:
        if table not in sources and table not in _MISSING:
            raise InputError(f"{path}: no {table} here: add {table}.parquet, .csv or .jsonl, or name its source")
    frames: dict[str, pl.DataFrame] = {}
    rejected, rows = [pl.DataFrame(schema=REJECTED)], {}
    for table, source in sources.items():
        if isinstance(source, Path):
            frame, out = read_file(source, table)
            name = str(source)
        else:
            frame, out = read_source(source, table, description.parent)
            name = f"{description}, {table}"
        frames[table] = validate(frame, table, name)
        rejected.append(out)
        all_rows = pl.int_range(frame.height + out.height, eager=True)
        rows[table] = all_rows.filter(~all_rows.is_in(out["row"].implode()))
    notes = {table: note for table, note in _MISSING.items() if table not in frames}
    decisions = frames.get("decisions")
    if decisions is not None and decisions["propensity"].null_count():
        unknown = decisions["propensity"].null_count()
        notes["propensity"] = f"null in {unknown} of {decisions.height} decisions: those cannot be reweighted"
    left_out = pl.concat(rejected)
    return Logs(frames["items"], frames["events"], decisions, frames.get("users"), notes, rejected=left_out, rows=rows)


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
