"""What a message's effect may depend on: the listener's situation, and the message in it, as columns.

All of it is read from `data.world.environment.MessageContexts`, in training, in a world and when serving alike.
Annoyance cannot be seen. What stands for it is the load of earlier sends: each counts one, less by 7% a day.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.catalog import listenable
from data.message_log import message_items
from data.schema import ACTION_CODE
from data.world.environment import MessageContexts
from data.world.settings import CHANNELS, SLOT_HOURS

Floats = NDArray[np.float64]
LOAD_KEPT = 0.93  # of what a send weighs, per day
LIKED = {"complete": 1.0, "save": 1.5, "like": 1.5, "convert": 1.0, "skip": -0.5, "dislike": -1.5}
WEEKEND = 120  # hour of the week from which it is Saturday
SITUATION = (
    "one",
    "log_gap",
    "no_history",
    "weekend",
    "premium",
    "enjoys",
    "known",
    *(f"load_{channel}" for channel in CHANNELS),
    "opens_before",
    "dismisses_before",
    "sends_before",
)
SLOT_STARTS = np.array([low for low, _ in SLOT_HOURS])


@dataclass(frozen=True)
class MessageCatalog:
    """The message items that a reward knows: rows are those of MessageContexts.eligible.

    domain (I,): place in `domains`, the first tag of each. tags (I, T) of messages and item_tags (N, T) of what slates
    are made of, in the same T words: what says that a message is about something the listener likes.
    """

    item_ids: tuple[str, ...]
    domains: tuple[str, ...]
    domain: NDArray[np.int64]
    tags: NDArray[np.bool_]
    item_tags: NDArray[np.bool_]

    @classmethod
    def of(
        cls, items: pl.DataFrame, item_index: Callable[[Sequence[str]], NDArray[np.integer]] | None = None
    ) -> MessageCatalog:
        """From a log's items table. `item_index` turns ids into rows of histories (default: the table's order)."""
        sent, played = message_items(items), listenable(items)
        tags = [list(row or []) for row in sent["tags"].to_list()]
        first = [row[0] if row else "" for row in tags]
        domains = tuple(dict.fromkeys(first))
        words = sorted({word for row in tags for word in row[1:]})
        played_tags = [list(row or []) for row in played["tags"].to_list()]
        rows = np.arange(played.height) if item_index is None else item_index(played["item_id"].to_list())
        return cls(
            item_ids=tuple(sent["item_id"].to_list()),
            domains=domains,
            domain=np.array([domains.index(name) for name in first], np.int64),
            tags=_has(tags, words),
            item_tags=_has([played_tags[i] for i in np.argsort(rows, kind="stable").tolist()], words),
        )


def _has(tags: list[list[str]], words: list[str]) -> NDArray[np.bool_]:
    place = {word: i for i, word in enumerate(words)}
    found = np.zeros((len(tags), len(words)), np.bool_)
    for row, of in enumerate(tags):
        for word in of:
            if word in place:
                found[row, place[word]] = True
    return found


def _liking() -> NDArray[np.float32]:
    """Weight of each action code, and 0 in the last place, for no action."""
    weight = np.zeros(len(ACTION_CODE) + 1, np.float32)
    for action, liked in LIKED.items():
        weight[ACTION_CODE[action]] = liked
    return weight


def loads(contexts: MessageContexts) -> Floats:
    """(B, channels) what earlier sends weigh today."""
    there = contexts.sent_item >= 0
    weight = np.where(there, LOAD_KEPT ** np.maximum(contexts.sent_days_ago, 0), 0.0)
    return np.stack([(weight * (contexts.sent_channel == c)).sum(axis=1) for c in range(len(CHANNELS))], axis=1)


def situation(contexts: MessageContexts) -> Floats:
    """(B, len(SITUATION)) the listeners' situations."""
    known = contexts.action >= 0
    count = np.maximum(known.sum(axis=1), 1)
    enjoys = _liking()[contexts.action].sum(axis=1) / count
    sent = contexts.sent_item >= 0
    sends = sent.sum(axis=1)
    answers = {a: (sent & (contexts.sent_answer == ACTION_CODE[a])).sum(axis=1) for a in ("open", "dismiss")}
    gap = np.nan_to_num(contexts.gap_hours.astype(np.float64), nan=28 * 24.0)
    return np.column_stack(
        [
            np.ones(len(contexts)),
            np.log1p(gap) - np.log1p(24.0),
            np.isnan(contexts.gap_hours),
            contexts.hour_of_week >= WEEKEND,
            contexts.premium,
            enjoys,
            known.mean(axis=1),
            loads(contexts),
            # Shares drawn to what is usual, as if everybody had answered four messages before.
            (answers["open"] + 0.4) / (sends + 4.0),
            (answers["dismiss"] + 1.2) / (sends + 4.0),
            sends / contexts.sent_item.shape[1],
        ]
    ).astype(np.float64)


@dataclass(frozen=True)
class Moves:
    """N ways to act on each of B contexts, (B, N) each; `held` are to hold, and their other fields mean nothing.

    affinity: how far the listener's history likes the message's tags. load: of the channel; slot: 0 .. 2 of the day.
    """

    held: NDArray[np.bool_]
    item: NDArray[np.int64]
    domain: NDArray[np.int64]
    channel: NDArray[np.int64]
    hour: NDArray[np.int64]
    slot: NDArray[np.int64]
    value: Floats  # 0 where it is not known
    valued: NDArray[np.bool_]
    affinity: Floats
    load: Floats


def moves(
    contexts: MessageContexts,
    catalog: MessageCatalog,
    column: NDArray[np.integer],
    channel: NDArray[np.integer],
    hour: NDArray[np.integer],
) -> Moves:
    """The moves (column, channel, hour), (B, N) each; column -1 is to hold."""
    held = column < 0
    at = np.maximum(column, 0).astype(np.int64)
    item = np.take_along_axis(contexts.eligible, at, axis=1).astype(np.int64)
    held = held | (item < 0)
    item, by = np.maximum(item, 0), np.maximum(channel, 0).astype(np.int64)
    value = np.take_along_axis(contexts.value.astype(np.float64), at, axis=1)
    valued = ~np.isnan(value)
    engaged = _liking()[contexts.action] * (contexts.item >= 0)  # (B, H)
    likes = np.einsum("bh,bht->bt", engaged, catalog.item_tags[np.maximum(contexts.item, 0)].astype(np.float32))
    liked = likes @ catalog.tags.T.astype(np.float32) / max(contexts.item.shape[1] / 4, 1.0)  # (B, I)
    return Moves(
        held=held,
        item=item,
        domain=catalog.domain[item],
        channel=by,
        hour=hour.astype(np.int64),
        slot=np.clip(np.searchsorted(SLOT_STARTS, hour, side="right") - 1, 0, len(SLOT_STARTS) - 1),
        value=np.where(valued, value, 0.0),
        valued=valued,
        affinity=np.take_along_axis(liked, item, axis=1).astype(np.float64),
        load=np.take_along_axis(loads(contexts), by, axis=1),
    )
