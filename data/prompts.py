"""Prompts: which visits came after a message, and which nobody asked for.

A message is a decision or an event on a message surface: of a decision, the time it was to be sent (`send_at`), or made
where the log does not say. A visit is prompted when a message lies at most `hours` before its start, the bounds
included: opening a push is the message and the visit at once. What a listener sees in the app because they have come
prompts no visit but a later one, so in_app messages count only from before the visit's session.
"""

import polars as pl

from data.visits import Visits

IN_APP = "in_app"


def messages(events: pl.DataFrame, decisions: pl.DataFrame, surfaces: tuple[str, ...]) -> pl.DataFrame:
    """user_id, time, surface of every message in a log's tables, sorted by time."""
    sent = decisions.filter(pl.col("surface").is_in(surfaces))
    sent = sent.select("user_id", pl.coalesce("send_at", "time").alias("time"), "surface")
    seen = events.filter(pl.col("surface").is_in(surfaces)).select("user_id", "time", "surface")
    return pl.concat([sent, seen]).sort("time")


def prompted(seen: Visits, sent: pl.DataFrame, hours: float) -> pl.Series:
    """Per row of `seen.starts`, True where a message was `sent` (`messages`) in the `hours` before the visit."""
    sent = sent.join(seen.users, on="user_id").sort("time")
    spans = pl.concat(
        [
            seen.events.select("session", "time"),
            seen.decisions.select(pl.col("own_session").alias("session"), "time"),
        ]
    )
    began = spans.group_by("session").agg(began=pl.col("time").min())
    visit = seen.starts.with_row_index("visit").join(began, on="session", how="left")
    near = pl.duration(microseconds=round(hours * 3.6e9))
    found = []
    for inside, start, exact in ((False, "time", True), (True, "began", False)):
        there = sent.filter((pl.col("surface") == IN_APP) == inside).select("user", sent="time")
        last = visit.sort(start).join_asof(
            there,
            left_on=start,
            right_on="sent",
            by="user",
            strategy="backward",
            allow_exact_matches=exact,
            check_sortedness=False,
            coalesce=False,
        )
        found.append(last.filter(pl.col("sent") >= pl.col("time") - near).select("visit"))
    rows = pl.concat(found)["visit"].unique().implode()
    return visit.sort("visit").select(prompted=pl.col("visit").is_in(rows)).to_series()
