"""Logs in our own tables: items and events, and, where there are, decisions and users.

    my-log/items.csv  my-log/events.parquet  my-log/decisions.jsonl.gz  my-log/users.tsv
    my-log/log.yaml         instead: where each table comes from (`data.sources`): a file, a query, a dataset

Each table is a file of that name in any format of `data.sources`, or a folder of such files. Columns and types are
those of `data.schema`. `decisions` is where propensities live; without it every session stands for one decision.
"""

from pathlib import Path

import polars as pl

from data.errors import InputError
from data.logs import REJECTED, Logs
from data.schema import TABLES, validate
from data.sources import read_file, read_source, sources_of

_MISSING = {
    "decisions": "the log has no decisions: a session stands for a decision, without propensity or impressions",
    "users": "the log has no users table: local days are days in UTC, and consents are not known",
}


def read(path: Path) -> Logs:
    """Read and validate the tables of folder `path` (or of the log.yaml given); raises InputError naming what is wrong.

    Rows with a value that cannot be read are rejected with their reason.
    """
    path = Path(path)
    sources, beside = sources_of(path)
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
            frame, out = read_source(source, table, beside)
            name = f"{path}, {table}"
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
