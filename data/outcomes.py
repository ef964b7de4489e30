"""Outcomes: what became of the listener after each decision, and from when on that is known.

One row per decision. A window of w days runs from the decision to the end of the user's local day D + w, D being the
day of the decision, and never counts the session the decision was made in (`data.visits` says which that is). A label
is null until its window has closed at the end of the log; `matured_{w}d` says when it closes, `matured_at(label)` which
of these columns rules a label, and `as_of` shows the table as it stood at an earlier time, so that no back-test leaks.

| label | window | counts |
|---|---|---|
| return_days, return_observed, return_time | to the end | local days to the next visit, censored at the end |
| returned_{1,7,14,28}d | w | a visit that starts after the decision |
| active_days_{7,28}, habit_28 | w | local days D + 1 .. D + w with a visit; weeks of them with 3 or more |
| regularity_28 | 28 | repeated hours of the week beyond chance (`data.labels_return`) |
| sticky_days_{28,60} | w | days of coming back to what was discovered (`data.labels_sticky`) |
| reachable_28, unreachable_reason, converted_28 | 28 | `data.labels_reach` |
| plays, completes, saves, dislikes, skips | own session | items of the slate; closes a gap after the session's end |
| minutes_1d | 1 | minutes played, the own session included |
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType

import polars as pl
import pyarrow as pa

from data.engines import clear_half_written, over_buckets, write_whole
from data.errors import InputError
from data.labels_reach import converted, reachable
from data.labels_response import RESPONSES, minutes, responses
from data.labels_return import active_days, regularity, returns
from data.labels_sticky import sticky_days
from data.local_time import local_clock, local_day, with_time_zone
from data.schema import ACTIONS, SURFACES, TIME, as_polars
from data.sessions import GAP_MINUTES, link_sessions, session_decisions, sessionize
from data.store import LogStore, read_parquet
from data.visits import WINDOWS, visits

OUTCOMES = pa.schema(
    [
        pa.field("decision_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("time", TIME, nullable=False),
        pa.field("local_day", pa.date32(), nullable=False),
        pa.field("return_time", TIME),
        pa.field("return_days", pa.int32(), nullable=False),
        pa.field("return_observed", pa.bool_(), nullable=False),
        *(pa.field(f"returned_{w}d", pa.bool_()) for w in (1, 7, 14, 28)),
        pa.field("active_days_7", pa.int16()),
        pa.field("active_days_28", pa.int16()),
        pa.field("habit_28", pa.int8()),
        pa.field("regularity_28", pa.float32()),
        pa.field("sticky_days_28", pa.int16()),
        pa.field("sticky_days_60", pa.int16()),
        pa.field("reachable_28", pa.bool_()),
        pa.field("unreachable_reason", pa.string()),
        pa.field("converted_28", pa.bool_()),
        *(pa.field(label, pa.int16()) for label in RESPONSES),
        pa.field("minutes_1d", pa.float32()),
        *(pa.field(f"matured_{w}d", TIME, nullable=False) for w in (0, *WINDOWS)),
        pa.field("matured_at", TIME, nullable=False),
    ]
)

LABEL_WINDOWS: Mapping[str, int] = MappingProxyType(
    dict.fromkeys(RESPONSES, 0)
    | {"minutes_1d": 1}
    | {f"returned_{w}d": w for w in (1, 7, 14, 28)}
    | {"active_days_7": 7, "active_days_28": 28, "habit_28": 28, "regularity_28": 28}
    | {"sticky_days_28": 28, "sticky_days_60": 60}
    | {"reachable_28": 28, "unreachable_reason": 28, "converted_28": 28}
)
"""Label -> days of its window; 0: the decision's own session. return_days is known, censored, at any time."""

_FAMILIES: tuple[tuple[str, ...], ...] = (
    ("active_days_7", "active_days_28", "habit_28"),
    ("regularity_28",),
    ("sticky_days_28", "sticky_days_60"),
    ("reachable_28", "unreachable_reason"),
    ("converted_28",),
    tuple(RESPONSES),
    ("minutes_1d",),
)
CLOCKS = ("local", "utc")
_NEEDS = RESPONSES | {"converted_28": "convert"}


