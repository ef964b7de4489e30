"""Does the mid-term reward bring people back? The claim, over seeds, in a world whose truth is known.

    python scripts/claims.py --world clickbait --seeds 3
    python scripts/claims.py --world null --seeds 3 --json true
    python scripts/claims.py --world messaging --about messages --seeds 3

Every seed is a fresh world, log, reward model and training: the road's policies, their click-tuned twins, and what one
would try first: reward-weighted SFT, GRPO with the logged slate in every group (ABPO), and the best of --best_of slates
drawn from SFT under the same reward, which trains nothing and asks the reward at every visit (0: left out). They are
then played to the same fresh listeners with the same luck. What is made is kept in --folder and not made again, so an
interrupted claim goes on, and one over fewer seeds is widened. With --json standard output is one object:
{"world", "seeds", "policies": {name: {metric: {mean, lo, hi}}}, "paired": {"ppo - sft": {metric: {diff, lo, hi}}},
"gap_closed": {name: {share, lo, hi}}, "shown": {name: {coverage, entropy}}}. lo and hi pool the listeners of all seeds;
seeds_lo and seeds_hi are Student's t.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data.errors import InputError, exit_on_input_error
from data.world import PRESETS
from eval.exposure import Exposure
from eval.rollout import Rollout, paired_json, world_json
from eval.sections import BUILT_IN
from scripts import message_claims, play, train_grpo, train_ppo, train_weighted_sft
from scripts.command_line import ScriptParser
from scripts.road import Stage, travel, workers_here
from scripts.run import RunArguments, played_stages, stages

SHOWN = ("active_days_28", "returned_7d", "habit_28", "plays_per_session")
PAIRS = (
    ("dpo", "sft"),
    ("ppo", "sft"),
    ("grpo", "sft"),
    ("dpo", "dpo_click"),
    ("ppo", "ppo_click"),
    ("grpo", "grpo_click"),
    ("grpo", "weighted_sft"),
    ("grpo", "abpo"),
    ("grpo", "best_of"),
    ("best_of", "sft"),
    ("grpo", "logging"),
    ("dpo_click", "sft"),
    ("ppo_click", "sft"),
    ("grpo_click", "sft"),
)
ABOUT = ("slates", "messages")


@dataclass
class ClaimsArguments:
    """Which world, how many seeds, how many people."""

    world: str = field(default="clickbait", metadata={"help": f"world preset: {', '.join(PRESETS)}"})
    seeds: int = field(default=3, metadata={"help": "fresh worlds and trainings"})
    first_seed: int = field(default=1, metadata={"help": "seed of the first; the others follow"})
    preset: str = field(default="nano", metadata={"help": "model preset"})
    set: list[str] = field(default_factory=list, metadata={"help": "preset fields to change"})
    listeners: int = field(default=5_000, metadata={"help": "listeners of each log"})
    days: int = field(default=84, metadata={"help": "days of each log"})
    about: str = field(default="slates", metadata={"help": f"what is claimed of: {', '.join(ABOUT)}"})
    language_model: bool = field(
        default=True, metadata={"help": "of messages: train the policy too, not the reward alone (minutes less)"}
    )
    judged_listeners: int = field(
        default=1_000, metadata={"help": "fresh listeners each policy is played to, per seed"}
    )
    leave_out: list[str] = field(
        default_factory=list, metadata={"help": "policies to do without, as ppo ppo_click; dpo only together with ppo"}
    )
    best_of: int = field(default=16, metadata={"help": "slates that the baseline without training draws at a visit"})
    workers: int = field(
        default=0, metadata={"help": "stages made at once; 0: as suits the machine, 1: one after the other"}
    )
    folder: str = field(default="runs/claims", metadata={"help": "where the runs go"})
    json: bool = field(default=False, metadata={"help": "one JSON line on standard output, all else on standard error"})


def baselines(road: RunArguments) -> list[Stage]:
    """What the road's policies are compared with, beside the twin that the road trains itself."""
    run, seed = road.run, road.seed
    model = (run, road.preset, road.base_model, road.set)
    ppo_click = train_ppo.PPOArguments(*model, reward="click", start="dpo_click", name="ppo_click", model_seed=seed)
    grpo_click = train_grpo.GroupArguments(*model, reward="click", name="grpo_click", model_seed=seed)
    abpo = train_grpo.GroupArguments(*model, anchor=True, name="abpo", model_seed=seed)
    weighted = train_weighted_sft.WeightedArguments(*model, model_seed=seed)
    midterm, click = ("policy/sft", "rewards/midterm"), ("policy/sft", "rewards/click")
    return [
        Stage("policy/ppo_click", partial(train_ppo.stage, ppo_click), ("policy/dpo_click",)),
        Stage("policy/grpo_click", partial(train_grpo.stage, grpo_click), click),
        Stage("policy/abpo", partial(train_grpo.stage, abpo), midterm),
        Stage("policy/weighted_sft", partial(train_weighted_sft.stage, weighted), midterm),
    ]


