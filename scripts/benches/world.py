"""A simulated service under its logging policy, log included: time and memory.

Run as a script it plays one world and says what that took: `python scripts/benches/world.py clickbait 20000 60`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data.world import PRESETS, World
from scripts.benches.measure import Measure, peak_gib, said_by


def bench_world(listeners: int = 20_000, days: int = 60) -> Iterable[Measure]:
    """Time, events a second and peak memory of two worlds, each in a process of its own.

    Time is of the processor, all threads together: a busy neighbour does not count. Without a peer: other simulators of
    return (KuaiSim, RecSim) step one listener, or a few hundred, at a time.
    """
    for name in ("clickbait", "messaging"):
        said = said_by(Path(__file__), name, str(listeners), str(days))
        size = f"world {name}: {listeners:,} x {days} days"
        yield Measure(f"{size}, {said['events'] / said['seconds']:,.0f} events/s", "s", said["seconds"], None, 60.0)
        yield Measure(f"{size}, peak memory", "GiB", said["gib"], None, 3.0)


def main() -> None:
    name, listeners, days = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    began = time.process_time()
    world = World(PRESETS[name].with_listeners(listeners), 0)
    world.play(world.built_in("logging"), days, np.random.default_rng(0))
    events = world.log().events.height
    print(json.dumps({"seconds": time.process_time() - began, "events": events, "gib": peak_gib()}))


if __name__ == "__main__":
    main()
