"""A simulated streaming service, one local day per step, all listeners at once.

A step is `observe()` (who came today, and what is known about each of them) and `act(slates)` (what they were shown;
the day is then lived through). Listeners come at most once a day, so a visit, a session and a decision are one thing.

    world = World(PRESETS["clickbait"], seed=0)
    for _ in range(28):
        listeners, contexts = world.observe()
        slates, log_propensity = policy.choose(contexts, rng)
        world.act(slates, log_propensity, policy.name)
    logs = world.log()
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.errors import InputError
from data.histories import MICROSECONDS_PER_HOUR
from data.logs import Logs
from data.schema import SURFACE_CODE
from data.world.dynamics import ASK_STRENGTH, Moment, play_session, sigmoid, timeliness, visit_probability
from data.world.items import inner, make_items
from data.world.listeners import make_listeners, visit_hour
from data.world.policies import (
    GreedyClick,
    LoggingPolicy,
    Oracle,
    PopularityPolicy,
    RandomPolicy,
    SlatePolicy,
    WorldContexts,
)
from data.world.record import Day, write_logs
from data.world.settings import WorldSettings
from data.world.shocks import Purpose, normal, uniform
from data.world.truth import metrics

_DAY_US = 24 * MICROSECONDS_PER_HOUR
_SURFACE = SURFACE_CODE["now_playing"]


@dataclass
class State:
    """What changes from day to day, for U listeners."""

    day: int
    taste: NDArray[np.float32]  # (U, D)
    satiation: NDArray[np.float32]  # (U, S)
    satisfaction: NDArray[np.float32]  # (U,) exponential average of enjoyment
    habit: NDArray[np.float32]  # (U,) in [0, 1]
    premium: NDArray[np.bool_]  # (U,)
    last_time: NDArray[np.int64]  # (U,) us, of the last interaction; -1 = never
    item: NDArray[np.int32]  # (U, H) last interactions, left-padded with -1
    action: NDArray[np.int8]  # (U, H)


@dataclass(frozen=True)
class _Visits:
    """Who came on a day, and when."""

    listeners: NDArray[np.int32]  # (B,)
    hours_off: NDArray[np.float32]  # (B,)
    contexts: WorldContexts


class World:
    """One world: a catalog fixed by (settings, seed), listeners and luck fixed by (settings, listener seed)."""

    def __init__(self, settings: WorldSettings, seed: int = 0) -> None:
        """Draws the catalog and, with the same seed, the listeners; `reset` draws others for the same catalog."""
        if len(settings.dynamics.examination) < settings.dynamics.slate_size:
            raise InputError(
                f"world {settings.name}: examination has {len(settings.dynamics.examination)} positions for slates of "
                f"{settings.dynamics.slate_size}: give one share per position"
            )
        if settings.catalog.items < settings.dynamics.slate_size:
            raise InputError(f"world {settings.name}: {settings.catalog.items} items cannot fill a slate: raise items")
        self.settings = settings
        self.seed = seed
        self.items = make_items(settings.catalog, seed, settings.start)
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Back to the first day with listeners and luck drawn from `seed`; the catalog stays."""
        settings, items = self.settings, self.items
        self.listener_seed = seed
        self.listeners = make_listeners(settings.people, items, seed)
        u, length = len(self.listeners), settings.dynamics.history_length
        self.state = State(
            day=0,
            taste=self.listeners.home_taste.copy(),
            satiation=np.zeros((u, len(items.centre)), np.float32),
            satisfaction=np.zeros(u, np.float32),
            habit=np.full(u, 0.1, np.float32),
            premium=self.listeners.premium.copy(),
            last_time=np.full(u, -1, np.int64),
            item=np.full((u, length), -1, np.int32),
            action=np.full((u, length), -1, np.int8),
        )
        self.days: list[Day] = []
        self._visits: _Visits | None = None

    def branch(self) -> World:
        """A copy that goes on from today, with an empty log; catalog, listeners and future luck are shared."""
        other = object.__new__(World)
        other.settings, other.seed, other.listener_seed = self.settings, self.seed, self.listener_seed
        other.items, other.listeners = self.items, self.listeners
        other.state = deepcopy(self.state)
        other.days = []
        other._visits = None
        return other

    @property
    def day(self) -> int:
        """The day that `observe` shows next, counted from 0."""
        return self.state.day

    def observe(self) -> tuple[NDArray[np.int32], WorldContexts]:
        """Today's decision points: listeners (B,) and what is known of them; B may be 0. Asking twice is the same."""
        if self._visits is None:
            self._visits = self._draw_visits()
        return self._visits.listeners, self._visits.contexts

    def _draw_visits(self) -> _Visits:
        settings, state, traits = self.settings, self.state, self.listeners
        day, seed, u = state.day, self.listener_seed, len(self.listeners)
        chance = visit_probability(settings.dynamics, traits.visit_logit[:, day % 7], state.satisfaction, state.habit)
        listeners = np.flatnonzero(uniform(seed, day, Purpose.VISIT, u) < chance).astype(np.int32)

        hour, off = visit_hour(traits, settings.people, day, seed)
        offsets = np.array([hours for _, hours in settings.people.time_zones], dtype=np.int64)
        local = day * _DAY_US + (hour[listeners] * MICROSECONDS_PER_HOUR).astype(np.int64)
        start = int(settings.start.timestamp()) * 1_000_000
        time = start + local - offsets[traits.zone[listeners]] * MICROSECONDS_PER_HOUR
        known = state.last_time[listeners]
        gap = np.where(known >= 0, (time - known) / MICROSECONDS_PER_HOUR, np.nan).astype(np.float32)

        steer, moment = self._ask(listeners)
        contexts = WorldContexts(
            time=time,
            # The first day of every world is a Monday in every zone.
            hour_of_week=(local // MICROSECONDS_PER_HOUR % 168).astype(np.int16),
            surface=np.full(len(listeners), _SURFACE, np.int8),
            gap_hours=gap,
            item=state.item[listeners],
            action=state.action[listeners],
            steer=steer,
            moment=moment,
        )
        return _Visits(listeners, off[listeners], contexts)

    def _ask(self, listeners: NDArray[np.int32]) -> tuple[list[str | None], Moment]:
        """What today's visitors say they want, and their state of mind; asking bends the taste of the moment."""
        s, items, state = self.settings.dynamics, self.items, self.state
        luck = uniform(self.listener_seed, state.day, Purpose.STEER, (len(self.listeners), 5))[listeners]
        taste, liking = state.taste[listeners], self.listeners.kind_liking[listeners].copy()
        steer: list[str | None] = [None] * len(listeners)
        rows = np.flatnonzero(luck[:, 0] < s.steer_share)
        if len(rows):
            luck = luck[rows]
            # People ask for what they usually like, now and then for anything.
            odds = np.exp(inner(self.listeners.home_taste[listeners[rows]], items.centre))
            odds = np.cumsum(odds / odds.sum(axis=1, keepdims=True), axis=1)
            style = np.minimum((odds < luck[:, 2:3]).sum(axis=1), len(items.centre) - 1)
            kind = np.minimum((luck[:, 3] * len(items.kinds)).astype(np.int64), len(items.kinds) - 1)
            names_style, names_kind = luck[:, 1] < 0.9, luck[:, 1] > 0.75
            shift = s.steer_shift * names_style[:, None]
            asked = (1.0 - shift) * taste[rows] + shift * ASK_STRENGTH * items.centre[style]
            taste[rows] = asked.astype(np.float32)
            wanted = np.arange(len(items.kinds)) == kind[:, None]
            liking[rows] += (names_kind[:, None] * s.steer_shift * np.where(wanted, 1.0, -1.0)).astype(np.float32)
            for i, row in enumerate(rows.tolist()):
                ways = items.phrases[int(style[i]) if names_style[i] else -1][int(kind[i]) if names_kind[i] else -1]
                steer[row] = ways[int(luck[i, 4] * len(ways))]
        return steer, Moment(items, s, taste, liking, state.satiation[listeners])

    def act(
        self,
        slates: NDArray[np.int32],
        log_propensity: NDArray[np.float64],
        policy: str,
        move: list[str] | None = None,
    ) -> None:
        """Shows today's visitors their slates and lives the day to its end.

        Args:
            slates: (B, K) item indices, aligned with `observe`.
            log_propensity: (B,) log-probability of each slate (of the (move, slate) pair where `move` is given).
            policy: name@version, as logged.
            move: the steer token of each decision, if the policy has such.

        Raises:
            InputError: slates of another shape, with an unknown item or an item twice, or a log-probability above 0.
        """
        listeners, contexts = self.observe()
        visits, state, s = self._visits, self.state, self.settings.dynamics
        assert visits is not None
        assert contexts.moment is not None
        slates = (
            np.asarray(slates, dtype=np.int32).reshape(-1, s.slate_size) if len(slates) == 0 else np.asarray(slates)
        )
        self._check(slates, np.asarray(log_propensity), policy)
        slates = slates.astype(np.int32)
        day, seed, u = state.day, self.listener_seed, len(self.listeners)

        session = play_session(contexts.moment, slates, listeners, u, day, seed)
        state.satiation[listeners] = session.satiation
        rate = s.satisfaction_rate
        satisfaction = (1.0 - rate) * state.satisfaction[listeners] + rate * session.enjoyment
        state.satisfaction[listeners] = satisfaction
        gain = s.habit_gain * timeliness(s, visits.hours_off) * np.maximum(session.enjoyment, 0.0)
        came = np.zeros(u, np.bool_)
        came[listeners] = True
        state.habit[~came] *= 1.0 - s.habit_decay
        state.habit[listeners] += gain * (1.0 - state.habit[listeners])

        convert = sigmoid((s.convert_base + s.convert_satisfaction * satisfaction).astype(np.float32))
        converted = ~state.premium[listeners] & (uniform(seed, day, Purpose.CONVERT, u)[listeners] < convert)
        state.premium[listeners[converted]] = True

        record = Day.of(
            day, listeners, contexts, slates, np.asarray(log_propensity, np.float64), policy, move, session, converted
        )
        self.days.append(record)
        self._remember(listeners, slates, session.reaction(), record.play_time)
        self._sleep()

    def _check(self, slates: NDArray[np.int32], log_propensity: NDArray[np.float64], policy: str) -> None:
        batch, size = len(self.observe()[0]), self.settings.dynamics.slate_size
        if slates.shape != (batch, size):
            raise InputError(f"policy {policy}: slates of shape {slates.shape}, must be {(batch, size)}")
        # A model's float32 sum of log-probabilities may end a hair above 0.
        if log_propensity.shape != (batch,) or not np.all((log_propensity <= 1e-4) & np.isfinite(log_propensity)):
            raise InputError(f"policy {policy}: log_propensity must be ({batch},), finite and at most 0")
        if batch and (slates.min() < 0 or slates.max() >= len(self.items)):
            raise InputError(f"policy {policy}: a slate holds an item outside 0..{len(self.items) - 1}")
        ordered = np.sort(slates, axis=1)
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            raise InputError(f"policy {policy}: a slate shows an item twice")

    def _remember(
        self,
        listeners: NDArray[np.int32],
        slates: NDArray[np.int32],
        reaction: NDArray[np.int8],
        play_time: NDArray[np.int64],
    ) -> None:
        """Appends what was played to the histories, position by position."""
        state = self.state
        for k in range(slates.shape[1]):
            rows = np.flatnonzero(reaction[:, k] >= 0)
            who = listeners[rows]
            state.item[who, :-1] = state.item[who, 1:]
            state.item[who, -1] = slates[rows, k]
            state.action[who, :-1] = state.action[who, 1:]
            state.action[who, -1] = reaction[rows, k]
            state.last_time[who] = play_time[rows, k]

    def _sleep(self) -> None:
        """The night: satiation recovers, tastes drift, the day turns."""
        state, people = self.state, self.settings.people
        state.satiation *= 1.0 - self.settings.dynamics.satiation_recovery
        drift = normal(self.listener_seed, state.day, Purpose.DRIFT, state.taste.shape)
        state.taste += people.taste_pull * (self.listeners.home_taste - state.taste) + people.taste_drift * drift
        state.day += 1
        self._visits = None

    def play(
        self, policy: SlatePolicy, days: int, rng: np.random.Generator, on_day: Callable[[], None] | None = None
    ) -> None:
        """Lets `policy` decide for `days` days; `on_day` is called after each, for progress bars."""
        for _ in range(days):
            listeners, contexts = self.observe()
            if len(listeners):
                slates, log_propensity = policy.choose(contexts, rng)
            else:
                slates = np.empty((0, self.settings.dynamics.slate_size), np.int32)
                log_propensity = np.empty(0)
            self.act(slates, log_propensity, policy.name)
            if on_day is not None:
                on_day()

    def truth(
        self,
        policy: SlatePolicy,
        horizon_days: int = 28,
        policy_seed: int = 0,
        on_day: Callable[[], None] | None = None,
    ) -> dict[str, NDArray[np.float64]]:
        """What `policy` brings about from today on, listener by listener; this world itself does not move.

        All policies meet the same listeners with the same luck. A policy's own draws come from `policy_seed`.

        Returns: one value per listener (U,) for each of `data.world.truth.METRICS`, defined in `truth.metrics`.

        Raises InputError when `horizon_days` is under 28.
        """
        if horizon_days < 28:
            raise InputError(f"world: horizon_days is {horizon_days}; the metrics need at least 28")
        future, u = self.branch(), len(self.listeners)
        rng = np.random.default_rng([policy_seed, self.listener_seed, 2])
        visits = np.zeros((u, horizon_days), np.bool_)
        plays, minutes, satisfaction = np.zeros(u), np.zeros(u), np.zeros(u)
        for t in range(horizon_days):
            future.play(policy, 1, rng, on_day)
            today = future.days.pop()
            visits[today.listeners, t] = True
            plays[today.listeners] += today.session.played.sum(axis=1)
            minutes[today.listeners] += today.session.seconds.sum(axis=1) / 60.0
            satisfaction += future.state.satisfaction / horizon_days
        return metrics(visits, plays, minutes, satisfaction)

    def items_frame(self) -> pl.DataFrame:
        """The ITEMS table; its row is the item's index in every slate."""
        return self.items.frame

    def log(self) -> Logs:
        """Everything since the start (or since `branch`) as tables."""
        return write_logs(self.items, self.listeners, self.settings, self.days, self.state.day)

    def built_in(self, name: str) -> SlatePolicy:
        """The policy called logging, random, popularity, greedy_click or oracle, for this world's catalog.

        Raises InputError for any other name.
        """
        size = self.settings.dynamics.slate_size
        policies: dict[str, SlatePolicy] = {
            "logging": LoggingPolicy(self.items, self.settings.logging, size),
            "random": RandomPolicy(len(self.items), size),
            "popularity": PopularityPolicy(self.items, size),
            "greedy_click": GreedyClick(size),
            "oracle": Oracle(size),
        }
        if name not in policies:
            raise InputError(f"world: no built-in policy {name!r}: choose one of {', '.join(policies)}")
        return policies[name]


def burned_in(settings: WorldSettings, seed: int, days: int, listener_seed: int | None = None) -> World:
    """A world whose listeners have lived `days` days under the logging policy, its log emptied.

    The catalog comes from `seed`; `listener_seed` (default: the same) draws other people for the same catalog.
    """
    world = World(settings, seed)
    if listener_seed is not None:
        world.reset(listener_seed)
    world.play(world.built_in("logging"), days, np.random.default_rng([world.listener_seed, 1]))
    return world.branch()
