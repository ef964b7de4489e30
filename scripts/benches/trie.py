"""The trie of a large catalog beside the dictionaries that Hugging Face generation offers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.generation.logits_process import PrefixConstrainedLogitsProcessor

from data.semantic_ids import choose_level_sizes
from policy.grammar import SlateGrammar
from policy.moves import MOVES
from policy.trie import Eligibility, Trie
from policy.vocabulary import Vocabulary
from scripts.benches.measure import Measure, seconds


def bench_trie(items: int = 1_000_000, batch: int = 256, slate: int = 5, prompt: int = 60) -> Iterable[Measure]:
    """Building the trie of a large catalog, and masking one decoding step, on one thread.

    The peer is what Hugging Face generation offers: a trie of dictionaries behind `prefix_allowed_tokens_fn`. Both do
    the same job, eligibility (one item in ten may not be shown) and no repeats within the slate, and their masks are
    compared entry by entry. Both end in masked scores: ours those of the completion tokens, which is all that the
    policy's head computes, the peer's those of the vocabulary it is handed. What is held is the vocabulary of a real
    language model (SmolLM2's), where much of the peer's time is writing the mask. nano's is thirty times smaller, and
    what is left of the peer is its walk in Python; its bound only keeps the line from slipping.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from _bench_trie(items, batch, slate, prompt)
    finally:
        torch.set_num_threads(threads)


def _bench_trie(items: int, batch: int, slate: int, prompt: int) -> Iterable[Measure]:
    sizes = choose_level_sizes(items, 3)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randperm(sizes[0] * sizes[1] * sizes[2], generator=generator)[:items]
    codes = torch.stack([drawn // (sizes[1] * sizes[2]), drawn // sizes[2] % sizes[1], drawn % sizes[2]], 1).int()
    offsets = [len(MOVES) + sum(sizes[:level]) for level in range(3)]
    trie = Trie.build(codes, offsets, sizes)
    build = seconds(lambda: Trie.build(codes, offsets, sizes), 2)
    yield Measure(f"trie: build {items:,} items", "s", build, None, 10.0)

    eligible = torch.rand(items, generator=generator) < 0.9
    slates = eligible.nonzero().squeeze(1)
    slates = slates[torch.randperm(len(slates), generator=generator)[: batch * slate]].reshape(batch, slate)
    for model, text, bound in (("SmolLM2", 49_228, 100.0), ("nano", 1_100, 10.0)):
        vocabulary = Vocabulary({}, text, trie.width, sizes, codes.numpy(), "bench")
        grammar = SlateGrammar(trie, vocabulary, slate)
        counted = grammar.eligibility(eligible)
        said = grammar.encode(torch.zeros(batch, dtype=torch.long), slates)
        asked = torch.cat([torch.full((batch, prompt), 5), said], 1)
        scores = torch.randn((batch, text + trie.width), generator=generator)
        tree = DictTrie(codes + torch.tensor(offsets) + text, eligible)
        constrain = PrefixConstrainedLogitsProcessor(tree.allowed(prompt + 1, 3), 1)
        ours = peer = 0.0
        for level in range(3):  # the third item of five, each of its codes
            length = 1 + 2 * 3 + level
            step = partial(_mask, grammar, counted, said[:, :length], scores[:, text:])
            constrained = partial(constrain.__call__, asked[:, : prompt + length], scores)
            if not torch.equal(step(), constrained()[:, text:]):
                raise AssertionError("the two masks disagree")
            ours += seconds(step, 50) / 3
            peer += seconds(constrained, 3) / 3
        yield Measure(f"trie: mask a step, batch {batch}, {model} vocabulary", "ms", ours * 1e3, peer * 1e3, bound)


def _mask(grammar: SlateGrammar, eligible: Eligibility, said: Tensor, scores: Tensor) -> Tensor:
    return scores.masked_fill(~grammar.legal(said, eligible), -torch.inf)


class DictTrie:
    """The peer: nested dictionaries. A node is [eligible items under it, {token: child}]."""

    def __init__(self, tokens: Tensor, eligible: Tensor) -> None:
        self.root: list[Any] = [0, {}]
        for path, counts in zip(tokens.tolist(), eligible.tolist()):
            node = self.root
            node[0] += counts
            for token in path:
                node = node[1].setdefault(token, [0, {}])
                node[0] += counts

    def allowed(self, start: int, levels: int) -> Callable[[int, Tensor], list[int]]:
        """A `prefix_allowed_tokens_fn` for completions whose first code is at `start`."""

        def allowed(_: int, ids: Tensor) -> list[int]:
            said = ids[start:].tolist()
            depth = len(said) % levels
            prefix = said[len(said) - depth :]
            node = self.root
            for token in prefix:
                node = node[1][token]
            gone: dict[int, int] = {}
            for item in range(0, len(said) - depth, levels):
                if said[item : item + depth] == prefix:
                    gone[said[item + depth]] = gone.get(said[item + depth], 0) + 1
            return [token for token, child in node[1].items() if child[0] > gone.get(token, 0)]

        return allowed
