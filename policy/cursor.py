"""The grammar for one completion at a time, token by token: what a server needs, where requests come and go.

`SlateGrammar.legal` reads whole completions of equal length, which is right for training: one call masks a batch. A
server's batch is of requests that all stand somewhere else, and every step would read them again from their first word.
A cursor remembers where its completion stands in the trie and what it has used up there, so that a step costs one look
at one node. Both say the same, which a test holds them to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError
from policy.grammar import SlateGrammar
from policy.moves import MOVES
from policy.trie import Eligibility


@dataclass(frozen=True)
class Paths:
    """The trie in NumPy, shared by all cursors over one catalog. N items, L levels, nodes numbered within their level.

    window: per level (nodes + 1, size), the child along a code. leaf_path, leaf_code (N, L): nodes and codes on the way
    to each leaf. leaf_of (N,): leaf position of each catalog row; item_at (N,): the other way round.
    """

    window: tuple[NDArray[np.int64], ...]
    leaf_path: NDArray[np.int64]
    leaf_code: NDArray[np.int64]
    leaf_of: NDArray[np.int64]
    item_at: NDArray[np.int64]
    first: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    nodes_at: tuple[int, ...]

    @classmethod
    def of(cls, grammar: SlateGrammar) -> Paths:
        trie = grammar.trie
        item_at = trie.leaf_item.cpu().numpy()
        leaf_of = np.empty_like(item_at)
        leaf_of[item_at] = np.arange(len(item_at))
        return cls(
            window=tuple(window.cpu().numpy() for window in trie.window),
            leaf_path=trie.leaf_path.cpu().numpy(),
            leaf_code=trie.leaf_code.cpu().numpy(),
            leaf_of=leaf_of,
            item_at=item_at,
            first=grammar.vocabulary.first,
            offsets=trie.level_offsets,
            sizes=trie.level_sizes,
            nodes_at=trie.nodes_at,
        )

    @property
    def levels(self) -> int:
        return len(self.sizes)

    @cached_property
    def width(self) -> int:
        """C: tokens that a completion may hold, moves included."""
        return self.offsets[-1] + self.sizes[-1]


@dataclass(frozen=True)
class Doors:
    """What is open for one set of eligible items.

    counts: per level (children,), eligible items under each. open: per level (nodes + 1, size) bool, whether there are
    any along a code.
    """

    paths: Paths
    counts: tuple[NDArray[np.int32], ...]
    open: tuple[NDArray[np.bool_], ...]

    @classmethod
    def of(cls, paths: Paths, eligibility: Eligibility) -> Doors:
        """Of a set that all rows share, as `Trie.count` counted it for (N,) items or for all."""
        flat = eligibility.counts[0].cpu().numpy()
        starts = np.cumsum(paths.nodes_at)
        # One place past the end stands for "off the trie", as in the windows: nothing is there.
        counts = tuple(np.append(flat[lo:hi], np.int32(0)) for lo, hi in pairwise(starts))
        return cls(paths, counts, tuple(c[window] > 0 for c, window in zip(counts, paths.window, strict=True)))


@dataclass
class Cursor:
    """Where one completion stands. unwanted: leaf positions that it may not use either, beside what `doors` says.

    said: tokens followed so far. move: the first of them. taken: leaf positions of the items that are whole.
    """

    doors: Doors
    unwanted: Sequence[int] = ()
    said: int = field(default=0, init=False)
    move: int = field(default=-1, init=False)
    taken: list[int] = field(default_factory=list, init=False)
    _node: int = field(default=0, init=False)
    _used: dict[tuple[int, int], int] = field(default_factory=dict, init=False, repr=False)
    _shut: dict[tuple[int, int], list[int]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for leaf in self.unwanted:
            self._use(leaf)

    @property
    def rows(self) -> tuple[int, ...]:
        """Catalog rows of the items that are whole."""
        item_at = self.doors.paths.item_at
        return tuple(int(item_at[leaf]) for leaf in self.taken)

    @property
    def place(self) -> tuple[int, int] | None:
        """(level, node of that level) that the next token leads on from; None where a move comes next."""
        return None if self.said == 0 else ((self.said - 1) % self.doors.paths.levels, self._node)

    def follow(self, tokens: Iterable[int]) -> None:
        """Go on along vocabulary ids. Raises InputError for one that is out of place, leads off the trie, or repeats an
        item.
        """
        paths = self.doors.paths
        for token in tokens:
            relative = token - paths.first
            if self.said == 0:
                if not 0 <= relative < len(MOVES):
                    raise InputError(f"a completion does not begin with a move ({', '.join(MOVES)})")
                self.move = relative
            else:
                level = (self.said - 1) % paths.levels
                code = relative - paths.offsets[level]
                if not 0 <= code < paths.sizes[level]:
                    raise InputError("a completion spells no item: a token is out of its place")
                child = int(paths.window[level][self._node, code])
                if child == paths.nodes_at[level + 1]:
                    raise InputError("a completion spells no item of this catalog: codes lead off the trie")
                self._node = child
                if level == paths.levels - 1:
                    if child in self.taken:
                        raise InputError("a completion has an item twice: slates are of different items")
                    self.taken.append(child)
                    self._use(child)
                    self._node = 0
            self.said += 1

    def mark(self, legal: NDArray[np.bool_]) -> None:
        """Set what may follow in `legal` (C,), which is False everywhere. Raises InputError when nothing may."""
        if self.said == 0:
            legal[: len(MOVES)] = True
            return
        paths = self.doors.paths
        level = (self.said - 1) % paths.levels
        there = legal[paths.offsets[level] : paths.offsets[level] + paths.sizes[level]]
        there[:] = self.doors.open[level][self._node]
        shut = self._shut.get((level, self._node))
        if shut is not None:
            there[shut] = False
        if not there.any():
            raise InputError("a completion has no legal token: no eligible item is left under its prefix")

    def _use(self, leaf: int) -> None:
        """Take an item off the counts along its path, and shut what is empty by that."""
        doors, paths, used = self.doors, self.doors.paths, self._used
        last = paths.levels - 1
        if doors.counts[last][leaf] == 0 or (last, leaf) in used:
            return
        parent = 0
        for level, (node, code) in enumerate(
            zip(paths.leaf_path[leaf].tolist(), paths.leaf_code[leaf].tolist(), strict=True)
        ):
            used[level, node] = gone = used.get((level, node), 0) + 1
            if doors.counts[level][node] == gone:
                self._shut.setdefault((level, parent), []).append(code)
            parent = node
