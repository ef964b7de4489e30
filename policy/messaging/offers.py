"""Where opportunities come from, which of them a listener may be told, and what each allows.

    offers = Offers.of(run, items, live_days=2.0)             # submitted by domains, else the log's value signals
    told = told_to(offers.live(at, at), who, messages, most)  # a row for each listener and opportunity
    expires, channels = limits(contexts.eligible, user_ids, told, messages)

The planner and the server ask here alike, so that what one may send the other may.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.errors import InputError
from data.opportunities import OpportunityRegistry, for_users, from_signals
from data.store import read_parquet
from data.world.message_record import SIGNALS
from data.world.opportunities import HOLD_ID
from data.world.settings import CHANNELS
from policy.messaging.rules import NO_EXPIRY

SUBMITTED = "opportunities"  # in a run: what domains submitted


@dataclass(frozen=True)
class Offers:
    """Where opportunities come from. live (at, until) -> OPPORTUNITIES."""

    live: Callable[[datetime, datetime], pl.DataFrame]

    @staticmethod
    def of(run: Path, items: pl.DataFrame, live_days: float) -> Offers:
        """Those that were submitted, else the log's value signals. Raises InputError where there is neither."""
        if (run / SUBMITTED).is_dir():
            return Offers(OpportunityRegistry(run / SUBMITTED).live)
        if not (run / "logs" / SIGNALS).is_file():
            raise InputError(f"{run}: no opportunities: submit some, or simulate --world messaging")
        table = from_signals(read_parquet(run / "logs" / SIGNALS), items, live_days)
        return Offers(lambda at, until: table.filter((pl.col("created_at") <= until) & (pl.col("expires_at") > at)))


def told_to(live: pl.DataFrame, who: pl.DataFrame, messages: pl.Series, most: int) -> pl.DataFrame:
    """The opportunities (OPPORTUNITIES) that each of `who` (user_id, time) is decided among: `most` at the most, those
    that claim the highest value, by user, the highest first; of one message the newest. messages: ids of message items.
    """
    return (
        for_users(live, who["user_id"].to_list())
        .filter(pl.col("item_id").is_in(messages.implode()) & (pl.col("item_id") != HOLD_ID))
        .join(who, on="user_id", how="inner", maintain_order="left")
        .filter((pl.col("created_at") <= pl.col("time")) & (pl.col("expires_at") > pl.col("time")).fill_null(True))
        .sort("created_at", "opportunity_id")
        .unique(["user_id", "item_id"], keep="last", maintain_order=True)
        .sort("user_id", "value", "item_id", descending=[False, True, False])
        .group_by("user_id", maintain_order=True)
        .head(most)
    )


def limits(
    eligible: NDArray[np.int32], user_ids: Sequence[str], told: pl.DataFrame, messages: pl.Series
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(expires (B, M), channels (B, M, channels)) of the opportunities of users in the order of `user_ids` (B,)."""
    place = pl.DataFrame({"user_id": pl.Series(user_ids, dtype=pl.String)}).with_row_index("row")
    number = pl.DataFrame({"item_id": messages, "item": pl.Series(range(len(messages)), dtype=pl.Int32)})
    rows = told.join(place, on="user_id", how="left", maintain_order="left").join(
        number, on="item_id", how="left", maintain_order="left"
    )
    rows = rows.with_columns(column=pl.int_range(pl.len()).over("user_id"))
    at = rows["row"].to_numpy(), rows["column"].to_numpy()
    assert np.array_equal(eligible[at], rows["item"].to_numpy())
    expires, by = np.full(eligible.shape, NO_EXPIRY), np.zeros((*eligible.shape, len(CHANNELS)), np.bool_)
    expires[at] = rows["expires_at"].to_physical().fill_null(NO_EXPIRY).to_numpy()
    for c, channel in enumerate(CHANNELS):
        by[(*at, c)] = rows["channels"].list.contains(channel).fill_null(True).to_numpy()
    return expires, by
