"""Logs in our own tables: a folder with items.parquet and events.parquet, and, where there are, decisions and users.

    my-log/items.parquet  my-log/events.parquet  my-log/decisions.parquet  my-log/users.parquet

Columns and types are those of `data.schema`. `decisions` is where propensities live; without it every session stands
for one decision.
"""

from pathlib import Path

import polars as pl

from data.errors import InputError
from data.logs import Logs
from data.schema import TABLES, validate
from data.store import read_parquet

_MISSING = {
    "decisions": "there is no decisions.parquet: a session stands for a decision, without propensity or impressions",
    "users": "there is no users.parquet: local days are days in UTC, and consents are not known",
}


def read(path: Path) -> Logs:
    """Read and validate the tables in folder `path`; raises InputError naming the file and what is wrong with it."""
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: not a folder: the longplay reader takes a folder with items.parquet, events.parquet")
    strangers = sorted(p.name for p in path.glob("*.parquet") if p.stem not in TABLES)
    if strangers:
        raise InputError(f"{path}/{strangers[0]}: not one of our tables: name it one of {', '.join(TABLES)}.parquet")
    frames: dict[str, pl.DataFrame] = {}
    for table in TABLES:
        file = path / f"{table}.parquet"
        if file.exists() or table not in _MISSING:
            frames[table] = validate(read_parquet(file), table, str(file))
    notes = {table: note for table, note in _MISSING.items() if table not in frames}
    decisions = frames.get("decisions")
    if decisions is not None and decisions["propensity"].null_count():
        unknown = decisions["propensity"].null_count()
        notes["propensity"] = f"null in {unknown} of {decisions.height} decisions: those cannot be reweighted"
    return Logs(frames["items"], frames["events"], decisions, frames.get("users"), notes)
