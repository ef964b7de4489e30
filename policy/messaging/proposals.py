"""Decisions that a message reward would make itself, and what a policy first learns of them.

As with slates (`policy.proposals`): at a price of t per nat of certainty the best policy there is decides with
probability that goes with exp(reward / t) (Ziebart 2010). Of messages everything that may be sent can be asked about.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from data.world.environment import MessageContexts
from rewards.sending import HOURS as SLOT_HOURS
from rewards.sending import Ints

Worth = Callable[[MessageContexts, Ints, Ints, Ints], NDArray[np.float64]]  # of (column, channel, hour) (B, N): (B, N)


def propose(
    reward: Worth, contexts: MessageContexts, may: NDArray[np.bool_], price: float, rng: np.random.Generator
) -> tuple[Ints, Ints, Ints]:
    """(column, channel, hour) (B,) of what `may` (B, M, channels, HOURS) allows, -1 to hold, which is worth nothing.

    Each with probability that goes with exp(reward / price); at a price of 0 the best. Of the hours those of
    `rewards.sending` are asked, one in each slot, where any of them is ever allowed.
    """
    batch, most, channels, _ = may.shape
    open_hours = np.flatnonzero(may.any(axis=(0, 1, 2)))
    hours = np.intersect1d(open_hours, SLOT_HOURS) if np.isin(SLOT_HOURS, open_hours).any() else open_hours
    grids = np.meshgrid(np.arange(most), np.arange(channels), hours, indexing="ij")
    sends = np.stack([np.append(grid.ravel(), -1) for grid in grids])  # (3, N), to hold comes last
    column, channel, hour = (np.broadcast_to(part, (batch, part.size)) for part in sends)
    open_ = may[np.arange(batch)[:, None], column, channel, hour]
    open_[:, -1] = True
    value = np.where(open_, reward(contexts, np.where(open_, column, -1), channel, hour), -np.inf)
    chosen = (value + price * rng.gumbel(size=value.shape)).argmax(axis=1)
    return tuple(sends[:, chosen].astype(np.int64))
