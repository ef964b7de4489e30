"""Where an experiment's rows come from: a table of its own, or the decisions and outcomes of a run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import polars as pl

from data.errors import InputError
from data.outcomes import LABEL_WINDOWS, matured_at, read_outcomes
from data.store import LogStore, read_parquet

BEFORE = "before_"
OVERRIDE = ":override"


def rows_of_table(path: Path) -> pl.DataFrame:
    """A Parquet or CSV table of one row a user or several; raises InputError where it cannot be read."""
    if path.suffix == ".parquet":
        return read_parquet(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file: check the path")
    try:
        return pl.read_csv(path, infer_schema_length=None, null_values=["", "NA"])
    except pl.exceptions.PolarsError as error:
        why = (str(error).splitlines() or [""])[0]
        raise InputError(f"{path}: not a table ({why}): give a .parquet or .csv file") from None


def rows_of_run(
    folder: Path, start: datetime | None = None, covariates: Sequence[str] = (), experiment: str | None = None
) -> pl.DataFrame:
    """Each user's first decision from `start` on: user_id, time, arm, every outcome label, the users' attributes.

    A treatment that brings people back also makes more decisions, so a mean over decisions would weigh users by what
    the treatment did to them; of the first exposure there is one a user, whatever came of it. A user who was shown two
    arms has a row for each, for `sample_of` to find.

    Outcomes whose window is still open are null, as in the outcomes table. covariates: names like
    before_active_days_7, the user's mean of that label over decisions before `start` whose window had closed by then;
    null for new users. experiment: of arms logged as "experiment:arm" those of this one, as "arm". Decisions that
    somebody overrode for a look ("...:override") are in no experiment. Raises InputError for a run without logs or
    outcomes, an experiment without decisions, and a covariate that cannot be made.
    """
    store, found = LogStore(folder / "logs"), read_outcomes(folder / "outcomes")
    made = store.decisions().select("decision_id", "arm")
    rows = found.table.join(made, on="decision_id", how="left", maintain_order="left")
    rows = rows.filter(~pl.col("arm").str.ends_with(OVERRIDE).fill_null(False))
    history = rows
    if experiment is not None:
        rows = rows.filter(pl.col("arm").str.starts_with(f"{experiment}:"))
        if not rows.height:
            raise InputError(f"experiment {experiment!r}: no decision of this run is logged with an arm of it")
        rows = rows.with_columns(pl.col("arm").str.strip_prefix(f"{experiment}:"))
    if start is not None:
        rows, history = rows.filter(pl.col("time") >= start), history.filter(pl.col("time") < start)
    for name in covariates:
        label = name.removeprefix(BEFORE)
        if start is None:
            raise InputError(f"covariate {name}: say when the experiment began: add --start 2026-02-02T00:00:00Z")
        if label not in found.labels:
            raise InputError(f"covariate {name}: this run has no outcome {label!r}; it has {', '.join(found.labels)}")
        closed = history.filter(matured_at(label) <= start)
        means = closed.group_by("user_id").agg(pl.col(label).cast(pl.Float64).mean().alias(name))
        rows = rows.join(means, on="user_id", how="left", maintain_order="left")
    users = store.users()
    told = None if users is None else attributes(users)
    if told is not None:
        fresh = [name for name in told.columns if name == "user_id" or name not in rows.columns]
        rows = rows.join(told.select(fresh), on="user_id", how="left", maintain_order="left")
    return rows.sort("time", maintain_order=True).unique(["user_id", "arm"], keep="first", maintain_order=True)


def attributes(users: pl.DataFrame) -> pl.DataFrame | None:
    """The JSON attributes of a users table as columns beside user_id; None where nobody has any."""
    known = users.filter(pl.col("attributes").is_not_null())
    if not known.height:
        return None
    lines = "\n".join(known["attributes"].to_list()).encode()
    return known.select("user_id").hstack(pl.read_ndjson(lines, infer_schema_length=None))


def window_of(label: str) -> int | None:
    """Days until an outcome label is known, None for other columns."""
    return LABEL_WINDOWS.get(label)
