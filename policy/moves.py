"""The move of a slate: how far it goes from what the listener has just been hearing.

A move is what the policy says first and the slate then carries out. For logged slates it is read off the items, each
compared with the recent history less what was skipped or disliked:

- ``continue``: by a creator the listener has just heard (or the very same item);
- ``deepen``: a style (first tag) they have just heard, by a creator they have not;
- ``explore``: a style they have not;
- ``switch``: another kind of thing altogether (a podcast after tracks).

The slate's move is that of most of its items; a tie goes to the smaller departure, in the order above. With nothing
in the history that was liked well enough to finish, everything is ``explore``. Where a log has no creators or no tags,
the moves that need them do not occur.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from data.catalog import Catalog
from data.errors import InputError
from data.schema import ACTIONS

MOVES = ("continue", "deepen", "explore", "switch")
_TURNED_DOWN = tuple(ACTIONS.index(action) for action in ("skip", "dislike", "dismiss"))

Ints = npt.NDArray[Any]


def _codes(column: pl.Series) -> npt.NDArray[np.int32]:
    """Dense codes of a string column, null -> -1."""
    ranks = column.rank("dense").cast(pl.Int32) - 1
    return ranks.fill_null(-1).to_numpy().astype(np.int32)


def move_of(items: Ints, actions: Ints, slates: Ints, catalog: Catalog) -> npt.NDArray[np.int8]:
    """Index into MOVES for each row. (B,)

    `items`, `actions` (B, H) are the recent history as in Contexts (left padded with -1), `slates` (B, K) catalog rows
    padded with -1. Raises InputError when a row has no slate item.
    """
    slates = np.asarray(slates)
    if slates.size and not (slates >= 0).any(1).all():
        raise InputError(f"slate {int((slates >= 0).any(1).argmin())} is empty: a move needs at least one item")
    relation = relation_of(items, actions, slates, catalog)
    votes: Ints = ((relation[:, :, None] == np.arange(len(MOVES))) & (slates >= 0)[:, :, None]).sum(1)  # (B, 4)
    return np.asarray(votes.argmax(1), dtype=np.int8)


def relation_of(items: Ints, actions: Ints, offered: Ints, catalog: Catalog) -> npt.NDArray[np.int64]:
    """Index into MOVES of each item of `offered` (B, K) on its own, for histories as in `move_of`. (B, K)"""
    frame = catalog.items
    creator, kind = _codes(frame["creator"]), _codes(frame["kind"])
    style = _codes(frame["tags"].list.first())

    heard = (items >= 0) & ~np.isin(actions, _TURNED_DOWN)

    def known(attribute: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        recent = np.where(heard, attribute[items], -1)[:, None, :]  # (B, 1, H)
        match: npt.NDArray[np.bool_] = ((recent == attribute[offered][:, :, None]) & (recent >= 0)).any(2)
        return match

    same_item = (np.where(heard, items, -1)[:, None, :] == offered[:, :, None]).any(2)
    relation = np.select([same_item | known(creator), known(style), known(kind)], [0, 1, 2], default=3)  # (B, K)
    relation[~heard.any(1)] = MOVES.index("explore")
    return relation
