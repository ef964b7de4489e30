"""Labels of the moment: what the listener did with the decision right then. What we claim not to be fooled by."""

import polars as pl

from data.interactions import interactions
from data.visits import Visits

RESPONSES = {"plays": "play", "completes": "complete", "saves": "save", "dislikes": "dislike", "skips": "skip"}


def responses(seen: Visits) -> pl.DataFrame:
    """Per decision row: plays, completes, saves, dislikes, skips: items with such an event that carries its id.

    They are counted in the decision's own session; where there is none (a message), to the end of local day D + 1.
    """
    made = seen.decisions.select("row", "user", "decision_id", "own_session", decided="day")
    answers = seen.events.filter(pl.col("action").is_in(list(RESPONSES.values())) & pl.col("item_id").is_not_null())
    own = (pl.col("session_id") == pl.col("own_session")).fill_null(pl.col("day") <= pl.col("decided") + 1)
    counts = (
        answers.join(made, on=["user", "decision_id"])
        .filter(own)
        .group_by("row")
        .agg(
            pl.col("item_id").filter(pl.col("action") == action).n_unique().cast(pl.Int16).alias(label)
            for label, action in RESPONSES.items()
        )
    )
    labels = made.select("row").join(counts, on="row", how="left", maintain_order="left")
    return labels.with_columns(pl.col(*RESPONSES).fill_null(0))


def minutes(seen: Visits) -> pl.DataFrame:
    """Per decision row: minutes_1d, played from the decision on, its own session included, to the end of day D + 1."""
    played = interactions(seen.events, "user", "day").filter(pl.col("seconds") > 0)
    total = (
        played.select("user", "time", seconds=pl.col("seconds").cast(pl.Float64))
        .sort("user", "time")
        .with_columns(total=pl.col("seconds").cum_sum().over("user"))
        .select("user", "total", played="time")
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
