"""Labels of the moment: what the listener did with the decision right then. What we claim not to be fooled by."""

import polars as pl

from data.visits import Visits

RESPONSES = {"plays": "play", "completes": "complete", "saves": "save", "dislikes": "dislike", "skips": "skip"}


def responses(seen: Visits) -> pl.DataFrame:
    """Per decision row: plays, completes, saves, dislikes, skips: items with such an event that carries its id.

    They are counted in the decision's own session; where there is none (a message), to the end of local day D + 1.
    """
    made = seen.decisions.select("row", "user", "decision", "own_session", decided="day")
    answers = seen.events.filter(pl.col("action").is_in(list(RESPONSES.values())) & pl.col("item").is_not_null())
    own = (pl.col("session") == pl.col("own_session")).fill_null(pl.col("day") <= pl.col("decided") + 1)
    counts = (
        answers.lazy()
        .select("user", "decision", "session", "day", "action", "item")
        .join(made.lazy(), on=["user", "decision"])
        .filter(own)
        .unique(["row", "action", "item"])
        .group_by("row")
        .agg((pl.col("action") == action).sum().cast(pl.Int16).alias(label) for label, action in RESPONSES.items())
        .collect()
    )
    labels = made.select("row").join(counts, on="row", how="left", maintain_order="left")
    return labels.with_columns(pl.col(*RESPONSES).fill_null(0))


ENDS = ("complete", "skip")
"""Reactions that end a listening: what comes after them is another one."""


def listenings(events: pl.DataFrame) -> pl.DataFrame:
    """user, time, seconds of every listening in `events` (as in `data.visits.Visits`) that says how long it was.

    One begins with a play, or with whatever follows the end of the one before, within a session, decision and item.
    """
    same = ["session", "decision", "item"]
    heard = events.filter(pl.col("item").is_not_null()).select("user", "time", "action", "seconds", *same)
    heard = heard.sort(same, maintain_order=True)  # within each, in order of time, as events come
    other = pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift()) for name in same).fill_null(True)
    first = pl.int_range(pl.len()) == 0
    again = (pl.col("action") == "play") | pl.col("action").shift().is_in(ENDS).fill_null(False)
    return (
        heard.with_columns(listening=(first | other | again).cum_sum())
        .group_by("listening", maintain_order=True)
        .agg(pl.col("user", "time").first(), pl.col("seconds").max())
        .filter(pl.col("seconds") > 0)
        .drop("listening")
    )


def minutes(seen: Visits) -> pl.DataFrame:
    """Per decision row: minutes_1d, played from the decision on, its own session included, to the end of day D + 1.

    What counts is when a listening began. A play and the complete or skip that ends it may both say how long it was,
    which is counted once; playing an item again is another listening.
    """
    total = (
        listenings(seen.events)
        .sort("user", "time")
        .select("user", played="time", total=pl.col("seconds").cast(pl.Float64).cum_sum().over("user"))
        .sort("played", maintain_order=True)
    )
    upto = [
        seen.decisions.select("row", "user", time=moment)
        .sort("time")
        .join_asof(
            total,
            left_on="time",
            right_on="played",
            by="user",
            allow_exact_matches=False,
            check_sortedness=False,
        )
        .select("row", pl.col("total").fill_null(0.0).alias(moment))
        for moment in ("time", "closes_1")
    ]
    both = upto[0].join(upto[1], on="row")
    return both.select("row", minutes_1d=((pl.col("closes_1") - pl.col("time")) / 60).cast(pl.Float32))
