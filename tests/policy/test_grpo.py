"""GRPO and RLOO: slates that the reward likes become likelier, every one of them legal; the base stays as it was."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.errors import InputError
from data.histories import contexts
from policy.checkpoint import load_speaker
from policy.group_trainer import Rollouts, SlateGRPOTrainer, token_advantages
from policy.grpo import GroupSettings, group_config, logged_completions, train_group
from policy.presets import NANO
from policy.slate_reward import item_credits
from policy.watch import WatchSettings
from tests.policy.serving.tiny_run import ITEMS, SLATE

SMALL = replace(NANO, grpo_slates=640, grpo_batch=64, grpo_lr=1e-2, lora_rank=4)
LATER = 2**62


def likes_even(rows: torch.Tensor, slates: torch.Tensor) -> torch.Tensor:
    """A reward anybody can check: the share of items of even number."""
    return (slates % 2 == 0).float().mean(-1)


def drawn_reward(run, adapter: Path | None) -> float:
    folder, catalog, histories, decisions = run
    spoken = load_speaker(folder / "policy" / "sft", catalog, adapter)
    ids, mask = spoken.prompt.encode(contexts(histories, decisions, 12), None)
    tokens = spoken.legal.draw(ids, mask, samples=32, generator=torch.Generator().manual_seed(0)).tokens
    items = spoken.grammar.decode(tokens.flatten(0, 1))[1]
    assert all(len(set(slate)) == SLATE for slate in items.tolist())
    return float(likes_even(torch.zeros(0), items).mean())


@pytest.mark.parametrize("method", ["grpo", "rloo"])
@pytest.mark.parametrize("anchor", [False, True])
def test_what_the_reward_likes_becomes_likelier(run, method, anchor, tmp_path) -> None:
    folder, catalog, histories, decisions = run
    base = folder / "policy" / "sft"
    before = (base / "model.safetensors").read_bytes()
    credit = "item" if method == "grpo" else "slate"
    settings = GroupSettings(until=LATER, method=method, credit=credit, anchor=anchor)
    train_group(base, None, histories, decisions, catalog, likes_even, SMALL, settings, tmp_path)
    assert drawn_reward(run, tmp_path) > drawn_reward(run, None) + 0.05
    assert (base / "model.safetensors").read_bytes() == before
    first, *_ = (json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines())
    assert abs(first["kl"]) < 1e-6, "the reference is the base, which a fresh adapter has not left yet"


def test_the_same_seed_trains_the_same_adapter(run, tmp_path) -> None:
    folder, catalog, histories, decisions = run
    short = replace(SMALL, grpo_slates=128)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        settings = GroupSettings(until=LATER, anchor=True)
        train_group(
            folder / "policy" / "sft", None, histories, decisions, catalog, likes_even, short, settings, tmp_path / name
        )
    for file in ("adapter_model.safetensors", "training.jsonl"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_an_adapter_that_goes_on_keeps_the_base_as_its_reference(run, tmp_path) -> None:
    folder, catalog, histories, decisions = run
    settings = GroupSettings(until=LATER)
    short = replace(SMALL, grpo_slates=128)
    start = folder / "policy" / "dpo"
    train_group(folder / "policy" / "sft", start, histories, decisions, catalog, likes_even, short, settings, tmp_path)
    first = json.loads((tmp_path / "training.jsonl").read_text().splitlines()[0])
    assert first["kl"] > 0.1, "a random adapter is far from the base"


def test_certainty_is_free_until_the_policy_is_nearly_as_narrow_as_it_may_be(run, tmp_path) -> None:
    folder, catalog, histories, decisions = run
    base, few = folder / "policy" / "sft", replace(SMALL, grpo_slates=4 * 16, grpo_batch=16)
    entropy, price = {}, {}
    for least in (0.2, 0.9):
        (place := tmp_path / str(least)).mkdir()
        settings = GroupSettings(until=LATER, watch=WatchSettings(every=100, prompts=16, least_entropy=least))
        train_group(base, None, histories, decisions, catalog, likes_even, few, settings, place, {"max_steps": 25})
        lines = [json.loads(line) for line in (place / "training.jsonl").read_text().splitlines()]
        last = [line for line in lines if "entropy_coef" in line][-5:]
        entropy[least], price[least] = (np.mean([line[name] for line in last]) for name in ("entropy", "entropy_coef"))
    assert entropy[0.9] > entropy[0.2]
    assert price[0.9] > price[0.2] == 0.0


def test_a_group_is_drawn_from_one_prompt_and_its_anchor_is_what_was_logged(run) -> None:
    folder, catalog, histories, decisions = run
    spoken = load_speaker(folder / "policy" / "sft", catalog)
    rows = np.array([3, 7])
    known = contexts(histories, decisions.take(rows), 12)
    ids, mask = spoken.prompt.encode(known, None)
    prompts = spoken.prompt.tokens(known)
    slates = np.array([[4, 8, 15, 16, 23], [1, 2, -1, -1, -1]], dtype=np.int32)
    anchors = logged_completions(spoken, known, slates)
    assert list(anchors) == [0], "a slate that is too short is nobody's anchor"
    drawn = Rollouts(spoken, prompts, anchors).draw([1, 1, 1, 0, 0])
    assert len(drawn) == 5
    items = spoken.grammar.decode(torch.tensor(drawn))[1]
    assert items[3].tolist() == slates[0].tolist()
    assert items.max() < ITEMS
    # The anchor's move is the likeliest one before it.
    every = [spoken.grammar.encode(torch.tensor([move]), torch.tensor(slates[:1]).long()) for move in range(4)]
    scores = spoken.legal.completion_log_probs(ids[:1], mask[:1], torch.cat(every)[None])[0]
    assert drawn[3] == every[int(scores.argmax())][0].tolist()


def test_an_item_is_credited_with_what_its_slate_is_worth_more_for_it() -> None:
    worth = torch.tensor([0.5, -1.0, 2.0, 0.25])
    together = 0.75  # a bonus that items 0 and 2 earn only side by side

    def reward(slates: torch.Tensor) -> torch.Tensor:
        shown = slates >= 0
        pair = (slates == 0).any(-1) & (slates == 2).any(-1)
        return (worth[slates.clamp_min(0)] * shown).sum(-1) + together * pair

    found = item_credits(reward, torch.tensor([[[0, 1, 3], [0, 2, 1]]]))
    assert found.tolist() == [[[0.5, -1.0, 0.25], [1.25, 2.75, -1.0]]], "what only both earn, each one is needed for"


def test_advantages_compare_an_item_with_those_at_its_place_in_its_group_and_the_move_by_the_slate() -> None:
    credit = torch.tensor([[1.0, 5.0], [3.0, 5.0], [9.0, 0.0], [9.0, 2.0]])
    slate = torch.tensor([-1.0, 1.0, -2.0, 2.0])
    assert token_advantages(slate, credit, group=2, levels=2).tolist() == [
        [-1.0, -1.0, -1.0, 0.0, 0.0],
        [1.0, 1.0, 1.0, 0.0, 0.0],
        [-2.0, 0.0, 0.0, -1.0, -1.0],
        [2.0, 0.0, 0.0, 1.0, 1.0],
    ]


def test_a_group_is_rewarded_for_the_trade_off_that_its_prompt_asks_for(run, tmp_path) -> None:
    folder, catalog, histories, decisions = run
    asked: list[np.ndarray] = []

    def noting(rows: torch.Tensor, slates: torch.Tensor, wants: dict[str, np.ndarray]) -> torch.Tensor:
        asked.append(np.stack([wants["midterm"], wants["clicks"]], axis=1))
        assert len(asked[-1]) == len(rows) == len(slates)
        return likes_even(rows, slates)

    settings = GroupSettings(until=LATER, group=8, trade_off=True)
    few = replace(SMALL, grpo_slates=64)
    train_group(folder / "policy" / "sft", None, histories, decisions, catalog, noting, few, settings, tmp_path)
    of_items, of_slates = asked[2:]  # first the watch looks, at what is begun with and as training begins
    np.testing.assert_array_equal(of_items, of_slates)
    groups = of_slates.reshape(-1, 8, 2)
    np.testing.assert_array_equal(groups, np.broadcast_to(groups[:, :1], groups.shape))
    assert len(np.unique(groups[:, 0], axis=0)) > 1


def test_settings_that_cannot_be_are_one_line() -> None:
    with pytest.raises(InputError, match="credit 'item' with rloo"):
        GroupSettings(until=0, method="rloo")
    with pytest.raises(InputError, match="unknown method 'ppo': choose one of grpo, rloo"):
        GroupSettings(until=0, method="ppo")
    with pytest.raises(InputError, match="a group of 1"):
        GroupSettings(until=0, group=1)
    with pytest.raises(InputError, match="temperature: slates are drawn at 1"):
        group_config("grpo", NANO, Path("here"), 16, 12, 0, {"temperature": 0.7})
    with pytest.raises(InputError, match="use_vllm: the policy that is trained draws its slates itself"):
        group_config("grpo", NANO, Path("here"), 16, 12, 0, {"use_vllm": True})


def test_a_prompt_read_once_for_its_group_gives_what_reading_it_for_every_slate_gives(run) -> None:
    folder, catalog, histories, decisions = run
    spoken = load_speaker(folder / "policy" / "sft", catalog)
    ids, mask = spoken.prompt.encode(contexts(histories, decisions.take(np.array([0, 3, 7])), 12), None)
    drawn = spoken.legal.draw(ids, mask, samples=4, generator=torch.Generator().manual_seed(0)).tokens
    mixed = torch.randperm(12, generator=torch.Generator().manual_seed(1))[:10]  # groups of unlike size, in any order
    length = drawn.shape[-1]
    sequences = torch.cat([ids.repeat_interleave(4, 0), drawn.flatten(0, 1)], 1)[mixed]
    whole = torch.cat([mask.repeat_interleave(4, 0), torch.ones(12, length, dtype=torch.int64)], 1)[mixed]
    asked = SimpleNamespace(temperature=1.0, rollouts=Rollouts(spoken, [], {}))
    got, entropy, _ = SlateGRPOTrainer._get_per_token_logps_and_entropies(asked, spoken.legal, sequences, whole, length)
    plain = spoken.legal(input_ids=sequences, attention_mask=whole).logits[:, -length - 1 : -1].log_softmax(-1)
    torch.testing.assert_close(got, plain.gather(2, sequences[:, -length:, None])[..., 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(entropy, -(plain.exp() * plain).sum(-1), atol=1e-4, rtol=1e-4)
    assert entropy.requires_grad, "a bonus on entropy is to move the policy"
