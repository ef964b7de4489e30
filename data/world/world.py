"""A simulated streaming service, all listeners at once: our implementation of `data.world.environment.Environment`.

A day has three slots (morning, daytime, evening) and a listener comes at most once in each, so a visit, a session and
a decision are one thing. A step is `observe()` (who came, and what is known about each of them) and `act(slates)` (what
they were shown; the slot is then lived through). Where messages are sent, every day begins with a step of its own.

    world = World(PRESETS["clickbait"], seed=0)
    while world.day < 28:
        listeners, contexts = world.observe()
        slates, log_propensity = policy.choose(contexts, rng)
        world.act(slates, log_propensity, policy.name)
    logs = world.log()

`play` does just that, for several days, and lets the logging policy decide on messages where no other is given.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.errors import InputError
from data.histories import MICROSECONDS_PER_HOUR
from data.logs import Logs
from data.schema import SURFACE_CODE
from data.world import message_policies
from data.world.coming import after_session, bring_back, convert_probability, leave_and_return, visit_probability
from data.world.dynamics import play_session
from data.world.environment import (
    MessagePoints,
    MessagePolicy,
    Messages,
    SlatePoints,
    SlatePolicy,
    Slates,
    Truth,
    check_choice,
)
from data.world.items import make_items
from data.world.listeners import make_listeners, utc, visit_hour
from data.world.mailroom import Mailroom
from data.world.messages import Answers
from data.world.moments import ask, moment_of
from data.world.opportunities import OFFER, WIN_BACK
from data.world.policies import GreedyClick, LoggingPolicy, Oracle, PopularityPolicy, RandomPolicy, WorldContexts
from data.world.record import Round, write_logs
from data.world.settings import SLOT_HOURS, SLOTS, WorldSettings, in_force
from data.world.shocks import Purpose, normal, uniform
from data.world.state import first_state, remember, rows_of
from data.world.truth import Tally, message_metrics, metrics

_DAY_US = 24 * MICROSECONDS_PER_HOUR
_APART_US = 36 * 60 * 1_000_000  # between two sessions, so that nobody takes them for one
_SURFACE = SURFACE_CODE["now_playing"]


@dataclass(frozen=True)
class _Visits:
    """Who comes in a slot, and when; and how the slot's messages are answered."""

    points: SlatePoints
    contexts: WorldContexts
    hours_off: NDArray[np.float32]  # (B,)
    answers: Answers | None


