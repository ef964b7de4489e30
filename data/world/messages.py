"""What a message does: it is seen or not, opened or dismissed, brings a visit, annoys, and may end in an opt-out.

    logit P(open) = open_base_channel + open_relevance r - open_annoyance a - open_habit h

with the relevance r of the message to the taste of the day, the annoyance a with the channel, and the habit h of the
context it is sent into: predictable people answer less to a nudge (Buyalskaya et al., PNAS 2023). An opened push or
e-mail is a visit; near the usual hour such a visit helps the habit to form as any other does, which is what a nudge can
do. Every message annoys, more so when irrelevant or in quiet hours (Mehrotra et al., My Phone and Me, CHI 2016);
annoyance accumulates, wears off by a share a day, costs visits, and raises the hazard of opting out of the channel
(reactance: Brehm 1966; notifications that wear off and recover: Yancey & Settles, KDD 2020).
A dismissed message breaks a part of the habit it interrupts: nagging.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from data.schema import ACTION_CODE
from data.world.dynamics import sigmoid
from data.world.environment import MessageContexts
from data.world.listeners import context_of
from data.world.settings import CHANNELS, SLOT_HOURS, SLOTS, MessageSettings
from data.world.shocks import Purpose, uniform
from data.world.state import State

DECISION_HOUR = 5  # local
PUSH, IN_APP = CHANNELS.index("push"), CHANNELS.index("in_app")
_SIGHT = (0.5, 0.25, 1.0)  # of messages that are not opened, the share that is dismissed, by channel
_GONE = 0.3  # how likely somebody who left opens what is sent, of what it was
_DELAY = 0.75  # hours, at most, from a message to the visit that it brings
_NEVER = np.int64(-1)


@dataclass(frozen=True)
class MessageMoment:
    """The hidden state behind B message decisions."""

    settings: MessageSettings
    relevance: NDArray[np.float32]  # (B, M)
    annoyance: NDArray[np.float32]  # (B, channels)
    habit: NDArray[np.float32]  # (B, CONTEXTS)
    usual_hour: NDArray[np.float32]  # (B, CONTEXTS)
    comes: NDArray[np.float32]  # (B, SLOTS) probability of a visit in each slot without a message
    gone: NDArray[np.bool_]  # (B,)
    day: int

    def open_probability(self, channel: int) -> NDArray[np.float32]:
        """P(open) of each opportunity in each slot, (B, M, SLOTS), if it is seen."""
        habit = np.stack([self.habit[:, context_of(self.day, slot)] for slot in range(len(SLOTS))], axis=1)
        return open_probability(
            self.settings, channel, self.relevance[:, :, None], self.annoyance[:, channel, None, None], habit[:, None]
        )


@dataclass(frozen=True)
class HiddenMessageContexts(MessageContexts):
    """Message contexts with the hidden state behind them. An honest policy reads only what `MessageContexts` has."""

    moment: MessageMoment | None = None


def open_probability(
    settings: MessageSettings,
    channel: int | NDArray[np.integer],
    relevance: NDArray[np.float32],
    annoyance: NDArray[np.float32],
    habit: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Probability of an open, over broadcastable arguments."""
    s = settings
    base = np.asarray(s.open_base, dtype=np.float32)[channel]
    logit = base + s.open_relevance * relevance - s.open_annoyance * annoyance - s.open_habit * habit
    return sigmoid(logit.astype(np.float32))


@dataclass
class Mailing:
    """One day's message decisions about B listeners and what came of them; times are us since 1970, -1: it did not."""

    day: int
    listeners: NDArray[np.int32]  # (B,)
    time: NDArray[np.int64]  # (B,) of the decision
    eligible: NDArray[np.int32]  # (B, M)
    value: NDArray[np.float32]  # (B, M) what the domains said of them
    relevance: NDArray[np.float32]  # (B,) of what was sent; 0 where nothing was
    sent: NDArray[np.int32]  # (B,) message row, -1 = held
    channel: NDArray[np.int8]  # (B,)
    hour: NDArray[np.int8]  # (B,)
    send_at: NDArray[np.int64]  # (B,)
    log_propensity: NDArray[np.float64]  # (B,)
    policy: str
    seen_in: NDArray[np.int8]  # (B,) slot in which it was opened or dismissed
    opened: NDArray[np.int64]  # (B,)
    dismissed: NDArray[np.int64]  # (B,)
    opted_out: NDArray[np.int64]  # (B,)

    def slot(self) -> NDArray[np.int64]:
        """(B,) the slot that a message falls into; -1 where nothing was sent or it comes too late to be seen today."""
        starts = np.array([low for low, _ in SLOT_HOURS])
        slot = np.maximum(np.searchsorted(starts, self.hour, side="right") - 1, 0)
        return np.where((self.sent >= 0) & (self.hour <= SLOT_HOURS[-1][1]), slot, -1)


