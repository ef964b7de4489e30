"""Simulate a streaming service and write its log: runs/<name>/logs.

python scripts/simulate.py --run runs/demo --world clickbait --listeners 5000 --days 84
python scripts/simulate.py --config scripts/configs/simulate.yaml
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich.progress import track
from trl import TrlParser

from data.artifacts import build
from data.errors import InputError, exit_on_input_error
from data.ingest import write_store
from data.world import PRESETS, World


@dataclass
class SimulateArguments:
    """Which world to simulate, and how much of it."""

    run: str = field(default="runs/demo", metadata={"help": "run folder; the log goes to its logs/"})
    world: str = field(default="clickbait", metadata={"help": f"world preset: {', '.join(PRESETS)}"})
    listeners: int = field(default=5_000, metadata={"help": "how many people listen"})
    days: int = field(default=84, metadata={"help": "how many days the logging policy decides"})
    world_seed: int = field(default=0, metadata={"help": "seed of the world's items, people and luck"})


def stage(args: SimulateArguments) -> bool:
    """Write the log store of the simulated world; True when it was made, False when it was there."""
    if args.world not in PRESETS:
        raise InputError(f"unknown world {args.world!r}: choose one of {', '.join(PRESETS)}")
    if args.listeners < 2 or args.days < 2:
        raise InputError(f"{args.listeners} listeners for {args.days} days are no log: ask for at least 2 of each")

    def make(folder: Path) -> None:
        world = World(PRESETS[args.world].with_listeners(args.listeners), args.world_seed)
        policy, rng = world.built_in("logging"), np.random.default_rng(args.world_seed)
        for _ in track(range(args.days), description=f"Simulating {args.world}"):
            world.play(policy, 1, rng)
        write_store(world.log(), folder, source=f"world {args.world}")

    preset = json.loads(json.dumps(asdict(PRESETS[args.world]), default=str))
    config = {"world": args.world, "listeners": args.listeners, "days": args.days, "preset": preset}
    return build(Path(args.run) / "logs", config=config, inputs=[], seed=args.world_seed, make=make)


def main() -> None:
    (args,) = TrlParser((SimulateArguments,)).parse_args_and_config()
    stage(args)


if __name__ == "__main__":
    exit_on_input_error(main)
