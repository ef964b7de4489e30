"""A prior over items, added to the legal logits: what counting knows, said to a policy that spells items code by code.

Given a log-weight for each item, a prefix weighs as much as its eligible items do on average: the log of their summed
weight less the log of their number. Added to the logits of each step, that makes the product of policy and prior,
renormalised over what is legal, which is again a policy: it can be drawn from, beamed over and scored, and every
log-probability is of what was drawn. Weights that are all alike change nothing. Over a policy that finds the items
under a prefix equally likely the product is exact, item by item, because the steps of a path telescope; over another it
is the product as far as a prefix can tell what is below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from data.errors import InputError
from policy.trie import Trie


@dataclass(frozen=True)
class ItemPrior:
    """Log of the mean weight under every node of a trie. mean[l]: (B or 1, nodes_at[l + 1]) of the nodes of level
    l + 1, -inf where nothing eligible is below."""

    trie: Trie
    mean: tuple[Tensor, ...]

    @classmethod
    def of(cls, trie: Trie, log_weights: Tensor, eligible: Tensor | None = None) -> ItemPrior:
        """log_weights: (N,) for all rows or (B, N), by catalog row, any constant added; eligible: likewise, all items
        by default.

        Raises InputError when the width is not the catalog's or a weight is not a number.
        """
        if log_weights.shape[-1] != trie.items or log_weights.dim() > 2:
            raise InputError(f"a prior of shape {tuple(log_weights.shape)} for {trie.items} items: pass (N,) or (B, N)")
        if bool(log_weights.isnan().any()):
            raise InputError("a prior's log-weight is not a number: give -inf to an item that has none")
        weights = log_weights.to(trie.device).float().reshape(-1, trie.items)
        counted = torch.ones_like(weights[:1]) if eligible is None else eligible.to(weights).reshape(-1, trie.items)
        weights = weights.masked_fill(counted == 0, -torch.inf)
        top = weights.amax(1, keepdim=True)
        share = (weights - torch.where(top.isfinite(), top, 0.0)).double().exp()
        mean = []
        for level in range(trie.levels):
            total, number = (
                values.new_zeros(len(values), trie.nodes_at[level + 1]).index_add_(
                    1, trie.leaf_path[:, level], values[:, trie.leaf_item]
                )
                for values in (share, counted.double())
            )
            mean.append((total.log() - number.clamp(min=1).log()).float())
        return cls(trie, tuple(mean))

    def rows(self, index: Tensor) -> ItemPrior:
        """The same for the rows in `index` (R,), repeats allowed; a shared prior stays shared."""
        return ItemPrior(self.trie, tuple(level if len(level) == 1 else level[index] for level in self.mean))

    def repeated(self, times: int) -> ItemPrior:
        """Each row `times` times, for as many completions of one prompt."""
        if times == 1 or len(self.mean[0]) == 1:
            return self
        return self.rows(torch.arange(len(self.mean[0]), device=self.trie.device).repeat_interleave(times))

    def at(self, level: int, nodes: Tensor) -> Tensor:
        """What is added to the logits of the codes of `level` after its `nodes` (R,), row r's prior: (R, size)."""
        mean = self.mean[level]
        row = torch.arange(len(nodes), device=nodes.device)[:, None] if len(mean) > 1 else 0
        return _of_children(self.trie.window[level][nodes], lambda children: mean[row, children], mean.shape[1])

    def after_all(self, level: int) -> Tensor:
        """The same after every node of `level`: (B or 1, nodes_at[level], size)."""
        mean = self.mean[level]
        return _of_children(self.trie.window[level][:-1], lambda children: mean[:, children], mean.shape[1])


def _of_children(children: Tensor, mean: Callable[[Tensor], Tensor], nodes: int) -> Tensor:
    """`mean` of the children, of which `nodes` and beyond are off the trie: -inf there."""
    return torch.where(children < nodes, mean(children.clamp(max=nodes - 1)), -torch.inf)