@dataclass(frozen=True)
class Answers:
    """How the messages of one slot are answered: rows (R,) of the mailing, and what each does. All (R,)."""

    rows: NDArray[np.int64]
    opens: NDArray[np.bool_]
    hour: NDArray[np.float64]  # local, of the visit that an opened message brings
    dismisses: NDArray[np.bool_]
    opts_out: NDArray[np.bool_]
    annoys: NDArray[np.float32]  # annoyance with the channel, after it

    def opening(self, opens: NDArray[np.bool_]) -> Answers:
        """The same answers, opened (R,) only where said."""
        return replace(self, opens=opens)


def answers(mailing: Mailing, state: State, settings: MessageSettings, population: int, seed: int) -> Answers:
    """What the listeners do with the push messages and e-mails of the state's slot; nothing changes yet."""
    rows = np.flatnonzero((mailing.slot() == state.slot) & (mailing.channel != IN_APP))
    return _answered(mailing, rows, state, settings, population, seed)


def in_app_answers(
    mailing: Mailing,
    came: NDArray[np.bool_],
    due: NDArray[np.bool_],
    state: State,
    settings: MessageSettings,
    seed: int,
) -> Answers:
    """The same for messages that wait in the app, of those who came (U,) in this slot where they are `due` (B,)."""
    waiting = due & (mailing.sent >= 0) & (mailing.channel == IN_APP)
    unseen = (mailing.opened < 0) & (mailing.dismissed < 0)
    rows = np.flatnonzero(waiting & unseen & came[mailing.listeners])
    return _answered(mailing, rows, state, settings, len(came), seed)


def _answered(
    mailing: Mailing, rows: NDArray[np.int64], state: State, settings: MessageSettings, population: int, seed: int
) -> Answers:
    s, who, channel = settings, mailing.listeners[rows], mailing.channel[rows]
    luck = uniform(seed, mailing.day, Purpose.ANSWER, (population, 4))[who]
    relevance = mailing.relevance[rows]
    before = state.annoyance[who, channel]
    quiet = (mailing.hour[rows] >= s.quiet_from) | (mailing.hour[rows] < s.quiet_until)
    saved = np.clip(1.0 - s.annoyance_relevance * relevance, 0.2, 3.0)
    added = np.asarray(s.annoyance, dtype=np.float32)[channel] * saved
    after = before + added * np.where(quiet, s.annoyance_quiet, 1.0)
    habit = state.habit[who, context_of(state.day, state.slot)]
    chance = open_probability(s, channel, relevance, before, habit)
    chance = np.where(state.gone[who], _GONE * chance, chance)
    opens = luck[:, 0] < chance
    dismisses = ~opens & ~state.gone[who] & (luck[:, 1] < np.asarray(_SIGHT)[channel])
    leaving = np.asarray(s.opt_out_base, dtype=np.float32)[channel] + s.opt_out_annoyance * after
    opts_out = luck[:, 2] < sigmoid(leaving.astype(np.float32))
    hour = np.maximum(mailing.hour[rows], SLOT_HOURS[0][0]) + _DELAY * luck[:, 3]
    return Answers(rows, opens, hour, dismisses, opts_out, after.astype(np.float32))


def take(mailing: Mailing, given: Answers, when: NDArray[np.int64], state: State, settings: MessageSettings) -> None:
    """Writes answers into the mailing and the state; `when` (R,) is the moment of each, us."""
    rows = given.rows
    who, channel = mailing.listeners[rows], mailing.channel[rows]
    mailing.seen_in[rows] = np.where(given.opens | given.dismisses, state.slot, -1)
    mailing.opened[rows] = np.where(given.opens, when, _NEVER)
    mailing.dismissed[rows] = np.where(given.dismisses, when, _NEVER)
    mailing.opted_out[rows] = np.where(given.opts_out, when + 1_000_000, _NEVER)
    state.annoyance[who, channel] = given.annoys
    state.consent[who[given.opts_out], channel[given.opts_out]] = False
    context = context_of(state.day, state.slot)
    nagged = who[given.dismisses]
    lost = settings.nagging * np.minimum(state.annoyance[nagged].sum(axis=1), 1.0 / max(settings.nagging, 1e-6))
    state.habit[nagged, context] *= 1.0 - lost
    answer = np.where(given.opens, ACTION_CODE["open"], np.where(given.dismisses, ACTION_CODE["dismiss"], -1))
    state.sent_answer[who, -1] = np.where(given.opts_out, ACTION_CODE["opt_out"], answer)


def send(mailing: Mailing, state: State) -> None:
    """Notes what was sent today in the listeners' histories of sends."""
    rows = np.flatnonzero(mailing.sent >= 0)
    who = mailing.listeners[rows]
    for kept, new in (
        (state.sent_item, mailing.sent[rows]),
        (state.sent_channel, mailing.channel[rows]),
        (state.sent_day, np.full(len(rows), mailing.day)),
        (state.sent_answer, np.full(len(rows), -1)),
    ):
        kept[who, :-1] = kept[who, 1:]
        kept[who, -1] = new
