"""A simulated streaming service whose truth is known."""

from data.world.policies import (
    GreedyClick,
    LoggingPolicy,
    Oracle,
    PopularityPolicy,
    RandomPolicy,
    SlatePolicy,
    WorldContexts,
)
from data.world.settings import PRESETS, WorldSettings
from data.world.truth import METRICS, Paired, paired
from data.world.world import World, burned_in

__all__ = [
    "METRICS",
    "PRESETS",
    "GreedyClick",
    "LoggingPolicy",
    "Oracle",
    "Paired",
    "PopularityPolicy",
    "RandomPolicy",
    "SlatePolicy",
    "World",
    "WorldContexts",
    "WorldSettings",
    "burned_in",
    "paired",
]
