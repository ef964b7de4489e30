"""Direct preference optimisation on slates ranked by a reward model: runs/<name>/policy/dpo (or dpo_click).

    accelerate launch scripts/train_dpo.py --run runs/demo --reward midterm
    accelerate launch scripts/train_dpo.py --run runs/demo --reward click --name dpo_click
    accelerate launch scripts/train_dpo.py --run runs/demo --negatives 4 --name softmax_dpo

Slates are drawn from the policy, scored with the reward's lower bound for the very listener, and paired by margin. With
--negatives 4 each chosen slate is preferred to four worse ones at once (softmax DPO, Chen et al. 2024).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from trl import DPOConfig

from data.errors import exit_on_input_error
from policy.dpo import DPOSettings, dpo_config, train_dpo
from policy.training import build_on_ranks, overridden, trainer_defaults
from scripts.command_line import ScriptParser
from scripts.opened import ModelArguments, open_run


@dataclass
class DPOArguments(ModelArguments):
    """Which run, which model, which reward."""

    reward: str = field(default="midterm", metadata={"help": "reward model: midterm or click"})
    name: str = field(default="dpo", metadata={"help": "name of the adapter under policy/"})
    rounds: int = field(default=2, metadata={"help": "draw-rank-train rounds"})
    negatives: int = field(
        default=1, metadata={"help": "worse slates that each chosen one is preferred to at once (above 1: softmax DPO)"}
    )
    model_seed: int = field(default=0, metadata={"help": "seed of sampling and order"})


def stage(args: DPOArguments, given: DPOConfig | None = None) -> bool:
    """Train the adapter; True when it was trained, False when an unchanged one was there."""
    run = open_run(Path(args.run))
    preset = args.resolved()
    settings = DPOSettings(run.cut, args.rounds, args.negatives, args.model_seed)
    base = run.folder / "policy" / "sft"
    changed = overridden(given)
    said = asdict(settings)
    if settings.negatives == 1:
        del said["negatives"]  # what was trained before there were several is unchanged

    def make(temporary: Path) -> None:
        config = dpo_config(preset, temporary, args.model_seed, changed)
        reward = run.slate_reward(args.reward)
        train_dpo(
            base, run.histories, run.decisions, run.catalog, reward, preset, settings, temporary, config, args.name
        )

    return build_on_ranks(
        run.folder / "policy" / args.name,
        config={"preset": preset.training("dpo"), "settings": said, "reward": args.reward, "trl": changed},
        inputs=[*run.inputs, base, run.folder / "rewards" / args.reward],
        seed=args.model_seed,
        make=make,
    )


def main() -> None:
    parser = ScriptParser((DPOArguments, DPOConfig))
    parser.set_defaults(**trainer_defaults())
    args, given = parser.parse_args_and_config()
    stage(args, given)


if __name__ == "__main__":
    exit_on_input_error(main)
