"""Does a policy play what was asked for, what does obeying cost, and does `explore` explore: runs/<name>/steering.

    python scripts/steering.py --run runs/demo
    python scripts/steering.py --run runs/demo --policies sft grpo --moments 400 --json true

Requests name tags, kinds and creators: by name, in other words (in a simulated world, whose people have them), and
misspelled. They are put to every trained policy, as it is served, at moments after the cut in which nobody had asked.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data.artifacts import build, manifest
from data.errors import InputError, exit_on_input_error
from data.progress import track
from data.world.words import paraphrases
from eval.sections import Judged
from eval.steering import Moments, moves_told, obedience
from policy.checkpoint import load_speaker
from policy.moves import MOVES
from rewards.model import RewardModel
from scripts.command_line import ScriptParser
from scripts.evaluate import adapters
from scripts.opened import Opened, open_run


@dataclass
class SteeringArguments:
    """Which run, which policies, how many moments."""

    run: str = field(default="runs/demo", metadata={"help": "run folder with policies and a reward"})
    policies: list[str] = field(default_factory=list, metadata={"help": "which; left out: all that are trained"})
    reward: str = field(default="midterm", metadata={"help": "what obeying is priced in"})
    moments: int = field(default=150, metadata={"help": "logged moments to ask at"})
    samples: int = field(default=4, metadata={"help": "slates drawn for each request"})
    move_samples: int = field(default=24, metadata={"help": "slates drawn at each moment to look at moves"})
    seed: int = field(default=0, metadata={"help": "seed of the requests and draws"})
    json: bool = field(
        default=False, metadata={"help": "one JSON object on standard output, all else on standard error"}
    )


def told(args: SteeringArguments, run: Opened, names: Mapping[str, Path | None]) -> dict[str, Any]:
    """policy -> {"obedience": see `eval.steering.obedience`, and what `moves_told` says}."""
    reward = RewardModel.load(run.folder / "rewards" / args.reward)
    judged = Judged(run.catalog, run.histories, run.decisions, run.cut, {})
    rows = judged.later(8 * args.moments, args.seed)
    moments = Moments.choose(run.histories, run.decisions, rows, reward, args.moments)
    words = paraphrases() if "world" in manifest(run.folder / "logs")["config"] else {}
    found: dict[str, Any] = {}
    for name, adapter in track(names.items(), description="asking"):
        spoken = load_speaker(run.folder / "policy" / "sft", run.catalog, adapter)
        found[name] = {
            "obedience": obedience(spoken, moments, words, args.samples, args.seed),
            **moves_told(spoken, moments, args.move_samples, args.seed),
        }
    return found


def print_steering(found: Mapping[str, Any], console: Console) -> None:
    """Requests and moves as tables."""

    def cell(one: Mapping[str, float], percent: bool) -> str:
        if percent:
            return f"{one['mean']:.0%} [{one['lo']:.0%}, {one['hi']:.0%}]"
        return f"{one['mean']:+.2f} [{one['lo']:+.2f}, {one['hi']:+.2f}]"

    asked = Table(
        "policy",
        "asked",
        "fits",
        "by the prompt alone",
        "without asking",
        "tag",
        "kind",
        "creator",
        "mid-term cost, sd",
    )
    asked.title = "items that are what was asked for (95% over moments)"
    for name, by in found.items():
        for form, one in by["obedience"].items():
            parts = [
                f"{one['by'][c]['fits']['mean']:.0%}" if c in one["by"] else "" for c in ("tags", "kind", "creator")
            ]
            plain = [f"{one[k]['mean']:.0%}" for k in ("by_prompt", "unasked")]
            asked.add_row(name, form, cell(one["fits"], True), *plain, *parts, cell(one["cost"], False))
    console.print(asked)
    moves = Table("policy", "move", "said", "carried out", "new styles", "new creators", "entropy, nats", "reward, sd")
    moves.title = "what is said first, and what follows"
    for name, by in found.items():
        for move in MOVES:
            one = by["moves"][move]
            shares = [
                f"{one[k]:.0%}" if k in one else "" for k in ("share", "carried_out", "new_styles", "new_creators")
            ]
            moves.add_row(name, move, *shares, *(f"{one[k]:.2f}" if k in one else "" for k in ("entropy", "reward")))
        gap = by.get("explore - exploit")
        if gap:
            cells = [cell(gap[k], k.startswith("new")) for k in ("new_styles", "new_creators", "entropy", "reward")]
            moves.add_row(name, "exploring less exploiting", "", "", *cells, style="bold")
    console.print(moves)


def main() -> None:
    (args,) = ScriptParser((SteeringArguments,)).parse_args_and_config()
    run = open_run(Path(args.run))
    known: dict[str, Path | None] = {"sft": None, **adapters(run.folder)}
    unknown = sorted(set(args.policies) - set(known))
    if unknown:
        raise InputError(f"--policies {unknown[0]}: no such policy in {args.run}: choose from {', '.join(known)}")
    names = {name: path for name, path in known.items() if not args.policies or name in args.policies}
    # Progress is for people: with --json nothing but the result is on standard output.
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        folder = run.folder / "steering"

        def make(place: Path) -> None:
            (place / "steering.json").write_text(json.dumps(told(args, run, names), indent=1) + "\n")

        build(
            folder,
            config={"asked": [args.moments, args.samples, args.move_samples], "policies": list(names)},
            inputs=[
                *run.inputs,
                run.folder / "rewards" / args.reward,
                *dict.fromkeys(run.folder / "policy" / name for name in ("sft", *names)),
            ],
            seed=args.seed,
            make=make,
        )
        found = json.loads((folder / "steering.json").read_text())
        print_steering(found, Console(stderr=args.json, width=max(Console().width, 140)))
    if args.json:
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    exit_on_input_error(main)
