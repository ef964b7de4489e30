"""Labels of reach and conversion: can this user still be reached after 28 days, and did they convert?"""

import polars as pl

from data.visits import Visits


def departures(events: pl.DataFrame) -> pl.DataFrame:
    """user_id and left_at: when each user who opted out or bounced did so first. Of events as in a log."""
    left = events.filter(pl.col("action").is_in(["opt_out", "bounce"]))
    return left.group_by("user_id").agg(left_at=pl.col("time").min()).sort("user_id")


def reachable(seen: Visits) -> pl.DataFrame:
    """Per decision row: reachable_28 and unreachable_reason ("opt_out", "bounce", "dormant"; null: reachable).

    reachable_28: whether the user, at the end of local day D + 28, has neither opted out nor bounced and has visited on
    one of the 28 days. It is a state: an opt-out counts whenever it was, before the decision too. The earlier of
    opt-out and bounce is the reason; a user who did neither and did not visit is dormant.
    """
    gone = seen.events.group_by("user").agg(
        pl.col("time").filter(pl.col("action") == action).min().alias(action) for action in ("opt_out", "bounce")
    )
    rows = seen.decisions.select("row", "user", "day", "closes_28").join(gone, on="user", how="left")
    rows = rows.with_columns(pl.when(pl.col(a) < pl.col("closes_28")).then(a).alias(a) for a in ("opt_out", "bounce"))
    visit = (
        rows.select("row", "user", "day")
        .sort("day")
        .join_asof(
            seen.starts.select("user", visit="day").sort("visit"),
            left_on=pl.col("day") + 1,
            right_on="visit",
            by="user",
            strategy="forward",
            check_sortedness=False,
            coalesce=False,
        )
    )
    rows = rows.join(
        visit.select("row", dormant=(pl.col("visit") <= pl.col("day") + 28).not_().fill_null(True)), on="row"
    )
    out, bounced = pl.col("opt_out"), pl.col("bounce")
    reason = (
        pl.when(out.is_not_null() & (bounced.is_null() | (out <= bounced)))
        .then(pl.lit("opt_out"))
        .when(bounced.is_not_null())
        .then(pl.lit("bounce"))
        .when("dormant")
        .then(pl.lit("dormant"))
    )
    return rows.select("row", unreachable_reason=reason).with_columns(
        reachable_28=pl.col("unreachable_reason").is_null()
    )


def converted(seen: Visits) -> pl.DataFrame:
    """Per decision row: converted_28, a conversion before the end of local day D + 28, in a later session."""
    sittings = seen.events.group_by("session").agg(
        pl.col("user").first(),
        began=pl.col("time").min(),
        time=pl.col("time").filter(pl.col("action") == "convert").min(),
    )
    own = seen.decisions.group_by(session="own_session").agg(decided=pl.col("time").min())
    bought = (
        sittings.filter(pl.col("time").is_not_null())
        .join(own, on="session", how="left")
        .with_columns(began=pl.min_horizontal("began", "decided"))
        .sort("user", "began")
        # Of the conversions in this or a later session, the earliest.
        .with_columns(converted=pl.col("time").cum_min(reverse=True).over("user"))
        .select("user", "began", "converted")
        .sort("began")
    )
    found = (
        seen.decisions.select("row", "user", "time", "closes_28")
        .sort("time")
        .join_asof(
            bought,
            left_on="time",
            right_on="began",
            by="user",
            strategy="forward",
            allow_exact_matches=False,
            check_sortedness=False,
            coalesce=False,
        )
    )
    return found.select("row", converted_28=(pl.col("converted") < pl.col("closes_28")).fill_null(False))
