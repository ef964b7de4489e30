"""The slates themselves: a few listeners, what they did last, and what each policy would put before them now.

Numbers do not show that a policy plays the same lullaby to everybody; a person looking at five slates does.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.histories import Contexts
from data.schema import ACTIONS, SURFACES
from data.world.policies import SlatePolicy
from eval.report.inputs import ListenerSlates, ShownItem

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
LATELY = 6  # interactions shown


def showcase(
    policies: Mapping[str, SlatePolicy], contexts: Contexts, items: pl.DataFrame, count: int = 4, seed: int = 0
) -> list[ListenerSlates]:
    """Slates of every policy for `count` of the contexts: one who asked for something, the others at random.

    policies: name in the report -> policy, the one to compare with first. items: the ITEMS table in catalog order.
    Contexts with fewer than three interactions say little and are passed over where there are others.
    """
    rows = chosen_rows(contexts, count, seed)
    few = contexts.take(rows)
    slates = {name: policy.choose(few, np.random.default_rng(seed))[0] for name, policy in policies.items()}
    shown = []
    for place in range(len(few)):
        known = np.flatnonzero(few.item[place] >= 0)[::-1][:LATELY]  # the latest first
        history = [
            shown_item(
                items, int(few.item[place, at]), ACTIONS[few.action[place, at]] if few.action[place, at] >= 0 else None
            )
            for at in known.tolist()
        ]
        shown.append(
            ListenerSlates(
                listener=f"Listener {place + 1}",
                moment=moment(few, place),
                says=few.steer[place],
                history=history,
                slates={
                    name: [shown_item(items, int(row)) for row in slate[place] if row >= 0]
                    for name, slate in slates.items()
                },
            )
        )
    return shown


def chosen_rows(contexts: Contexts, count: int, seed: int) -> NDArray[np.int64]:
    """Rows to show: with a history where possible, the first of them one who said something where there is one."""
    rng = np.random.default_rng(seed)
    rich = (contexts.item >= 0).sum(axis=1) >= 3
    order = rng.permutation(len(contexts))
    order = np.concatenate([order[rich[order]], order[~rich[order]]])
    said = [row for row in order.tolist() if contexts.steer[row]][:1]
    silent = [row for row in order.tolist() if row not in said and not contexts.steer[row]]
    return np.array((said + silent)[:count], dtype=np.int64)


def moment(contexts: Contexts, row: int) -> str:
    """When and where, in words: "Tuesday 08:00, now playing, last heard 14 hours ago"."""
    day, hour = divmod(int(contexts.hour_of_week[row]), 24)
    surface = SURFACES[contexts.surface[row]].replace("_", " ")
    gap = float(contexts.gap_hours[row])
    if np.isnan(gap):
        lately = "first time here"
    elif gap < 48:
        lately = f"last here {gap:.0f} hours ago" if gap >= 1.5 else "last here an hour ago or less"
    else:
        lately = f"last here {gap / 24:.0f} days ago"
    return f"{DAYS[day]} {hour:02d}:00, {surface}, {lately}"


def shown_item(items: pl.DataFrame, row: int, reaction: str | None = None) -> ShownItem:
    """An item of the catalog as a person would see it."""
    found = items.row(row, named=True)
    return ShownItem(
        title=found["title"],
        creator=found.get("creator"),
        kind=found.get("kind"),
        tags=tuple(found.get("tags") or ())[:4],
        reaction=reaction,
    )
