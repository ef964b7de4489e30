"""Play one policy of a run to fresh listeners of its world: runs/<name>/played/<policy>.

    python scripts/play.py --run runs/demo --policy grpo
    python scripts/play.py --run runs/demo --policy best_of --draws 16

Everybody is played to the same listeners with the same luck, so that policies can be played one at a time and compared
later: scripts/evaluate.py plays what has not been played, and puts all side by side.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data.artifacts import build, manifest
from data.errors import InputError, exit_on_input_error
from data.progress import progress
from data.world.environment import SlatePolicy
from eval.rollout import Rollout, known_mean, load_rollout, save_rollout, side_by_side
from eval.sections import BUILT_IN, world_rollout
from policy.agent import LanguageModelPolicy
from policy.best_of import BestOfPolicy
from policy.checkpoint import load_speaker
from policy.messaging.training import is_message_policy
from rewards.model import RewardModel
from scripts.command_line import ScriptParser
from scripts.opened import ModelArguments, open_run

PLAYED = "played"
BEST_OF = "best_of"  # the baseline that trains nothing: the best of slates drawn from SFT under the mid-term reward


@dataclass
class PlayArguments(ModelArguments):
    """Which run, which policy, to how many."""

    policy: str = field(
        default="sft", metadata={"help": f"sft, an adapter's name, or one of {', '.join((*BUILT_IN, BEST_OF))}"}
    )
    listeners: int = field(default=0, metadata={"help": "fresh listeners it is played to; 0: as the preset says"})
    draws: int = field(default=16, metadata={"help": f"slates that {BEST_OF} draws at a visit"})


def stage(args: PlayArguments) -> bool:
    """Play the policy; True when it was played, False when that had been done. Raises InputError outside of worlds."""
    run, name = open_run(Path(args.run)), args.policy
    origin = manifest(run.folder / "logs")
    world, seed = origin["config"].get("world"), origin["seed"]
    if world is None:
        raise InputError(f"{args.run}: its log is a real one, and nobody can be played to: judge it by its report")
    base, reward, adapter = (run.folder / place for place in ("policy/sft", "rewards/midterm", f"policy/{name}"))
    if name in BUILT_IN:
        needed = []
    elif name == BEST_OF:
        needed = [base, reward]
    else:
        needed = [base] if name == "sft" else [base, adapter]
        if is_message_policy(adapter):
            raise InputError(f"--policy {name}: it decides on messages and shows no slates: give another")
    for missing in (path for path in needed if not (path / "manifest.json").is_file()):
        raise InputError(f"--policy {name}: there is no {missing}: train it first, or give another")
    listeners = args.listeners or args.resolved().rollout_listeners
    config: dict[str, Any] = {"world": world, "listeners": listeners}
    if name == BEST_OF:
        config["draws"] = args.draws

    def make(folder: Path) -> None:
        policies: dict[str, SlatePolicy] = {}
        if name == BEST_OF:
            policies[name] = BestOfPolicy(name, load_speaker(base, run.catalog), RewardModel.load(reward), args.draws)
        elif name not in BUILT_IN:
            spoken = load_speaker(base, run.catalog, None if name == "sft" else adapter)
            policies[name] = LanguageModelPolicy(name, spoken)
        built_in = [name] if name in BUILT_IN else []
        with progress() as bar:
            save_rollout(world_rollout(run.catalog, world, seed, listeners, policies, built_in, bar), folder)

    return build(run.folder / PLAYED / name, config=config, inputs=[*run.inputs, *needed], seed=seed, make=make)


def played(run: Path, names: Iterable[str]) -> Rollout:
    """What became of these policies' listeners, from where one starts to where one could end."""
    start, end = BUILT_IN
    return side_by_side([load_rollout(run / PLAYED / name) for name in (start, *names, end)])


def main() -> None:
    (args,) = ScriptParser((PlayArguments,)).parse_args_and_config()
    stage(args)
    lived = load_rollout(Path(args.run) / PLAYED / args.policy).metrics[args.policy]
    table = Table("per listener", "mean, 95%", title=f"{args.policy}, 28 days")
    for metric, values in lived.items():
        mean = known_mean(values)
        table.add_row(metric, f"{mean.value:.3f} [{mean.lo:.3f}, {mean.hi:.3f}]")
    Console().print(table)


if __name__ == "__main__":
    exit_on_input_error(main)
