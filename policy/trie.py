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

Following an edge is the inner loop of decoding and of every training loss, so the rows of the CSR table are also laid
out flat, level by level: `window[l][node, code]` is the child, in the numbering of its own level. Codes are balanced,
so this is little more than one entry per item. One row and one number past the end stand for "off the trie" and lead
nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from data.errors import InputError


@dataclass(frozen=True)
class Eligibility:
    """How many eligible items lie under every node, counted once and read at every decoding step.

    `counts` is (G, M) int32 for G distinct item sets over M nodes; `group` (B,) says which set each row uses, or is
    None when G is 1 and every row shares it. `open` keeps, for a shared set, the mask of every node of a level.
    """

    counts: Tensor
    group: Tensor | None
    open: dict[int, Tensor] = field(default_factory=dict, repr=False, compare=False)

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

    child_start (M + 1,), child_token (M - 1,), child_node (M - 1,), node_lo (M,), node_hi (M,): nodes in order of
    level, the root first. leaf_item (N,): catalog row at each leaf position. All int64.

    From here on a node goes by its number within its level; level l has nodes_at[l] of them, a leaf's number is its
    position. leaf_path (N, L): nodes on the way to each leaf, itself last. leaf_code (N, L): the codes. window: per
    level (nodes_at[l] + 1, level_sizes[l]) int64, see above.
    """

    child_start: Tensor
    child_token: Tensor
    child_node: Tensor
    node_lo: Tensor
    node_hi: Tensor
    leaf_item: Tensor
    leaf_path: Tensor
    leaf_code: Tensor
    window: tuple[Tensor, ...]
    level_offsets: tuple[int, ...]
    level_sizes: tuple[int, ...]
    nodes_at: tuple[int, ...]

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
        parents, tokens, path, windows, nodes_at = [], [], [], [], [1]
        parent = torch.zeros(items, dtype=torch.long, device=device)  # of each leaf position, within its level
        sorted_codes = codes[leaf_item]
        for level, size in enumerate(level_sizes):
            opens = torch.ones(items, dtype=torch.bool, device=device)
            opens[1:] = (sorted_codes[1:, level] != sorted_codes[:-1, level]) | (parent[1:] != parent[:-1])
            start = opens.nonzero().squeeze(1)
            code, above = sorted_codes[start, level], parent[start]
            window = torch.full((nodes_at[-1] + 1, size), len(start), dtype=torch.long, device=device)
            window[above, code] = torch.arange(len(start), device=device)
            windows.append(window)
            lo.append(start)
            hi.append(torch.cat([start[1:], torch.tensor([items], device=device)]))
            parents.append(above + sum(nodes_at[:-1]))
            tokens.append(code + level_offsets[level])
            parent = torch.cumsum(opens, 0) - 1
            path.append(parent)
            nodes_at.append(len(start))

        nodes = sum(nodes_at)
        child_start = torch.zeros(nodes + 1, dtype=torch.long, device=device)
        child_start[1:] = torch.cumsum(torch.bincount(torch.cat(parents), minlength=nodes), 0)
        return cls(
            child_start=child_start,
            child_token=torch.cat(tokens),
            child_node=torch.arange(1, nodes, device=device),
            node_lo=torch.cat(lo),
            node_hi=torch.cat(hi),
            leaf_item=leaf_item,
            leaf_path=torch.stack(path, 1),
            leaf_code=sorted_codes,
            window=tuple(windows),
            level_offsets=tuple(level_offsets),
            level_sizes=tuple(level_sizes),
            nodes_at=tuple(nodes_at),
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
        return replace(self, **moved, window=tuple(window.to(device) for window in self.window))

    def follow(self, nodes: Tensor, tokens: Tensor) -> Tensor:
        """Children of `nodes` along `tokens`, of one shape and numbered over all levels (as node_lo and node_hi are).

        -1 where there is no such edge or the node is -1. Any mixture of levels; `step` is the faster one for a single
        level.
        """
        wanted = nodes * self.width + tokens
        edge = torch.searchsorted(self._edge_key, wanted).clamp_(max=len(self._edge_key) - 1)
        found = (self._edge_key[edge] == wanted) & (nodes >= 0) & (tokens >= 0) & (tokens < self.width)
        return torch.where(found, self.child_node[edge], -1)

    @cached_property
    def _edge_key(self) -> Tensor:
        """Ascending over edges: node x C + token."""
        degree = self.child_start[1:] - self.child_start[:-1]
        node = torch.arange(len(degree), device=self.device).repeat_interleave(degree)
        return node * self.width + self.child_token

    def step(self, level: int, nodes: Tensor, codes: Tensor) -> Tensor:
        """Children, numbered within level + 1, of `nodes` of `level` along `codes` of it; all of one shape.

        `nodes_at[level + 1]` says "off the trie", for which `nodes` may also stand with `nodes_at[level]`. Codes must
        lie in 0..level_sizes[level] - 1.
        """
        return self.window[level].view(-1)[nodes * self.level_sizes[level] + codes]

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
        """Which codes of `level` lead on from its `nodes` (R,) to an eligible item that is not yet taken. (R, C) bool.

        `taken` (R, J) are leaf positions already used by the row, `items` for none, in any order. A taken item is
        subtracted along its own path only: nothing of size R x N is made.
        """
        first = sum(self.nodes_at[: level + 1])  # of the children's level, among all nodes
        offset, size = self.level_offsets[level], self.level_sizes[level]
        mask = torch.zeros((len(nodes), self.width), dtype=torch.bool, device=self.device)
        if eligibility.group is None:
            if level not in eligibility.open:
                eligibility.open[level] = self.open_under(level, self.window[level], eligibility)
            mask[:, offset : offset + size] = eligibility.open[level][nodes]
        else:
            mask[:, offset : offset + size] = self.open_under(level, self.window[level][nodes], eligibility)
        if taken.shape[1] == 0:
            return mask

        leaf = taken.clamp(max=self.items - 1)
        child = self.leaf_path[leaf, level]  # (R, J)
        uses = (taken < self.items) & (eligibility.at(leaf + sum(self.nodes_at[:-1])) > 0)
        if level:
            uses &= self.leaf_path[leaf, level - 1] == nodes.unsqueeze(1)
        if taken.shape[1] > 1:
            uses &= ~(taken.unsqueeze(2) == taken.unsqueeze(1)).tril(-1).any(2)
        used = ((child.unsqueeze(2) == child.unsqueeze(1)) & uses.unsqueeze(1)).sum(2)
        exhausted = uses & (eligibility.at(child + first) <= used)
        code = self.leaf_code[leaf, level]
        column = torch.where(exhausted, code + offset, 0)  # column 0 is a move: closed at every level
        return mask.scatter_(1, column, False)

    def legal_after_all(self, level: int, eligibility: Eligibility) -> Tensor:
        """Which codes lead on to an eligible item from each node of `level`: (B or 1, nodes_at[level], size)."""
        children = self.window[level][:-1]
        if eligibility.group is None:
            return self.open_under(level, children, eligibility)[None]
        return self.open_under(level, children.expand(len(eligibility.group), -1, -1), eligibility)

    def edges(self, level: int) -> tuple[Tensor, Tensor]:
        """For each node of level + 1, the node of `level` it hangs under and the code leading on: (nodes,) each."""
        first = sum(self.nodes_at[: level + 1])
        leaf = self.node_lo[first : first + self.nodes_at[level + 1]]
        above = self.leaf_path[leaf, level - 1] if level else torch.zeros_like(leaf)
        return above, self.leaf_code[leaf, level]

    def open_under(self, level: int, children: Tensor, eligibility: Eligibility) -> Tensor:
        """Whether there is an eligible item under each of `children` (B, ...), which belong to level + 1."""
        last = self.nodes_at[level + 1] - 1
        first = sum(self.nodes_at[: level + 1])
        return (eligibility.at(children.clamp(max=last) + first) > 0) & (children <= last)
