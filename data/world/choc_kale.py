"""Somebody else's simulator behind our interface: RecSim's long-term satisfaction problem, "choc or kale".

Every listener takes one item a day. An item has a kaleness k in [0, 1] (1 - clickbait score). What a listener has taken
in builds up as net kale exposure n, which decides on their satisfaction, which scales what they engage:

    engagement ~ logNormal(s (k mu_kale + (1 - k) mu_choc), k sigma_kale + (1 - k) sigma_choc)
    s = sigmoid(sensitivity n)
    n <- memory_discount n + 2 (k - 1/2) + Normal(0, innovation)

(Ie et al., RecSim: A Configurable Simulation Platform for Recommender Systems, 2019, section on long-term satisfaction;
the defaults are those of the published environment.) Choc engages more today, kale engages more for good. The equations
are theirs, the code is ours. There is no return in it: everybody comes every day, and the outcome is `engagement`.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.errors import InputError
from data.histories import HISTORY_LENGTH, MICROSECONDS_PER_HOUR, Contexts
from data.logs import Logs
from data.schema import ACTION_CODE, SURFACE_CODE, polars_schema
from data.world.environment import (
    Choice,
    MessagePoints,
    Messages,
    SlatePoints,
    SlatePolicy,
    Slates,
    Truth,
    check_choice,
)
from data.world.shocks import Purpose, normal

_HOUR = 12  # UTC, of everybody's one item a day
_DAY_US = 24 * MICROSECONDS_PER_HOUR


@dataclass(frozen=True)
class ChocKaleSettings:
    """The published environment's parameters, and how many people and items there are."""

    listeners: int = 500
    items: int = 50
    memory_discount: float = 0.7
    sensitivity: float = 0.01
    innovation: float = 0.05
    choc_mean: float = 5.0
    choc_spread: float = 1.0
    kale_mean: float = 4.0
    kale_spread: float = 1.0
    start: datetime = datetime(2026, 1, 5, tzinfo=UTC)


@dataclass(frozen=True)
class Kaleness:
    """A policy that shows the items nearest to one kaleness: 0 is all choc, 1 all kale."""

    kale: NDArray[np.float64]  # (N,) of the items
    target: float
    name: str = "kaleness@1"

    def choose(self, contexts: Contexts, rng: np.random.Generator) -> Choice:
        """Slates (B, 1) and log-probabilities (0)."""
        best = int(np.abs(self.kale - self.target).argmin())
        return np.full((len(contexts), 1), best, np.int32), np.zeros(len(contexts))