@dataclass(frozen=True)
class OutcomeSettings:
    """How sessions, visits and discoveries are told. `carried_share` is explained at `carried_labels`.

    gap_minutes: cuts sessions where events have no session id (in a store all have one, by the gap it was written
    with); everywhere it says how far from a session a decision may lie and still be made in it. clock: whose days are
    counted, each user's "local" ones or those of "utc". active: actions that make a session a visit. taken: reactions
    by which something new is discovered. message_surfaces: where decisions are made in no session.
    """

    gap_minutes: float = GAP_MINUTES
    clock: str = "local"
    active: tuple[str, ...] = ("play", "skip", "complete", "save", "like", "dislike", "open", "convert")
    taken: tuple[str, ...] = ("play", "complete", "save", "like", "convert")
    message_surfaces: tuple[str, ...] = ("push", "email")
    carried_share: float = 1 / 3

    def __post_init__(self) -> None:
        for name, words, known in (
            ("clock", (self.clock,), CLOCKS),
            ("active", self.active, ACTIONS),
            ("taken", self.taken, ACTIONS),
            ("message_surfaces", self.message_surfaces, SURFACES),
        ):
            for word in words:
                if word not in known:
                    raise InputError(f"{name}: {word!r} is not known: choose from {', '.join(known)}")
        if not 0 < self.carried_share < 1:
            raise InputError(f"carried_share: {self.carried_share} is no share of a log: give one between 0 and 1")
        if not 0 < self.gap_minutes < 1e6:
            raise InputError(f"gap_minutes: {self.gap_minutes} ends no session: give the minutes of silence that do")


def outcomes(
    events: pl.DataFrame,
    decisions: pl.DataFrame | None,
    users: pl.DataFrame | None,
    end: datetime,
    settings: OutcomeSettings = OutcomeSettings(),
    *,
    items: pl.DataFrame | None = None,
    labels: Collection[str] = tuple(LABEL_WINDOWS),
) -> pl.DataFrame:
    """The OUTCOMES table of one bucket (all of a user's rows must be in it), in the order of `decisions`.

    `events` as in `data.schema.EVENTS`; where `decisions` is None, one row per session that holds an item. Rows after
    `end` are not looked at: the answer is what could be known then. Without `items`, what is discovered is an item
    instead of a creator. `labels` that are not asked for are null.
    """
    events = sessionize(events, settings.gap_minutes)
    if decisions is None:
        events = link_sessions(events)
        decisions = session_decisions(events)
    seen = visits(
        events,
        decisions,
        users if settings.clock == "local" else None,
        end,
        active=settings.active,
        message_surfaces=settings.message_surfaces,
        gap_minutes=settings.gap_minutes,
    )
    table = seen.decisions.with_columns(
        pl.col("day").cast(pl.Date).alias("local_day"),
        _closes_0(settings.gap_minutes).alias("matured_0d"),
        *(pl.col(f"closes_{w}").alias(f"matured_{w}d") for w in WINDOWS),
    )
    table = table.join(returns(seen), on="row", how="left", maintain_order="left")
    families: list[Callable[[], pl.DataFrame]] = [
        lambda: active_days(seen),
        lambda: regularity(seen),
        lambda: sticky_days(seen, items, settings.taken),
        lambda: reachable(seen),
        lambda: converted(seen),
        lambda: responses(seen),
        lambda: minutes(seen),
    ]
    for family, of in zip(families, _FAMILIES, strict=True):
        if any(label in labels for label in of):
            table = table.join(family(), on="row", how="left", maintain_order="left")
    longest = max((LABEL_WINDOWS[label] for label in labels), default=0)
    closed = [
        pl.when(matured_at(label) <= end).then(pl.col(label)).alias(label)
        if label in labels
        else pl.lit(None).alias(label)
        for label in LABEL_WINDOWS
    ]
    table = table.with_columns(*closed, pl.col(f"matured_{longest}d").alias("matured_at"))
    return table.select(pl.col(name).cast(dtype) for name, dtype in outcome_schema().items())


def outcome_schema() -> pl.Schema:
    """OUTCOMES as Polars types."""
    return as_polars(OUTCOMES)


def matured_at(label: str) -> pl.Expr:
    """The column that says, for each decision, from when on `label` is known: at or after it, a back-test may use it.

    For the return labels return_days / return_observed / return_time, which are known at any time but censored, use
    `as_of`. Raises KeyError for what is not a label.
    """
    return pl.col(f"matured_{LABEL_WINDOWS[label]}d")


def as_of(table: pl.DataFrame, moment: datetime, users: pl.DataFrame | None = None) -> pl.DataFrame:
    """An outcomes table as it would have been made at `moment` (UTC): later decisions gone, open windows null again.

    Give the log's `users` where they have time zones: the days a censored user was followed are local.
    """
    table = with_time_zone(table.filter(pl.col("time") <= moment), users)
    table = table.with_columns(moment=pl.lit(moment).cast(pl.Datetime("us", "UTC")))
    table = table.with_columns(today=local_day(local_clock(table, "moment")))
    seen = pl.col("return_observed") & (pl.col("return_time") <= pl.col("moment"))
    followed = pl.min_horizontal("return_days", pl.col("today") - pl.col("local_day").cast(pl.Int32))
    return table.with_columns(
        *(pl.when(matured_at(label) <= pl.col("moment")).then(pl.col(label)).alias(label) for label in LABEL_WINDOWS),
        return_days=pl.when(seen).then(pl.col("return_days")).otherwise(followed),
        return_observed=seen,
        return_time=pl.when(seen).then(pl.col("return_time")),
    ).select(outcome_schema().names())


