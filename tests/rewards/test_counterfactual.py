import numpy as np
import pytest

from data.errors import InputError
from data.world import PRESETS, World
from rewards.counterfactual import LifeSettings, Pairs, agreement, live_moments, live_pairs

FEW = LifeSettings(lives=2, horizon_days=3, sessions=8)


def _evening(name: str) -> World:
    world = World(PRESETS[name].with_listeners(150), 0)
    world.play(world.built_in("logging"), 3, np.random.default_rng(0))
    return world


def test_the_same_slate_does_nothing_more_than_itself() -> None:
    world = _evening("clickbait")
    came = len(world.branch().observe().listeners)
    rows = np.tile(np.arange(came), 2)
    slates = np.tile(np.arange(5, dtype=np.int32), (len(rows), 1))
    one, other = (world.gathered(rows, 7) for _ in range(2))
    for life in (one, other):
        life.act(slates, np.zeros(len(rows)), "same")
    np.testing.assert_array_equal(one.state.satisfaction, other.state.satisfaction)
    assert not np.array_equal(one.state.satisfaction[:came], one.state.satisfaction[came:]), "own luck"
    before = world.state.satisfaction.copy()
    live_pairs(world, 1, FEW)
    np.testing.assert_array_equal(world.state.satisfaction, before)


def test_in_a_world_deaf_to_slates_no_slate_does_anything() -> None:
    (pairs,) = live_moments(World(PRESETS["null"].with_listeners(150), 0), [3], 1, FEW)
    np.testing.assert_allclose(pairs.days, 0.0, atol=1e-12)
    assert pairs.enjoyment.std() > 0.05, "they are enjoyed all the same"


def test_correlation_is_with_the_effect_and_not_with_its_noise() -> None:
    rng = np.random.default_rng(0)
    effect = rng.standard_normal(4000)
    days = effect[:, None] + 4.0 * rng.standard_normal((4000, 8))
    listener = np.arange(4000, dtype=np.int32)
    pairs = Pairs(listener, np.zeros(4000, np.int64), np.zeros((4000, 2, 1), np.int32), days, effect)
    half = 0.5 * (0.6 * effect + 0.8 * rng.standard_normal(4000))
    found = agreement(pairs, {"half": half, "none": rng.standard_normal(4000)})
    assert found["half"].days[0] == pytest.approx(0.6, abs=0.06)
    assert found["half"].days[1] < 0.6 < found["half"].days[2]
    assert found["half"].slope[0] == pytest.approx(1.2, abs=0.12)
    assert found["none"].days[1] < 0 < found["none"].days[2]


def test_a_world_that_sends_messages_is_refused() -> None:
    with pytest.raises(InputError, match="messages"):
        next(live_moments(World(PRESETS["messaging"].with_listeners(20), 0), [3], 1, FEW))
