"""The listeners of a world: what is theirs for good (tastes, rhythms), and what the days do to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.world.items import Items
from data.world.settings import ListenerSettings
from data.world.shocks import Purpose, generator

FIRST_HOUR, LAST_HOUR = 6, 21  # visits start in these local hours, so that a session ends on the day it began
_CLOSING = LAST_HOUR + 0.95
# Share of visits by hour of day for the visits outside the habit: a morning bump, a long evening.
_DAY = np.array([3, 6, 7, 5, 4, 4, 5, 5, 4, 4, 5, 7, 8, 9, 9, 8], dtype=np.float64)


@dataclass(frozen=True)
class Listeners:
    """Traits of U listeners that nothing changes."""

    home_taste: NDArray[np.float32]  # (U, D), standard normal
    kind_liking: NDArray[np.float32]  # (U, kinds), added to the match
    visit_logit: NDArray[np.float32]  # (U, 7), by weekday, Monday first
    usual_hour: NDArray[np.float32]  # (U, 2), local, on weekdays and at the weekend
    zone: NDArray[np.int32]  # (U,), position in settings.time_zones
    premium: NDArray[np.bool_]  # (U,), on the first day

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
    commute = rng.random(u) < 0.35  # the rest are evening people, loosely
    hour = np.where(commute, rng.normal(8.0, 0.8, u), rng.normal(18.5, 2.0, u))
    weekend = hour + np.where(commute, rng.normal(2.5, 0.8, u), rng.normal(-0.5, 1.0, u))
    usual = np.clip(np.stack([hour, weekend], axis=1), FIRST_HOUR, LAST_HOUR)
    return Listeners(
        home_taste=taste.astype(np.float32),
        kind_liking=liking.astype(np.float32),
        visit_logit=(propensity + weekday).astype(np.float32),
        usual_hour=usual.astype(np.float32),
        zone=rng.integers(len(settings.time_zones), size=u).astype(np.int32),
        premium=rng.random(u) < settings.premium_share,
    )


def visit_hour(
    listeners: Listeners, settings: ListenerSettings, day: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """When each listener would come on this day, and how far that is from their usual hour.

    Returns: (U,) local hours with fraction in [FIRST_HOUR, LAST_HOUR + 1), and (U,) absolute hours off. Both are the
    same whatever was played before: a rhythm belongs to the person.
    """
    rng = generator(seed, day, Purpose.HOUR)
    u = len(listeners)
    usual = listeners.usual_hour[:, 1 if day % 7 >= 5 else 0]
    near = usual + settings.hour_spread * rng.standard_normal(u)
    far = FIRST_HOUR + rng.choice(len(_DAY), u, p=_DAY / _DAY.sum()) + rng.random(u)
    hour = np.where(rng.random(u) < settings.usual_hour_share, near, far)
    hour = np.where(hour < FIRST_HOUR, 2.0 * FIRST_HOUR - hour, hour)  # mirrored, so that nothing piles up at the edge
    hour = np.where(hour > _CLOSING, 2.0 * _CLOSING - hour, hour)
    hour = np.clip(hour, FIRST_HOUR, _CLOSING)
    return hour, np.abs(hour - usual).astype(np.float32)
