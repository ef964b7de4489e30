"""Rollouts: common random numbers, pairing, seeds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from data.errors import InputError
from data.world import PRESETS, World, burned_in
from eval.rollout import (
    Rollout,
    RolloutSettings,
    between_runs_json,
    gap_closed,
    load_rollout,
    paired,
    play,
    policy_means,
    save_rollout,
    side_by_side,
    world_json,
)

SETTINGS = RolloutSettings(reference="sft")


@pytest.fixture(scope="module")
def world() -> World:
    return burned_in(PRESETS["clickbait"].with_listeners(150), seed=3, days=14)


@pytest.fixture(scope="module")
def rollout(world: World) -> Rollout:
    policies = {name: world.built_in(name) for name in ("logging", "random", "greedy_click", "oracle")}
    return play(world, {"sft": world.built_in("logging"), **policies}, SETTINGS, seed=0)


def test_same_policy_lives_the_same_life(rollout: Rollout) -> None:
    """Common random numbers: a policy against itself differs for nobody."""
    for gap in paired([rollout], "sft", "logging").values():
        assert gap.over_listeners.value == 0.0
        assert gap.over_listeners.hi == 0.0


def test_the_oracle_brings_people_back_and_the_click_policy_gets_the_plays(rollout: Rollout) -> None:
    oracle, greedy = paired([rollout], "oracle", "logging"), paired([rollout], "greedy_click", "logging")
    assert oracle["active_days_28"].over_listeners.lo > 0
    assert greedy["plays_per_session"].over_listeners.lo > 0
    assert greedy["active_days_28"].over_listeners.value < oracle["active_days_28"].over_listeners.value


def test_policies_played_one_at_a_time_are_as_if_played_together(world: World, rollout: Rollout) -> None:
    alone = [play(world, {name: world.built_in(name)}, SETTINGS, seed=0) for name in ("logging", "random", "oracle")]
    together = side_by_side(alone)
    assert list(together.metrics) == list(together.exposure) == ["logging", "random", "oracle"]
    for name, by in together.metrics.items():
        for metric, values in by.items():
            np.testing.assert_array_equal(values, rollout.metrics[name][metric])
    others = burned_in(PRESETS["clickbait"].with_listeners(100), seed=3, days=14)
    for stranger in (
        play(others, {"greedy_click": others.built_in("greedy_click")}, SETTINGS, seed=0),
        play(world, {"greedy_click": world.built_in("greedy_click")}, SETTINGS, seed=1),
        replace(alone[0], segments=np.zeros(150, np.int8)),
    ):
        with pytest.raises(InputError, match="other listeners or other luck"):
            side_by_side([*alone, stranger])


def test_pairing_narrows_the_interval(rollout: Rollout) -> None:
    gap = paired([rollout], "random", "logging")["active_days_28"].over_listeners
    means = policy_means([rollout])
    apart = np.hypot(means["random"]["active_days_28"].se, means["logging"]["active_days_28"].se)
    assert gap.se < 0.9 * apart


def test_gap_closed_is_zero_at_logging_and_one_at_the_oracle(rollout: Rollout) -> None:
    shares = gap_closed([rollout])
    assert shares["logging"].value == 0.0
    assert shares["oracle"].value == pytest.approx(1.0)
    assert shares["oracle"].se == pytest.approx(0.0, abs=1e-12)


def test_a_rollout_that_was_kept_is_the_same(rollout: Rollout, tmp_path: Path) -> None:
    save_rollout(rollout, tmp_path)
    again = load_rollout(tmp_path)
    assert world_json([again]) == world_json([rollout])
    assert again.exposure["oracle"].coverage() == rollout.exposure["oracle"].coverage()
    assert again.exposure["logging"].entropy == rollout.exposure["logging"].entropy
    with pytest.raises(ValueError, match="default settings"):
        save_rollout(replace(rollout, settings=RolloutSettings(horizon_days=30)), tmp_path)


def test_rollout_leaves_the_world_where_it_was_and_repeats_itself(world: World, rollout: Rollout) -> None:
    day = world.day
    again = play(world, {"random": world.built_in("random")}, SETTINGS, seed=0)
    assert world.day == day
    for metric, values in again.metrics["random"].items():
        np.testing.assert_array_equal(values, rollout.metrics["random"][metric])


def test_exposure_tells_a_random_policy_from_a_greedy_one(rollout: Rollout) -> None:
    assert rollout.exposure["random"].coverage() > 0.9
    assert rollout.exposure["random"].gini() < rollout.exposure["greedy_click"].gini()
    assert rollout.exposure["oracle"].entropy == 0.0  # it never varies


def made_up(seed: int, gain: float, listeners: int = 50) -> Rollout:
    rng = np.random.default_rng(seed)
    base = rng.normal(10, 4, listeners)
    return Rollout(
        {
            "logging": {"active_days_28": base},
            "sft": {"active_days_28": base + 0.1},
            "ppo": {"active_days_28": base + gain + rng.normal(0, 0.5, listeners)},
            "oracle": {"active_days_28": base + 4.0},
        },
        seed,
    )


def test_seed_interval_is_t_over_seeds_and_listener_interval_pools() -> None:
    rollouts = [made_up(seed, gain) for seed, gain in enumerate((0.5, 1.0, 1.5))]
    gap = paired(rollouts, "ppo", "sft")["active_days_28"]
    assert gap.over_seeds is not None
    expected = stats.ttest_1samp(gap.by_seed, 0.0).confidence_interval(0.95)
    assert (gap.over_seeds.lo, gap.over_seeds.hi) == pytest.approx((expected.low, expected.high))
    assert gap.over_listeners.clusters == 150
    assert gap.over_seeds.hi - gap.over_seeds.lo > gap.over_listeners.hi - gap.over_listeners.lo
    assert gap_closed(rollouts)["ppo"].value == pytest.approx(0.25, abs=0.03)


def test_json_has_the_promised_paths() -> None:
    one = world_json([made_up(0, 1.0)])
    assert set(one["policies"]["ppo"]["active_days_28"]) == {"mean", "lo", "hi"}
    assert set(one["paired_vs_sft"]["ppo"]["active_days_28"]) == {"diff", "lo", "hi"}
    assert "sft" not in one["paired_vs_sft"]
    several = world_json([made_up(0, 1.0), made_up(1, 1.0)])
    assert "seeds_lo" in several["paired_vs_sft"]["ppo"]["active_days_28"]


def test_listeners_without_a_session_are_left_out_of_its_metrics() -> None:
    rollout = made_up(0, 1.0)
    rollout.metrics["ppo"]["active_days_28"][3] = np.nan
    assert paired([rollout], "ppo", "sft")["active_days_28"].over_listeners.clusters == 49


def test_two_runs_are_paired_listener_by_listener() -> None:
    better, worse = made_up(0, 1.5), made_up(0, 1.0)
    gap = between_runs_json(better, worse)["ppo"]["active_days_28"]
    assert [gap["lo"], gap["diff"], gap["hi"]] == pytest.approx([0.5, 0.5, 0.5])  # the noise is the same: it cancels
    assert not {"logging", "oracle"} & set(between_runs_json(better, worse))


def test_bad_input_is_a_clear_line() -> None:
    with pytest.raises(InputError, match="same listeners"):
        between_runs_json(made_up(0, 1.0), made_up(1, 1.0))
    with pytest.raises(InputError, match="no policy"):
        world_json([])
    with pytest.raises(InputError, match="they must match"):
        world_json([Rollout({"a": {"m": np.ones(3)}, "b": {"m": np.ones(4)}}, 0)])
