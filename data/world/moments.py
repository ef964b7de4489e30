"""Moments: what visitors say they want, and their state of mind when they open the app."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.world.dynamics import ASK_STRENGTH, Moment
from data.world.items import Items, inner
from data.world.listeners import Listeners, context_of
from data.world.settings import COMMUTE, WorldSettings
from data.world.state import State


def moment_of(
    listeners: NDArray[np.int32], state: State, traits: Listeners, items: Items, settings: WorldSettings
) -> Moment:
    """The state of mind of B visitors before anybody says anything."""
    s = settings.dynamics
    liking = traits.kind_liking[listeners].copy()
    commuting = traits.commuter[listeners] & (context_of(state.day, state.slot) == COMMUTE)
    spoken = np.array([kind != "track" for kind in items.kinds])
    liking += np.where(commuting[:, None] & spoken, np.float32(s.commute_match), np.float32(0.0))
    return Moment(
        items=items,
        settings=s,
        oracle=settings.oracle,
        taste=state.taste[listeners],
        liking=liking,
        satiation=state.satiation[listeners],
        tired=state.tired[listeners],
        familiarity=state.familiarity[listeners],
        ads=np.where(state.premium[listeners], np.float32(0.0), np.float32(s.ad_cost)),
    )


def ask(moment: Moment, home_taste: NDArray[np.float32], luck: NDArray[np.float32]) -> list[str | None]:
    """What B visitors say they want, if anything; asking bends the taste of the moment, which is changed in place.

    home_taste: (B, D). luck: (B, 5) uniform. People ask for what they usually like, now and then for anything.
    """
    s, items = moment.settings, moment.items
    steer: list[str | None] = [None] * len(luck)
    rows = np.flatnonzero(luck[:, 0] < s.steer_share)
    if not len(rows):
        return steer
    luck = luck[rows]
    odds = np.exp(inner(home_taste[rows], items.centre))
    odds = np.cumsum(odds / odds.sum(axis=1, keepdims=True), axis=1)
    style = np.minimum((odds < luck[:, 2:3]).sum(axis=1), len(items.centre) - 1)
    kind = np.minimum((luck[:, 3] * len(items.kinds)).astype(np.int64), len(items.kinds) - 1)
    names_style, names_kind = luck[:, 1] < 0.9, luck[:, 1] > 0.75
    shift = s.steer_shift * names_style[:, None]
    asked = (1.0 - shift) * moment.taste[rows] + shift * ASK_STRENGTH * items.centre[style]
    moment.taste[rows] = asked.astype(np.float32)
    wanted = np.arange(len(items.kinds)) == kind[:, None]
    bent = names_kind[:, None] * s.steer_shift * np.where(wanted, 1.0, -1.0)
    moment.liking[rows] += bent.astype(np.float32)
    for i, row in enumerate(rows.tolist()):
        ways = items.phrases[int(style[i]) if names_style[i] else -1][int(kind[i]) if names_kind[i] else -1]
        steer[row] = ways[int(luck[i, 4] * len(ways))]
    return steer
