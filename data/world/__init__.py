"""A simulated streaming service whose truth is known. docs/world.md says what is in it, and from where."""

from data.world.environment import (
    Environment,
    MessageContexts,
    MessagePoints,
    MessagePolicy,
    Messages,
    SlatePoints,
    SlatePolicy,
)
from data.world.policies import (
    GreedyClick,
    LoggingPolicy,
    Oracle,
    PopularityPolicy,
    RandomPolicy,
    WorldContexts,
)
from data.world.presets import PRESETS
from data.world.settings import Switches, WorldSettings, nothing_matters
from data.world.truth import MESSAGE_METRICS, METRICS, Paired, paired
from data.world.world import World, burned_in, lived_in

__all__ = [
    "MESSAGE_METRICS",
    "METRICS",
    "PRESETS",
    "Environment",
    "GreedyClick",
    "LoggingPolicy",
    "MessageContexts",
    "MessagePoints",
    "MessagePolicy",
    "Messages",
    "Oracle",
    "Paired",
    "PopularityPolicy",
    "RandomPolicy",
    "SlatePoints",
    "SlatePolicy",
    "Switches",
    "World",
    "WorldContexts",
    "WorldSettings",
    "burned_in",
    "lived_in",
    "nothing_matters",
    "paired",
]
