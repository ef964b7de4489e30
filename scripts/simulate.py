"""Simulate a streaming service and write its log: runs/<name>/logs.

    python scripts/simulate.py --run runs/demo --world clickbait --listeners 5000 --days 84
    python scripts/simulate.py --config scripts/configs/simulate.yaml
    python scripts/simulate.py --world messaging --listeners 1000 --truth true

With --truth no log is written. The built-in policies go on from the same evening, after 28 days of the logging policy,
for another 28 days with the same people and the same luck; the table gives each one's difference from logging, and by
how much common random numbers cut the variance of that difference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from data.artifacts import build, manifest
from data.errors import InputError, exit_on_input_error
from data.ingest import write_store
from data.progress import track
from data.store import write_parquet
from data.world import PRESETS, World, burned_in, paired
from data.world.environment import Truth
from data.world.mailroom import signals
from data.world.message_record import SIGNALS
from scripts.command_line import ScriptParser

BURN_IN_DAYS = 28
SLATE_POLICIES = ("logging", "random", "popularity", "greedy_click", "oracle")
MESSAGE_POLICIES = ("logging", "hold", "send_always", "most_opens", "oracle")
TOLD = ("active_days_28", "returned_7d", "habit_28", "plays_per_session", "converted_28", "messages_28", "reachable_28")


@dataclass
class SimulateArguments:
    """Which world to simulate, and how much of it."""

    run: str = field(default="runs/demo", metadata={"help": "run folder; the log goes to its logs/"})
    world: str = field(default="clickbait", metadata={"help": f"world preset: {', '.join(PRESETS)}"})
    listeners: int = field(default=5_000, metadata={"help": "how many people listen"})
    days: int = field(default=84, metadata={"help": "how many days the logging policy decides"})
    world_seed: int = field(default=0, metadata={"help": "seed of the world's items, people and luck"})
    truth: bool = field(default=False, metadata={"help": "write no log; print what the built-in policies are worth"})


def check(args: SimulateArguments) -> None:
    """Raises InputError for a world that there is not, or that would be no log."""
    if args.world not in PRESETS:
        raise InputError(f"unknown world {args.world!r}: choose one of {', '.join(PRESETS)}")
    if args.listeners < 2 or args.days < 2:
        raise InputError(f"{args.listeners} listeners for {args.days} days are no log: ask for at least 2 of each")


def stage(args: SimulateArguments) -> bool:
    """Write the log store of the simulated world; True when it was made, False when it was there."""
    check(args)

    def make(folder: Path) -> None:
        world = World(PRESETS[args.world].with_listeners(args.listeners), args.world_seed)
        policy, rng = world.built_in("logging"), np.random.default_rng(args.world_seed)
        for _ in track(range(args.days), description=f"Simulating {args.world}"):
            world.play(policy, 1, rng)
        write_store(world.log(), folder, source=f"world {args.world}")
        if world.mailroom is not None:
            write_parquet(signals(world.mailroom), folder / SIGNALS)

    logs = Path(args.run) / "logs"
    if logs.is_dir() and "reader" in (config := manifest(logs)["config"]):
        fix = f"give it with --logs and --reader {config['reader']}, or choose another run name"
        raise InputError(f"{logs} is a log that was brought in, not simulated: {fix}")
    preset = json.loads(json.dumps(asdict(PRESETS[args.world]), default=str))
    config = {"world": args.world, "listeners": args.listeners, "days": args.days, "preset": preset}
    return build(logs, config=config, inputs=[], seed=args.world_seed, make=make)


def print_truth(args: SimulateArguments) -> None:
    """Truth of the built-in policies, and of the message policies where messages are sent, less the logging policy."""
    check(args)
    world = burned_in(PRESETS[args.world].with_listeners(args.listeners), args.world_seed, BURN_IN_DAYS)
    logging = world.built_in("logging")
    lived = {name: world.truth(world.built_in(name)) for name in track(SLATE_POLICIES, description="Playing policies")}
    print_table(f"world {args.world}, {args.listeners:,} listeners, 28 days", lived)
    if world.mailroom is not None:
        sent = {
            name: world.truth(logging, messages=world.message_policy(name))
            for name in track(MESSAGE_POLICIES, description="Playing message policies")
        }
        print_table("message policies, all with the logging policy's slates", sent)


def print_table(title: str, truths: Mapping[str, Truth]) -> None:
    """Means by policy; of active days the paired difference from logging and what pairing saves."""
    table = Table(title=title)
    shown = [name for name in TOLD if name in truths["logging"]]
    for name in ("policy", *shown, "active days less logging", "variance, unpaired / paired"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for policy, found in truths.items():
        means = [f"{np.nanmean(found[name]):.3f}" for name in shown]
        gap = paired(found["active_days_28"], truths["logging"]["active_days_28"])
        same = not np.isfinite(gap.variance_reduction)
        gain = "" if policy == "logging" else f"{gap.diff:+.2f} [{gap.lo:+.2f}, {gap.hi:+.2f}]"
        ratio = "" if policy == "logging" else "the same for everybody" if same else f"{gap.variance_reduction:.1f}"
        table.add_row(policy, *means, gain, ratio)
    Console().print(table)


def main() -> None:
    (args,) = ScriptParser((SimulateArguments,)).parse_args_and_config()
    if args.truth:
        print_truth(args)
    else:
        stage(args)


if __name__ == "__main__":
    exit_on_input_error(main)
