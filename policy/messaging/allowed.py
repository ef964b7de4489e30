"""Which sends the log's own rules leave open: consent, the weekly cap of each channel, and quiet hours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.world.environment import MessageContexts
from data.world.message_policies import allowed_channels
from policy.messaging.grammar import HOURS


@dataclass(frozen=True)
class SendingRules:
    """weekly_cap: sends a channel in seven days. quiet_from, quiet_until: local hours between which nothing is sent."""

    weekly_cap: int = 3
    quiet_from: int = 21
    quiet_until: int = 8


def allowed(contexts: MessageContexts, rules: SendingRules = SendingRules()) -> NDArray[np.bool_]:
    """(B, M, channels, HOURS): what may be sent to each listener; a row without any may only hold."""
    hours = np.arange(HOURS)
    open_hours = (hours >= rules.quiet_until) & (hours < rules.quiet_from)
    channels = allowed_channels(contexts, rules.weekly_cap)
    there = contexts.eligible >= 0
    found: NDArray[np.bool_] = there[:, :, None, None] & channels[:, None, :, None] & open_hours
    return found