def carried_labels(
    start: datetime,
    end: datetime,
    actions: Collection[str] | None = None,
    carried_share: float = 1 / 3,
    *,
    seconds: bool = True,
    known: Collection[str] | None = None,
) -> tuple[tuple[str, ...], dict[str, str]]:
    """(labels that a log from `start` to `end` can carry, label -> why for those it cannot).

    A window is carried when it closes within the log for decisions in at least the first `carried_share` of it: fewer
    would be the habits of a few early days. A label of an action that is not among `actions` (those that occur; None:
    any) would be a false zero, and so would be minutes where no event has its `seconds`. `known` are the labels that
    the log's reader vouches for, and then no other is carried (None: it does not say).
    """
    days = (end - start).total_seconds() / 86_400
    out = {}
    for label, window in LABEL_WINDOWS.items():
        if known is not None and label not in known:
            out[label] = f"this log can tell {', '.join(known) or 'no label'} only"
        elif known is None and window > days * (1 - carried_share):
            out[label] = f"the log spans {days:.1f} days; a window of {window} needs {window / (1 - carried_share):.0f}"
        elif actions is not None and label in _NEEDS and _NEEDS[label] not in actions:
            out[label] = f"the log has no {_NEEDS[label]!r} events"
        elif label == "minutes_1d" and not seconds:
            out[label] = "no event of the log has its seconds"
    return tuple(label for label in LABEL_WINDOWS if label not in out), out


def write_outcomes(
    store: LogStore, folder: Path, settings: OutcomeSettings = OutcomeSettings(), engine: str = "local"
) -> None:
    """Outcomes of a whole store, bucket by bucket: folder/00.parquet ... and outcomes.json with the labels carried.

    Memory is bounded by one bucket (a bucket per worker with the Ray engine, see `data.engines`).
    """
    labels, left_out = carried_labels(
        store.start,
        store.end,
        store.actions,
        settings.carried_share,
        seconds=store.has_seconds,
        known=store.labels,
    )
    folder.mkdir(parents=True, exist_ok=True)
    work = partial(_label_bucket, store.folder.resolve(), folder.resolve(), settings, labels)
    over_buckets(work, store.buckets, store.events_in_all, engine=engine, what="outcomes")
    clear_half_written(folder)
    facts = {"labels": list(labels), "left_out": left_out, "end": store.end.isoformat(), "buckets": store.buckets}
    (folder / "outcomes.json").write_text(json.dumps(facts, indent=1) + "\n")


def _label_bucket(logs: Path, folder: Path, settings: OutcomeSettings, labels: tuple[str, ...], bucket: int) -> int:
    """Write the outcomes of one bucket; how many events it holds."""
    store = LogStore(logs)
    events = store.events(bucket)
    items = store.items().select("item_id", "creator")
    made, users = store.decisions(bucket), store.users(bucket)
    table = outcomes(events, made, users, store.end, settings, items=items, labels=labels)
    write_whole(table, folder / f"{bucket:02d}.parquet")
    return events.height


@dataclass(frozen=True)
class Outcomes:
    """An outcomes folder read back: the table of all buckets, the labels it carries, why the others are left out."""

    table: pl.DataFrame
    labels: tuple[str, ...]
    left_out: Mapping[str, str]
    end: datetime


def read_outcomes(folder: Path) -> Outcomes:
    """Read what `write_outcomes` wrote; raises InputError where it is not there or broken."""
    try:
        facts = json.loads((folder / "outcomes.json").read_text())
    except (OSError, json.JSONDecodeError):
        raise InputError(f"{folder}: no outcomes here: run scripts/build_outcomes.py on the log first") from None
    table = pl.concat([read_parquet(folder / f"{bucket:02d}.parquet") for bucket in range(facts["buckets"])])
    return Outcomes(table, tuple(facts["labels"]), facts["left_out"], datetime.fromisoformat(facts["end"]))


def _closes_0(gap_minutes: float) -> pl.Expr:
    """A gap after the own session's last event; without an own session, with the one-day window (messages)."""
    gap = pl.duration(microseconds=round(gap_minutes * 60e6))
    own = pl.when(pl.col("over").is_not_null()).then(pl.max_horizontal("over", pl.col("time") + gap))
    return pl.coalesce(own, "closes_1")