class ChocKale:
    """The environment; slates hold one item. Shocks have addresses, as in our own world."""

    def __init__(self, settings: ChocKaleSettings | None = None, seed: int = 0) -> None:
        self.settings = ChocKaleSettings() if settings is None else settings
        self.kale = np.linspace(0.0, 1.0, self.settings.items)  # (N,)
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Nobody has taken anything yet."""
        u = self.settings.listeners
        self.seed, self.day = seed, 0
        self.exposure = np.zeros(u)  # (U,) net kale exposure
        self.item = np.full((u, HISTORY_LENGTH), -1, np.int32)
        self._taken: list[tuple[Slates, NDArray[np.float64], NDArray[np.float64], str]] = []

    def satisfaction(self) -> NDArray[np.float64]:
        """(U,) in (0, 1)."""
        return 1.0 / (1.0 + np.exp(-self.settings.sensitivity * self.exposure))

    def observe(self) -> SlatePoints | MessagePoints:
        """Everybody, every day."""
        u = self.settings.listeners
        time = int(self.settings.start.timestamp()) * 1_000_000 + self.day * _DAY_US + _HOUR * MICROSECONDS_PER_HOUR
        contexts = Contexts(
            time=np.full(u, time, np.int64),
            hour_of_week=np.full(u, self.day % 7 * 24 + _HOUR, np.int16),
            surface=np.full(u, SURFACE_CODE["home"], np.int8),
            gap_hours=np.full(u, 24.0 if self.day else np.nan, np.float32),
            item=self.item.copy(),
            action=np.where(self.item >= 0, ACTION_CODE["play"], -1).astype(np.int8),
            steer=[None] * u,
        )
        return SlatePoints(np.arange(u, dtype=np.int32), contexts)

    def act(
        self, choice: Slates | Messages, log_propensity: NDArray[np.float64], policy: str, move: list[str] | None = None
    ) -> None:
        """Everybody takes the item they are shown. Raises InputError for anything but slates of one item."""
        s, u = self.settings, self.settings.listeners
        if isinstance(choice, Messages):
            raise InputError(f"policy {policy}: there are no messages in the choc and kale environment")
        check_choice(choice, log_propensity, policy, u, 1, s.items)
        kale = self.kale[choice[:, 0]]
        mean = (kale * s.kale_mean + (1.0 - kale) * s.choc_mean) * self.satisfaction()
        spread = kale * s.kale_spread + (1.0 - kale) * s.choc_spread
        engagement = np.exp(mean + spread * normal(self.seed, self.day, Purpose.ENJOY, u))
        step = s.innovation * normal(self.seed, self.day, Purpose.DRIFT, u)
        self.exposure = s.memory_discount * self.exposure + 2.0 * (kale - 0.5) + step
        self.item = np.concatenate([self.item[:, 1:], choice.astype(np.int32)], axis=1)
        self._taken.append((choice, log_propensity, engagement, policy))
        self.day += 1

    def truth(
        self,
        policy: SlatePolicy,
        horizon_days: int = 28,
        policy_seed: int = 0,
        on_day: Callable[[], None] | None = None,
    ) -> Truth:
        """Per listener (U,): `engagement`, mean per day, `satisfaction`, mean over days, and `last_engagement`."""
        future, rng = deepcopy(self), np.random.default_rng([policy_seed, self.seed, 2])
        future._taken = []
        satisfaction = np.zeros(self.settings.listeners)
        for _ in range(horizon_days):
            slates, log_propensity = policy.choose(future.observe().contexts, rng)
            satisfaction += future.satisfaction() / horizon_days
            future.act(slates, log_propensity, policy.name)
            if on_day is not None:
                on_day()
        engagement = np.stack([engaged for _, _, engaged, _ in future._taken])
        week = engagement[-7:].mean(axis=0)
        return {"engagement": engagement.mean(axis=0), "satisfaction": satisfaction, "last_engagement": week}

    def items_frame(self) -> pl.DataFrame:
        """Items from all choc to all kale."""
        n = self.settings.items
        names = [f"{round(100 * k)}% kale" for k in self.kale.tolist()]
        frame = pl.DataFrame({"item_id": [f"k{i:03d}" for i in range(n)], "kind": "other", "title": names})
        empty = {name: dtype for name, dtype in polars_schema("items").items() if name not in frame.columns}
        return frame.with_columns(pl.lit(None, dtype=dtype).alias(name) for name, dtype in empty.items())

    def log(self) -> Logs:
        """What was taken: a decision and a play a day, with engagement as the play's value."""
        u, s = self.settings.listeners, self.settings
        users = np.array([f"u{i:05d}" for i in range(u)])
        ids, start = self.items_frame()["item_id"].to_numpy(), s.start + timedelta(hours=_HOUR)
        decisions, events = [], []
        for day, (slates, log_propensity, engagement, policy) in enumerate(self._taken):
            names = [f"d{day:04d}-{user}" for user in users]
            shown, time = ids[slates[:, 0]], start + timedelta(days=day)
            row = {"user_id": users, "decision_id": names, "surface": "home"}
            chance = pl.Series(np.exp(log_propensity)).fill_nan(None)  # a policy that cannot say
            made = {"policy": policy, "slate": shown[:, None].tolist(), "propensity": chance}
            decisions.append(pl.DataFrame({**row, **made}).with_columns(_at(time)))
            done = {"action": "play", "item_id": shown, "position": 0, "value": engagement}
            events.append(pl.DataFrame({**row, **done}).with_columns(_at(time + timedelta(seconds=1))))
        none = {table: pl.DataFrame(schema=polars_schema(table)) for table in ("decisions", "events")}
        return Logs(
            items=self.items_frame(),
            events=pl.concat(events) if events else none["events"],
            decisions=pl.concat(decisions) if decisions else none["decisions"],
            users=pl.DataFrame({"user_id": users}),
            notes={"seconds": "the environment engages without a length of time; engagement is in events.value"},
            end=s.start + timedelta(days=self.day),
        )


def _at(time: datetime) -> pl.Expr:
    return pl.lit(time).cast(pl.Datetime("us", "UTC")).alias("time")
