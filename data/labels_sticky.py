"""Stickiness: on how many days does a user come back to what a decision let them discover?

A decision discovers a creator (an item, where the creator is not known) for a user when the first time the log shows
them dealing with it is through this decision and they took it: played it without skipping or disliking. A day counts
when a visit that starts on it takes the same creator again. After Maystre et al., "Optimizing audio recommendations
for the long term" (2023). At the start of a log everything is new; leave its first weeks out where that matters.
"""

import polars as pl

from data.schema import ACTION_CODE
from data.visits import Visits


def sticky_days(
    seen: Visits, items: pl.DataFrame | None, taken: tuple[str, ...], windows: tuple[int, ...] = (28, 60)
) -> pl.DataFrame:
    """Per decision row: discovered, sticky_days_{w} for each of `windows` (0 where nothing was discovered).

    sticky_days_{w}: on how many days, after D and by the end of D + w, a visit starts in which the user takes again
    what the decision let them discover.
    `discovered` counts the creators (items) that the decision let the user discover.
    """
    dealt = seen.interactions.with_columns(
        _key(seen, items), took=pl.col("action").is_in([ACTION_CODE[a] for a in taken])
    )
    first = dealt.unique(["user", "key"], keep="first", maintain_order=True)
    here = ["user", "key", "decision", "session", "day"]
    took = dealt.filter("took")
    discovered = (
        first.filter(pl.col("decision").is_not_null())
        .join(took, on=here, how="semi")
        .join(seen.decisions.select("row", "user", "decision", decided="day"), on=["user", "decision"])
        .select("row", "user", "key", "decided")
    )
    again = took.select("user", "key", "session_day", "day").unique()
    came = discovered.join(again, on=["user", "key"]).filter(pl.col("session_day") > pl.col("decided"))
    counts = came.group_by("row").agg(
        pl.col("session_day")
        .filter(pl.col("day") <= pl.col("decided") + w)
        .n_unique()
        .cast(pl.Int16)
        .alias(f"sticky_days_{w}")
        for w in windows
    )
    labels = seen.decisions.select("row")
    for found in (discovered.group_by("row").agg(discovered=pl.len().cast(pl.Int16)), counts):
        labels = labels.join(found, on="row", how="left", maintain_order="left")
    return labels.with_columns(pl.exclude("row").fill_null(0))


def _key(seen: Visits, items: pl.DataFrame | None) -> pl.Series:
    """What each interaction could let one discover, as a number: the creator of its item, or else the item."""
    item = seen.interactions["item"].alias("key")
    if items is None:
        return item
    known = seen.items.join(items.select("item_id", "creator"), on="item_id", how="left")
    creator = pl.when(pl.col("creator") != "").then("creator:" + pl.col("creator"))
    keys = known.select("item", key=pl.coalesce(creator, "item:" + pl.col("item_id")).rank("dense"))
    return item.replace_strict(keys["item"], keys["key"], return_dtype=pl.UInt32)
