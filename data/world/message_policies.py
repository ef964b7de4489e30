"""Message policies that come with a world: the one that writes the log, and the marks to measure others against.

`LoggingMessages`, `Hold` and `SendAlways` know what a product knows; `MostOpens` and `MessageOracle` see hidden state.
All but `SendAlways` keep to consent, quiet hours and the weekly cap; nobody may send without consent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError
from data.world.environment import MessageContexts, Messages, no_messages
from data.world.messages import IN_APP, HiddenMessageContexts, MessageMoment
from data.world.settings import CHANNELS, SLOT_HOURS, SLOTS, LoggingSettings, MessageSettings

Decided = tuple[Messages, NDArray[np.float64]]
WEEK = 7


def allowed_hours(settings: MessageSettings) -> NDArray[np.int8]:
    """Local hours outside quiet hours, in which a message still finds its day."""
    return np.arange(settings.quiet_until, settings.quiet_from, dtype=np.int8)


def allowed_channels(contexts: MessageContexts, weekly_cap: int) -> NDArray[np.bool_]:
    """(B, channels): consented to, and used fewer than `weekly_cap` times in the last seven days."""
    recent = (contexts.sent_item >= 0) & (contexts.sent_days_ago < WEEK)
    used = np.stack([(recent & (contexts.sent_channel == c)).sum(axis=1) for c in range(len(CHANNELS))], axis=1)
    allowed: NDArray[np.bool_] = contexts.consent & (used < weekly_cap)
    return allowed


@dataclass(frozen=True)
class LoggingMessages:
    """Holds most of the time; else any allowed channel and hour alike, and opportunities by their value signal."""

    settings: MessageSettings
    logging: LoggingSettings
    name: str = "logging@1"

    def choose(self, contexts: MessageContexts, rng: np.random.Generator) -> Decided:
        """Decisions and their exact log-probabilities: hold, or (1 - hold) p(channel) p(opportunity) p(hour)."""
        batch, hours = len(contexts), allowed_hours(self.settings)
        luck = rng.random((batch, 4))
        allowed = allowed_channels(contexts, self.logging.weekly_cap)
        weight = np.where(contexts.eligible >= 0, np.exp(np.nan_to_num(contexts.value.astype(np.float64))), 0.0)
        can = allowed.any(axis=1) & (weight > 0).any(axis=1)
        sends = can & (luck[:, 0] >= self.logging.hold)
        channel, p_channel = _drawn(allowed.astype(np.float64), luck[:, 1])
        column, p_column = _drawn(weight, luck[:, 2])
        hour = hours[(luck[:, 3] * len(hours)).astype(np.int64)]
        sent = np.log((1.0 - self.logging.hold) * p_channel * p_column / len(hours))
        held = np.where(can, np.log(self.logging.hold), 0.0)
        messages = Messages(
            np.where(sends, column, -1).astype(np.int32),
            np.where(sends, channel, -1).astype(np.int8),
            np.where(sends, hour, -1).astype(np.int8),
        )
        return messages, np.where(sends, sent, held)


def _drawn(weight: NDArray[np.float64], luck: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """One column (B,) by weight (B, N) and its probability; (0, 1) in rows without any weight."""
    total = weight.sum(axis=1, keepdims=True)
    none = total[:, 0] == 0
    share = np.where(none[:, None], 1.0 / weight.shape[1], weight / np.where(total == 0, 1.0, total))
    edges = np.cumsum(share, axis=1)
    drawn = (edges <= luck[:, None] * edges[:, -1:]).sum(axis=1)
    probability = np.take_along_axis(share, drawn[:, None], axis=1)[:, 0]
    return np.where(none, 0, drawn), np.where(none, 1.0, probability)


@dataclass(frozen=True)
class Hold:
    """Never sends anything."""

    name: str = "hold@1"

    def choose(self, contexts: MessageContexts, rng: np.random.Generator) -> Decided:
        """Hold for everybody, log-probability 0."""
        return no_messages(len(contexts)), np.zeros(len(contexts))


@dataclass(frozen=True)
class SendAlways:
    """Sends what claims the highest value, by the first consented channel, at six in the evening, every day."""

    hour: int = 18
    name: str = "send_always@1"

    def choose(self, contexts: MessageContexts, rng: np.random.Generator) -> Decided:
        """Decisions and log-probabilities (0: it never varies)."""
        value = np.where(contexts.eligible >= 0, contexts.value, -np.inf)
        sends = np.logical_and(contexts.consent.any(axis=1), (contexts.eligible >= 0).any(axis=1))
        return _sent(sends, value.argmax(axis=1), contexts.consent.argmax(axis=1), np.full(len(contexts), self.hour))


@dataclass(frozen=True)
class MostOpens:
    """Sends whatever is likeliest to be opened, where and when, as often as the cap lets it; sees hidden state."""

    settings: MessageSettings
    logging: LoggingSettings
    name: str = "most_opens@1"

    def choose(self, contexts: MessageContexts, rng: np.random.Generator) -> Decided:
        """Decisions and log-probabilities (0)."""
        moment = _moment(contexts, self.name)
        worth = _opens(contexts, moment, allowed_channels(contexts, self.logging.weekly_cap))
        return _best(contexts, moment, self.settings, worth, 0.0)


@dataclass(frozen=True)
class MessageOracle:
    """Sends where the visits it adds are worth more than the annoyance it costs; sees hidden state.

    worth = P(open) (1 - P(comes in that slot anyway)) (1 + habit to be gained) - price x annoyance added. The price is
    what annoyance costs in later visits, found by what the policy is worth in the world itself.
    """

    settings: MessageSettings
    logging: LoggingSettings
    price: float = 0.35
    name: str = "oracle@1"

    def choose(self, contexts: MessageContexts, rng: np.random.Generator) -> Decided:
        """Decisions and log-probabilities (0)."""
        moment, s = _moment(contexts, self.name), self.settings
        worth = _opens(contexts, moment, allowed_channels(contexts, self.logging.weekly_cap))
        worth[:, :, IN_APP] = np.where(np.isfinite(worth[:, :, IN_APP]), 0.0, -np.inf)  # it brings nobody
        worth *= (1.0 - moment.comes)[:, None, None, :]
        saved = np.clip(1.0 - s.annoyance_relevance * moment.relevance, 0.2, 3.0)  # (B, M)
        added = saved[:, :, None] * np.asarray(s.annoyance, dtype=np.float32)  # (B, M, channels)
        added = added * (1.0 + 2.0 * moment.annoyance[:, None, :])
        worth -= np.nan_to_num(self.price * added)[:, :, :, None]
        return _best(contexts, moment, s, worth, 0.0)


def _opens(contexts: MessageContexts, moment: MessageMoment, allowed: NDArray[np.bool_]) -> NDArray[np.float32]:
    """P(open), (B, M, channels, SLOTS), -inf where nothing may be sent."""
    chance = np.stack([moment.open_probability(c) for c in range(len(CHANNELS))], axis=2)
    legal = (contexts.eligible >= 0)[:, :, None, None] & allowed[:, None, :, None]
    return np.where(legal, chance, np.float32(-np.inf)).astype(np.float32)


def _best(
    contexts: MessageContexts,
    moment: MessageMoment,
    settings: MessageSettings,
    worth: NDArray[np.float32],
    least: float,
) -> Decided:
    """The best (opportunity, channel, slot), at the slot's usual hour; hold where nothing is worth over `least`."""
    batch, _, channels, slots = worth.shape
    flat = worth.reshape(batch, -1)
    best = flat.argmax(axis=1) if batch else np.empty(0, np.int64)
    sends = np.take_along_axis(flat, best[:, None], axis=1)[:, 0] > least
    column, rest = np.divmod(best, channels * slots)
    channel, slot = np.divmod(rest, slots)
    weekend = len(SLOTS) if moment.day % WEEK >= 5 else 0
    usual = np.take_along_axis(moment.usual_hour, (slot + weekend)[:, None], axis=1)[:, 0]
    hours = allowed_hours(settings)
    low, high = np.array(SLOT_HOURS).T
    hour = np.clip(np.round(usual), np.maximum(np.ceil(low[slot]), hours[0]), np.minimum(high[slot], hours[-1]))
    return _sent(sends, column, channel, hour)


def _sent(
    sends: NDArray[np.bool_], column: NDArray[np.generic], channel: NDArray[np.generic], hour: NDArray[np.generic]
) -> Decided:
    messages = Messages(
        np.where(sends, column, -1).astype(np.int32),
        np.where(sends, channel, -1).astype(np.int8),
        np.where(sends, hour, -1).astype(np.int8),
    )
    return messages, np.zeros(len(sends))


def _moment(contexts: MessageContexts, name: str) -> MessageMoment:
    if not isinstance(contexts, HiddenMessageContexts) or contexts.moment is None:
        raise InputError(f"policy {name} sees hidden state and plays only inside a world: give it World.observe()")
    return contexts.moment
