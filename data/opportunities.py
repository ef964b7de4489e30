"""What upstream domains would like to be sent: one table, and a registry that checks and keeps what they submit.

    registry = OpportunityRegistry(runs/demo/opportunities, DOMAINS, items)
    done = registry.submit(frame, "concerts")      # done.accepted, done.rejected: {reason: rows}
    registry.live(at)                              # what may be sent at a time
    registry.counts()                              # domain -> {"accepted": ..., reason: ...}

A submission is one Parquet file, `parts/000000.parquet` and so on, with every row, the rejected ones beside a reason.
It is on the disk and whole, or not there: a process killed in between leaves nothing, and the same submission again
adds nothing twice, as its ids are there already.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl
import pyarrow as pa

from data.errors import InputError
from data.schema import EARLIEST, LATEST, TIME, as_polars
from data.store import read_parquet, write_parquet
from data.world.message_record import OPPORTUNITIES as SIGNALS
from data.world.opportunities import OFFER, STYLED, WIN_BACK
from data.world.settings import CHANNELS

DOMAINS = (*STYLED, OFFER, WIN_BACK)
LONGEST_TEXT = 500  # characters
KNOWN = "opportunity_id is there already"  # why a row is rejected that was submitted before
OPPORTUNITIES = pa.schema(
    [
        pa.field("opportunity_id", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),  # of an item of kind "message"
        pa.field("user_id", pa.string()),  # null: for everybody
        pa.field("value", pa.float32(), nullable=False),  # how relevant the domain says it is, standard normal
        pa.field("created_at", TIME, nullable=False),
        pa.field("expires_at", TIME),  # it must go out before; null: it does not expire
        pa.field("channels", pa.list_(pa.string())),  # by which it may go; null: any
        pa.field("text", pa.string()),
    ]
)
_SCHEMA = as_polars(OPPORTUNITIES)


@dataclass(frozen=True)
class Submission:
    """What became of one submission. rejected: reason -> rows, the most frequent first."""

    accepted: int
    rejected: dict[str, int]


class OpportunityRegistry:
    """The opportunities of a run, in `folder` (made if need be). items: ids of the messages that can be sent, or None
    for any. Processes may share a folder: one submits at a time."""

    def __init__(self, folder: Path, domains: Sequence[str] = DOMAINS, items: Sequence[str] | None = None) -> None:
        self.folder = Path(folder)
        self.domains = tuple(domains)
        self.items = None if items is None else tuple(items)
        self._read = 0
        self._rows = pl.DataFrame(schema=_SCHEMA | {"reason": pl.String()})

    def submit(self, frame: pl.DataFrame, domain: str | None = None) -> Submission:
        """Checks and keeps what a domain submits; it is on the disk when this returns.

        domain: who is known to submit it, so that nobody speaks for another; None where the rows alone say. Raises
        InputError for missing or unknown columns and values of a wrong type: then nothing is kept. Rows that are wrong
        one by one are rejected, counted and kept beside.
        """
        table = as_opportunities(frame, "opportunities")
        with self._lock():
            self._refresh()
            marked = self._marked(table, domain)
            if marked.height:
                self._write(marked)
        wrong = marked.drop_nulls("reason")
        counted = wrong.group_by("reason").len().sort("len", "reason", descending=[True, False])
        return Submission(marked.height - wrong.height, dict(counted.iter_rows()))

    def live(self, at: datetime, until: datetime | None = None) -> pl.DataFrame:
        """What may be sent at some time from `at` to `until` (default: at `at`), as OPPORTUNITIES, by creation: what is
        created by then, and expires after `at`."""
        self._refresh()
        begun = (pl.col("created_at") <= (until or at)) & (pl.col("expires_at") > at).fill_null(True)
        kept = self._rows.filter(pl.col("reason").is_null() & begun).drop("reason")
        return kept.sort("created_at", "opportunity_id")

    def counts(self) -> dict[str, dict[str, int]]:
        """By domain (as the rows say): how many were accepted, and how many rejected by which reason."""
        self._refresh()
        found: dict[str, dict[str, int]] = {}
        grouped = self._rows.group_by(pl.col("domain").fill_null("?"), pl.col("reason").fill_null("accepted")).len()
        for domain, reason, rows in grouped.sort("domain", "reason").iter_rows():
            found.setdefault(domain, {})[reason] = rows
        return found

    def _marked(self, table: pl.DataFrame, domain: str | None) -> pl.DataFrame:
        """`table` and why each row is rejected; null where it is not."""
        known = self._rows.filter(pl.col("reason").is_null())["opportunity_id"]
        text, channels = pl.col("text"), pl.col("channels")
        unfit = [
            *((pl.col(f.name).is_null(), f"{f.name} is null") for f in OPPORTUNITIES if not f.nullable),
            (~pl.col("domain").is_in(self.domains), "unknown domain"),
            (pl.col("domain") != pl.lit(domain, dtype=pl.String), "submitted by another domain"),
            (pl.lit(self.items is not None) & ~pl.col("item_id").is_in(self.items or ()), "unknown item_id"),
            (~pl.col("value").is_finite(), "value is not finite"),
            (
                (pl.col("created_at") < EARLIEST) | (pl.col("created_at") >= LATEST),
                "created_at is not from 1980 to 2099",
            ),
            (pl.col("expires_at") <= pl.col("created_at"), "expires before it is created"),
            (channels.list.len() == 0, "no channel"),
            (channels.list.set_difference(list(CHANNELS)).list.len() > 0, "unknown channel"),
            (text.str.len_chars() > LONGEST_TEXT, f"text is longer than {LONGEST_TEXT} characters"),
            (pl.col("opportunity_id").is_in(known.implode()), KNOWN),
        ]
        reason = pl.coalesce(
            *(pl.when(condition).then(pl.lit(why)) for condition, why in unfit), pl.lit(None, dtype=pl.String)
        )
        marked = table.with_columns(reason=reason)
        # The first good row of an id has it.
        again = pl.col("reason").is_null() & (pl.col("reason").is_null().cum_sum().over("opportunity_id") > 1)
        twice = pl.when(again).then(pl.lit(KNOWN)).otherwise("reason")
        return marked.with_columns(reason=twice)

    def _write(self, marked: pl.DataFrame) -> None:
        parts = self.folder / "parts"
        beside = parts / f".{uuid.uuid4().hex}.making"
        try:
            write_parquet(marked, beside)
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(beside, parts / f"{self._read:06d}.parquet")
        finally:
            beside.unlink(missing_ok=True)
        folder = os.open(parts, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._refresh()

    def _refresh(self) -> None:
        """Reads the parts that came since; another process may have written them."""
        new = []
        while (file := self.folder / "parts" / f"{self._read:06d}.parquet").is_file():
            new.append(read_parquet(file))
            self._read += 1
        if new:
            self._rows = pl.concat([self._rows, *new])

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        (self.folder / "parts").mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def as_opportunities(frame: pl.DataFrame, source: str) -> pl.DataFrame:
    """`frame` with exactly the columns and types of OPPORTUNITIES; optional ones it lacks are null.

    Raises InputError, naming `source` and the column, where one is missing or unknown, or does not convert.
    """
    for name in frame.columns:
        if name not in _SCHEMA:
            raise InputError(f"{source}: unknown column {name!r}: opportunities have {', '.join(_SCHEMA)}")
    for field in OPPORTUNITIES:
        if not field.nullable and field.name not in frame.columns:
            raise InputError(f"{source}: column {field.name!r} is missing in opportunities: add it")
    for name in ("created_at", "expires_at"):
        kind = frame.schema.get(name)
        if isinstance(kind, pl.Datetime) and kind.time_zone is None:
            raise InputError(f"{source}: column {name!r} has naive times: say which zone they are in")
    made = []
    for name, dtype in _SCHEMA.items():
        try:
            made.append((pl.col(name) if name in frame.columns else pl.lit(None)).cast(dtype).alias(name))
            frame.select(made[-1])
        except pl.exceptions.PolarsError:
            raise InputError(
                f"{source}: column {name!r} is {frame.schema[name]} with values that are no {dtype}: convert it"
            ) from None
    return frame.select(made)


def from_signals(signals: pl.DataFrame, items: pl.DataFrame, days: float = 1.0) -> pl.DataFrame:
    """OPPORTUNITIES from the value signals of a simulated log (user_id, item_id, time, value): each lives for `days`.

    The domain is the first tag of the item. items: an items table. Rows of items that it lacks are left out.
    """
    said = signals.select(pl.col(name).cast(dtype) for name, dtype in SIGNALS.items())
    of = items.select("item_id", domain=pl.col("tags").list.first(), text="text")
    return said.join(of, on="item_id", how="inner", maintain_order="left").select(
        opportunity_id=pl.format("{}-{}-{}", pl.col("time").to_physical(), "user_id", "item_id"),
        domain="domain",
        item_id="item_id",
        user_id="user_id",
        value="value",
        created_at="time",
        expires_at=pl.col("time") + pl.duration(seconds=round(days * 86_400)),
        channels=pl.lit(None, dtype=pl.List(pl.String)),
        text="text",
    )


def as_signals(opportunities: pl.DataFrame, user_ids: Sequence[str]) -> pl.DataFrame:
    """The value signals of opportunities for these users, those for everybody told to each: as `read_message_log` takes
    them."""
    return for_users(opportunities, user_ids).select(
        *(pl.col({"time": "created_at"}.get(name, name)).cast(dtype).alias(name) for name, dtype in SIGNALS.items())
    )


def for_users(opportunities: pl.DataFrame, user_ids: Sequence[str]) -> pl.DataFrame:
    """The opportunities of these users, a row for each whom it is for."""
    who = pl.DataFrame({"user_id": pl.Series(user_ids, dtype=pl.String)})
    own = opportunities.join(who, on="user_id", how="semi", maintain_order="left")
    everybody = opportunities.filter(pl.col("user_id").is_null()).drop("user_id").join(who, how="cross")
    return pl.concat([own, everybody.select(own.columns)])
