"""The watch: what it sees is what it says, the best adapter is the one that is kept, and it knows when to stop."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import TrainerControl, TrainerState

from policy.checkpoint import load_speaker
from policy.grpo import GroupSettings, train_group
from policy.ppo import PPOSettings, train_ppo
from policy.presets import NANO
from policy.watch import EntropyTarget, HeldOut, KLTarget, TrainingEndError, Watch, WatchSettings
from tests.policy.test_grpo import likes_even

LATER = 2**62
SMALL = replace(NANO, grpo_slates=96, grpo_batch=16, grpo_lr=5e-3, ppo_episodes=96, ppo_batch=16, lora_rank=4)


def likes_less_and_less():
    """A reward that falls at every look: what was best is where training began."""
    asked = iter(range(10**6))
    return lambda rows, slates: likes_even(rows, slates) - next(asked)


def held_out(run, spoken) -> HeldOut:
    _, _, histories, decisions = run
    taken = np.arange(6)
    found = HeldOut.choose(histories, decisions, LATER, taken, 10, 12, np.random.default_rng(0))
    assert len(found.rows) == 10
    assert not np.isin(found.rows, taken).any()
    return found


def test_a_look_says_what_is_drawn_and_changes_nothing(run) -> None:
    folder, catalog, *_ = run
    spoken = load_speaker(folder / "policy" / "sft", catalog, folder / "policy" / "dpo", trainable=True)
    spoken.model.train()
    watch = Watch(spoken, likes_even, held_out(run, spoken), WatchSettings(samples=64), seed=0)
    first, again = watch.look(), watch.look()
    assert first == again
    assert spoken.model.training
    assert 0.2 < first.reward < 0.8
    assert 0 < first.coverage <= 1
    assert 0 <= first.hit_rate <= 1
    assert first.entropy > 0
    sharp = Watch(spoken, likes_even, held_out(run, spoken), WatchSettings(samples=1), seed=0).look()
    assert sharp.coverage < first.coverage


def test_it_keeps_the_best_and_stops_when_nothing_gets_better(run) -> None:
    folder, catalog, *_ = run
    spoken = load_speaker(folder / "policy" / "sft", catalog, folder / "policy" / "dpo", trainable=True)
    settings = WatchSettings(every=1, patience=2)
    watch = Watch(spoken, likes_less_and_less(), held_out(run, spoken), settings, seed=0)
    state, control = TrainerState(), TrainerControl()
    watch.on_train_begin(None, state, control)
    weight = next(p for n, p in spoken.model.named_parameters() if "lora_B" in n)
    began = weight.detach().clone()
    with torch.no_grad():
        weight += 1.0
    state.global_step = 1
    watch.on_step_end(None, state, control)
    state.global_step = 2
    with pytest.raises(TrainingEndError):
        watch.on_step_end(None, state, control)
    assert control.should_training_stop
    assert watch.best_step == 0
    watch.restore()
    assert torch.equal(weight, began)


@pytest.mark.parametrize("trainer", ["grpo", "ppo"])
def test_training_ends_where_the_reward_no_longer_rises(run, trainer, tmp_path) -> None:
    folder, catalog, histories, decisions = run
    watched = WatchSettings(every=1, prompts=4, patience=2, least_ranking=0.0)
    base = folder / "policy" / "sft"
    reward = likes_less_and_less()
    # Half of the decisions are to be trained on, so that some are left to look at.
    small = replace(SMALL, grpo_slates=8 * 10, ppo_episodes=10 * 16)
    until = int(np.sort(decisions.time)[-1]) + 1
    if trainer == "grpo":
        settings = GroupSettings(until=until, watch=watched)
        train_group(base, None, histories, decisions, catalog, reward, small, settings, tmp_path)
    else:
        rows = replace(small, ppo_episodes=16, ppo_batch=4)
        settings = PPOSettings(until=until, watch=watched)
        train_ppo(base, None, histories, decisions, catalog, reward, rows, settings, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    looks = [line for line in lines if "watch/reward" in line]
    assert [line["step"] for line in looks] == [0, 1, 2]
    assert lines[-1]["watch/best_step"] == 0


@pytest.mark.parametrize(("kl", "change"), [(10.0, 1.02), (5.0, 1.0), (0.1, 0.98), (5.5, 1.01)])
def test_the_penalty_grows_when_the_policy_is_too_far_and_shrinks_when_it_is_near(kl, change) -> None:
    told = []
    target = KLTarget(told.append, 5.0, length=16)
    target.on_log(None, None, None, {"objective/kl": kl})
    target.on_log(None, None, None, {"kl": kl / 16})
    target.on_log(None, None, None, {"loss": 1.0})
    assert told == [pytest.approx(change)] * 2
    assert math.isfinite(change)


@pytest.mark.parametrize(("entropy", "price"), [(20.0, 0.1), (24.0, 0.0), (40.0, 0.0), (18.0, 0.15), (10.0, 0.35)])
def test_a_nat_costs_more_the_more_of_the_wanted_entropy_is_missing(entropy, price) -> None:
    told = []
    target = EntropyTarget(told.append, price=0.1, target=20.0, length=16)
    target.on_log(None, None, None, {"entropy": entropy / 16})
    target.on_log(None, None, None, {"loss": 1.0})
    assert told == [pytest.approx(price)]
