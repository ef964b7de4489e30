"""Measure ours beside what people would otherwise use, as ratios, each with the number it has to hold.

    python scripts/bench.py            # everything, as a table
    python scripts/bench.py trie --json

One JSON object per line with --json: name, unit, ours, peer, ratio, bound, holds. `ratio` is how many times better
ours is; where there is no peer (null) the bound is on `ours`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers.generation.logits_process import PrefixConstrainedLogitsProcessor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.errors import InputError, exit_on_input_error
from data.histories import Decisions, Histories
from data.semantic_ids import choose_level_sizes
from policy.grammar import SlateGrammar
from policy.moves import MOVES
from policy.trie import Eligibility, Trie
from policy.vocabulary import Vocabulary
from rewards.advantage import AdvantageSettings, Effects
from rewards.heads import resolve
from rewards.model import RewardModel
from rewards.network import Network, Shape
from rewards.objective import LoggingMoments
from rewards.reactions import Channels
from rewards.trunk import TrunkSettings


@dataclass(frozen=True)
class Measure:
    """One line of the table. bound: the least ratio where there is a peer, else the most that `ours` may be."""

    name: str
    unit: str
    ours: float
    peer: float | None
    bound: float
    better: str = "lower"  # of `ours` and `peer`: lower (seconds) or higher (tokens per second)

    @property
    def ratio(self) -> float | None:
        if self.peer is None:
            return None
        return self.peer / self.ours if self.better == "lower" else self.ours / self.peer

    @property
    def holds(self) -> bool:
        return self.ours <= self.bound if self.ratio is None else self.ratio >= self.bound

    def as_json(self) -> dict[str, Any]:
        line = asdict(self)
        del line["better"]
        return {**line, "ratio": self.ratio, "holds": self.holds}


def seconds(run: Callable[[], object], repeats: int) -> float:
    """The least processor time of one call: for one thread only. A busy neighbour does not count."""
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        run()
        best = min(best, time.process_time() - started)
    return best


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


def bench_rewards(listeners: int = 64, past: int = 200, slates: int = 80, items: int = 2000) -> Iterable[Measure]:
    """Scoring candidate slates of five with the reward model at its usual size, on one thread.

    Ours reads every listener's history once and keeps the state; so does a training step of DPO or PPO, and a server.
    The peer reads it again for every candidate, all listeners in one batch. Both must give the same scores. The model
    is untrained: a number takes as long to work out whether it is right or not.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model, histories, decisions = _untrained(listeners, past, items)
        generator = torch.Generator().manual_seed(0)
        shown = torch.randint(items, (listeners, slates, 5), generator=generator)
        states = model.encode(histories, decisions)
        score = partial(model.advantage, states, shown)

        def again() -> Tensor:
            return model.advantage(model.encode(histories, decisions), shown[:, :1]).mean[:, 0]

        torch.testing.assert_close(again(), score().mean[:, 0], atol=1e-4, rtol=1e-3)
        ours = seconds(score, 5) / (listeners * slates)
        peer = seconds(again, 3) / listeners
        yield Measure("rewards: score 5,000 slates, histories cached", "s", 5000 * ours, None, 1.0)
        yield Measure("rewards: score 5,000 slates, cached or not", "s", 5000 * ours, 5000 * peer, 10.0)
    finally:
        torch.set_num_threads(threads)


def _untrained(listeners: int, past: int, items: int) -> tuple[RewardModel, Histories, Decisions]:
    rng = np.random.default_rng(0)
    hours = np.cumsum(rng.exponential(7.0, (listeners, past)), axis=1)
    time = (1_700_000_000 + hours * 3600).astype(np.int64) * 1_000_000
    item = rng.integers(0, items, (listeners, past)).astype(np.int32)
    histories = Histories(
        user_ids=[f"u{u}" for u in range(listeners)],
        offsets=np.arange(listeners + 1, dtype=np.int64) * past,
        item=item.ravel(),
        action=np.zeros(listeners * past, np.int8),
        time=time.ravel(),
        surface=np.zeros(listeners * past, np.int8),
        hour_of_week=((time.ravel() // 3_600_000_000) % 168).astype(np.int16),
    )
    decisions = Decisions(
        decision_id=[f"d{u}" for u in range(listeners)],
        user=np.arange(listeners, dtype=np.int32),
        start=np.arange(1, listeners + 1, dtype=np.int64) * past,
        time=time[:, -1] + 3_600_000_000,
        hour_of_week=np.zeros(listeners, np.int16),
        surface=np.zeros(listeners, np.int8),
        slate=item[:, :5],
        log_propensity=np.full(listeners, np.nan),
        steer=[None] * listeners,
        reaction=np.full((listeners, 5), -1, np.int8),
        seconds=np.zeros((listeners, 5), np.float32),
    )
    labels = tuple(resolve(name, 5) for name in ("returned_1d", "returned_7d", "active_days_28", "habit_28", "plays"))
    channels = Channels(tuple(range(4)))
    shape = Shape(TrunkSettings(), labels, bins=8, slate_size=5, classes=1 + len(channels.codes))
    content = torch.from_numpy(rng.standard_normal((items, shape.trunk.content)).astype(np.float32))
    reference = torch.arange(AdvantageSettings().reference)
    share = torch.full((len(reference),), -float(np.log(len(reference))))
    drawn = partial(torch.randn, generator=torch.Generator().manual_seed(1))
    members, C, L = 1 + AdvantageSettings().members, len(channels.codes), len(labels)
    torch.manual_seed(0)
    networks = tuple(Network(shape, content, reference, share).eval() for _ in range(2))
    effects = tuple(Effects(drawn((members, C, L)), drawn((members, items, L)), torch.ones(5)) for _ in range(2))
    moments = LoggingMoments(tuple(label.name for label in labels), np.eye(L))
    return RewardModel(shape, channels, networks, effects, None, moments, 0.0, content), histories, decisions


BENCHES: dict[str, Callable[[], Iterable[Measure]]] = {"trie": bench_trie, "rewards": bench_rewards}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    listed = f"which to run, of {', '.join(BENCHES)}; all by default"
    parser.add_argument("names", nargs="*", metavar="NAME", help=listed)
    parser.add_argument("--json", action="store_true", help="one JSON object per line on stdout")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in BENCHES]
    if unknown:
        raise InputError(f"there is no bench {unknown[0]!r}: choose from {', '.join(BENCHES)}")
    console = Console(stderr=True)
    measures = []
    for name in args.names or BENCHES:
        with console.status(f"bench {name}"):
            for measure in BENCHES[name]():
                measures.append(measure)
                if args.json:
                    print(json.dumps(measure.as_json()), flush=True)
    if not args.json:
        table = Table("name", "unit", "ours", "peer", "ratio", "bound", "holds")
        for m in measures:
            shown = [f"{x:.3g}" if x is not None else "-" for x in (m.ours, m.peer, m.ratio)]
            bound = f"<= {m.bound:g}" if m.peer is None else f">= {m.bound:g}x"
            table.add_row(m.name, m.unit, *shown, bound, "yes" if m.holds else "NO")
        Console().print(table)
    if not all(measure.holds for measure in measures):
        sys.exit(1)


if __name__ == "__main__":
    exit_on_input_error(main)
