"""Reward-weighted SFT: the better logged slates are imitated more, in the proportion that the formula says."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.errors import InputError
from data.histories import contexts, load
from data.store import LogStore
from policy.checkpoint import load_speaker
from policy.presets import NANO
from policy.weighted_sft import WeightedSettings, draw_by_reward, train_weighted_sft
from tests.policy.serving.tiny_run import SLATE, build


def test_slates_are_drawn_in_proportion_to_the_exponent_of_their_reward() -> None:
    scores = torch.tensor([0.0, 1.0, 2.0])

    def reward(rows: torch.Tensor, slates: torch.Tensor) -> torch.Tensor:
        return scores[rows - 10][:, None]

    rows, slates = np.array([10, 11, 12]), np.zeros((3, 2), np.int32)
    drawn = draw_by_reward(reward, rows, slates, 100_000, WeightedSettings(until=0, temperature=0.5))
    share = np.bincount(drawn - 10) / len(drawn)
    np.testing.assert_allclose(share, np.exp(2 * scores.numpy()) / np.exp(2 * scores.numpy()).sum(), atol=0.005)


def test_what_the_reward_likes_among_the_logged_becomes_likelier(tmp_path) -> None:
    catalog = build(tmp_path / "run")
    histories, decisions = load(LogStore(tmp_path / "run" / "logs"), catalog.index_of)
    rng = np.random.default_rng(0)
    slates = np.stack([rng.permutation(60)[:SLATE] for _ in range(len(decisions.slate))]).astype(np.int32)
    decisions = replace(decisions, slate=slates)
    good = int(slates[4, 0])

    def reward(rows: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        return (asked[..., 0] == good).float() * 3

    base = tmp_path / "run" / "policy" / "sft"
    preset = replace(NANO, weighted_slates=2048, batch=32, weighted_lr=5e-3, lora_rank=4)
    (tmp_path / "made").mkdir()
    settings = WeightedSettings(until=2**62, temperature=0.3)
    train_weighted_sft(base, histories, decisions, catalog, reward, preset, settings, tmp_path / "made")

    def first_items(adapter) -> np.ndarray:
        spoken = load_speaker(base, catalog, adapter)
        ids, mask = spoken.prompt.encode(contexts(histories, decisions, 12), None)
        tokens = spoken.legal.draw(ids, mask, samples=16, generator=torch.Generator().manual_seed(0)).tokens
        return spoken.grammar.decode(tokens.flatten(0, 1))[1][:, 0].numpy().reshape(len(decisions.slate), 16)

    # What was liked was shown to one listener at one moment: there, the policy now says it.
    assert (first_items(tmp_path / "made")[4] == good).mean() > 0.9 > 0.2 > (first_items(None)[4] == good).mean()
    with pytest.raises(InputError, match="shows no slate of 5 items"):
        train_weighted_sft(
            base, histories, replace(decisions, slate=slates[:, :3]), catalog, reward, preset, settings, tmp_path
        )
    with pytest.raises(InputError, match="temperature 0"):
        WeightedSettings(until=0, temperature=0)
