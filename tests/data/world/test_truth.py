"""Two policies in one world differ only by what they choose, and by how much is known."""

from dataclasses import replace

import numpy as np
import pytest

from data.errors import InputError
from data.world import METRICS, PRESETS, World, burned_in, nothing_matters, paired
from data.world.settings import OracleSettings
from data.world.truth import Tally, metrics

POLICIES = ("logging", "random", "popularity", "greedy_click", "oracle")


@pytest.fixture(scope="module")
def truths(clickbait: World) -> dict[str, dict[str, np.ndarray]]:
    return {name: clickbait.truth(clickbait.built_in(name)) for name in POLICIES}


def tally(visits: np.ndarray, plays: list[float], seconds: list[float]) -> Tally:
    counted = Tally.of(np.array([True] * len(visits)), visits.shape[1])
    counted.visits[:] = visits
    counted.sessions += visits.sum(axis=1)
    counted.plays += plays
    counted.seconds += seconds
    return counted


def test_metrics_by_hand() -> None:
    visits = np.zeros((3, 28), bool)
    visits[0, [0, 1, 2, 9, 27]] = True  # the visit on day 9 sees nobody for 18 days
    visits[1, :] = True
    result = metrics(tally(visits, [10.0, 28.0, 0.0], [300.0, 1680.0, 0.0]))
    assert set(result) == set(METRICS)
    np.testing.assert_allclose(result["active_days_28"], [5, 28, 0])
    np.testing.assert_allclose(result["returned_7d"], [3 / 4, 1, 0])  # days 0, 1, 2 -> again; 9 -> not
    np.testing.assert_allclose(result["habit_28"], [1, 4, 0])
    np.testing.assert_allclose(result["plays_per_session"], [2, 1, np.nan])
    np.testing.assert_allclose(result["minutes"], [5, 28, 0])


def test_metrics_of_a_longer_horizon_are_per_28_days() -> None:
    result = metrics(tally(np.ones((1, 56), bool), [56.0], [6000.0]))
    assert result["active_days_28"][0] == 28
    assert result["sessions_28"][0] == 28
    assert result["habit_28"][0] == 4
    assert result["minutes"][0] == 50


def test_two_sessions_of_one_day_are_one_active_day(clickbait: World) -> None:
    world = clickbait.branch()
    truth = world.truth(world.built_in("logging"))
    world.play(world.built_in("logging"), 28, np.random.default_rng([0, world.listener_seed, 2]))
    came = np.zeros((len(world.listeners), 28), int)
    for one in world.rounds:
        came[one.listeners, one.day - clickbait.day] += 1
    np.testing.assert_array_equal(truth["active_days_28"], (came > 0).sum(axis=1))
    np.testing.assert_array_equal(truth["sessions_28"], came.sum(axis=1))
    assert came.max() == 3


def test_truth_repeats_and_leaves_the_world(clickbait: World, truths: dict[str, dict[str, np.ndarray]]) -> None:
    day = clickbait.day
    again = clickbait.truth(clickbait.built_in("logging"))
    assert clickbait.day == day
    for metric in METRICS:
        np.testing.assert_array_equal(again[metric], truths["logging"][metric])


def test_short_horizons_are_refused(clickbait: World) -> None:
    with pytest.raises(InputError, match="28"):
        clickbait.truth(clickbait.built_in("random"), horizon_days=7)


def test_clickbait_what_is_tapped_is_not_what_brings_back(truths: dict[str, dict[str, np.ndarray]]) -> None:
    days = {name: truth["active_days_28"] for name, truth in truths.items()}
    plays = {name: np.nanmean(truth["plays_per_session"]) for name, truth in truths.items()}
    assert 9.0 < days["logging"].mean() < 11.5
    assert paired(days["greedy_click"], days["logging"]).hi < -1.0
    assert paired(days["oracle"], days["logging"]).lo > 5.0
    assert plays["greedy_click"] == max(plays.values())
    for metric in ("returned_7d", "habit_28", "satisfaction"):
        gain = paired(truths["oracle"][metric], truths["logging"][metric])
        loss = paired(truths["greedy_click"][metric], truths["logging"][metric])
        assert loss.hi < 0 < gain.lo


def test_pairing_narrows_the_answer(truths: dict[str, dict[str, np.ndarray]]) -> None:
    days = {name: truth["active_days_28"] for name, truth in truths.items()}
    near = paired(days["random"], days["logging"])
    far = paired(days["oracle"], days["logging"])
    assert near.variance_reduction > 8  # as many listeners would be needed without common random numbers
    assert far.variance_reduction > 3


