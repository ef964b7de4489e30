"""What a slate is worth to the listener it was made for: the bridge from the reward model to the trainers.

The reward is the objective's lower bound of the slate's advantage, given this listener's whole history up to the
decision. Two listeners whose prompts read the same are still two listeners, so a reward is looked up by decision row,
never by prompt text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from policy.grammar import SlateGrammar
from rewards.model import RewardModel
from rewards.objective import Objective


@dataclass(frozen=True)
class SlateReward:
    """Scores slates for D decisions whose histories were read once. states: (D, S) from `RewardModel.encode`."""

    model: RewardModel
    objective: Objective
    states: Tensor

    @torch.no_grad()
    def __call__(self, rows: Tensor, slates: Tensor) -> Tensor:
        """Rewards (M, N) of slates (M, N, K) of catalog rows, for the decisions in `rows` (M,)."""
        return self.objective.lower_bound(self.model.advantage(self.states[rows], slates)).float()


def item_credits(reward: Callable[[Tensor], Tensor], slates: Tensor) -> Tensor:
    """What each item of slates (M, N, K) adds to its slate's reward: the reward less that of the slate without it.

    The difference reward of cooperative learning (Wolpert & Tumer 2002): exact where a slate's reward is a sum over its
    items, and about the item's own doing where it is not. `reward` takes slates of any number and gives (M, N'); an
    item left out is -1. Returns (M, N, K).
    """
    rows, many, size = slates.shape
    gone = torch.eye(size, dtype=torch.bool)
    without = torch.where(gone, -1, slates[:, :, None])  # (M, N, K, K)
    scored = reward(torch.cat([slates[:, :, None], without], 2).view(rows, -1, size)).view(rows, many, 1 + size)
    return scored[..., :1] - scored[..., 1:]


class RewardModule(nn.Module):
    """A reward in the shape that TRL's PPOTrainer asks for: a backbone with hidden states and a `score` head.

    The trainer hands over token ids only. Which decision each row belongs to is known from the collator, which calls
    `expect` for every batch it makes; batches are scored in the order they were collated, and the prompt tokens of each
    row must be those that were announced, so that a reward can never land on another listener.
    """

    base_model_prefix = "backbone"

    def __init__(self, reward: SlateReward, grammar: SlateGrammar) -> None:
        super().__init__()
        self.backbone = _SlateReader(reward, grammar)
        self.score = nn.Identity()

    def expect(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        """Announce the decisions (and their prompt tokens) of the next rows to be scored."""
        self.backbone.expected.extend(zip(rows, map(tuple, prompts), strict=True))


class _SlateReader(nn.Module):
    def __init__(self, reward: SlateReward, grammar: SlateGrammar) -> None:
        super().__init__()
        self.reward = reward
        self.grammar = grammar
        self.expected: deque[tuple[int, tuple[int, ...]]] = deque()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> SimpleNamespace:
        """Reward of each whole sequence (B, S), given at every position: hidden_states[-1] is (B, S, 1)."""
        length = self.grammar.length
        rows = []
        for sequence, real in zip(input_ids.tolist(), attention_mask.tolist(), strict=True):
            row, prompt = self.expected.popleft()
            given = [token for token, keep in zip(sequence[:-length], real[:-length], strict=True) if keep]
            if tuple(given) != prompt:
                raise RuntimeError("a rollout came back in another order than its prompts were announced in")
            rows.append(row)
        items = self.grammar.decode(input_ids[:, -length:])[1]
        values = self.reward(torch.tensor(rows), items[:, None])  # (B, 1)
        return SimpleNamespace(hidden_states=(values[:, :, None].expand(-1, input_ids.shape[1], -1),))
