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
from functools import cached_property

import polars as pl

from data.interactions import interactions
from data.local_time import day_start, hour_of_week, local_clock, local_day, with_time_zone

WINDOWS = (1, 7, 14, 28, 60)  # days


@dataclass(frozen=True)
class Visits:
    """Decisions and visits of one bucket, in which ids are numbers: equal where the ids are, and good for nothing else.

    `day` is days since 1970, local. `user` counts from 0 in the order of user ids. No two users share a `session`.

    users: user, user_id, time_zone.
    decisions: row, user, decision, decision_id, user_id, time, time_zone, day, own_session (null: none), closes_{w}:
        the instant at which local day `day + w` ends; today: local day of the log's end.
    starts: one row per visit, sorted by user and time: user, session, time, day, hour (of week).
    events: events up to the end, with user, session, decision and item in the place of ids, with day and the local day
        on which their session starts (session_day).
    items: item, item_id: of the items in `events`.
    """

    users: pl.DataFrame
    decisions: pl.DataFrame
    starts: pl.DataFrame
    events: pl.DataFrame
    items: pl.DataFrame

    @cached_property
    def interactions(self) -> pl.DataFrame:
        """`data.interactions.interactions` of `events`, apart by local day.

        What one local day says of an item does not change afterwards: so a window that has closed never reopens.
        """
        return interactions(self.events, "user", "session", "decision", "item", "day", "session_day")


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
    gap = pl.duration(microseconds=round(gap_minutes * 60e6))
    events = events.filter(pl.col("time") <= end)
    made = decisions.filter(pl.col("time") <= end).select("decision_id", "user_id", "time", "surface")
    names = pl.concat([events["user_id"], made["user_id"]]).unique().sort()
    people = pl.DataFrame({"user": pl.int_range(len(names), eager=True), "user_id": names})
    people = with_time_zone(people, users)
    (item,) = _numbers(events["item_id"])
    decision, own_decision = _numbers(events["decision_id"], made["decision_id"])
    items = pl.DataFrame({"item": item, "item_id": events["item_id"]}).filter(pl.col("item").is_not_null())
    events = events.with_columns(decision=decision, item=item).join(
        people, on="user_id", how="left", maintain_order="left"
    )
    events = events.with_columns(_session_numbers(events))
    made = made.with_columns(decision=own_decision).join(people, on="user_id", how="left", maintain_order="left")
    made = made.with_row_index("row")

    sittings = (
        events.lazy()
        .group_by("session")
        .agg(
            pl.col("user", "session_id", "time_zone").first(),
            first=pl.col("time").min(),
            last=pl.col("time").max(),
            active=pl.col("time").filter(pl.col("action").is_in(active)).min(),
        )
        .collect()
    )
    own = _own_sessions(events, made, sittings, message_surfaces, gap)
    made = made.join(own, on="row", how="left", maintain_order="left")
    earliest = (
        made.filter(pl.col("own_session").is_not_null())
        .group_by(session="own_session")
        .agg(decided=pl.col("time").min())
    )
    sittings = sittings.join(earliest, on="session", how="left").with_columns(
        time=pl.min_horizontal("active", "decided"), first=pl.min_horizontal("first", "decided")
    )
    sittings = sittings.with_columns(session_day=local_day(local_clock(sittings, "first")))
    starts = sittings.filter(pl.col("active").is_not_null()).sort("user", "time", "session_id")
    wall = local_clock(starts)
    starts = starts.select("user", "session", "time", day=local_day(wall), hour=hour_of_week(wall))

    made = made.with_columns(day=local_day(local_clock(made)), end=pl.lit(end).cast(pl.Datetime("us", "UTC")))
    made = made.with_columns(today=local_day(local_clock(made, "end")))
    made = made.join(_closing(made), on=["time_zone", "day"], how="left", maintain_order="left").join(
        sittings.select(own_session="session", over=pl.col("last") + gap),
        on="own_session",
        how="left",
        maintain_order="left",
    )
    events = (
        events.with_columns(day=local_day(local_clock(events)))
        .join(sittings.select("session", "session_day"), on="session", how="left", maintain_order="left")
        .select("user", "session", "decision", "item", "time", "surface", "action", "seconds", "day", "session_day")
    )
    return Visits(people, made, starts, events, items.unique("item"))


def _numbers(*ids: pl.Series) -> list[pl.Series]:
    """The ids of several columns as numbers, the same for the same one; null stays null."""
    kind = pl.Categorical(pl.Categories.random())
    named = [column.cast(kind) for column in ids]  # all of them before any is let go, or the numbers start anew
    return [column.to_physical() for column in named]


def _session_numbers(events: pl.DataFrame) -> pl.Series:
    """A number for the session of each of `events`, which are sorted by user: mostly, a session is a run of rows."""
    user, session = pl.col("user"), pl.col("session_id")
    run = ((user != user.shift()) | (session != session.shift())).fill_null(True)
    begins = events.filter(run).select("user", "session_id")
    numbers = begins.unique(maintain_order=True).with_row_index("session")
    number = begins.join(numbers, on=["user", "session_id"], how="left", maintain_order="left")["session"]
    return number.gather(events.select(run.cum_sum() - 1).to_series())


def _closing(made: pl.DataFrame) -> pl.DataFrame:
    """time_zone, day and closes_{w}, a row for each zone and day in `made`."""
    days = made.select("time_zone", "day").unique()
    return days.with_columns(day_start(days, pl.col("day") + w + 1).alias(f"closes_{w}") for w in WINDOWS)


def _own_sessions(
    events: pl.DataFrame, made: pl.DataFrame, sittings: pl.DataFrame, message_surfaces: tuple[str, ...], gap: pl.Expr
) -> pl.DataFrame:
    """(row, own_session) for the decisions that were made in a session."""
    made = made.filter(~pl.col("surface").is_in(message_surfaces)).select("row", "user", "decision", "time")
    spans = sittings.select("user", "session", "session_id", "first", "last")
    linked = (
        events.filter(pl.col("decision").is_not_null())
        .unique(["user", "decision"], keep="first", maintain_order=True)
        .select("user", "decision", "session")
    )
    by_id = (
        made.join(linked, on=["user", "decision"])
        .join(spans.drop("user"), on="session")
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
    return pl.concat([part.select("row", own_session="session") for part in (by_id, back, ahead)])