def test_one_listeners_slate_is_nobody_elses_business(clickbait: World) -> None:
    one = clickbait.branch().observe()[0][0]

    def run(swap: bool) -> World:
        world = clickbait.branch()
        start = world.day
        rng = np.random.default_rng(0)
        while world.day < start + 12:
            _, known = world.observe()
            slates, log_propensity = world.built_in("popularity").choose(known, rng)
            if swap and (world.day, world.state.slot) == (start, 0):
                slates[0] = world.built_in("oracle").choose(known, rng)[0][0]
            world.act(slates, log_propensity, "test@1")
        return world

    plain, swapped = run(swap=False), run(swap=True)
    assert plain.rounds[0].listeners[0] == one
    others = np.arange(len(plain.listeners)) != one
    np.testing.assert_array_equal(plain.state.item[others], swapped.state.item[others])
    np.testing.assert_array_equal(plain.state.last_time[others], swapped.state.last_time[others])
    assert not np.array_equal(plain.rounds[0].slates[0], swapped.rounds[0].slates[0])


DEAF = ("active_days_28", "returned_7d", "habit_28", "sessions_28", "converted_28")


def covers(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the 95% interval of an unpaired difference of means covers zero."""
    error = np.hypot(a.std(ddof=1) / np.sqrt(len(a)), b.std(ddof=1) / np.sqrt(len(b)))
    return bool(abs(a.mean() - b.mean()) <= 1.96 * error)


def null_worlds(count: int, listeners: int) -> list[tuple[bool, bool]]:
    """Per null world: whether the paired difference of greedy_click and logging covers zero, and the unpaired one.

    Unpaired are other people with other luck under the other policy.
    """
    found = []
    for seed in range(count):
        world = World(PRESETS["null"].with_listeners(listeners), seed)
        greedy, logging = world.truth(world.built_in("greedy_click")), world.truth(world.built_in("logging"))
        gap = [paired(greedy[metric], logging[metric]) for metric in DEAF]
        world.reset(seed + 10_000)
        others = world.truth(world.built_in("logging"))
        apart = covers(greedy["active_days_28"], others["active_days_28"])
        found.append((all(one.lo <= 0 <= one.hi for one in gap), apart))
    return found


def test_null_return_is_deaf_to_policy() -> None:
    world = burned_in(PRESETS["null"].with_listeners(300), seed=1, days=14)
    truths = {name: world.truth(world.built_in(name)) for name in POLICIES}
    assert 8 < truths["logging"]["active_days_28"].mean() < 12
    for name in POLICIES[1:]:
        for metric in DEAF:
            np.testing.assert_array_equal(truths[name][metric], truths["logging"][metric])
    taps = paired(truths["greedy_click"]["plays_per_session"], truths["logging"]["plays_per_session"])
    assert taps.lo > 0.5  # what is tapped still depends on what is shown


def test_null_differences_cover_zero() -> None:
    found = null_worlds(count=8, listeners=50)
    assert all(together for together, _ in found)
    assert sum(apart for _, apart in found) >= 5  # fewer: one in 1,500 with nominal coverage


@pytest.mark.nightly
def test_null_differences_cover_zero_95_times_in_100() -> None:
    found = null_worlds(count=100, listeners=300)
    assert all(together for together, _ in found)
    assert 89 <= sum(apart for _, apart in found) <= 100  # of a binomial with 95: 1% lie below


def test_messages_in_a_null_world_are_deaf_too() -> None:
    settings = nothing_matters(PRESETS["messaging"].with_listeners(150))
    world = World(settings, seed=0)
    truths = [world.truth(world.built_in("logging"), messages=world.message_policy(n)) for n in ("hold", "send_always")]
    assert truths[1]["messages_28"].mean() > 20
    for metric in (*DEAF, "reachable_28"):
        np.testing.assert_array_equal(truths[0][metric], truths[1][metric])


def test_calm_the_tap_is_honest() -> None:
    world = burned_in(PRESETS["calm"].with_listeners(400), seed=0, days=28)
    days = {name: world.truth(world.built_in(name))["active_days_28"] for name in ("logging", "greedy_click", "oracle")}
    assert 8.5 < days["logging"].mean() < 13
    assert paired(days["greedy_click"], days["logging"]).lo > 0
    assert paired(days["oracle"], days["greedy_click"]).lo > 0


@pytest.mark.parametrize("name", ["discovery", "commuter"])
def test_the_oracle_is_well_above_logging(name: str) -> None:
    world = burned_in(PRESETS[name].with_listeners(250), seed=0, days=28)
    days = {policy: world.truth(world.built_in(policy))["active_days_28"] for policy in ("logging", "oracle")}
    assert paired(days["oracle"], days["logging"]).lo > 3.0


def test_exploration_pays_later_where_creators_are_an_acquired_taste() -> None:
    world = World(PRESETS["discovery"].with_listeners(300), seed=0)
    impatient = World(replace(PRESETS["discovery"].with_listeners(300), oracle=OracleSettings(discovery=0.0)), seed=0)
    plans, greedy = (w.truth(w.built_in("oracle"), 56) for w in (world, impatient))
    assert paired(plans["sessions_28"], greedy["sessions_28"]).lo > 0
