"""A prior over items, added to the legal logits: what counting knows, said to a policy that spells items code by code.

Given a log-weight for each item, a prefix weighs as much as all eligible items under it together. Adding the log of
that to the logits of a step gives the next code the prior's mass, and the product over a path telescopes to the item's
own weight: where a model's logits are level, what is drawn is the prior itself, exactly. With a model it is the product
of the two, renormalised at each step over what is legal, which is again a policy: it can be drawn from, beamed over and
scored, and every log-probability is of what was drawn.
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
    """Log of the summed weight under every node of a trie. mass[l]: (B or 1, nodes_at[l + 1]) of the nodes of level
    l + 1, -inf where nothing eligible is below."""

    trie: Trie
    mass: tuple[Tensor, ...]

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
        if eligible is not None:
            weights = weights.masked_fill(~eligible.to(trie.device).reshape(-1, trie.items), -torch.inf)
        leaves = weights[:, trie.leaf_item]  # (B, N) by leaf position
        top = leaves.amax(1, keepdim=True)
        share = (leaves - torch.where(top.isfinite(), top, 0.0)).double().exp()
        mass = []
        for level in range(trie.levels):
            total = share.new_zeros(len(share), trie.nodes_at[level + 1])
            total.index_add_(1, trie.leaf_path[:, level], share)
            mass.append(total.log().float())
        return cls(trie, tuple(mass))

    def rows(self, index: Tensor) -> ItemPrior:
        """The same for the rows in `index` (R,), repeats allowed; a shared prior stays shared."""
        return ItemPrior(self.trie, tuple(level if len(level) == 1 else level[index] for level in self.mass))

    def at(self, level: int, nodes: Tensor) -> Tensor:
        """What is added to the logits of the codes of `level` after its `nodes` (R,), row r's prior: (R, size)."""
        mass = self.mass[level]
        row = torch.arange(len(nodes), device=nodes.device)[:, None] if len(mass) > 1 else 0
        return _of_children(self.trie.window[level][nodes], lambda children: mass[row, children], mass.shape[1])

    def after_all(self, level: int) -> Tensor:
        """The same after every node of `level`: (B or 1, nodes_at[level], size)."""
        mass = self.mass[level]
        return _of_children(self.trie.window[level][:-1], lambda children: mass[:, children], mass.shape[1])


def _of_children(children: Tensor, mass: Callable[[Tensor], Tensor], nodes: int) -> Tensor:
    """`mass` of the children, of which `nodes` and beyond are off the trie: -inf there."""
    return torch.where(children < nodes, mass(children.clamp(max=nodes - 1)), -torch.inf)
