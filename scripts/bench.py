"""Measure ours beside what people would otherwise use, as ratios, each with the number it has to hold.

    python scripts/bench.py            # everything, as a table
    python scripts/bench.py trie --json

One JSON object per line with --json: name, unit, ours, peer, ratio, bound, holds. `ratio` is how many times better
ours is; where there is no peer (null) the bound is on `ours`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers.generation.logits_process import PrefixConstrainedLogitsProcessor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.errors import InputError, exit_on_input_error
from data.semantic_ids import choose_level_sizes
from policy.grammar import SlateGrammar
from policy.moves import MOVES
from policy.trie import Eligibility, Trie
from policy.vocabulary import Vocabulary


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


def bench_world(listeners: int = 20_000, days: int = 60) -> Iterable[Measure]:
    """A simulated service under its logging policy, log included: time, events a second, peak memory.

    Time is of the processor, all threads together, as in the other lines: a busy neighbour does not count. Each world
    runs in a process of its own, so that the peak is that of one world. Without a peer: other simulators of
    return (KuaiSim, RecSim) step one listener, or a few hundred, at a time.
    """
    for name in ("clickbait", "messaging"):
        program = _WORLD.format(name=name, listeners=listeners, days=days)
        run = [sys.executable, "-c", program]
        done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parents[1])
        took, events, peak = json.loads(done.stdout)
        size = f"world {name}: {listeners:,} x {days} days"
        yield Measure(f"{size}, {events / took:,.0f} events/s", "s", took, None, 60.0)
        yield Measure(f"{size}, peak memory", "GiB", peak, None, 3.0)


_WORLD = """
import json, resource, time
import numpy as np
from data.world import PRESETS, World
started = time.process_time()
world = World(PRESETS["{name}"].with_listeners({listeners}), 0)
world.play(world.built_in("logging"), {days}, np.random.default_rng(0))
events = world.log().events.height
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps([time.process_time() - started, events, peak]))
"""

BENCHES: dict[str, Callable[[], Iterable[Measure]]] = {"trie": bench_trie, "world": bench_world}


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
