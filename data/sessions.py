"""Sessions: sittings of one user, apart from each other by a gap; and, where a log has no decisions, a stand-in.

A log without decisions still says what was consumed together. `session_decisions` lets every session stand for one
decision, made when the session starts, whose slate is what the session then held. It carries no propensity: nobody
knows what else could have been shown.
"""

import polars as pl

from data.schema import polars_schema

GAP_MINUTES = 30.0
SLATE_SIZE = 5
ORGANIC = "organic"


def sessionize(events: pl.DataFrame, gap_minutes: float = GAP_MINUTES) -> pl.DataFrame:
    """`events` sorted by (user, time), with session_id filled where it is null; ids that are there are kept.

    A user's events belong together as long as no two neighbours are more than `gap_minutes` apart. An event without
    an id takes the id nearest before it (else after it) in its sitting; a sitting without any is named for its user
    and its first microsecond.
    """
    events = by_user_and_time(events)
    if events["session_id"].null_count() == 0:
        return events
    gap = pl.duration(microseconds=round(gap_minutes * 60e6))
    far = pl.col("time").diff() > gap
    other = pl.col("user_id") != pl.col("user_id").shift()
    events = events.with_columns(begins=(far | other).fill_null(True)).with_columns(sitting=pl.col("begins").cum_sum())
    name = pl.col("user_id") + "@" + pl.col("time").to_physical().cast(pl.String)
    names = events.filter("begins").select(name).to_series()
    events = events.with_columns(named=names.gather(events["sitting"] - 1))
    if events["session_id"].null_count() < events.height:
        near = pl.col("session_id").forward_fill().over("sitting")
        after = pl.col("session_id").backward_fill().over("sitting")
        events = events.with_columns(named=pl.coalesce(near, after, "named"))
    return events.with_columns(session_id="named").drop("begins", "sitting", "named")


def by_user_and_time(frame: pl.DataFrame) -> pl.DataFrame:
    """`frame` sorted by (user_id, time), equal rows in the order they had. Sorts numbers, which is faster than ids."""
    user, before = frame["user_id"], frame["user_id"].shift()
    if ((user > before) | ((user == before) & (frame["time"] >= frame["time"].shift())))[1:].fill_null(False).all():
        return frame
    names = frame["user_id"].unique().sort()
    numbers = pl.DataFrame({"user_id": names, "user": pl.Series(range(len(names)), dtype=pl.UInt32)})
    order = frame.select("user_id", "time").join(
        numbers, on="user_id", how="left", maintain_order="left", nulls_equal=True
    )
    return frame[order.select(pl.arg_sort_by("user", "time", maintain_order=True)).to_series()]


def session_decisions(events: pl.DataFrame, slate_size: int = SLATE_SIZE) -> pl.DataFrame:
    """One row of the decisions table per session that holds an item: id and time of the session, policy "organic".

    The slate is the first `slate_size` different items in order; propensity is null. `events` have session ids.
    """
    firsts = (
        events.lazy()
        .filter(pl.col("item_id").is_not_null())
        .unique(["user_id", "session_id", "item_id"], keep="first", maintain_order=True)
        .group_by("user_id", "session_id", maintain_order=True)
        .agg(slate=pl.col("item_id").head(slate_size))
    )
    starts = events.lazy().group_by("user_id", "session_id").agg(pl.col("time").min(), pl.col("surface").first())
    decisions = firsts.join(starts, on=["user_id", "session_id"], how="left", maintain_order="left")
    wanted = polars_schema("decisions")
    filled = {"decision_id": pl.col("session_id"), "policy": pl.lit(ORGANIC)}
    here = {"user_id", "time", "surface", "slate"}
    columns = [
        (pl.col(name) if name in here else filled.get(name, pl.lit(None))).cast(dtype).alias(name)
        for name, dtype in wanted.items()
    ]
    return decisions.select(columns).collect()


def link_sessions(events: pl.DataFrame) -> pl.DataFrame:
    """`events` whose decision is their session, as `session_decisions` makes them."""
    return events.with_columns(decision_id=pl.col("session_id"))


def own_session_ids(events: pl.DataFrame) -> pl.DataFrame:
    """`events` whose session ids are prefixed with their user's, so that no two users share one.

    (Ids that `sessionize` made have it already.)
    """
    user = pl.col("user_id")
    own = pl.col("session_id").str.starts_with(user + "@")
    return events.with_columns(
        session_id=pl.when(own).then(pl.col("session_id")).otherwise(user + ":" + pl.col("session_id"))
    )
