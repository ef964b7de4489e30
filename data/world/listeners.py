"""The listeners of a world: what is theirs for good (tastes, rhythms), and the clocks they live by.

A day has three slots (morning, daytime, evening) and a listener comes at most once in each. Their rhythm is their own
(weekdays, slots, the usual hour of each slot) around what all share: two peaks on weekdays, a later and flatter
weekend, as Zhang et al. (Understanding User Behavior in Spotify, INFOCOM 2013) found.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from data.world.items import Items
from data.world.settings import COMMUTE, CONTEXTS, SLOT_HOURS, SLOTS, ListenerSettings
from data.world.shocks import Purpose, generator

# The hour of each context that all share: early and six on weekdays, later in the morning at the weekend.
_SHARED_HOUR = np.array([8.3, 13.0, 18.4, 9.6, 13.5, 18.8])
_OWN_HOUR = 0.9  # standard deviation of a listener's own usual hour around it
_SECONDS = 1_000_000


@dataclass(frozen=True)
class Listeners:
    """Traits of U listeners that nothing changes. Contexts are each slot on weekdays, then each at the weekend."""

    home_taste: NDArray[np.float32]  # (U, D), standard normal
    kind_liking: NDArray[np.float32]  # (U, kinds), added to the match
    visit_logit: NDArray[np.float32]  # (U, 7), by weekday, Monday first
    slot_logit: NDArray[np.float32]  # (U, CONTEXTS)
    usual_hour: NDArray[np.float32]  # (U, CONTEXTS), local
    commuter: NDArray[np.bool_]  # (U,)
    zone: NDArray[np.int32]  # (U,), position in settings.time_zones
    premium: NDArray[np.bool_]  # (U,), on the first day
    consent: NDArray[np.bool_]  # (U, channels), on the first day

    def __len__(self) -> int:
        return len(self.zone)


def make_listeners(settings: ListenerSettings, items: Items, seed: int) -> Listeners:
    """Draws the listeners of a world."""
    rng = generator(seed, -1, Purpose.TRAITS)
    u, dims = settings.listeners, items.place.shape[1]
    taste = rng.standard_normal((u, dims))
    liking = settings.kind_spread * rng.standard_normal((u, len(items.kinds)))
    liking[:, 0] = 0.0  # the first kind is the one the others are compared with
    propensity = settings.visit_logit_mean + settings.visit_logit_spread * rng.standard_normal((u, 1))
    weekday = settings.weekday_spread * rng.standard_normal((u, 7))
    weekday[:, 5:] += settings.weekend_logit
    commuter = rng.random(u) < settings.commuters
    # Who listens in the evening does so on Saturdays too: half of a slot's taste is shared by both contexts.
    own_slot = np.tile(rng.standard_normal((u, len(SLOTS))), 2) + rng.standard_normal((u, CONTEXTS))
    slot = np.array(settings.slot_logits) + settings.slot_spread / np.sqrt(2.0) * own_slot
    slot[:, COMMUTE] += settings.commute_logit * commuter
    usual = _SHARED_HOUR + _OWN_HOUR * rng.standard_normal((u, CONTEXTS))
    usual[:, COMMUTE] -= 0.4 * commuter
    low, high = np.tile(np.array(SLOT_HOURS), (2, 1)).T
    return Listeners(
        home_taste=taste.astype(np.float32),
        kind_liking=liking.astype(np.float32),
        visit_logit=(propensity + weekday).astype(np.float32),
        slot_logit=slot.astype(np.float32),
        usual_hour=np.clip(usual, low, high).astype(np.float32),
        commuter=commuter,
        zone=rng.integers(len(settings.time_zones), size=u).astype(np.int32),
        premium=rng.random(u) < settings.premium_share,
        consent=rng.random((u, len(settings.consents))) < np.array(settings.consents),
    )


def context_of(day: int, slot: int) -> int:
    """The habit context of a slot on a day; the first day of every world is a Monday in every zone."""
    return slot + (len(SLOTS) if day % 7 >= 5 else 0)


def visit_hour(
    listeners: Listeners, settings: ListenerSettings, day: int, slot: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """When each listener would come in this slot, and how far that is from their usual hour.

    Returns: (U,) local hours with fraction within the slot, and (U,) absolute hours off. Both are the same whatever was
    played before: a rhythm belongs to the person.
    """
    rng = generator(seed, day * len(SLOTS) + slot, Purpose.HOUR)
    u, (low, high) = len(listeners), SLOT_HOURS[slot]
    usual = listeners.usual_hour[:, context_of(day, slot)]
    near = usual + settings.hour_spread * rng.standard_normal(u)
    far = low + (high - low) * rng.random(u)
    hour = np.where(rng.random(u) < settings.usual_hour_share, near, far)
    hour = np.where(hour < low, 2.0 * low - hour, hour)  # mirrored, so that nothing piles up at the edge
    hour = np.where(hour > high, 2.0 * high - hour, hour)
    hour = np.clip(hour, low, high)
    return hour, np.abs(hour - usual).astype(np.float32)


def utc(
    start: datetime, zones: tuple[str, ...], zone: NDArray[np.int32], local_us: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Instants (B,), us since 1970, of local clock times (B,), us since local midnight of the first day.

    Daylight saving included. Clocks change at night, so that every hour from six on is what it is at noon.
    """
    day = local_us // (24 * 3600 * _SECONDS)
    begin, found = int(start.timestamp()) * _SECONDS, np.empty(len(local_us), dtype=np.int64)
    for d in np.unique(day).tolist():
        offsets = np.array([utc_offset(start, name, d) for name in zones], dtype=np.int64) * _SECONDS
        rows = day == d
        found[rows] = begin + local_us[rows] - offsets[zone[rows]]
    return found


@lru_cache(maxsize=65_536)
def utc_offset(start: datetime, zone: str, day: int) -> int:
    """Seconds that a zone's clocks are ahead of UTC at noon of a local day, counted from the world's first."""
    noon = datetime(start.year, start.month, start.day, 12, tzinfo=ZoneInfo(zone)) + timedelta(days=day)
    offset = noon.utcoffset()
    assert offset is not None
    return int(offset.total_seconds())
