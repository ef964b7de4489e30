"""Visits: when users came, and which visit a decision was made in. What every outcome label is counted from.

A visit is a session with at least one active event. It counts on the local day on which it starts, once, however far
past midnight it runs. The visit that a decision was made in starts no later than the decision; so "visits that start
after the decision" and "visits on later local days" leave it out by construction.

A decision's own session is, in this order: the session of the first event that carries its id, if the decision lies
within it or a gap from it; the session it lies in or follows by less than a gap; the one that follows it by less than
a gap. A message is decided on in no session: being brought back by it is a return.
"""

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from data.local_time import day_start, hour_of_week, local_clock, local_day, with_time_zone

WINDOWS = (1, 7, 14, 28, 60)  # days


@dataclass(frozen=True)
class Visits:
    """Decisions and visits of one bucket; `user` is a dense number within it, `day` days since 1970, local.

    decisions: row, user, decision_id, user_id, time, time_zone, day, own_session (null: none), closes_{w}: the
        instant at which local day `day + w` ends; today: local day of the log's end.
    starts: one row per visit, sorted by user and time: user, session_id, time, day, hour (of week).
    events: events up to the end, with user, day and the local day on which their session starts (session_day).
    """

    decisions: pl.DataFrame
    starts: pl.DataFrame
    events: pl.DataFrame


def visits(
    events: pl.DataFrame,
    decisions: pl.DataFrame,
    users: pl.DataFrame | None,
    end: datetime,
    *,
    active: tuple[str, ...],
    message_surfaces: tuple[str, ...],
    gap_minutes: float,
) -> Visits:
    """What was known at `end` (UTC), of sessionized `events` and of `decisions`; later rows are not looked at."""
    events = events.filter(pl.col("time") <= end)
    made = decisions.filter(pl.col("time") <= end).select("decision_id", "user_id", "time", "surface")
    names = pl.concat([events["user_id"], made["user_id"]]).unique().sort()
    numbers = pl.DataFrame({"user_id": names, "user": pl.Series(range(len(names)), dtype=pl.Int64)})
    events = events.join(numbers, on="user_id", how="left", maintain_order="left")
    made = made.join(numbers, on="user_id", how="left", maintain_order="left").with_row_index("row")

    sittings = (
        events.lazy()
        .group_by("user", "user_id", "session_id")
        .agg(
            first=pl.col("time").min(),
            last=pl.col("time").max(),
            active=pl.col("time").filter(pl.col("action").is_in(active)).min(),
        )
        .collect()
    )
    own = _own_sessions(events, made, sittings, message_surfaces, pl.duration(microseconds=round(gap_minutes * 60e6)))
    made = made.join(own, on="row", how="left", maintain_order="left")

    earliest = (
        made.filter(pl.col("own_session").is_not_null())
        .group_by("user", session_id="own_session")
        .agg(decided=pl.col("time").min())
    )
    sittings = sittings.join(earliest, on=["user", "session_id"], how="left").with_columns(
        time=pl.min_horizontal("active", "decided"), first=pl.min_horizontal("first", "decided")
    )
    sittings = with_time_zone(sittings, users)
    sittings = sittings.with_columns(session_day=local_day(local_clock(sittings, "first")))
    starts = sittings.filter(pl.col("active").is_not_null()).sort("user", "time", "session_id")
    wall = local_clock(starts)
    starts = starts.select("user", "session_id", "time", day=local_day(wall), hour=hour_of_week(wall))

    made = with_time_zone(made, users)
    made = made.with_columns(day=local_day(local_clock(made)), end=pl.lit(end).cast(pl.Datetime("us", "UTC")))
    made = made.with_columns(day_start(made, pl.col("day") + w + 1).alias(f"closes_{w}") for w in WINDOWS).with_columns(
        today=local_day(local_clock(made, "end"))
    )
    over = pl.col("last") + pl.duration(microseconds=round(gap_minutes * 60e6))
    made = made.join(
        sittings.select("user", own_session="session_id", over=over),
        on=["user", "own_session"],
        how="left",
        maintain_order="left",
    )
    events = with_time_zone(events, users)
    events = events.with_columns(day=local_day(local_clock(events))).join(
        sittings.select("user", "session_id", "session_day"),
        on=["user", "session_id"],
        how="left",
        maintain_order="left",
    )
    return Visits(made.sort("row"), starts, events)


def _own_sessions(
    events: pl.DataFrame, made: pl.DataFrame, sittings: pl.DataFrame, message_surfaces: tuple[str, ...], gap: pl.Expr
) -> pl.DataFrame:
    """(row, own_session) for the decisions that were made in a session."""
    made = made.filter(~pl.col("surface").is_in(message_surfaces)).select("row", "user", "decision_id", "time")
    spans = sittings.select("user", "session_id", "first", "last")
    linked = (
        events.filter(pl.col("decision_id").is_not_null())
        .unique(["user", "decision_id"], keep="first", maintain_order=True)
        .select("user", "decision_id", "session_id")
    )
    by_id = (
        made.join(linked, on=["user", "decision_id"])
        .join(spans, on=["user", "session_id"])
        .filter((pl.col("time") >= pl.col("first") - gap) & (pl.col("time") <= pl.col("last") + gap))
    )
    rest = made.join(by_id, on="row", how="anti").sort("time")
    spans = spans.sort("first", "session_id")
    back = rest.join_asof(
        spans, left_on="time", right_on="first", by="user", strategy="backward", check_sortedness=False
    ).filter(pl.col("time") <= pl.col("last") + gap)
    rest = rest.join(back, on="row", how="anti")
    ahead = rest.join_asof(
        spans, left_on="time", right_on="first", by="user", strategy="forward", check_sortedness=False, coalesce=False
    ).filter(pl.col("first") <= pl.col("time") + gap)
    return pl.concat([part.select("row", own_session="session_id") for part in (by_id, back, ahead)])
