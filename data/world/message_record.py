"""Messages in the log: a decision per listener and day, held ones included, and what came of what was sent.

A held decision shows the item "hold" on the surface "other", with neither channel nor send_at: nothing was put
anywhere, and yet it was decided with a probability.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.world.messages import IN_APP, Mailing
from data.world.opportunities import MessageItems
from data.world.settings import CHANNELS

OPPORTUNITIES = pl.Schema(
    {"user_id": pl.String(), "item_id": pl.String(), "time": pl.Datetime("us", "UTC"), "value": pl.Float32()}
)
SIGNALS = "opportunities.parquet"  # in a log: what the sending domains said of each opportunity
_NO_EVENTS = pl.Schema(
    {
        "user_id": pl.String(),
        "time": pl.Datetime("us", "UTC"),
        "surface": pl.String(),
        "action": pl.String(),
        "item_id": pl.String(),
        "session_id": pl.String(),
        "decision_id": pl.String(),
    }
)


def message_decisions(messages: MessageItems, mailings: list[Mailing], users: pl.Series) -> pl.DataFrame:
    """The decisions about messages, in the columns of DECISIONS that they fill."""
    keys = _keys(mailings, users)
    ids = messages.frame["item_id"]
    sent = _joined([m.sent for m in mailings], np.int32)
    channel = _channels(_joined([m.channel for m in mailings], np.int8))
    send_at = _joined([m.send_at for m in mailings], np.int64)
    eligible = np.concatenate([m.eligible for m in mailings]) if mailings else np.empty((0, 1), np.int32)
    offered = np.concatenate([eligible, np.full((len(eligible), 1), messages.hold, np.int32)], axis=1)
    candidates = pl.DataFrame(
        {
            "row": np.repeat(np.arange(len(offered)), offered.shape[1])[offered.ravel() >= 0],
            "candidates": ids.gather(offered.ravel()[offered.ravel() >= 0]),
        }
    )
    listed = candidates.group_by("row", maintain_order=True).agg("candidates")["candidates"]
    return keys.select(
        "decision_id",
        "user_id",
        time=_time(_joined([m.time for m in mailings], np.int64)),
        surface=channel.fill_null("other"),
        policy=pl.Series([m.policy for m in mailings for _ in range(len(m.listeners))], dtype=pl.String),
        slate=ids.gather(np.where(sent >= 0, sent, messages.hold)).reshape((-1, 1)).arr.to_list()
        if len(sent)
        else pl.Series([], dtype=pl.List(pl.String)),
        propensity=np.exp(np.minimum(_joined([m.log_propensity for m in mailings], np.float64), 0.0)),
        candidates=listed,
        channel=channel,
        send_at=_time_or_null(send_at),
    )


def message_signals(messages: MessageItems, mailings: list[Mailing], users: pl.Series) -> pl.DataFrame:
    """What the domains said of each opportunity: user_id, item_id, time (of the decision) and value."""
    parts = [pl.DataFrame(schema=OPPORTUNITIES)]
    ids = messages.frame["item_id"]
    for mailing in mailings:
        row, column = np.nonzero(mailing.eligible >= 0)
        parts.append(
            pl.DataFrame(
                {
                    "user_id": users.gather(mailing.listeners[row]),
                    "item_id": ids.gather(mailing.eligible[row, column]),
                    "time": _time(mailing.time[row]),
                    "value": mailing.value[row, column],
                },
                schema=OPPORTUNITIES,
            )
        )
    return pl.concat(parts)


def message_events(messages: MessageItems, mailings: list[Mailing], users: pl.Series) -> pl.DataFrame:
    """Opens, dismissals and opt-outs. What is opened, or seen in the app, belongs to the visit it came with."""
    keys = _keys(mailings, users)
    sent, seen_in = _joined([m.sent for m in mailings], np.int32), _joined([m.seen_in for m in mailings], np.int8)
    codes = _joined([m.channel for m in mailings], np.int8)
    channel = _channels(codes)
    parts = []
    for action, moments in (
        ("open", [m.opened for m in mailings]),
        ("dismiss", [m.dismissed for m in mailings]),
        ("opt_out", [m.opted_out for m in mailings]),
    ):
        when = _joined(moments, np.int64)
        rows = np.flatnonzero(when >= 0)
        within = (codes[rows] == IN_APP) | (_joined([m.opened for m in mailings], np.int64)[rows] >= 0)
        session = keys.select("day", "user_id")[rows].with_columns(slot=pl.Series(seen_in[rows]))
        name = session.select(pl.format("s{}-{}-{}", pl.col("day").cast(pl.String).str.zfill(4), "slot", "user_id"))
        parts.append(
            pl.DataFrame(
                {
                    "user_id": keys["user_id"].gather(rows),
                    "time": _time(when[rows]),
                    "surface": channel.gather(rows),
                    "action": pl.repeat(action, len(rows), eager=True, dtype=pl.String),
                    "item_id": messages.frame["item_id"].gather(sent[rows]),
                    "session_id": pl.select(pl.when(pl.Series(within)).then(name.to_series())).to_series(),
                    "decision_id": keys["decision_id"].gather(rows),
                },
                schema=_NO_EVENTS,
            )
        )
    return pl.concat(parts).sort("time", "decision_id")


def _keys(mailings: list[Mailing], users: pl.Series) -> pl.DataFrame:
    who = _joined([m.listeners for m in mailings], np.int32)
    day = np.repeat([m.day for m in mailings], [len(m.listeners) for m in mailings]).astype(np.int32)
    frame = pl.DataFrame({"user_id": users.gather(who), "day": day})
    return frame.with_columns(
        decision_id=pl.format("m{}-{}", pl.col("day").cast(pl.String).str.zfill(4), "user_id"),
    )


def _channels(codes: NDArray[np.int8]) -> pl.Series:
    """Channel names, null for -1."""
    names = pl.Series(CHANNELS, dtype=pl.String)
    return names.gather(pl.Series(codes).cast(pl.UInt32, strict=False))


def _joined(parts: list[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate(parts).astype(dtype) if parts else np.empty(0, dtype)


def _time(us: NDArray[np.int64]) -> pl.Series:
    return pl.Series(us).cast(pl.Datetime("us", "UTC"))


def _time_or_null(us: NDArray[np.int64]) -> pl.Series:
    """Instants, null for -1."""
    times = _time(us)
    return pl.select(pl.when(pl.Series(us) >= 0).then(times)).to_series()
