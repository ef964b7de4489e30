"""Play one policy of a run to fresh listeners of its world: runs/<name>/played/<policy>.

    python scripts/play.py --run runs/demo --policy grpo

Everybody is played to the same listeners with the same luck, so that policies can be played one at a time and compared
later: scripts/evaluate.py plays what has not been played, and puts all side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from trl import TrlParser

from data.artifacts import build, manifest
from data.errors import InputError, exit_on_input_error
from data.progress import progress
from eval.rollout import known_mean, load_rollout, save_rollout
from eval.sections import BUILT_IN, Judged, world_rollout
from policy.checkpoint import Speaker, load_speaker
from scripts.opened import ModelArguments, Opened, open_run

PLAYED = "played"


@dataclass
class PlayArguments(ModelArguments):
    """Which run, which policy."""

    policy: str = field(
        default="sft",
        metadata={"help": f"sft, an adapter's name, or one of {', '.join(BUILT_IN)}, without a model"},
    )


def stage(args: PlayArguments) -> bool:
    """Play the policy; True when it was played, False when that had been done. Raises InputError outside of worlds."""
    run, name = open_run(Path(args.run)), args.policy
    origin = manifest(run.folder / "logs")
    world, seed = origin["config"].get("world"), origin["seed"]
    if world is None:
        raise InputError(f"{args.run}: its log is a real one, and nobody can be played to: judge it by its report")
    listeners = args.resolved().rollout_listeners
    base, adapter = run.folder / "policy" / "sft", run.folder / "policy" / name
    if name not in BUILT_IN and not (adapter / "manifest.json").is_file():
        raise InputError(f"--policy {name}: there is no {adapter}: train it first, or give another")
    needed = [] if name in BUILT_IN else [base] if name == "sft" else [base, adapter]

    def make(folder: Path) -> None:
        speakers = {}
        if name not in BUILT_IN:
            speakers[name] = load_speaker(base, run.catalog, None if name == "sft" else adapter)
        built_in = [name] if name in BUILT_IN else []
        with progress() as bar:
            save_rollout(world_rollout(judged(run, speakers), world, seed, listeners, bar, built_in=built_in), folder)

    return build(
        run.folder / PLAYED / name,
        config={"world": world, "listeners": listeners},
        inputs=[*run.inputs, *needed],
        seed=seed,
        make=make,
    )


def judged(run: Opened, speakers: dict[str, Speaker]) -> Judged:
    """The run, to be judged with these policies."""
    return Judged(run.catalog, run.histories, run.decisions, run.cut, speakers)


def main() -> None:
    (args,) = TrlParser((PlayArguments,)).parse_args_and_config()
    stage(args)
    lived = load_rollout(Path(args.run) / PLAYED / args.policy).metrics[args.policy]
    table = Table("per listener", "mean, 95%", title=f"{args.policy}, 28 days")
    for metric, values in lived.items():
        mean = known_mean(values)
        table.add_row(metric, f"{mean.value:.3f} [{mean.lo:.3f}, {mean.hi:.3f}]")
    Console().print(table)


if __name__ == "__main__":
    exit_on_input_error(main)
