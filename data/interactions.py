"""Interactions: all that one listener did with one item in one sitting, as one row with its strongest reaction."""

import polars as pl

from data.schema import ACTION_CODE, REACTION_STRENGTH, SURFACE_CODE

_RANK = {action: rank for rank, action in enumerate(REACTION_STRENGTH)}
_CODE_OF_RANK = {rank: ACTION_CODE[action] for action, rank in _RANK.items()}


def interactions(
    events: pl.DataFrame,
    user: str = "user_id",
    session: str = "session_id",
    decision: str = "decision_id",
    item: str = "item_id",
    *keys: str,
) -> pl.DataFrame:
    """One row per (user, session, decision, item, *keys) of sessionized `events`; ordered by user, time.

    The first four name the columns that hold these ids, or numbers that stand for them. Columns beside the keys: time
    (first event), settled (last event), action (code of the strongest reaction), surface (code), seconds (the longest
    any of its events reports, 0 where none does: a play and its complete both carry the time played, which must not be
    counted twice).
    """
    return (
        events.lazy()
        .with_row_index("order")
        .filter(pl.col(item).is_not_null())
        .with_columns(
            rank=pl.col("action").replace_strict(_RANK, return_dtype=pl.UInt8),
            surface=pl.col("surface").replace_strict(SURFACE_CODE, return_dtype=pl.Int8),
        )
        .group_by(user, session, decision, item, *keys)
        .agg(
            pl.col("time").min(),
            pl.col("time").max().alias("settled"),
            pl.col("rank").max(),
            pl.col("surface").first(),
            pl.col("seconds").max().fill_null(0.0),
            pl.col("order").min(),
        )
        .sort(user, "time", "order")
        .with_columns(action=pl.col("rank").replace_strict(_CODE_OF_RANK, return_dtype=pl.Int8))
        .drop("rank", "order")
        .collect()
    )
