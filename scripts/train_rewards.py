"""Train a reward model on a run's log: runs/<name>/rewards/midterm, or its click-only twin rewards/click.

    accelerate launch scripts/train_rewards.py --config scripts/configs/train_rewards.yaml
    python scripts/train_rewards.py --run runs/demo --name click
    torchrun --nproc_per_node 2 scripts/train_rewards.py --run runs/demo    # the same losses on two ranks

Labels that matured by the cut train it; later ones calibrate and judge it. quality.json says how well each head does
beside the baselines, what the slate was found to do, and where the seconds went. While it trains, checkpoints and the
losses that `tensorboard --logdir` shows are in runs/<name>/rewards/.<name>.training; an interrupted run goes on there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from data.errors import InputError, exit_on_input_error
from data.outcomes import read_outcomes
from policy.training import build_on_ranks
from rewards.baselines import BASELINES
from rewards.crossfit import CLICK, RewardSettings, train_rewards
from rewards.model import FORMAT, RewardModel
from scripts.command_line import ScriptParser
from scripts.opened import open_run

NAMES = {"midterm": None, "click": CLICK}


@dataclass
class RewardArguments:
    """Which run, which reward, and how long to train."""

    run: str = field(default="runs/demo", metadata={"help": "run folder with logs/, catalog/ and outcomes/"})
    name: str = field(default="midterm", metadata={"help": "midterm (all labels the log carries) or click (plays)"})
    seed: int = field(default=0, metadata={"help": "seed of the halves, the networks and the draws"})
    epochs: int = field(default=4, metadata={"help": "passes over the histories, per network"})
    members: int = field(default=8, metadata={"help": "ensemble members per network"})
    taste: int = field(
        default=0, metadata={"help": "directions of content in which each listener's own taste is read (16 is usual)"}
    )
    cut: float = field(default=0.6, metadata={"help": "share of the log's time whose labels train"})
    calibrated: float = field(default=0.8, metadata={"help": "share of the log's time whose labels calibrate"})
    baselines: bool = field(default=True, metadata={"help": "train the tabular baselines to compare with"})


def settings_of(args: RewardArguments) -> RewardSettings:
    """The settings the arguments ask for; raises InputError for a reward of another name."""
    if args.name not in NAMES:
        raise InputError(f"--name {args.name}: no such reward: choose one of {', '.join(NAMES)}")
    plain = RewardSettings()
    return replace(
        plain,
        labels=NAMES[args.name],
        train=replace(plain.train, epochs=args.epochs),
        slices=replace(plain.slices, cut=args.cut, calibrated=args.calibrated, advantage=args.cut),
        advantage=replace(plain.advantage, members=args.members),
        taste=args.taste,
        baselines=args.baselines,
    )


def stage(args: RewardArguments) -> bool:
    """Train the model; True when it was trained, False when an unchanged one was there."""
    settings = settings_of(args)
    folder = Path(args.run)
    if not (folder / "outcomes").is_dir():
        raise InputError(f"{folder} has no outcomes/: run scripts/build_outcomes.py first, or give another --run")
    accelerator = Accelerator(cpu=True)
    run = open_run(folder)
    along = folder / "rewards" / f".{args.name}.training"

    def trained() -> tuple[RewardModel, dict[str, Any], Mapping[str, str]]:
        labels = read_outcomes(folder / "outcomes")
        model, quality = train_rewards(
            run.histories,
            run.decisions,
            labels.table,
            labels.end,
            run.catalog,
            settings,
            args.seed,
            run.store.users(),
            accelerator,
            along,
        )
        return model, quality, labels.left_out

    def make(temporary: Path) -> None:
        model, quality, left_out = trained()
        quality["left_out"] = dict(left_out)
        quality.pop("seconds")  # the same seed writes the same bytes; the manifest has the time
        model.save(temporary)
        (temporary / "quality.json").write_text(json.dumps(quality, indent=1) + "\n")

    made = build_on_ranks(
        folder / "rewards" / args.name,
        config=asdict(settings) | {"model_format": FORMAT},
        inputs=[*run.inputs, folder / "outcomes"],
        seed=args.seed,
        make=make,
    )
    if accelerator.is_main_process:
        for left in along.glob("*.safetensors"):
            left.unlink()
    return made


def table_of(heads: Mapping[str, Any]) -> Table:
    """Every head beside every baseline: the score of each, ours first, and where ours is surely better or worse."""
    beside = {name for head in heads.values() for name in head.get("baseline", {})}
    names = [name for name in BASELINES if name in beside]
    table = Table("outcome", "rows", "measure", "ours", *names, "ECE (by chance)", "worst segment's")
    for label, head in heads.items():
        measure = "auc" if "auc" in head else "c_index"
        if measure not in head:
            continue
        others = []
        for name in names:
            score = head.get("baseline", {}).get(name)
            sure = head.get("paired", {}).get(name, {"lo": 0.0, "hi": 0.0})
            mark = " +" if sure["hi"] < 0 else " -" if sure["lo"] > 0 else ""
            others.append("" if score is None else f"{score:.3f}{mark}")
        parts = [(part["ece"], name) for name, part in head.get("segments", {}).items() if "ece" in part]
        worst = "{:.3f} ({})".format(*max(parts)) if parts else ""
        ece = f"{head['ece']:.3f} ({head['ece_chance']:.3f})" if "ece" in head else ""
        table.add_row(label, f"{head['n']:,}", measure, f"{head[measure]:.3f}", *others, ece, worst)
    table.caption = "+ / -: ours has the lower / higher Brier score, 95% interval of a paired bootstrap over users; "
    table.caption += "by chance: what the calibration error of a right forecast stays below in 19 of 20 cases"
    return table


def main() -> None:
    (args,) = ScriptParser((RewardArguments,)).parse_args_and_config()
    stage(args)
    if int(os.environ.get("RANK", "0")):
        return
    quality = json.loads((Path(args.run) / "rewards" / args.name / "quality.json").read_text())
    Console(width=max(Console().width, 160)).print(table_of(quality["heads"]))


if __name__ == "__main__":
    exit_on_input_error(main)
