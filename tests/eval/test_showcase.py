"""Slates for people to look at."""

import numpy as np

from data.world import PRESETS, burned_in
from eval.showcase import moment, showcase


def test_a_few_listeners_with_their_history_and_every_policys_slate() -> None:
    world = burned_in(PRESETS["clickbait"].with_listeners(300), seed=1, days=10)
    _, contexts = world.observe()
    policies = {"logging": world.built_in("logging"), "popularity": world.built_in("popularity")}
    shown = showcase(policies, contexts, world.items_frame(), count=3)
    assert len(shown) == 3
    assert shown[0].says is not None, "somebody who asked for something comes first"
    titles = set(world.items_frame()["title"])
    for listener in shown:
        assert listener.history
        assert all(item.reaction for item in listener.history)
        assert list(listener.slates) == ["logging", "popularity"]
        for slate in listener.slates.values():
            assert len(slate) == 5
            assert {item.title for item in slate} <= titles
    assert shown == showcase(policies, contexts, world.items_frame(), count=3), "the same seed shows the same"


def test_moments_in_words() -> None:
    world = burned_in(PRESETS["calm"].with_listeners(40), seed=1, days=3)
    _, contexts = world.observe()
    words = [moment(contexts, row) for row in range(len(contexts))]
    assert all("Thursday" in text for text in words)  # worlds start on a Monday
    first = np.flatnonzero(np.isnan(contexts.gap_hours))
    assert all("first time here" in words[row] for row in first)
