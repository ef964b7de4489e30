"""What changes from slot to slot and from day to day: the hidden state of every listener."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.world.items import Items
from data.world.listeners import Listeners
from data.world.settings import CHANNELS, CONTEXTS, DynamicsSettings, MessageSettings


@dataclass
class State:
    """Of U listeners, in a slot of a day. Times are us since 1970; -1 or item -1: never."""

    day: int
    slot: int
    taste: NDArray[np.float32]  # (U, D)
    satiation: NDArray[np.float32]  # (U, S) with styles
    tired: NDArray[np.float32]  # (U, C) satiation with creators
    familiarity: NDArray[np.float32]  # (U, C) good meetings with creators
    satisfaction: NDArray[np.float32]  # (U,) exponential average of enjoyment
    habit: NDArray[np.float32]  # (U, CONTEXTS) in [0, 1]
    premium: NDArray[np.bool_]  # (U,)
    gone: NDArray[np.bool_]  # (U,) left the service
    consent: NDArray[np.bool_]  # (U, channels)
    annoyance: NDArray[np.float32]  # (U, channels)
    last_time: NDArray[np.int64]  # (U,) of the last interaction
    busy_until: NDArray[np.int64]  # (U,) end of the last session
    item: NDArray[np.int32]  # (U, H) last interactions, left-padded
    action: NDArray[np.int8]  # (U, H)
    sent_item: NDArray[np.int32]  # (U, R) last messages, left-padded
    sent_channel: NDArray[np.int8]  # (U, R)
    sent_day: NDArray[np.int32]  # (U, R)
    sent_answer: NDArray[np.int8]  # (U, R) action code; -1: none yet


def first_state(listeners: Listeners, items: Items, dynamics: DynamicsSettings, messages: MessageSettings) -> State:
    """The first morning: nobody has been annoyed, tired or made used to anything."""
    u, length, sends = len(listeners), dynamics.history_length, messages.remembered
    creators = int(items.creator.max()) + 1
    return State(
        day=0,
        slot=0,
        taste=listeners.home_taste.copy(),
        satiation=np.zeros((u, len(items.centre)), np.float32),
        tired=np.zeros((u, creators), np.float32),
        familiarity=np.zeros((u, creators), np.float32),
        satisfaction=np.zeros(u, np.float32),
        habit=np.full((u, CONTEXTS), dynamics.habit_start, np.float32),
        premium=listeners.premium.copy(),
        gone=np.zeros(u, np.bool_),
        consent=listeners.consent.copy(),
        annoyance=np.zeros((u, len(CHANNELS)), np.float32),
        last_time=np.full(u, -1, np.int64),
        busy_until=np.full(u, -1, np.int64),
        item=np.full((u, length), -1, np.int32),
        action=np.full((u, length), -1, np.int8),
        sent_item=np.full((u, sends), -1, np.int32),
        sent_channel=np.full((u, sends), -1, np.int8),
        sent_day=np.full((u, sends), -1, np.int32),
        sent_answer=np.full((u, sends), -1, np.int8),
    )


def remember(
    state: State,
    listeners: NDArray[np.int32],
    slates: NDArray[np.int32],
    reaction: NDArray[np.int8],
    play_time: NDArray[np.int64],
) -> None:
    """Appends what B listeners played, (B, K) each, to the histories, position by position."""
    for k in range(slates.shape[1]):
        rows = np.flatnonzero(reaction[:, k] >= 0)
        who = listeners[rows]
        state.item[who, :-1] = state.item[who, 1:]
        state.item[who, -1] = slates[rows, k]
        state.action[who, :-1] = state.action[who, 1:]
        state.action[who, -1] = reaction[rows, k]
        state.last_time[who] = play_time[rows, k]


def rows_of(table: Any, rows: NDArray[np.integer], size: int) -> Any:
    """The same dataclass with the rows `rows` of its arrays of `size` rows; what is no such array stays."""
    arrays = {field.name: getattr(table, field.name) for field in fields(table)}
    taken = {name: a[rows].copy() for name, a in arrays.items() if isinstance(a, np.ndarray) and len(a) == size}
    return replace(table, **taken)
