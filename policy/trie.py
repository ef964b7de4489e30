"""The catalog's semantic IDs as a prefix tree in flat tensors.

Every item is a path of L codes. Sorted by path, the items under any prefix are one interval of leaves, so "how many
eligible items are below this node" is a difference of two prefix sums, and the whole tree is five flat tensors that
live on any device. Example, three items with codes (0,0), (0,1), (1,0) and level offsets (4, 6)::

    node          0 root   1 (0)   2 (1)   3 (0,0)   4 (0,1)   5 (1,0)
    child_start   0        2       4       5         5         5         5
    child_token   4 5 | 6 7 | 6            edges, grouped by node: the token that leads on
    child_node    1 2 | 3 4 | 5            and the node it leads to
    node_lo..hi   0..3     0..2    2..3    0..1      1..2      2..3

Tokens here are completion-relative: position in the contiguous block of move and code tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from data.errors import InputError


@dataclass(frozen=True)
class Eligibility:
    """How many eligible items lie under every node, counted once and read at every decoding step.

    `counts` is (G, M) int32 for G distinct item sets over M nodes; `group` (B,) says which set each row uses, or is
    None when G is 1 and every row shares it.
    """

    counts: Tensor
    group: Tensor | None

    def rows(self, index: Tensor) -> Eligibility:
        """The same counts for the rows in `index` (R,), repeats allowed."""
        return self if self.group is None else replace(self, group=self.group[index])

    def at(self, nodes: Tensor) -> Tensor:
        """Counts under `nodes` (B, ...), row b read from its own set."""
        if self.group is None:
            return self.counts[0][nodes]
        group = self.group.reshape(-1, *([1] * (nodes.dim() - 1)))
        return self.counts.reshape(-1)[group * self.counts.shape[1] + nodes]


@dataclass(frozen=True)
class Trie:
    """CSR transition table. N items, L levels, M nodes, M - 1 edges; all tensors on one device.

    child_start (M + 1,), child_token (M - 1,), child_node (M - 1,), node_lo (M,), node_hi (M,), leaf_item (N,)
    catalog row at each leaf position, item_path (N, L) node of each prefix of each item (the last is its leaf node);
    all int64.
    """

    child_start: Tensor
    child_token: Tensor
    child_node: Tensor
    node_lo: Tensor
    node_hi: Tensor
    leaf_item: Tensor
    item_path: Tensor
    edge_key: Tensor  # node * width + token of each edge, ascending: one binary search follows any number of edges
    level_offsets: tuple[int, ...]
    level_sizes: tuple[int, ...]
    fan_out: tuple[int, ...]  # the widest node of each level

    @classmethod
    def build(cls, codes: Tensor, level_offsets: Sequence[int], level_sizes: Sequence[int]) -> Trie:
        """Build from `codes` (N, L), row = catalog index, each row its own path.

        `level_offsets[l] + codes[:, l]` is the token of level l. Raises InputError when there are no items, when a
        code is outside its level, or when two items share a path.
        """
        codes = torch.as_tensor(codes).long()
        if codes.dim() != 2 or codes.shape[0] == 0:
            raise InputError("the catalog has no items: a trie needs at least one row of codes")
        items, levels = codes.shape
        device = codes.device
        sizes = torch.tensor(level_sizes, device=device)
        if bool(((codes < 0) | (codes >= sizes)).any()):
            raise InputError(f"a code lies outside its level (level sizes {tuple(level_sizes)}): rebuild the catalog")
        key = codes[:, 0]
        for level in range(1, levels):
            key = key * level_sizes[level] + codes[:, level]
        leaf_key, leaf_item = torch.sort(key)
        if items > 1 and bool((leaf_key[1:] == leaf_key[:-1]).any()):
            raise InputError("two items share one semantic ID: rebuild the catalog so that codes are unique")

        lo, hi = [torch.zeros(1, dtype=torch.long, device=device)], [torch.full((1,), items, device=device)]
        parents, tokens, path = [], [], []
        first, parent_of_leaf = 1, torch.zeros(items, dtype=torch.long, device=device)
        sorted_codes = codes[leaf_item]
        for level in range(levels):
            opens = torch.ones(items, dtype=torch.bool, device=device)
            if items > 1:
                moved = sorted_codes[1:, level] != sorted_codes[:-1, level]
                opens[1:] = moved | (parent_of_leaf[1:] != parent_of_leaf[:-1])
            start = opens.nonzero().squeeze(1)
            lo.append(start)
            hi.append(torch.cat([start[1:], torch.tensor([items], device=device)]))
            parents.append(parent_of_leaf[start])
            tokens.append(sorted_codes[start, level] + level_offsets[level])
            parent_of_leaf = first + torch.cumsum(opens, 0) - 1
            path.append(parent_of_leaf)
            first += len(start)

        parent, child_token = torch.cat(parents), torch.cat(tokens)
        degree = torch.bincount(parent, minlength=first)
        child_start = torch.zeros(first + 1, dtype=torch.long, device=device)
        child_start[1:] = torch.cumsum(degree, 0)
        item_path = torch.empty((items, levels), dtype=torch.long, device=device)
        item_path[leaf_item] = torch.stack(path, 1)
        node_level_start = [0, 1]
        for start in lo[1:]:
            node_level_start.append(node_level_start[-1] + len(start))
        return cls(
            child_start=child_start,
            child_token=child_token,
            child_node=torch.arange(1, first, device=device),
            node_lo=torch.cat(lo),
            node_hi=torch.cat(hi),
            leaf_item=leaf_item,
            item_path=item_path,
            edge_key=parent * (level_offsets[-1] + level_sizes[-1]) + child_token,
            level_offsets=tuple(level_offsets),
            level_sizes=tuple(level_sizes),
            fan_out=tuple(
                int(degree[node_level_start[level] : node_level_start[level + 1]].max()) for level in range(levels)
            ),
        )

    @property
    def items(self) -> int:
        return int(self.leaf_item.shape[0])

    @property
    def levels(self) -> int:
        return len(self.level_sizes)

    @property
    def width(self) -> int:
        """C: completion tokens, moves included."""
        return self.level_offsets[-1] + self.level_sizes[-1]

    @property
    def device(self) -> torch.device:
        return self.child_start.device

    def to(self, device: torch.device | str) -> Trie:
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.type == "Tensor"}
        return replace(self, **moved)

    def follow(self, nodes: Tensor, tokens: Tensor) -> Tensor:
        """The child of each node along each token, same shape; -1 where there is no such edge or the node is -1."""
        wanted = nodes * self.width + tokens
        edge = torch.searchsorted(self.edge_key, wanted).clamp_(max=len(self.edge_key) - 1)
        found = (self.edge_key[edge] == wanted) & (nodes >= 0) & (tokens >= 0) & (tokens < self.width)
        return torch.where(found, self.child_node[edge], -1)

    def count(self, eligible: Tensor | None) -> Eligibility:
        """Count eligible items under every node, for `eligible` (N,) shared by all rows, (B, N) by row, or None for
        all.

        Raises InputError when the width is not the catalog's.
        """
        if eligible is None:
            return Eligibility((self.node_hi - self.node_lo).int().unsqueeze(0), None)
        if eligible.shape[-1] != self.items or eligible.dim() > 2:
            raise InputError(
                f"eligibility has shape {tuple(eligible.shape)} but the catalog has {self.items} items: "
                "pass (N,) or (B, N)"
            )
        sets = eligible.to(self.device).reshape(-1, self.items)
        running = torch.zeros((sets.shape[0], self.items + 1), dtype=torch.int32, device=self.device)
        torch.cumsum(sets[:, self.leaf_item], 1, dtype=torch.int32, out=running[:, 1:])
        counts = running[:, self.node_hi] - running[:, self.node_lo]
        return Eligibility(counts, None if eligible.dim() == 1 else torch.arange(len(sets), device=self.device))

    def legal(self, level: int, nodes: Tensor, eligibility: Eligibility, taken: Tensor) -> Tensor:
        """Which codes of `level` lead on from `nodes` (R,) to an eligible item that is not yet taken. (R, C) bool.

        `taken` (R, J) are catalog rows already used by the row, -1 for none, in any order. A taken item is subtracted
        along its own path only: nothing of size R x N is made.
        """
        rows = len(nodes)
        mask = torch.zeros((rows, self.width), dtype=torch.bool, device=self.device)
        span = torch.arange(self.fan_out[level], device=self.device)
        edge = self.child_start[nodes].unsqueeze(1) + span
        real = edge < self.child_start[nodes + 1].unsqueeze(1)
        edge.clamp_(max=len(self.child_node) - 1)
        open_ = real & (eligibility.at(self.child_node[edge]) > 0)
        row, column = open_.nonzero(as_tuple=True)
        mask[row, self.child_token[edge[row, column]]] = True
        if taken.shape[1] == 0:
            return mask

        known = taken.clamp(min=0)
        path = self.item_path[known]  # (R, J, L)
        at_node = path[..., level - 1] == nodes.unsqueeze(1) if level else torch.ones_like(taken, dtype=torch.bool)
        repeated = (taken.unsqueeze(2) == taken.unsqueeze(1)).tril(-1).any(2)
        uses = (taken >= 0) & at_node & ~repeated & (eligibility.at(path[..., -1]) > 0)  # (R, J)
        child = path[..., level]
        used = ((child.unsqueeze(2) == child.unsqueeze(1)) & uses.unsqueeze(1)).sum(2)
        row, column = (uses & (eligibility.at(child) <= used)).nonzero(as_tuple=True)
        token = self.child_token[child[row, column] - 1]  # edge e leads to node e + 1
        mask[row, token] = False
        return mask
