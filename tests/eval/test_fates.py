"""Fates: lived again from records to the same day, told week by week, drawn on a page that holds no markup of ours."""

import numpy as np
import pytest

from data.errors import InputError
from data.world import PRESETS, World
from eval.fates import WEEK, Shown, fates_json, live, live_again, week_of
from eval.report.fates import page


@pytest.fixture(scope="module")
def evening() -> World:
    world = World(PRESETS["clickbait"].with_listeners(40), seed=3)
    world.play(world.built_in("logging"), 5, np.random.default_rng(0))
    return world


def test_a_week_lived_again_from_its_record_is_the_same_week(evening, tmp_path) -> None:
    first, second = evening.branch(), evening.branch()
    shown = live(first, first.built_in("random"), WEEK, np.random.default_rng(1))
    shown.save(tmp_path / "shown.npz")
    live_again(second, Shown.load(tmp_path / "shown.npz"), "random")
    assert first.log().events.equals(second.log().events)
    np.testing.assert_array_equal(first.state.satisfaction, second.state.satisfaction)
    one, other = week_of(first, evening.day), week_of(second, evening.day)
    assert one.slate_entropy == other.slate_entropy
    for metric in one.metrics:
        np.testing.assert_array_equal(one.metrics[metric], other.metrics[metric])


def test_a_week_counts_days_sessions_and_the_tap_as_its_log_does(evening) -> None:
    world = evening.branch()
    live(world, world.built_in("popularity"), WEEK, np.random.default_rng(1))
    week, log = week_of(world, evening.day), world.log()
    plays = (log.events["action"] == "play").sum()
    came = log.decisions["user_id"].n_unique()
    assert week.metrics["came"].sum() == came
    per_session = week.metrics["plays_per_session"]
    assert np.isnan(per_session).sum() == 40 - came
    sessions = log.decisions.group_by("user_id").len().sort("user_id")["len"].to_numpy()
    assert np.nansum(per_session[~np.isnan(per_session)] * sessions) == pytest.approx(plays)
    days = log.decisions["decision_id"].str.slice(1, 4)
    assert week.metrics["active_days"].sum() == log.decisions.with_columns(day=days).n_unique(["user_id", "day"])


def test_fates_are_paired_by_listener_and_drawn(evening) -> None:
    fates = {}
    for name, policy in {"grpo": "oracle", "grpo_click": "greedy_click", "logging": "logging"}.items():
        world = evening.branch()
        weeks = []
        for _ in range(2):
            first = world.day
            live(world, world.built_in(policy), WEEK, np.random.default_rng(2))
            weeks.append(week_of(world, first))
        fates[name] = weeks
    told = fates_json(fates, [("grpo", "grpo_click"), ("grpo", "grpo")])
    gap, mean = (
        told["paired"]["grpo - grpo_click"]["active_days"][1],
        {n: t["active_days"][1] for n, t in told["fates"].items()},
    )
    assert gap["diff"] == pytest.approx(mean["grpo"]["mean"] - mean["grpo_click"]["mean"])
    assert gap["hi"] - gap["lo"] < (mean["grpo"]["hi"] - mean["grpo"]["lo"]) * 2
    assert told["paired"]["grpo - grpo"]["active_days"][0] == {"diff": 0.0, "lo": 0.0, "hi": 0.0}
    html = page(told | {"world": "<b>clickbait", "seed": 0, "listeners": 40, "weeks": 1})
    assert html.count("<svg") == 3
    assert "<b>" not in html
    assert "http" not in html.replace('xmlns="http://www.w3.org/2000/svg"', "").replace("http-equiv", "")


def test_a_world_that_sends_messages_is_refused() -> None:
    world = World(PRESETS["messaging"].with_listeners(10), seed=0)
    with pytest.raises(InputError, match="sends messages"):
        live(world, world.built_in("random"), 1, np.random.default_rng(0))
