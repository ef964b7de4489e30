"""The message reward of a run, from its log to the folder that a policy reads."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.errors import InputError
from data.world import PRESETS, burned_in
from data.world.message_record import SIGNALS
from eval.messages import sent_by
from policy.message_choice import HOURS, BestMessages, by_opens, legal_moves
from rewards.messages import MessageReward
from scripts.build_catalog import CatalogArguments
from scripts.build_catalog import stage as build_catalog
from scripts.simulate import SimulateArguments
from scripts.simulate import stage as simulate
from scripts.train_message_rewards import MessageRewardArguments, stage, table_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("messages")
    simulate(SimulateArguments(run=str(folder), world="messaging", listeners=100, days=44))
    build_catalog(CatalogArguments(run=str(folder)))
    stage(MessageRewardArguments(run=str(folder), members=2))
    return folder


def test_a_run_teaches_a_reward_and_later_messages_judge_it(run: Path) -> None:
    assert (run / "logs" / SIGNALS).is_file(), "the world says what its domains said"
    quality = json.loads((run / "rewards" / "messages" / "quality.json").read_text())
    assert quality["rows"]["sends"] > 300
    later = quality["later"]["opens"]["all"]
    assert later["observed"] == pytest.approx(later["predicted"], abs=0.05)
    assert table_of(quality).row_count > 2
    assert not stage(MessageRewardArguments(run=str(run), members=2)), "nothing has changed"


def test_what_the_reward_sends_keeps_to_consent_caps_and_quiet_hours(run: Path) -> None:
    world = burned_in(PRESETS["messaging"].with_listeners(100), seed=0, days=3, listener_seed=9)
    sent = sent_by(world, run / "rewards" / "messages")
    assert {"hold", "clicks", "reward", "oracle"} <= set(sent)
    assert "reward" not in sent_by(world, run / "nothing")
    points = world.observe()
    contexts = points.contexts
    reward = MessageReward.load(run / "rewards" / "messages")
    column, _, hour, allowed = legal_moves(contexts, 3)  # type: ignore[arg-type]
    assert column.shape[1] == 4 * 3 * len(HOURS)
    assert (hour >= 8).all()
    assert (hour < 21).all()
    ranker, _ = sent["clicks"].choose(contexts, np.random.default_rng(0))  # type: ignore[arg-type]
    assert (~ranker.held).mean() == pytest.approx(allowed.any(axis=1).mean()), "it always finds something to send"
    picky = BestMessages(reward, by_opens, least=1.0).choose(contexts, np.random.default_rng(0))[0]  # type: ignore[arg-type]
    assert picky.held.all()
    for policy in (sent["clicks"], sent["reward"]):
        world.play(world.built_in("logging"), 2, np.random.default_rng(0), messages=policy)  # raises without consent


def test_what_is_missing_is_named_with_its_fix(tmp_path: Path, run: Path) -> None:
    with pytest.raises(InputError, match=r"simulate\.py"):
        stage(MessageRewardArguments(run=str(tmp_path)))
    with pytest.raises(InputError, match="no such file"):
        stage(MessageRewardArguments(run=str(run), opportunities=str(tmp_path / "none.parquet")))
    with pytest.raises(InputError, match="--cut 0"):
        stage(MessageRewardArguments(run=str(run), cut=0.0))
