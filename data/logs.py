"""A log in memory: what every reader returns and the world writes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import polars as pl

REJECTED = pl.Schema({"table": pl.String(), "row": pl.Int64(), "reason": pl.String()})
"""Rows that could not be used: of which table, which row of the source (from 0), and why."""


@dataclass(frozen=True)
class Logs:
    """The tables of `data.schema`, as one reader or one world filled them.

    `notes` says, by name of the thing, what this source cannot fill and why ("propensity": "not published").
    `end` is the moment up to which the log is complete (UTC); None means the time of its last event or decision.
    An outcome window has closed only when it ends at or before `end`, so a world that ran to midnight should say so.
    """

    items: pl.DataFrame
    events: pl.DataFrame
    decisions: pl.DataFrame | None = None
    users: pl.DataFrame | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    end: datetime | None = None
    rejected: pl.DataFrame | None = None
    """Rows the reader itself had to leave out, as REJECTED; `data.ingest` keeps them."""
    rows: Mapping[str, pl.Series] = field(default_factory=dict)
    """By table, which row of the source (from 0) each of its rows was, where some were left out before it."""
    labels: tuple[str, ...] | None = None
    """The outcome labels that mean something in this log; None: all whose window it can carry (`data.outcomes`)."""
