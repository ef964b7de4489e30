"""A log of messages whose effects are known, in which those who come anyway are sent more."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit

from data.message_log import PAST, MessageLog
from data.world.environment import MessageContexts
from data.world.settings import CHANNELS
from rewards.message_features import MessageCatalog

EFFECT = {"push": -0.8, "email": 0.6, "in_app": 0.0}  # on active days of 28
OPT_OUT = {"push": 0.04, "email": 0.01, "in_app": 0.001}
ITEMS = pl.DataFrame(
    {
        "item_id": ["i0", "i1", "m-a", "m-b", "hold"],
        "kind": ["track", "track", "message", "message", "message"],
        "title": ["t"] * 5,
        "tags": [["jazz"], ["pop"], ["new", "jazz"], ["offer"], ["hold"]],
    }
)
CATALOG = MessageCatalog.of(ITEMS)


def open_chance(value: NDArray[np.floating], channel: NDArray[np.integer]) -> NDArray[np.float64]:
    """P(open) of a message with this value signal by this channel."""
    chance: NDArray[np.float64] = expit(np.array([-1.5, -2.5, -2.0])[channel] + value)
    return chance


def contexts_of(rows: int, premium: NDArray[np.bool_], rng: np.random.Generator) -> MessageContexts:
    """Contexts of `rows` decisions with two opportunities and nothing in the past."""
    return MessageContexts(
        time=np.arange(rows, dtype=np.int64),
        hour_of_week=np.full(rows, 5, np.int16),
        surface=np.zeros(rows, np.int8),
        gap_hours=np.full(rows, 24.0, np.float32),
        item=np.full((rows, 4), -1, np.int32),
        action=np.full((rows, 4), -1, np.int8),
        steer=[None] * rows,
        eligible=np.tile(np.array([0, 1], np.int32), (rows, 1)),
        value=rng.standard_normal((rows, 2)).astype(np.float32),
        consent=np.ones((rows, 3), np.bool_),
        premium=premium,
        zone=np.zeros(rows, np.int32),
        zones=("UTC",),
        sent_item=np.full((rows, 8), -1, np.int32),
        sent_channel=np.full((rows, 8), -1, np.int8),
        sent_days_ago=np.zeros((rows, 8), np.int32),
        sent_answer=np.full((rows, 8), -1, np.int8),
    )


def make_messages(users: int = 400, days: int = 40, seed: int = 0) -> tuple[MessageLog, NDArray[np.float64]]:
    """The log, and the true effect (D,) of each decision on active days."""
    rng = np.random.default_rng(seed)
    rows = users * days
    user = np.repeat(np.arange(users), days).astype(np.int32)
    heavy = np.repeat(rng.random(users) < 0.5, days)
    contexts = contexts_of(rows, heavy, rng)
    p_send = np.where(heavy, 0.6, 0.2)
    sends = rng.random(rows) < p_send
    weight = np.exp(0.7 * contexts.value.astype(np.float64))
    share = weight / weight.sum(axis=1, keepdims=True)
    column = (rng.random(rows) > share[:, 0]).astype(np.int32)
    channel, hour = rng.integers(0, 3, rows), rng.integers(8, 20, rows)
    p = np.where(sends, p_send * share[np.arange(rows), column] / 3 / 12, 1.0 - p_send)
    at = np.where(sends, channel, -1)
    value = contexts.value[np.arange(rows), column]
    opened = sends & (rng.random(rows) < open_chance(value, channel))
    out = sends & (rng.random(rows) < np.array([OPT_OUT[c] for c in CHANNELS])[channel])
    effect = np.where(sends, np.array([EFFECT[c] for c in CHANNELS])[channel], 0.0)
    came = rng.random(rows) < np.where(heavy, 0.7, 0.2)
    past = np.zeros((rows, len(PAST)), np.float32)
    past[:, 0] = np.where(heavy, 5.0, 1.0)
    return MessageLog(
        contexts=contexts,
        decision_id=[str(i) for i in range(rows)],
        user=user,
        user_ids=[str(i) for i in range(users)],
        column=np.where(sends, column, -1).astype(np.int32),
        channel=at.astype(np.int8),
        hour=np.where(sends, hour, -1).astype(np.int8),
        log_propensity=np.log(p),
        opened=opened,
        dismissed=np.zeros(rows, np.bool_),
        opted_out=out,
        past=past,
        labels={
            "active_today": (came | opened).astype(np.float64),
            "sessions_1d": came + (opened & ~came) * 1.0,
            "active_days_28": np.where(heavy, 18.0, 6.0) + effect + rng.standard_normal(rows),
            "converted_28": np.zeros(rows),
            "opted_out_28": out.astype(np.float64),
        },
    ), effect