class World:
    """One world: a catalog fixed by (settings, seed), listeners and luck fixed by (settings, listener seed)."""

    def __init__(self, settings: WorldSettings, seed: int = 0) -> None:
        """Draws the catalog and, with the same seed, the listeners; `reset` draws others for the same catalog.

        Raises InputError when the settings do not fit together.
        """
        self.settings = in_force(settings)
        self.seed = seed
        self.items = make_items(settings.catalog, seed, settings.start)
        self.mailroom = Mailroom(self.settings, self.items, seed) if settings.switches.messages else None
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Back to the first day with listeners and luck drawn from `seed`; the catalog stays."""
        self.listener_seed = seed
        self.listeners = make_listeners(self.settings.people, self.items, seed)
        self.state = first_state(self.listeners, self.items, self.settings.dynamics, self.settings.messages)
        self.rounds: list[Round] = []
        if self.mailroom is not None:
            self.mailroom.reset()
        self._visits: _Visits | None = None
        self._mail: MessagePoints | None = None

    def branch(self) -> World:
        """A copy that goes on from now, with an empty log; catalog, listeners and future luck are shared."""
        other = object.__new__(World)
        other.settings, other.seed, other.listener_seed = self.settings, self.seed, self.listener_seed
        other.items, other.listeners = self.items, self.listeners
        other.state = deepcopy(self.state)
        other.rounds = []
        other.mailroom = None if self.mailroom is None else self.mailroom.branch()
        other._visits, other._mail = None, None
        return other

    def gathered(self, rows: NDArray[np.integer], seed: int) -> World:
        """A world of this slot's visitors `rows` (places in `observe().listeners`, each as often as named) and nobody
        else, as they open the app: what they were shown before stays, their luck from now on is drawn from `seed`.

        Nobody is sent messages in it.
        """
        assert not self._mail_is_open(), "messages come first: act on them"
        self.observe()
        visits, other = self._visits, self.branch()
        assert visits is not None
        assert visits.contexts.moment is not None
        who, everybody = visits.points.listeners[rows], len(self.listeners)
        other.listener_seed, other.mailroom = seed, None
        other.listeners, other.state = rows_of(self.listeners, who, everybody), rows_of(other.state, who, everybody)
        here, came = visits.contexts, len(visits.points.listeners)
        said = [here.steer[row] for row in rows.tolist()]
        contexts = replace(rows_of(here, rows, came), steer=said, moment=rows_of(here.moment, rows, came))
        points = SlatePoints(np.arange(len(rows), dtype=np.int32), contexts)
        other._visits = _Visits(points, contexts, visits.hours_off[rows], None)
        return other

    @property
    def day(self) -> int:
        """The day that `observe` shows next, counted from 0."""
        return self.state.day

    def observe(self) -> SlatePoints | MessagePoints:
        """The next decision points: on a morning with messages whom to send something, else who came in this slot.

        B may be 0. Asking twice is the same.
        """
        if self._mail_is_open():
            assert self.mailroom is not None
            if self._mail is None:
                self._mail = self.mailroom.points(self.listeners, self.state, self.listener_seed)
            return self._mail
        if self._visits is None:
            self._visits = self._draw_visits()
        return self._visits.points

    def _mail_is_open(self) -> bool:
        """Whether today's messages have not been decided on yet."""
        room, state = self.mailroom, self.state
        return room is not None and state.slot == 0 and (room.today is None or room.today.day < state.day)

    def _draw_visits(self) -> _Visits:
        settings, state, traits = self.settings, self.state, self.listeners
        day, slot, seed, u = state.day, state.slot, self.listener_seed, len(self.listeners)
        step = day * len(SLOTS) + slot
        came = uniform(seed, step, Purpose.VISIT, u) < visit_probability(
            state, traits, settings.dynamics, settings.messages
        )
        hour, off = visit_hour(traits, settings.people, day, slot, seed)
        answers = None if self.mailroom is None else self.mailroom.answers(state, u, seed)
        if answers is not None:
            came, hour, off, answers = self._with_opens(came, hour, off, answers)
        listeners = np.flatnonzero(came).astype(np.int32)
        local = day * _DAY_US + (hour[listeners] * MICROSECONDS_PER_HOUR).astype(np.int64)
        time = self._instants(listeners, local)
        # Who still listens comes when they are done with it, or not at all when that is too late in the day.
        wait = np.maximum(state.busy_until[listeners] + _APART_US - time, 0)
        local, time = local + wait, time + wait
        on_time = local < day * _DAY_US + int(SLOT_HOURS[-1][1] * MICROSECONDS_PER_HOUR)
        listeners, local, time = listeners[on_time], local[on_time], time[on_time]
        if answers is not None:
            answers = self._only_who_came(answers, listeners)
        known = state.last_time[listeners]
        gap = np.where(known >= 0, (time - known) / MICROSECONDS_PER_HOUR, np.nan).astype(np.float32)
        moment = moment_of(listeners, state, traits, self.items, settings)
        luck = uniform(seed, step, Purpose.STEER, (u, 5))[listeners]
        contexts = WorldContexts(
            time=time,
            # The first day of every world is a Monday in every zone.
            hour_of_week=(local // MICROSECONDS_PER_HOUR % 168).astype(np.int16),
            surface=np.full(len(listeners), _SURFACE, np.int8),
            gap_hours=gap,
            item=state.item[listeners],
            action=state.action[listeners],
            steer=ask(moment, traits.home_taste[listeners], luck),
            moment=moment,
        )
        return _Visits(SlatePoints(listeners, contexts), contexts, off[listeners], answers)

    def _instants(self, listeners: NDArray[np.int32], local: NDArray[np.int64]) -> NDArray[np.int64]:
        return utc(self.settings.start, self.settings.people.time_zones, self.listeners.zone[listeners], local)

    def _with_opens(
        self,
        came: NDArray[np.bool_],
        hour: NDArray[np.float64],
        off: NDArray[np.float32],
        answers: Answers,
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float32], Answers]:
        """Visits (U,) with those that opened messages bring; who left comes only for a win-back that wins them back."""
        room, settings, u = self.mailroom, self.settings, len(came)
        assert room is not None
        assert room.today is not None
        who = room.today.listeners[answers.rows]
        luck = uniform(self.listener_seed, self.state.day, Purpose.MOMENT, u)[who]
        wins = room.opened(answers, WIN_BACK, u)[who] & (luck < settings.messages.win_back_opens)
        opens = answers.opens & (~self.state.gone[who] | wins)
        if not settings.messages.open_brings:
            opens &= came[who]
            return came, hour, off, answers.opening(opens)
        came, hour = came.copy(), hour.copy()
        came[who[opens]] = True
        hour[who[opens]] = np.minimum(answers.hour[opens], SLOT_HOURS[-1][1] - 0.01)
        usual = self.listeners.usual_hour[:, self.state.slot + (len(SLOTS) if self.state.day % 7 >= 5 else 0)]
        return came, hour, np.abs(hour - usual).astype(np.float32), answers.opening(opens)

    def _only_who_came(self, answers: Answers, listeners: NDArray[np.int32]) -> Answers:
        """Nobody opens a message on a visit that they were too busy for."""
        assert self.mailroom is not None
        assert self.mailroom.today is not None
        came = np.zeros(len(self.listeners), np.bool_)
        came[listeners] = True
        return answers.opening(answers.opens & came[self.mailroom.today.listeners[answers.rows]])

    def act(
        self,
        choice: Slates | Messages,
        log_propensity: NDArray[np.float64],
        policy: str,
        move: list[str] | None = None,
    ) -> None:
        """Shows the visitors their slates and lives the slot to its end; or sends today's messages.

        Args:
            choice: slates (B, K) of item indices or messages (B,), as `observe` asks for, aligned with it.
            log_propensity: (B,) log-probability of each choice (of the (move, slate) pair where `move` is given).
            policy: name@version, as logged.
            move: the steer token of each decision, if the policy has such.

        Raises:
            InputError: slates of another shape, with an unknown item or an item twice; a message that is not on offer
                or not consented to; a log-probability above 0; slates where messages are asked for, or the reverse.
        """
        points = self.observe()
        if isinstance(points, MessagePoints):
            assert self.mailroom is not None
            if not isinstance(choice, Messages):
                raise InputError(f"policy {policy}: today's messages come first: act on them with Messages, or play()")
            self.mailroom.post(points, choice, log_propensity, policy, self.listeners, self.state)
            self._mail = None
            return
        if isinstance(choice, Messages):
            raise InputError(f"policy {policy}: messages were sent where visitors wait for slates")
        self._live(choice, np.asarray(log_propensity, np.float64), policy, move)

    def _live(self, slates: Slates, log_propensity: NDArray[np.float64], policy: str, move: list[str] | None) -> None:
        visits, state, s = self._visits, self.state, self.settings.dynamics
        assert visits is not None
        listeners, contexts = visits.points.listeners, visits.contexts
        assert contexts.moment is not None
        if len(slates) == 0:
            slates = np.asarray(slates, dtype=np.int32).reshape(-1, s.slate_size)
        check_choice(np.asarray(slates), log_propensity, policy, len(listeners), s.slate_size, len(self.items))
        slates = np.asarray(slates).astype(np.int32)
        seed, u = self.listener_seed, len(self.listeners)
        step = state.day * len(SLOTS) + state.slot

        offered = np.zeros(u, np.bool_)
        if self.mailroom is not None and visits.answers is not None:
            came_at = np.full(u, -1, np.int64)
            came_at[listeners] = contexts.time
            offered = self.mailroom.opened(visits.answers, OFFER, u)
            back = np.zeros(u, np.bool_)
            back[listeners] = state.gone[listeners]
            bring_back(state, back)
            self.mailroom.take(visits.answers, came_at, state)
            self.mailroom.show_in_app(came_at, state, seed)

        session, after = play_session(contexts.moment, slates, listeners, u, step, seed)
        after_session(state, self.listeners, self.items, s, listeners, slates, session, after, visits.hours_off)
        logit_shift = np.where(offered[listeners], self.settings.messages.offer_logit, 0.0).astype(np.float32)
        convert = convert_probability(s, state.satisfaction[listeners], logit_shift)
        converted = ~state.premium[listeners] & (uniform(seed, step, Purpose.CONVERT, u)[listeners] < convert)
        state.premium[listeners[converted]] = True

        record = Round.of(
            state.day, state.slot, listeners, contexts, slates, log_propensity, policy, move, session, converted
        )
        self.rounds.append(record)
        state.busy_until[listeners] = record.ends()
        remember(state, listeners, slates, session.reaction(), record.play_time)
        self._visits = None
        state.slot += 1
        if state.slot == len(SLOTS):
            self._sleep()

    def _sleep(self) -> None:
        """The night: satiation recovers, tastes drift, people leave and return, the day turns."""
        state, s, people, m = self.state, self.settings.dynamics, self.settings.people, self.settings.messages
        state.satiation *= 1.0 - s.satiation_recovery
        state.tired *= 1.0 - s.creator_satiation_recovery
        state.familiarity *= 1.0 - s.exposure_forgetting
        state.annoyance *= 1.0 - m.annoyance_recovery
        drift = normal(self.listener_seed, state.day, Purpose.DRIFT, state.taste.shape)
        state.taste += people.taste_pull * (self.listeners.home_taste - state.taste) + people.taste_drift * drift
        leave_and_return(state, s, uniform(self.listener_seed, state.day, Purpose.CHURN, (len(self.listeners), 2)))
        state.slot, state.day = 0, state.day + 1

    def play(
        self,
        policy: SlatePolicy,
        days: int,
        rng: np.random.Generator,
        on_day: Callable[[], None] | None = None,
        messages: MessagePolicy | None = None,
    ) -> None:
        """Lets `policy` fill slates for `days` days, and `messages` (default: the logging policy) decide on messages.

        `on_day` is called after each day, for progress bars.
        """
        messages = self.message_policy("logging") if messages is None else messages
        for _ in range(days):
            until = self.day + 1
            while self.day < until:
                points = self.observe()
                if isinstance(points, MessagePoints):
                    sent, log_propensity = messages.choose(points.contexts, rng)
                    self.act(sent, log_propensity, messages.name)
                    continue
                slates = np.empty((0, self.settings.dynamics.slate_size), np.int32)
                log_propensity = np.empty(0)
                if len(points.listeners):
                    slates, log_propensity = policy.choose(points.contexts, rng)
                self.act(slates, log_propensity, policy.name)
            if on_day is not None:
                on_day()

    def truth(
        self,
        policy: SlatePolicy,
        horizon_days: int = 28,
        policy_seed: int = 0,
        on_day: Callable[[], None] | None = None,
        messages: MessagePolicy | None = None,
    ) -> Truth:
        """What `policy` brings about from now on, listener by listener; this world itself does not move.

        All policies meet the same listeners with the same luck. A policy's own draws come from `policy_seed`.

        Returns: one value per listener (U,) for each of `data.world.truth.METRICS`, defined in `truth.metrics`; where
        messages are sent, of MESSAGE_METRICS too.

        Raises InputError when `horizon_days` is under 28.
        """
        if horizon_days < 28:
            raise InputError(f"world: horizon_days is {horizon_days}; the metrics need at least 28")
        future = self.branch()
        rng = np.random.default_rng([policy_seed, self.listener_seed, 2])
        tally = Tally.of(~self.state.premium, horizon_days)
        for t in range(horizon_days):
            future.play(policy, 1, rng, on_day, messages)
            for lived in future.rounds:
                tally.add_round(t, lived)
            future.rounds.clear()
            tally.satisfaction += future.state.satisfaction
            if future.mailroom is not None:
                for mailing in future.mailroom.mailings:
                    tally.add_mailing(mailing)
                future.mailroom.mailings.clear()
        found = metrics(tally)
        if future.mailroom is not None:
            found |= message_metrics(tally, future.state.consent[:, 0] | future.state.consent[:, 1])
        return found

    def items_frame(self) -> pl.DataFrame:
        """The ITEMS table of what slates are made of; its row is the item's index in every slate."""
        return self.items.frame

    def log(self) -> Logs:
        """Everything since the start (or since `branch`) as tables."""
        room = self.mailroom
        return write_logs(
            self.items,
            None if room is None else room.messages,
            self.listeners,
            self.settings,
            self.rounds,
            [] if room is None else room.mailings,
            self.state.day,
        )

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

    def message_policy(self, name: str) -> MessagePolicy:
        """The message policy called logging, hold, send_always, most_opens or oracle. Raises InputError for others."""
        m, logging = self.settings.messages, self.settings.logging
        policies: dict[str, MessagePolicy] = {
            "logging": message_policies.LoggingMessages(m, logging),
            "hold": message_policies.Hold(),
            "send_always": message_policies.SendAlways(),
            "most_opens": message_policies.MostOpens(m, logging),
            "oracle": message_policies.MessageOracle(m, logging),
        }
        if name not in policies:
            raise InputError(f"world: no message policy {name!r}: choose one of {', '.join(policies)}")
        return policies[name]


def lived_in(settings: WorldSettings, seed: int, days: int, listener_seed: int | None = None) -> World:
    """A world whose listeners have lived `days` days under the logging policy; its log tells of them.

    The catalog comes from `seed`; `listener_seed` (default: the same) draws other people for the same catalog.
    """
    world = World(settings, seed)
    if listener_seed is not None:
        world.reset(listener_seed)
    world.play(world.built_in("logging"), days, np.random.default_rng([world.listener_seed, 1]))
    return world


def burned_in(settings: WorldSettings, seed: int, days: int, listener_seed: int | None = None) -> World:
    """The evening that `lived_in` ends with, its log emptied."""
    return lived_in(settings, seed, days, listener_seed).branch()
