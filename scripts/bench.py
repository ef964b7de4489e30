"""Measure ours beside what people would otherwise use, as ratios, each with the number it has to hold.

    python scripts/bench.py            # everything, as a table
    python scripts/bench.py trie --json
    python scripts/bench.py serving load    # vLLM and the gateway: 12 minutes
    python scripts/bench.py ope       # makes the Open Bandit Pipeline's environment first: needs a package index

One JSON object per line with --json: name, unit, ours, peer, ratio, bound, holds. `ratio` is how many times better
ours is; where there is no peer (null) the bound is on `ours`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.errors import InputError, exit_on_input_error
from scripts.benches.catalog import bench_catalog
from scripts.benches.load import bench_load
from scripts.benches.measure import Measure
from scripts.benches.messages import bench_messages
from scripts.benches.off_policy import bench_off_policy
from scripts.benches.outcomes import bench_outcomes
from scripts.benches.rewards import bench_rewards
from scripts.benches.rl import bench_rl
from scripts.benches.serving import bench_serving
from scripts.benches.trie import bench_trie
from scripts.benches.world import bench_world

BENCHES: dict[str, Callable[[], Iterable[Measure]]] = {
    "outcomes": bench_outcomes,
    "catalog": bench_catalog,
    "trie": bench_trie,
    "ope": bench_off_policy,
    "rewards": bench_rewards,
    "rl": bench_rl,
    "serving": bench_serving,
    "load": bench_load,
    "world": bench_world,
    "messages": bench_messages,
}


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
