"""The message reward: effects of a log that are known, holding is worth nothing, and what a log cannot support."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from data.errors import InputError
from data.message_log import MessageLog
from data.world.settings import CHANNELS
from rewards.message_training import MessageRewardSettings, message_quality, train_message_reward
from rewards.messages import HEADS, MessageReward, MessageScores
from rewards.pareto import keep
from rewards.sending import fit_sending, importance, legal_moves
from tests.rewards.made_up_messages import CATALOG, EFFECT, OPT_OUT, make_messages, open_chance

FAST = MessageRewardSettings(members=4, rounds=40)


@dataclass(frozen=True)
class Taught:
    log: MessageLog
    effect: NDArray[np.float64]
    reward: MessageReward


@pytest.fixture(scope="module")
def taught() -> Taught:
    log, effect = make_messages()
    return Taught(log, effect, train_message_reward(log, CATALOG, FAST)[0])


def every_channel(taught: Taught, rows: int = 300) -> MessageScores:
    """Scores of holding and of the first opportunity by each channel at noon, (rows, 4)."""
    log = taught.log.take(np.arange(rows))
    column = np.tile([-1, 0, 0, 0], (rows, 1))
    channel = np.tile([-1, 0, 1, 2], (rows, 1))
    hour = np.tile([-1, 12, 12, 12], (rows, 1))
    return taught.reward.score(log.contexts, column, channel, hour)


def test_effects_are_recovered_where_comparing_means_gets_the_sign_wrong(taught: Taught) -> None:
    log = taught.log
    found = every_channel(taught).heads["active_days_28"].mean(axis=0)
    days, sent = log.labels["active_days_28"], log.channel
    for place, channel in enumerate(CHANNELS):
        naive = days[sent == place].mean() - days[sent < 0].mean()
        assert naive > 3.0, "who comes anyway is sent more"
        assert found[1 + place] == pytest.approx(EFFECT[channel], abs=0.25)


def test_opens_and_opt_outs_are_foretold_as_often_as_they_happen(taught: Taught) -> None:
    scores = every_channel(taught)
    value = taught.log.contexts.value[:300, 0]
    for place, channel in enumerate(CHANNELS):
        truth = open_chance(value, np.full(300, place))
        assert np.abs(scores.heads["opens"][:, 1 + place] - truth).mean() < 0.03
        assert scores.heads["opt_out"][:, 1 + place].mean() == pytest.approx(OPT_OUT[channel], abs=0.01)
    told = message_quality(taught.reward, taught.log)
    assert told["opens"]["all"]["predicted"] == pytest.approx(told["opens"]["all"]["observed"], abs=0.01)
    assert told["opens"]["all"]["ece"] < 0.02


def test_a_caused_session_is_one_that_would_not_have_been(taught: Taught) -> None:
    rows = np.flatnonzero(taught.log.column >= 0)[:2000]
    log = taught.log.take(rows)
    scores = taught.reward.score(log.contexts, log.column[:, None], log.channel[:, None], log.hour[:, None])
    opens, caused = (scores.heads[name][:, 0] for name in ("opens", "caused_sessions"))
    # Half of them come with chance .7, the others with .2: an open brings about that much less than one session.
    away = np.where(log.contexts.premium, 0.3, 0.8)
    outside = log.channel != CHANNELS.index("in_app")
    assert caused[outside].mean() == pytest.approx((opens * away)[outside].mean(), abs=0.03)
    assert caused[outside].mean() < 0.75 * opens[outside].mean()


def test_holding_is_worth_nothing_and_is_sure(taught: Taught) -> None:
    scores = every_channel(taught)
    assert not scores.mean[:, 0].any()
    assert not scores.lower[:, 0].any()
    assert not any(head[:, 0].any() for head in scores.heads.values())


def test_the_lower_bound_is_lower_and_lowest_where_the_log_never_was(taught: Taught) -> None:
    log = taught.log.take(np.arange(50))
    column, channel = np.zeros((50, 2), np.int64), np.ones((50, 2), np.int64)
    scores = taught.reward.score(log.contexts, column, channel, np.tile([12, 23], (50, 1)))
    assert (scores.lower < scores.mean).all()
    assert (scores.lower[:, 1] < scores.lower[:, 0] - 1.0).all(), "nothing is ever sent at 23"


def test_a_multiplier_on_reachability_turns_away_from_what_loses_people(taught: Taught) -> None:
    plain = every_channel(taught)
    priced = replace(taught, reward=taught.reward.weighted(multiplier=3.0))
    lost = plain.mean - every_channel(priced).mean
    assert lost[:, 1].mean() > lost[:, 2].mean() > 0.0, "push costs four times the opt-outs of e-mail"
    kept = keep(taught.reward.weighted({"opens": 1.0}).objective, every_channel(taught).slate)
    assert not kept.broken


def test_a_price_keeps_the_best_decisions_to_as_many_sends_as_asked_for(taught: Taught) -> None:
    log = taught.log.take(np.arange(1_000))

    def best(reward: MessageReward) -> NDArray[np.float64]:
        column, channel, hour, allowed = legal_moves(log.contexts, 3)
        worth = reward.score(log.contexts, column, channel, hour).lower
        found: NDArray[np.float64] = np.where(allowed, worth, -9.0).max(1)
        return found

    free = taught.reward.weighted({"opens": 1.0}, kappa=0.0)
    assert (best(free) > 0).mean() > 0.5
    kept = free.keeping_sends(replace(log, column=np.where(np.arange(1_000) < 200, 0, -1)))
    assert kept.price > 0
    assert 0.15 < (best(kept) > 0).mean() <= 0.2
    np.testing.assert_allclose(best(kept), best(free) - kept.price)
    assert kept.keeping_sends(replace(log, column=np.zeros(1_000, np.int64))).price == 0.0, "all of them were sent"
    assert kept.weighted().price == 0.0


def test_the_objective_over_heads_is_of_unit_variance_in_the_log(taught: Taught) -> None:
    log = taught.log
    scores = taught.reward.score(log.contexts, log.column[:, None], log.channel[:, None], log.hour[:, None])
    assert scores.mean.std() == pytest.approx(1.0, abs=0.02)


def test_a_reward_read_back_scores_the_same(taught: Taught, tmp_path: Path) -> None:
    reward = replace(taught.reward.weighted({"caused_sessions": 1.0}, multiplier=0.7, kappa=2.0), price=0.3)
    reward.save(tmp_path)
    again = replace(taught, reward=MessageReward.load(tmp_path))
    there = replace(taught, reward=reward)
    np.testing.assert_array_equal(every_channel(again).lower, every_channel(there).lower)
    assert (again.reward.objective, again.reward.price) == (reward.objective, 0.3)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(InputError, match="a broken message reward"):
        MessageReward.load(tmp_path)
    with pytest.raises(InputError, match="no message reward"):
        MessageReward.load(tmp_path / "elsewhere")


def test_the_same_seed_gives_the_same_reward(taught: Taught) -> None:
    log = taught.log.take(taught.log.user < 100)
    one, two = (train_message_reward(log, CATALOG, FAST, seed=3)[0] for _ in range(2))
    for fold, other in zip(one.folds, two.folds, strict=True):
        np.testing.assert_array_equal(fold.effects, other.effects)


def test_weights_are_one_on_average_and_near_it_where_the_model_of_sending_fits(taught: Taught) -> None:
    log = taught.log
    sending = fit_sending(log, CATALOG, 3)
    assert sending.hold == pytest.approx(0.6, abs=0.03)
    assert sending.column[0] == pytest.approx(0.7, abs=0.05), "opportunities are drawn by their value signal"
    weight = importance(log, sending, CATALOG)
    assert weight.mean() == pytest.approx(1.0)
    heavy = log.contexts.premium
    sent = log.column >= 0
    assert weight[sent & ~heavy].mean() == pytest.approx(2.0, abs=0.2), "the light half is sent half as much as mu says"
    every, mu = sending.every_move(log.take(np.arange(20)).contexts, CATALOG)
    np.testing.assert_allclose(mu.sum(axis=1) + sending.hold, 1.0)
    assert every.held.shape == mu.shape


def test_a_log_that_cannot_support_it_is_refused(taught: Taught) -> None:
    log = taught.log
    unknown = replace(log, log_propensity=np.full(len(log), np.nan))
    with pytest.raises(InputError, match="without a propensity"):
        train_message_reward(unknown, CATALOG, FAST)
    wrong = replace(log, log_propensity=log.log_propensity - 0.7)
    with pytest.raises(InputError, match="mean weight"):
        train_message_reward(wrong, CATALOG, FAST)
    with pytest.raises(InputError, match="sends in the log"):
        train_message_reward(log.take(log.user < 5), CATALOG, FAST)
    open_windows = {name: np.full(len(log), np.nan) for name in log.labels}
    with pytest.raises(InputError, match="no outcome"):
        train_message_reward(replace(log, labels=open_windows), CATALOG, FAST)


def never(log: MessageLog) -> MessageLog:
    """A log that never holds: what was held is gone, and what was sent was so by the chance of what among all sends."""
    sent = log.take(log.column >= 0)
    return replace(sent, log_propensity=sent.log_propensity - np.log(np.where(sent.contexts.premium, 0.6, 0.2)))


def of_one(log: MessageLog) -> MessageLog:
    """A log whose decisions are all of one user."""
    few = log.take(np.arange(4_000))
    return replace(few, user=np.zeros(len(few), np.int32), user_ids=["0"])


@pytest.mark.parametrize(("made", "says"), [(never, "no decision that was held"), (of_one, "1 user in the log")])
def test_a_log_without_what_an_effect_is_measured_by_is_named(
    taught: Taught, made: Callable[[MessageLog], MessageLog], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        train_message_reward(made(taught.log), CATALOG, FAST)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda facts: [], "broken message reward \\(model.json is no object"),
        (lambda facts: {name: fact for name, fact in facts.items() if name != "hold"}, "'hold' is missing"),
        (lambda facts: facts | {"folds": "two"}, "broken message reward"),
        (lambda facts: facts | {"folds": 3}, "'fold.2.comes' is missing"),
    ],
)
def test_a_model_file_that_says_something_else_is_broken(
    taught: Taught, tmp_path: Path, change: Callable[[Any], Any], says: str
) -> None:
    taught.reward.save(tmp_path)
    file = tmp_path / "model.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(InputError, match=says):
        MessageReward.load(tmp_path)


def test_what_it_does_not_know_is_refused(taught: Taught) -> None:
    log = taught.log.take(np.arange(3))
    one = np.zeros((3, 1), np.int64)
    with pytest.raises(InputError, match="column 2 of 2"):
        taught.reward.score(log.contexts, one + 2, one, one + 9)
    with pytest.raises(InputError, match="message row 7"):
        taught.reward.score(replace(log.contexts, eligible=log.contexts.eligible + 6), one, one, one + 9)
    with pytest.raises(InputError, match="give \\(B, N\\)"):
        taught.reward.score(log.contexts, one[:2], one, one)
    with pytest.raises(InputError, match="no reward head 'minutes'"):
        taught.reward.weighted({"minutes": 1.0})
    assert HEADS[0] == "opens"
