"""What a completion may be: a move, then K different eligible items, each spelt in L codes.

The grammar is the only place that knows this. Generation, the training losses and the server all mask with it, so a
slate has the same probability everywhere: that of its tokens, each normalised over the tokens that are legal at its
position.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from data.errors import InputError
from policy.item_prior import ItemPrior
from policy.moves import MOVES
from policy.trie import Eligibility, Trie
from policy.vocabulary import Vocabulary

# Finite, because trainers multiply probabilities by logits: 0 * -inf would be nan. exp(-1e9) is exactly zero.
ILLEGAL = -1e9


@dataclass(frozen=True)
class SlateGrammar:
    """Legal next tokens for slates of `slate_size` items. N items, L levels, C completion tokens, T = `length`
    positions.

    Tokens may be given as ids of the model's vocabulary or relative to `vocabulary.first` (0..C-1): the two ranges
    never overlap. Masks are over the C relative ids; tokens that come out of `encode` are vocabulary ids.
    """

    trie: Trie
    vocabulary: Vocabulary
    slate_size: int

    @classmethod
    def of(cls, vocabulary: Vocabulary, slate_size: int, device: torch.device | str = "cpu") -> SlateGrammar:
        """The grammar of a vocabulary's catalog. Raises InputError when the catalog has fewer items than a slate."""
        trie = Trie.build(
            torch.as_tensor(vocabulary.codes).to(device), vocabulary.level_offsets, vocabulary.level_sizes
        )
        if not 1 <= slate_size <= trie.items:
            raise InputError(f"a slate of {slate_size} cannot be made of {trie.items} items: choose 1..{trie.items}")
        return cls(trie, vocabulary, slate_size)

    @property
    def length(self) -> int:
        """T: one move and K x L codes. A completion is over by its length; there is no end token."""
        return 1 + self.slate_size * self.trie.levels

    def to(self, device: torch.device | str) -> SlateGrammar:
        return replace(self, trie=self.trie.to(device))

    def eligibility(self, eligible: Tensor | Eligibility | None) -> Eligibility:
        """Count a request's eligible items once, for all its decoding steps.

        Raises InputError when some row has fewer eligible items than the slate has places: nothing legal could be said.
        """
        if isinstance(eligible, Eligibility):
            return eligible
        counted = self.trie.count(eligible)
        available = counted.counts[:, 0]
        if bool((available < self.slate_size).any()):
            row = int((available < self.slate_size).nonzero()[0])
            where = "" if counted.group is None else f" for row {row}"
            raise InputError(
                f"{int(available[row])} eligible items{where} cannot fill a slate of {self.slate_size}: "
                "widen the eligibility or shorten the slate"
            )
        return counted

    def legal(self, completion: Tensor, eligible: Tensor | Eligibility | None = None) -> Tensor:
        """Legal tokens after `completion` (B, t), 0 <= t < T. (B, C) bool, at least one True in every row.

        `eligible` is (N,) or (B, N) bool by catalog row, or what `eligibility` made of it (made once, it spares every
        step a pass over the catalog). Raises InputError when the completion is over, when it has left the trie, or
        when a row has no legal token: an empty set is never "no mask".
        """
        rows, said = completion.shape
        if said >= self.length:
            raise InputError(f"the completion already has all of its {self.length} tokens: nothing may follow")
        counted = self.eligibility(eligible)
        if counted.group is not None and len(counted.group) != rows:
            raise InputError(f"eligibility is for {len(counted.group)} rows but there are {rows} completions")
        if said == 0:
            return self._moves(rows)
        codes = self._codes(completion)
        done, level = divmod(said - 1, self.trie.levels)
        taken = self._leaves(codes[:, : done * self.trie.levels].reshape(rows, done, self.trie.levels))
        return self._some_legal(self.trie.legal(level, self._node(codes), counted, taken))

    def restricted(
        self,
        logits: Tensor,
        completion: Tensor,
        eligible: Tensor | Eligibility | None = None,
        prior: ItemPrior | None = None,
    ) -> Tensor:
        """Logits (B, C) of what follows `completion` (B, t): the prior added, ILLEGAL where `legal` is not.

        The prior knows which items are eligible, not which the slate has already: a prefix weighs as before when one of
        its items has been taken.
        """
        said = completion.shape[1]
        if prior is not None and said:
            level = (said - 1) % self.trie.levels
            offset, size = self.trie.level_offsets[level], self.trie.level_sizes[level]
            more = prior.at(level, self._node(self._codes(completion))).clamp(min=ILLEGAL)
            logits = logits.clone()
            logits[:, offset : offset + size] += more
        return logits.masked_fill(~self.legal(completion, eligible), ILLEGAL)

    def restricted_all(
        self,
        logits: Tensor,
        completions: Tensor,
        eligible: Tensor | Eligibility | None = None,
        prior: ItemPrior | None = None,
    ) -> Tensor:
        """`restricted` at every position of whole `completions` (B, T): logits (B, T, C)."""
        legal = self.legal_all(completions, eligible)
        if prior is not None:
            rows, levels, places = len(completions), self.trie.levels, self.slate_size
            path = self.trie.leaf_path[self._leaves(self._codes(completions).reshape(rows, places, levels))]
            every = prior.rows(torch.arange(rows, device=self.trie.device).repeat_interleave(places))
            node = torch.zeros(rows * places, dtype=torch.long, device=self.trie.device)
            logits = logits.clone()
            for level in range(levels):
                offset, size = self.trie.level_offsets[level], self.trie.level_sizes[level]
                more = every.at(level, node).clamp(min=ILLEGAL).view(rows, places, size)
                logits[:, 1 + level :: levels, offset : offset + size] += more
                node = path[:, :, level].flatten()
        return logits.masked_fill(~legal, ILLEGAL)

    def _node(self, codes: Tensor) -> Tensor:
        """Where the item that is being spelt has got to: the node (B,) of its level after `codes` (B, t - 1)."""
        begun = codes.shape[1] // self.trie.levels * self.trie.levels
        node = torch.zeros(len(codes), dtype=torch.long, device=self.trie.device)
        for level in range(codes.shape[1] - begun):
            node = self.trie.step(level, node, codes[:, begun + level])
        return node

    def legal_all(self, completions: Tensor, eligible: Tensor | Eligibility | None = None) -> Tensor:
        """Legal tokens at every position of whole `completions` (B, T): `[:, t]` is `legal(completions[:, :t])`. (B,
        T, C).

        Raises InputError as `legal` does.
        """
        rows, width = completions.shape
        if width != self.length:
            raise InputError(f"completions have {width} tokens, this grammar's have {self.length}")
        levels, places = self.trie.levels, self.slate_size
        counted = self.eligibility(eligible)
        leaves = self._leaves(self._codes(completions).reshape(rows, places, levels))
        # Row b, place k of the flattened batch has items 0..k-1 of slate b behind it.
        before = torch.ones((places, places), dtype=torch.bool, device=self.trie.device).tril(-1)
        taken = torch.where(before, leaves.unsqueeze(1), self.trie.items).flatten(0, 1)[:, : places - 1]
        spread = counted.rows(torch.arange(rows, device=self.trie.device).repeat_interleave(places))

        masks = torch.empty((rows, places, levels, self.trie.width), dtype=torch.bool, device=self.trie.device)
        node = torch.zeros(rows * places, dtype=torch.long, device=self.trie.device)
        path = self.trie.leaf_path[leaves.flatten()]
        for level in range(levels):
            legal = self._some_legal(self.trie.legal(level, node, spread, taken))
            masks[:, :, level] = legal.reshape(rows, places, self.trie.width)
            node = path[:, level]
        return torch.cat([self._moves(rows).unsqueeze(1), masks.flatten(1, 2)], 1)

    def encode(self, moves: Tensor, items: Tensor) -> Tensor:
        """Vocabulary ids (B, T) of `moves` (B,) in MOVES and `items` (B, K) catalog rows.

        Raises InputError for a move or an item out of range, or an item twice in a slate.
        """
        moves, items = torch.as_tensor(moves).long(), torch.as_tensor(items).long()
        if items.dim() != 2 or items.shape[1] != self.slate_size:
            raise InputError(f"items have shape {tuple(items.shape)}, slates here are (B, {self.slate_size})")
        self._check_moves(moves)
        if bool(((items < 0) | (items >= self.trie.items)).any()):
            raise InputError(f"an item of a slate is not a row of the catalog (0..{self.trie.items - 1})")
        self._check_distinct(items)
        codes = torch.as_tensor(self.vocabulary.code_tokens).to(items.device)[items].flatten(1)
        return torch.cat([moves.unsqueeze(1) + self.vocabulary.first, codes], 1)

    def decode(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Moves (B,) and items (B, K) of whole completions (B, T). Raises InputError for one that is not legal."""
        if tokens.dim() != 2 or tokens.shape[1] != self.length:
            raise InputError(f"completions have shape {tuple(tokens.shape)}, whole ones are (B, {self.length})")
        items = self.trie.leaf_item[self._leaves(self._codes(tokens).reshape(len(tokens), -1, self.trie.levels))]
        self._check_distinct(items)
        return self._relative(tokens[:, 0]), items

    def _relative(self, tokens: Tensor) -> Tensor:
        first = self.vocabulary.first
        tokens = tokens.to(self.trie.device).long()
        return torch.where(tokens >= first, tokens - first, tokens)

    def _codes(self, completion: Tensor) -> Tensor:
        """Codes (B, t - 1) of what was said after the move (B, t). Raises InputError for a token out of place."""
        tokens = self._relative(completion)
        self._check_moves(tokens[:, 0])
        said = tokens.shape[1] - 1
        codes = tokens[:, 1:] - self._offsets[:said]
        wrong = (codes < 0) | (codes >= self._sizes[:said])
        if bool(wrong.any()):
            raise InputError(f"completion {int(wrong.any(1).nonzero()[0])} spells no item: a token is out of its place")
        return codes

    @cached_property
    def _offsets(self) -> Tensor:
        return torch.tensor(self.trie.level_offsets * self.slate_size, device=self.trie.device)

    @cached_property
    def _sizes(self) -> Tensor:
        return torch.tensor(self.trie.level_sizes * self.slate_size, device=self.trie.device)

    def _moves(self, rows: int) -> Tensor:
        mask = torch.zeros((rows, self.trie.width), dtype=torch.bool, device=self.trie.device)
        mask[:, : len(MOVES)] = True
        return mask

    def _leaves(self, codes: Tensor) -> Tensor:
        """Leaf positions (B, J) of codes (B, J, L). Raises InputError where they spell no item."""
        node = torch.zeros(codes.shape[:-1], dtype=torch.long, device=self.trie.device)
        for level in range(self.trie.levels):
            node = self.trie.step(level, node, codes[..., level])
        lost = node == self.trie.items
        if bool(lost.any()):
            raise InputError(
                f"completion {int(lost.any(1).nonzero()[0])} spells no item of this catalog: codes lead off the trie"
            )
        return node

    def _check_moves(self, moves: Tensor) -> None:
        wrong = (moves < 0) | (moves >= len(MOVES))
        if bool(wrong.any()):
            raise InputError(f"completion {int(wrong.nonzero()[0])} does not begin with a move ({', '.join(MOVES)})")

    def _check_distinct(self, items: Tensor) -> None:
        ordered = items.sort(1).values
        twice = (ordered[:, 1:] == ordered[:, :-1]).any(1)
        if bool(twice.any()):
            raise InputError(f"completion {int(twice.nonzero()[0])} has an item twice: slates are of different items")

    def _some_legal(self, mask: Tensor) -> Tensor:
        none = ~mask.any(1)
        if bool(none.any()):
            raise InputError(
                f"row {int(none.nonzero()[0])} has no legal token: no eligible item is left under its prefix"
            )
        return mask
