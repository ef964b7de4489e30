"""The message reward of a run and the policy tuned on it, from its log to who is compared with whom."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.catalog import Catalog
from data.errors import InputError
from data.store import LogStore
from data.world import PRESETS, burned_in
from data.world.environment import MessageContexts
from data.world.message_record import SIGNALS
from eval.messages import play_messages, sent_by
from policy.message_choice import BestMessages, by_opens, keeping_reach
from rewards.messages import MessageReward
from rewards.objective import Constraint, Objective, SlateScores
from rewards.sending import HOURS, Ints, legal_moves
from scripts import message_claims
from scripts.build_catalog import CatalogArguments
from scripts.build_catalog import stage as build_catalog
from scripts.evaluate import adapters, message_adapters, message_speakers
from scripts.run import RunArguments
from scripts.simulate import SimulateArguments
from scripts.simulate import stage as simulate
from scripts.train_message_rewards import MessageRewardArguments, stage, table_of
from scripts.train_messages import MessageArguments, weights_of
from scripts.train_messages import stage as tune
from scripts.train_sft import SFTArguments
from scripts.train_sft import stage as train_sft
from tests.data.message_world import played

TINY = ["hidden=32", "heads=1", "layers=1", "text_tokens=300", "history_passes=0.05", "sft_slates=96", "lora_rank=4"]
TINY += ["grpo_slates=32", "grpo_batch=16"]


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


def test_a_policy_is_tuned_on_the_reward_and_stands_beside_the_others(run: Path) -> None:
    shared = (str(run), "nano", None, TINY)
    assert train_sft(SFTArguments(*shared))
    assert json.loads((run / "policy" / "sft" / "manifest.json").read_text())["config"]["messages"] == 64
    args = MessageArguments(*shared, group=4, kappa=0.0)
    assert tune(args)
    assert not tune(args), "nothing has changed"
    assert list(message_adapters(run)) == ["messages"]
    assert adapters(run) == {}, "it shows no slates"
    log = [json.loads(line) for line in (run / "policy" / "messages" / "training.jsonl").read_text().splitlines()]
    assert {"watch/kl", "watch/sends", "watch/entropy", "watch/reward"} <= log[-2].keys()

    world = burned_in(PRESETS["messaging"].with_listeners(30), seed=0, days=1, listener_seed=9)
    catalog, items = Catalog.load(run / "catalog"), LogStore(run / "logs").items()
    sent = sent_by(world, run / "rewards" / "messages", message_speakers(run, catalog, items))
    assert list(sent)[-2:] == ["policy", "oracle"]
    lived = play_messages(world, {name: sent[name] for name in ("logging", "rules", "clicks", "reward", "policy")})
    found = message_claims.findings([lived])
    assert set(found["holds"]) == {f"{a} over {b}" for a in ("reward", "policy") for b in ("rules", "clicks")}
    assert found["policies"]["policy"]["messages_28"]["mean"] > 0
    gap = {name: {"lo": 0.1, "hi": 0.2} for name in ("active_days_28", "reachable_28")}
    assert message_claims.holds(gap | {"messages_28": {"lo": -2.0, "hi": -1.0}})
    assert not message_claims.holds(gap | {"messages_28": {"lo": -2.0, "hi": 1.0}})


def test_a_claim_about_messages_needs_no_slates(run: Path) -> None:
    road = RunArguments(run=str(run), world="messaging")
    reward = ["logs", "catalog", "rewards/messages"]
    assert [stage.name for stage in message_claims.message_stages(road, False)] == reward
    both = [stage.name for stage in message_claims.message_stages(road, True)]
    assert both == ["logs", "catalog", "policy/sft", "rewards/messages", "policy/messages"]


@dataclass(frozen=True)
class PushWearsOut:
    """A reward by which push adds 1 day and costs 0.3 of reach, e-mail adds 0.5 and costs nothing."""

    objective: Objective

    def score(self, contexts: MessageContexts, column: Ints, channel: Ints, hour: Ints) -> SimpleNamespace:
        days = np.array([1.0, 0.5, 0.0])[channel] * (column >= 0)
        reach = np.array([-0.3, 0.0, 0.0])[channel] * (column >= 0)
        mean = torch.from_numpy(np.stack([days, reach], axis=-1).astype(np.float32))
        return SimpleNamespace(slate=SlateScores(mean, torch.zeros_like(mean), torch.zeros(column.shape)))


def test_reach_is_kept_at_the_smallest_price_that_keeps_it() -> None:
    morning = played(20, 1)[1].contexts[0]
    contexts = replace(morning, consent=np.ones_like(morning.consent))
    kept = Constraint("reach", floor=-0.1)
    objective = Objective({"days": 1.0}, ("days", "reach"), (1.0, 1.0), constraints=(kept,))
    priced = keeping_reach(PushWearsOut(objective), contexts)  # type: ignore[arg-type]
    multiplier = priced.objective.constraints[0].multiplier
    assert multiplier == pytest.approx(0.5 / 0.3, abs=0.3), "where an e-mail is worth as much as a push message"
    only_email = replace(contexts, consent=contexts.consent & np.array([False, True, True]))
    free = keeping_reach(PushWearsOut(objective), only_email)  # type: ignore[arg-type]
    assert free.objective.constraints[0].multiplier == 0.0, "what cannot be sent has no price"


def test_weights_are_given_by_head() -> None:
    assert weights_of([]) is None
    assert weights_of(["active_days_28=1", "converted_28=0.5"]) == {"active_days_28": 1.0, "converted_28": 0.5}
    with pytest.raises(InputError, match="head=number"):
        weights_of(["active_days_28"])
