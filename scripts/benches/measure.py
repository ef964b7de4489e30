"""One line of a bench: ours, the peer's, and the number it has to hold. And how time and memory are taken."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


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


def said_by(script: Path, *words: str) -> dict[str, float]:
    """The JSON that a Python file, run as a process of its own, prints last: so that its memory can be told from ours.

    Raises subprocess.CalledProcessError where it fails.
    """
    command = [sys.executable, str(script), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=script.parents[2])
    said: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return said


def peak_gib() -> float:
    """The most memory that this process has held, GiB."""
    # Not getrusage: what a process says there it has partly from the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20
