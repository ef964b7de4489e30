"""Worlds that several tests look at; none of them may move these."""

import numpy as np
import pytest

from data.world import PRESETS, World, burned_in


@pytest.fixture(scope="session")
def clickbait() -> World:
    """1,000 listeners after 28 days under the logging policy; fresh people, the catalog of seed 0."""
    return burned_in(PRESETS["clickbait"].with_listeners(1_000), seed=0, days=28, listener_seed=100)


@pytest.fixture(scope="session")
def lived() -> World:
    """400 listeners and the 42 days that the logging policy wrote about them."""
    world = World(PRESETS["clickbait"].with_listeners(400), seed=0)
    world.play(world.built_in("logging"), 42, np.random.default_rng(0))
    return world
