"""Preferences: which draws are compared, in equal shares of margin; one against many at once; what a round teaches."""

from dataclasses import replace

import pytest
import torch

from data.errors import InputError
from data.histories import contexts
from policy.checkpoint import load_speaker
from policy.dpo import DPOSettings, dpo_config, preference_trainer, softmax_dpo_loss, train_dpo
from policy.preferences import Draws, PairSettings, choose_pairs, choose_rivals, draw_slates
from policy.presets import NANO

SMALL = replace(NANO, dpo_prompts=16, dpo_samples=8, dpo_pairs=48, dpo_lr=1e-2, lora_rank=4, batch=16)
LATER = 2**62


def likes_even(rows: torch.Tensor, slates: torch.Tensor) -> torch.Tensor:
    return (slates % 2 == 0).float().mean(-1)


def made_up_draws(prompts: int, samples: int) -> Draws:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 9, (prompts, samples, 6), generator=generator)
    tokens[:, 1] = tokens[:, 0]  # the same slate twice
    rewards = torch.randn(prompts, samples, generator=generator)
    rewards[:, 1] = rewards[:, 0]
    log_probs = -torch.rand(prompts, samples, generator=generator) * 20
    return Draws(tokens, rewards, log_probs)


def test_pairs_tell_apart_and_come_in_equal_shares_of_small_and_large_margins() -> None:
    draws = made_up_draws(200, 8)
    everything = choose_pairs(draws, PairSettings(8, 10_000), 0)
    prompt, chosen, rejected = choose_pairs(draws, PairSettings(8, 90), 0)
    margin = draws.rewards[prompt, chosen] - draws.rewards[prompt, rejected]
    assert len(prompt) == 90
    assert (margin >= 0.1).all()
    every = draws.rewards[everything[0], everything[1]] - draws.rewards[everything[0], everything[2]]
    edges = every.quantile(torch.tensor([1 / 3, 2 / 3]))
    assert torch.bucketize(margin, edges).bincount().tolist() == pytest.approx([30, 30, 30], abs=1)
    # The hard negative, what the policy likes most of the worse half, is compared with the best of each prompt.
    order = draws.rewards.argsort(1, descending=True)
    worse = order[:, 4:]
    hard = worse.gather(1, draws.log_probs.gather(1, worse).argmax(1, keepdim=True)).squeeze(1)
    found = set(zip(*(part.tolist() for part in everything), strict=True))
    told = draws.rewards.gather(1, order[:, :1]).squeeze(1) - draws.rewards[torch.arange(200), hard] >= 0.1
    wanted = set(zip(range(200), order[:, 0].tolist(), hard.tolist(), strict=True))
    assert len(wanted & found) == int(told.sum())


def test_rivals_are_different_slates_that_are_worse_and_the_pairs_own_comes_first() -> None:
    draws, settings = made_up_draws(200, 8), PairSettings(8, 10_000)
    pairs = choose_pairs(draws, settings, 0)
    prompt, chosen, rejected = choose_rivals(draws, pairs, 5, settings, 0)
    assert 0 < len(prompt) < len(pairs[0]), "some prompts have too few worse slates"
    assert rejected.shape == (len(prompt), 5)
    margin = draws.rewards[prompt, chosen][:, None] - draws.rewards[prompt[:, None], rejected]
    assert (margin >= settings.least_margin - 1e-6).all()
    slates = draws.tokens[prompt[:, None], rejected]
    assert all(len({tuple(slate) for slate in row}) == 5 for row in slates.tolist())
    known = set(zip(*(part.tolist() for part in pairs), strict=True))
    assert set(zip(prompt.tolist(), chosen.tolist(), rejected[:, 0].tolist(), strict=True)) <= known
    assert [part.tolist() for part in choose_rivals(draws, pairs, 1, settings, 0)][:2] == [
        part.tolist() for part in pairs[:2]
    ]
    assert len(choose_rivals(draws, pairs, 20, settings, 0)[0]) == 0


def test_softmax_dpo_is_dpo_with_one_rival_and_its_formula_with_two() -> None:
    rewards = torch.tensor([[1.0, 0.5, -1.0], [0.0, 2.0, 1.0]])
    torch.testing.assert_close(
        softmax_dpo_loss(rewards[:, :2]), -torch.nn.functional.logsigmoid(rewards[:, 0] - rewards[:, 1])
    )
    best, others = rewards[:, :1].exp(), rewards[:, 1:].exp().sum(1, keepdim=True)
    torch.testing.assert_close(softmax_dpo_loss(rewards), (1 + others / best).log().squeeze(1))


def test_one_rival_gives_the_loss_of_trls_trainer_on_the_same_pairs(run, tmp_path) -> None:
    folder, catalog, histories, decisions = run
    spoken = load_speaker(folder / "policy" / "sft", catalog, folder / "policy" / "dpo", trainable=True)
    rows = torch.arange(len(decisions))
    known = contexts(histories, decisions, 12)
    draws = draw_slates(spoken, known, likes_even, rows, 8, 0, "draw")
    draws = replace(draws, log_probs=draws.log_probs - 0.3 * draws.rewards)  # a reference that is not the policy
    settings = PairSettings(8, 24)
    prompt, chosen, rejected = choose_rivals(draws, choose_pairs(draws, settings, 0), 2, settings, 0)
    pairs = (prompt, chosen, rejected[:, 0])
    config = dpo_config(SMALL, tmp_path, 0)
    losses = []
    for negatives in (1, 2):
        given = (spoken, known, draws, pairs, settings, DPOSettings(LATER, negatives=negatives), 0, config, "DPO")
        trainer = preference_trainer(*given)
        batch = trainer.data_collator([trainer.train_dataset[k] for k in range(8)])
        if negatives == 2:  # the first of the two is the pair's own
            batch = {
                name: part[:, :2] if name in ("completions", "ref_logps") else part for name, part in batch.items()
            }
        losses.append(float(trainer.compute_loss(spoken.model, batch).detach()))
        spoken.model.delete_adapter("ref")  # the trainer's copy of the adapter that it starts from
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("negatives", [1, 3])
def test_rounds_teach_what_the_reward_likes(run, negatives, tmp_path) -> None:
    folder, catalog, histories, decisions = run
    base = folder / "policy" / "sft"
    settings = DPOSettings(LATER, negatives=negatives)
    config = dpo_config(SMALL, tmp_path, 0, {"warmup_steps": 0, "per_device_train_batch_size": 4})
    train_dpo(base, histories, decisions, catalog, likes_even, SMALL, settings, tmp_path, config)
    found = []
    for adapter in (None, tmp_path):
        spoken = load_speaker(base, catalog, adapter)
        drawn = draw_slates(spoken, contexts(histories, decisions, 12), likes_even, torch.arange(21), 16, 0, "draw")
        found.append(float(drawn.rewards.mean()))
    assert found[1] > found[0] + 0.05


def test_settings_that_cannot_be_are_one_line() -> None:
    with pytest.raises(InputError, match="0 negatives: give 1 or more"):
        DPOSettings(0, negatives=0)
