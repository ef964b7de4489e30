"""The messages of a world: this morning's decision points, what was sent today, and the answers that come in."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.errors import InputError
from data.histories import MICROSECONDS_PER_HOUR
from data.schema import SURFACE_CODE
from data.world.coming import visit_probability
from data.world.environment import MessagePoints, Messages, check_log_propensity
from data.world.items import Items
from data.world.listeners import Listeners, utc
from data.world.message_record import message_signals
from data.world.messages import (
    DECISION_HOUR,
    Answers,
    HiddenMessageContexts,
    Mailing,
    MessageMoment,
    answers,
    in_app_answers,
    send,
    take,
)
from data.world.opportunities import make_messages, todays
from data.world.record import user_ids
from data.world.settings import CHANNELS, SLOTS, WorldSettings
from data.world.state import State

_SURFACE = SURFACE_CODE["other"]  # nothing is on any surface yet when it is decided on
_HOURS = 24


class Mailroom:
    """Messages of one world; `mailings` is its log, a mailing a day."""

    def __init__(self, settings: WorldSettings, items: Items, seed: int) -> None:
        self.settings = settings
        self.items = items
        self.messages = make_messages(items, seed, settings.start)
        self.reset()

    def reset(self) -> None:
        """Nothing has been sent."""
        self.mailings: list[Mailing] = []
        self.today: Mailing | None = None

    def branch(self) -> Mailroom:
        """A copy with an empty log in which today's mail is still on its way."""
        other = object.__new__(Mailroom)
        other.settings, other.items, other.messages = self.settings, self.items, self.messages
        other.mailings, other.today = [], deepcopy(self.today)
        return other

    def points(self, traits: Listeners, state: State, seed: int) -> MessagePoints:
        """Whom something could be sent to today: with an opportunity, and a channel that they consent to."""
        settings, u = self.settings, len(traits)
        local = np.full(u, (state.day * _HOURS + DECISION_HOUR) * MICROSECONDS_PER_HOUR, dtype=np.int64)
        now = utc(settings.start, settings.people.time_zones, traits.zone, local)
        rows, relevance, value = todays(self.messages, self.items, traits, state, settings.messages, now, seed)
        who = np.flatnonzero((rows >= 0).any(axis=1) & state.consent.any(axis=1)).astype(np.int32)
        last = state.last_time[who]
        comes = np.stack([self._comes(traits, state, slot)[who] for slot in range(len(SLOTS))], axis=1)
        moment = MessageMoment(
            settings.messages,
            relevance[who],
            state.annoyance[who],
            state.habit[who],
            traits.usual_hour[who],
            comes,
            state.gone[who],
            state.day,
        )
        contexts = HiddenMessageContexts(
            time=now[who],
            hour_of_week=(local[who] // MICROSECONDS_PER_HOUR % 168).astype(np.int16),
            surface=np.full(len(who), _SURFACE, np.int8),
            gap_hours=np.where(last >= 0, (now[who] - last) / MICROSECONDS_PER_HOUR, np.nan).astype(np.float32),
            item=state.item[who],
            action=state.action[who],
            steer=[None] * len(who),
            eligible=rows[who],
            value=value[who],
            consent=state.consent[who],
            premium=state.premium[who],
            zone=traits.zone[who],
            zones=settings.people.time_zones,
            sent_item=state.sent_item[who],
            sent_channel=state.sent_channel[who],
            sent_days_ago=state.day - state.sent_day[who],
            sent_answer=state.sent_answer[who],
            moment=moment,
        )
        return MessagePoints(who, contexts)

    def _comes(self, traits: Listeners, state: State, slot: int) -> NDArray[np.float32]:
        now, state.slot = state.slot, slot
        chance = visit_probability(state, traits, self.settings.dynamics, self.settings.messages)
        state.slot = now
        return chance

    def post(
        self,
        points: MessagePoints,
        choice: Messages,
        log_propensity: NDArray[np.float64],
        policy: str,
        traits: Listeners,
        state: State,
    ) -> None:
        """Sends what was chosen. Raises InputError for what is not on offer, not consented to, or not an hour."""
        contexts = points.contexts
        check_messages(points, choice, log_propensity, policy)
        sent_rows = ~choice.held
        column = np.maximum(choice.column, 0)[:, None]
        local = (state.day * _HOURS + np.maximum(choice.hour, 0).astype(np.int64)) * MICROSECONDS_PER_HOUR
        when = utc(self.settings.start, self.settings.people.time_zones, traits.zone[points.listeners], local)
        assert isinstance(contexts, HiddenMessageContexts)
        assert contexts.moment is not None
        relevance = np.take_along_axis(contexts.moment.relevance, column, axis=1)[:, 0]
        batch = len(points.listeners)
        never = [np.full(batch, -1, np.int64) for _ in range(3)]
        self.today = Mailing(
            state.day,
            points.listeners,
            contexts.time,
            contexts.eligible,
            contexts.value,
            np.where(sent_rows, relevance, 0.0).astype(np.float32),
            np.where(sent_rows, np.take_along_axis(contexts.eligible, column, axis=1)[:, 0], -1).astype(np.int32),
            np.where(sent_rows, choice.channel, -1).astype(np.int8),
            np.where(sent_rows, choice.hour, -1).astype(np.int8),
            np.where(sent_rows, when, -1),
            np.asarray(log_propensity, np.float64),
            policy,
            np.full(batch, -1, np.int8),
            *never,
        )
        self.mailings.append(self.today)
        send(self.today, state)

    def answers(self, state: State, population: int, seed: int) -> Answers | None:
        """How the push messages and e-mails of this slot are answered; None when there are none today."""
        if self.today is None:
            return None
        return answers(self.today, state, self.settings.messages, population, seed)

    def take(self, given: Answers, came_at: NDArray[np.int64], state: State) -> None:
        """Takes in the answers to push messages and e-mails; `came_at` (U,) is when who came in this slot did so."""
        assert self.today is not None
        # The message is opened just before the visit that it brings; who does not come dismisses it when it arrives.
        visit = came_at[self.today.listeners[given.rows]]
        when = np.where(given.opens, visit - 3_000_000, self.today.send_at[given.rows] + 60_000_000)
        take(self.today, given, when, state, self.settings.messages)

    def show_in_app(self, came_at: NDArray[np.int64], state: State, seed: int) -> None:
        """Shows what waits in the app to those who came in this slot, and takes in their answers."""
        assert self.today is not None
        hour_passed = came_at[self.today.listeners] >= self.today.send_at
        came = came_at >= 0
        given = in_app_answers(self.today, came, hour_passed, state, self.settings.messages, seed)
        when = came_at[self.today.listeners[given.rows]] + 300_000
        take(self.today, given, when, state, self.settings.messages)

    def opened(self, given: Answers, domain: str, population: int) -> NDArray[np.bool_]:
        """(U,) who opens a message of this domain with these answers."""
        assert self.today is not None
        rows = given.rows[given.opens]
        of = self.messages.domain[self.today.sent[rows]] == self.messages.domains.index(domain)
        found = np.zeros(population, np.bool_)
        found[self.today.listeners[rows[of]]] = True
        return found


def signals(room: Mailroom) -> pl.DataFrame:
    """What the domains said of each opportunity since the start: user_id, item_id, time and value."""
    listeners = max((int(mailing.listeners.max(initial=-1)) for mailing in room.mailings), default=-1) + 1
    return message_signals(room.messages, room.mailings, user_ids(listeners))


def check_messages(points: MessagePoints, choice: Messages, log_propensity: NDArray[np.float64], policy: str) -> None:
    """Raises InputError where a choice does not fit the decision points."""
    batch, most = points.contexts.eligible.shape
    check_log_propensity(np.asarray(log_propensity), policy, batch)
    for name in ("column", "channel", "hour"):
        if getattr(choice, name).shape != (batch,):
            raise InputError(
                f"policy {policy}: messages.{name} has shape {getattr(choice, name).shape}, not ({batch},)"
            )
    rows = np.flatnonzero(~choice.held)
    column, channel, hour = choice.column[rows], choice.channel[rows], choice.hour[rows]
    if (column >= most).any() or (points.contexts.eligible[rows, np.minimum(column, most - 1)] < 0).any():
        raise InputError(f"policy {policy}: a message is sent that is not among the listener's opportunities")
    if ((channel < 0) | (channel >= len(CHANNELS))).any():
        raise InputError(f"policy {policy}: channel outside 0..{len(CHANNELS) - 1} ({', '.join(CHANNELS)})")
    if not points.contexts.consent[rows, channel].all():
        first = rows[~points.contexts.consent[rows, channel]][0]
        where = CHANNELS[int(choice.channel[first])]
        raise InputError(f"policy {policy}: row {first} is sent a message by {where} without consent to it")
    if ((hour < 0) | (hour >= _HOURS)).any():
        raise InputError(f"policy {policy}: hour outside 0..{_HOURS - 1}")
