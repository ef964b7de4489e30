"""The rule that senders without a model keep to: the best offer, where and when the listener is used to, capped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.schema import ACTION_CODE
from data.world.environment import MessageContexts, Messages
from data.world.message_policies import WEEK
from data.world.settings import CHANNELS
from policy.messaging.agent import Allowed
from policy.messaging.rules import allowed_by_clock

DAY_HOURS = 24


@dataclass(frozen=True)
class RulesWithCaps:
    """Sends the highest value signal, at most `weekly_cap` messages in seven days over all channels.

    By the channel of which most was opened, push before e-mail before the app where that is equal; at the local hour
    at which the listener was last there, or the nearest that is allowed.
    """

    weekly_cap: int = 3
    rules: Allowed = allowed_by_clock
    name: str = "rules_with_caps@1"

    def choose(self, contexts: MessageContexts, rng: np.random.Generator) -> tuple[Messages, NDArray[np.float64]]:
        """Decisions and log-probabilities (0: it never varies)."""
        batch, may = len(contexts), self.rules(contexts)
        rows = np.arange(batch)
        sent = contexts.sent_item >= 0
        recent = (sent & (contexts.sent_days_ago < WEEK)).sum(axis=1)
        sends = may.any(axis=(1, 2, 3)) & (recent < self.weekly_cap)
        opened = sent & (contexts.sent_answer == ACTION_CODE["open"])
        by = np.stack([(opened & (contexts.sent_channel == c)).sum(axis=1) for c in range(len(CHANNELS))], axis=1)
        channel = np.where(may.any(axis=(1, 3)), by, -1).argmax(axis=1)
        there = may[rows, :, channel]  # (B, M, hours)
        value = np.nan_to_num(contexts.value.astype(np.float64))
        column = np.where(there.any(axis=2), value, -np.inf).argmax(axis=1)
        usual = np.mod(contexts.hour_of_week - np.nan_to_num(contexts.gap_hours, nan=12.0), DAY_HOURS)
        away = np.abs(np.arange(DAY_HOURS) - usual[:, None])
        hour = np.where(there[rows, column], away, np.inf).argmin(axis=1)
        chosen = (np.where(sends, part, -1) for part in (column, channel, hour))
        kinds = (np.int32, np.int8, np.int8)
        return Messages(*(part.astype(kind) for part, kind in zip(chosen, kinds, strict=True))), np.zeros(batch)