def road(args: ClaimsArguments, seed: int) -> RunArguments:
    """The road of one seed."""
    return RunArguments(
        run=str(Path(args.folder) / f"{args.world}-{args.preset}-{seed}"),
        preset=args.preset,
        set=args.set,
        world=args.world,
        listeners=args.listeners,
        days=args.days,
        seed=seed,
        baselines=False,  # of the reward's forecasts: a claim is about policies
        workers=args.workers,
    )


def one_seed(args: ClaimsArguments, seed: int, console: Console) -> Rollout:
    """Go the road with this seed, train what it is compared with, and play every policy."""
    given = road(args, seed)
    folder, model = Path(given.run), (given.run, given.preset, given.base_model, given.set)
    trained = [
        stage
        for stage in [*stages(given), *baselines(given)]
        if not stage.name.startswith(("played/", "reports"))
        and stage.name.removeprefix("policy/") not in (*args.leave_out, "messages")
    ]
    tuned = [stage.name.removeprefix("policy/") for stage in trained if stage.name.startswith("policy/")]
    names = [*sorted(tuned, key=lambda name: (name != "sft", "click" not in name, name))]
    names += [play.BEST_OF] if args.best_of else []
    truth = played_stages(model, [*names, *BUILT_IN], args.judged_listeners, args.best_of)
    console.rule(f"[bold]{args.world}, seed {seed}", align="left")
    travel([*trained, *truth], given.workers or workers_here(), folder)
    return play.played(folder, names)


def findings(world: str, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """The JSON object of the docstring."""
    told: dict[str, Any] = world_json(rollouts)
    names = set(told["policies"])
    return {
        "world": world,
        "seeds": told["seeds"],
        "policies": told["policies"],
        "paired": {f"{a} - {b}": paired_json(rollouts, a, b) for a, b in PAIRS if {a, b} <= names},
        "gap_closed": told["gap_closed"],
        "shown": {name: _shown([rollout.exposure[name] for rollout in rollouts]) for name in told["policies"]},
        "listeners": told["listeners"],
    }


def _shown(exposures: Sequence[Exposure]) -> dict[str, float | None]:
    """Mean over seeds of the share of the catalog that was shown and of a slate's entropy (nats)."""
    entropies = [exposure.entropy for exposure in exposures if exposure.entropy is not None]
    coverage = sum(exposure.coverage() for exposure in exposures) / len(exposures)
    return {"coverage": coverage, "entropy": sum(entropies) / len(entropies) if entropies else None}


def print_findings(found: Mapping[str, Any], console: Console) -> None:
    """Policies and paired differences as tables."""
    policies = Table(title=f"world {found['world']}, seeds {found['seeds']}, {found['listeners']:,} listeners")
    policies.add_column("policy")
    for metric in SHOWN:
        policies.add_column(metric, justify="right")
    for column in ("gap closed", "coverage", "entropy"):
        policies.add_column(column, justify="right")
    for name, by in found["policies"].items():
        values = [f"{by[m]['mean']:.3f} [{by[m]['lo']:.3f}, {by[m]['hi']:.3f}]" for m in SHOWN]
        way, shown = found["gap_closed"].get(name), found["shown"][name]
        closed = "" if way is None else f"{way['share']:.0%} [{way['lo']:.0%}, {way['hi']:.0%}]"
        entropy = "" if shown["entropy"] is None else f"{shown['entropy']:.1f}"
        policies.add_row(name, *values, closed, f"{shown['coverage']:.0%}", entropy)
    console.print(policies)
    pairs = Table(title="paired differences (listeners pooled; in brackets Student's t over seeds)")
    pairs.add_column("pair")
    for metric in SHOWN:
        pairs.add_column(metric, justify="right")
    for name, by in found["paired"].items():
        cells = []
        for metric in SHOWN:
            one = by[metric]
            seeds = f" ({one['seeds_lo']:+.2f}, {one['seeds_hi']:+.2f})" if "seeds_lo" in one else ""
            cells.append(f"{one['diff']:+.3f} [{one['lo']:+.3f}, {one['hi']:+.3f}]{seeds}")
        pairs.add_row(name, *cells)
    console.print(pairs)


def main() -> None:
    (args,) = ScriptParser((ClaimsArguments,)).parse_args_and_config()
    if args.seeds < 1:
        raise InputError(f"--seeds {args.seeds}: a claim needs at least one seed")
    if args.world not in PRESETS:
        raise InputError(f"unknown world {args.world!r}: choose one of {', '.join(PRESETS)}")
    if args.about not in ABOUT:
        raise InputError(f"--about {args.about}: choose one of {', '.join(ABOUT)}")
    if args.about == "messages" and not PRESETS[args.world].switches.messages:
        raise InputError(f"world {args.world} sends no messages: choose world messaging")
    console = Console(stderr=args.json)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    # Progress is for people: with --json nothing but the result is on standard output.
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        if args.about == "messages":
            people, tuned = args.judged_listeners, args.language_model
            played = [message_claims.one_seed(road(args, seed), people, tuned, console) for seed in seeds]
            found = message_claims.findings(played)
            message_claims.print_findings(found, console)
        else:
            found = findings(args.world, [one_seed(args, seed, console) for seed in seeds])
            print_findings(found, console)
    if args.json:
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    exit_on_input_error(main)
