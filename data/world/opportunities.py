"""What could be sent: message items, one per sending domain and style, and who gets offered which of them on a day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.schema import polars_schema
from data.world import words
from data.world.items import Items, inner
from data.world.listeners import Listeners
from data.world.settings import MessageSettings
from data.world.shocks import Purpose, generator
from data.world.state import State

STYLED = ("new_release", "next_episode", "playlist", "concert")  # domains with one message per style
OFFER, WIN_BACK, HOLD = "offer", "win_back", "hold"
HOLD_ID = "hold"  # the item id of sending nothing, so that a held decision has a slate
_LAPSED_DAYS = 7  # without a visit, from which the win-back domain takes an interest
_US_PER_DAY = 24 * 3600 * 1_000_000

_TITLES = {
    "new_release": "New from {who}: {title}",
    "next_episode": "The next episode of {who} is out",
    "playlist": "Your {style} playlist has been refreshed",
    "concert": "{who} plays near you",
}
_TEXTS = {
    "new_release": "{who} is back with something {mood}. Listen to {title} now.",
    "next_episode": "{mood} {style} talk: {who} continues where you left off.",
    "playlist": "Thirty {mood} songs, {style} through and through.",
    "concert": "An evening of {mood} {style}. Tickets are on sale.",
}


@dataclass(frozen=True)
class MessageItems:
    """O messages, and in the last row to send none of them. frame: as ITEMS; domain: position in `domains`."""

    frame: pl.DataFrame
    domain: NDArray[np.int32]  # (O + 1,)
    style: NDArray[np.int32]  # (O + 1,); -1: of no style
    domains: tuple[str, ...] = (*STYLED, OFFER, WIN_BACK, HOLD)

    @property
    def hold(self) -> int:
        """The row that stands for sending nothing."""
        return self.frame.height - 1

    def row(self, domain: str) -> int:
        """The one message of a domain without styles."""
        return int(np.flatnonzero(self.domain == self.domains.index(domain))[0])


def make_messages(items: Items, seed: int, start: datetime) -> MessageItems:
    """The message items of a world, fixed by its seed."""
    rng = generator(seed, -1, Purpose.MESSAGE_WORDS)
    rows: list[dict[str, object]] = []
    domain, style = [], []
    for number, name in enumerate(STYLED):
        for s in range(len(items.centre)):
            of = words.STYLES[s]
            made = items.frame.row(int(rng.choice(np.flatnonzero(items.style == s))), named=True)
            said = {"who": made["creator"], "title": made["title"], "style": of.name, "mood": str(rng.choice(of.moods))}
            text = _TEXTS[name].format(**said)
            rows.append(
                {
                    "item_id": f"m-{name}-{of.name}",
                    "title": _TITLES[name].format(**said),
                    "creator": made["creator"],
                    "tags": [name, of.name],
                    "text": text[0].upper() + text[1:],
                }
            )
            domain.append(number)
            style.append(s)
    plain = (
        (f"m-{OFFER}", "Three months of Premium for the price of one", OFFER, "No advertising, any song. Ends Sunday."),
        (f"m-{WIN_BACK}", "We kept your music for you", WIN_BACK, "It has been a while. Here is what you have missed."),
        (HOLD_ID, "Send nothing", HOLD, "No message today."),
    )
    for number, (item_id, title, name, text) in enumerate(plain, start=len(STYLED)):
        rows.append({"item_id": item_id, "title": title, "creator": None, "tags": [name], "text": text})
        domain.append(number)
        style.append(-1)
    schema = {name: dtype for name, dtype in polars_schema("items").items() if name in rows[0]}
    frame = pl.DataFrame(rows, schema=schema).select(
        "item_id",
        pl.lit("message").alias("kind"),
        "title",
        "creator",
        "tags",
        pl.lit(None, dtype=pl.Float32).alias("duration"),
        pl.lit(start - timedelta(days=1)).cast(pl.Datetime("us", "UTC")).alias("released_at"),
        "text",
    )
    return MessageItems(frame, np.array(domain, np.int32), np.array(style, np.int32))


def todays(
    messages: MessageItems,
    items: Items,
    traits: Listeners,
    state: State,
    settings: MessageSettings,
    now: NDArray[np.int64],
    seed: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """What the domains offer to each of U listeners today: (rows, relevance, value signal), (U, M) each, -1: nothing.

    Domains with styles go for a listener's tastes, the others for a state: an offer is for those who do not pay, a
    win-back for those who have not listened for a week. Relevance is how well it fits the taste of the day; the value
    signal is that with an error.
    """
    u, most = len(traits), settings.opportunities
    rng = generator(seed, state.day, Purpose.OPPORTUNITY)
    there, pick, kind = rng.random((u, most)) < settings.appears, rng.random((u, most)), rng.random((u, most))
    error = rng.standard_normal((u, most), dtype=np.float32)
    styles = len(items.centre)
    fans = np.exp(inner(traits.home_taste, items.centre)).astype(np.float64)
    odds = np.cumsum(fans / fans.sum(axis=1, keepdims=True), axis=1)
    style = np.minimum((odds[:, None, :] < pick[:, :, None]).sum(axis=2), styles - 1)  # (U, M)
    rows = ((kind * len(STYLED)).astype(np.int64) * styles + style).astype(np.int32)

    lapsed = (state.last_time >= 0) & (now - state.last_time > _LAPSED_DAYS * _US_PER_DAY)
    lifecycle = np.where(lapsed, messages.row(WIN_BACK), np.where(state.premium, -1, messages.row(OFFER)))
    rows[:, -1] = lifecycle
    rows = np.where(there, rows, -1).astype(np.int32)
    # Two domains may come with the same message; the first one has it.
    for column in range(1, most):
        again = (rows[:, :column] == rows[:, column : column + 1]).any(axis=1)
        rows[again, column] = -1

    fit = inner(state.taste, items.centre)  # (U, S)
    relevance = np.take_along_axis(fit, np.maximum(messages.style[rows], 0), axis=1)
    episode = messages.domain[rows] == STYLED.index("next_episode")
    relevance += np.where(episode, traits.kind_liking[:, items.kinds.index("podcast"), None], 0.0).astype(np.float32)
    relevance = np.where(rows == messages.row(WIN_BACK), np.float32(0.5), relevance)
    relevance = np.where(rows == messages.row(OFFER), state.satisfaction[:, None] - np.float32(0.5), relevance)
    relevance = np.where(rows >= 0, relevance, np.nan).astype(np.float32)
    return rows, relevance, (relevance + settings.value_noise * error).astype(np.float32)
