"""Message policies in a world: counted day by day and person by person, the same people for all, told in words."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.errors import InputError
from data.message_log import message_log
from data.world import PRESETS, World, burned_in
from data.world.environment import Messages, no_messages
from data.world.mailroom import signals
from eval.messages import (
    DAILY,
    MessageSection,
    fresh_evening,
    front,
    play_messages,
    pooled_sections,
    true_effects,
)
from eval.report import make_report
from eval.report.messages import messages_json
from eval.rollout import RolloutSettings
from rewards.message_features import MessageCatalog
from rewards.message_training import train_message_reward
from rewards.sending import legal_moves
from tests.eval.made_up import log_inputs, messages, world_inputs

LISTENERS = 80


@pytest.fixture(scope="module")
def world() -> World:
    return burned_in(PRESETS["messaging"].with_listeners(LISTENERS), seed=0, days=7, listener_seed=3)


@pytest.fixture(scope="module")
def played(world: World) -> MessageSection:
    return play_messages(world, {name: world.message_policy(name) for name in ("logging", "hold", "send_always")})


def test_what_is_counted_is_the_truth_of_the_world(world: World, played: MessageSection) -> None:
    truth = world.truth(world.built_in("logging"), messages=world.message_policy("send_always"))
    found = played.rollouts[0].metrics["send_always"]
    for name, values in truth.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert world.day == 7, "the world itself does not move"


def test_days_add_up_to_what_people_got(played: MessageSection) -> None:
    for name, days in played.daily.items():
        lived = played.rollouts[0].metrics[name]
        assert set(days) == set(DAILY)
        for daily, metric in (("sent", "messages_28"), ("opened", "opens_28"), ("sessions", "sessions_28")):
            assert days[daily].sum() == pytest.approx(lived[metric].mean()), (name, daily)
        assert days["opt_outs"].sum() == pytest.approx(lived["opt_outs_28"].mean())
        assert days["reachable"][-1] == pytest.approx(lived["reachable_28"].mean())
        assert (np.diff(days["reachable"]) <= 1e-12).all(), "nobody agrees again"
    assert not played.daily["hold"]["sent"].any()
    assert played.daily["send_always"]["reachable"][-1] < played.daily["hold"]["reachable"][-1]


def test_examples_are_of_one_morning_and_say_what_each_policy_did(played: MessageSection) -> None:
    assert len(played.examples) > 0
    for example in played.examples:
        assert set(example.decided) == {"logging", "hold", "send_always"}
        assert example.decided["hold"] == "holds"
        assert example.came["hold"] == ""
        title = example.decided["send_always"].split("”")[0].removeprefix("“")
        assert title in example.offered
        assert example.decided["send_always"].endswith("at 18:00")
        assert "listened" in example.told or "never heard" in example.told


def test_holding_adds_nothing_to_holding_and_sending_something_is_somebodys_doing(world: World) -> None:
    points = world.observe()
    batch = len(points.listeners)
    assert not true_effects(world, no_messages(batch), (1, 2), days=5).any()
    sent = world.message_policy("send_always").choose(points.contexts, np.random.default_rng(0))[0]  # type: ignore[arg-type]
    found = true_effects(world, sent, (1, 2), days=5)
    assert found.shape == (2, batch)
    assert found.any()
    assert (found[0] != found[1]).any(), "another luck is another life"
    assert world.day == 7


@pytest.mark.nightly
def test_the_reward_ranks_moves_as_they_truly_turn_out(tmp_path: Path) -> None:
    """A fresh morning, a random move for everybody: by predicted tenths, true effects rise, and more than by opens."""
    lived = World(PRESETS["messaging"].with_listeners(3_000), 0)
    lived.play(lived.built_in("logging"), 84, np.random.default_rng(0))
    logs = lived.log()
    assert lived.mailroom is not None
    assert logs.end is not None
    assert logs.decisions is not None
    said = signals(lived.mailroom)
    log = message_log(
        logs.events, logs.decisions, logs.users, logs.items, logs.end, lambda ids: np.arange(len(ids)), said
    )
    reward = train_message_reward(log, MessageCatalog.of(logs.items))[0]
    evening = fresh_evening("messaging", 0, 1_200)
    contexts = evening.observe().contexts
    column, channel, hour, allowed = legal_moves(contexts, 3)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    luck = np.where(allowed, rng.random(allowed.shape), -1.0)
    rows, pick = np.arange(len(luck)), luck.argmax(axis=1)
    sends = allowed.any(axis=1)
    column, channel, hour = (np.where(sends, of[rows, pick], -1) for of in (column, channel, hour))
    choice = Messages(column.astype(np.int32), channel.astype(np.int8), hour.astype(np.int8))
    heads = reward.score(contexts, column[:, None], channel[:, None], hour[:, None]).heads  # type: ignore[arg-type]
    true = true_effects(evening, choice, range(90_000, 90_014)).mean(axis=0)[sends]
    foretold = heads["active_days_28"][sends, 0]
    slope = np.polyfit(foretold, true, 1)[0]
    error = true.std() / foretold.std() / np.sqrt(len(true))
    print(f"slope of truth on what is foretold {slope:.2f}, standard error {error:.2f}")
    assert slope > 1.645 * error, "what is foretold to be better is better"
    assert abs(slope - 1.0) < 3.0 * error, "by about as much"


def test_the_front_leaves_out_who_is_beaten_at_both() -> None:
    points = {"a": (0.9, 0.01), "b": (0.8, 0.02), "c": (0.7, 0.015), "d": (0.8, 0.02)}
    assert front(points) == ["b", "d", "a"]


def test_what_cannot_be_played_is_refused(world: World) -> None:
    with pytest.raises(InputError, match="sends no messages"):
        play_messages(World(PRESETS["clickbait"].with_listeners(2)), {"hold": world.message_policy("hold")})
    with pytest.raises(InputError, match="no policy"):
        play_messages(world, {})
    with pytest.raises(InputError, match="at least 28"):
        play_messages(world, {"hold": world.message_policy("hold")}, RolloutSettings(horizon_days=7))
    with pytest.raises(InputError, match="at least one seed"):
        pooled_sections([])


def test_numbers_are_those_of_all_seeds_and_paired_with_the_reference(played: MessageSection) -> None:
    again = replace(played, rollouts=[replace(played.rollouts[0], seed=1)])
    told = messages_json(pooled_sections([played, again]))
    assert told["seeds"] == [0, 1]
    assert told["listeners"] == 2 * LISTENERS
    gap = told["paired_vs_logging"]["hold"]["active_days_28"]  # type: ignore[index]
    lived = played.rollouts[0].metrics
    difference = lived["hold"]["active_days_28"] - lived["logging"]["active_days_28"]
    assert gap["diff"] == pytest.approx(difference.mean())
    assert "logging" not in told["paired_vs_logging"]  # type: ignore[operator]


def test_the_page_has_messages_where_the_run_has_them(tmp_path: Path) -> None:
    make_report(world_inputs(), tmp_path / "with")
    page = (tmp_path / "with" / "index.html").read_text()
    assert 'id="messages"' in page
    for words in ("On offer: New from The Telephones", "best by reward", "Conversion against reach", "likeliest open"):
        assert words in page
    numbers = messages_json(messages())
    assert numbers["front"][-1] in ("hold", "reward", "oracle")  # type: ignore[index]
    make_report(log_inputs(), tmp_path / "without")
    assert 'id="messages"' not in (tmp_path / "without" / "index.html").read_text()
