"""Many continuations of each prompt, read side by side: the prompt's keys and values are held once.

Drawing N slates from a prompt, scoring M of them, or following W beams usually copies the prompt's cache N, M or W
times, and on a CPU those copies are the cost. Here the branches of a prompt are positions of one sequence, and a
four-dimensional attention mask lets each see the prompt and its own ancestors only (tree attention, as in SpecInfer,
Miao et al. 2024). A branch's positions are those it would have alone, so the numbers are the same as one by one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Branches:
    """Live branches of B prompts. `hidden` (B, W, H): the states from which each branch's next token is predicted."""

    def __init__(self, trunk: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> None:
        """Read the prompts: input_ids and attention_mask (B, S), left padded. There is one branch each, the prompt."""
        out = trunk(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=real_positions(attention_mask),
            use_cache=True,
        )
        self.trunk = trunk
        self.cache: Any = out.past_key_values
        self.prompt = attention_mask.bool()
        self.position = attention_mask.sum(1, keepdim=True)  # (B, 1) of the next token
        self.hidden: Tensor = out.last_hidden_state[:, -1:]
        self.ancestors = self.prompt.new_empty(
            len(input_ids), 1, 0
        )  # (B, W, nodes): which nodes a branch has behind it

    def grow(self, tokens: Tensor, parent: Tensor) -> Tensor:
        """Continue: tokens (B, W) after the live branches `parent` (B, W). Returns the new `hidden` (B, W, H)."""
        batch, width = tokens.shape
        behind = self.ancestors.gather(1, parent[..., None].expand(-1, -1, self.ancestors.shape[2]))
        own = torch.eye(width, dtype=torch.bool, device=tokens.device).expand(batch, -1, -1)
        return self._read(tokens, torch.cat([behind, own], 2), self.position.expand(-1, width))

    def follow(self, tokens: Tensor) -> Tensor:
        """Read whole continuations of the prompt at once: tokens (B, M, T). Returns their states (B, M, T, H)."""
        batch, many, length = tokens.shape
        branch = torch.arange(many, device=tokens.device).repeat_interleave(length)
        step = torch.arange(length, device=tokens.device).repeat(many)
        seen = (branch[:, None] == branch) & (step[:, None] >= step)  # (M T, M T)
        hidden = self._read(tokens.flatten(1), seen.expand(batch, -1, -1), self.position + step)
        return hidden.view(batch, many, length, -1)

    def _read(self, tokens: Tensor, ancestors: Tensor, position: Tensor) -> Tensor:
        mask = torch.cat([self.prompt[:, None].expand(-1, tokens.shape[1], -1), ancestors], 2)[:, None]
        out = self.trunk(
            input_ids=tokens, attention_mask=mask, position_ids=position, past_key_values=self.cache, use_cache=True
        )
        self.hidden = out.last_hidden_state
        self.ancestors = ancestors
        self.position = self.position + 1
        return self.hidden


def real_positions(attention_mask: Tensor) -> Tensor:
    """Zero-based positions (B, S) of real tokens under left padding."""
    return (attention_mask.cumsum(1) - 1).clamp(min=0)
