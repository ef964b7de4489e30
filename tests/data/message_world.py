"""A small world that sends messages, and what its message policy was shown."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.world import PRESETS, World
from data.world.environment import MessageContexts, MessagePolicy, Messages


class Watched:
    """A message policy whose contexts, choices and log-probabilities are kept, a batch a day."""

    def __init__(self, policy: MessagePolicy) -> None:
        self.policy, self.name = policy, policy.name
        self.contexts: list[MessageContexts] = []
        self.choices: list[Messages] = []
        self.log_propensity: list[NDArray[np.float64]] = []

    def choose(self, contexts: MessageContexts, rng: np.random.Generator) -> tuple[Messages, NDArray[np.float64]]:
        choice, log_propensity = self.policy.choose(contexts, rng)
        self.contexts.append(contexts)
        self.choices.append(choice)
        self.log_propensity.append(log_propensity)
        return choice, log_propensity


def played(listeners: int, days: int, seed: int = 0) -> tuple[World, Watched]:
    """World `messaging` after `days` days of its logging policies."""
    world = World(PRESETS["messaging"].with_listeners(listeners), seed)
    watched = Watched(world.message_policy("logging"))
    world.play(world.built_in("logging"), days, np.random.default_rng(seed), messages=watched)
    return world, watched
