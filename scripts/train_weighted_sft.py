"""Reward-weighted fine-tuning on logged slates, a baseline of DPO, PPO and GRPO: runs/<name>/policy/weighted_sft.

accelerate launch scripts/train_weighted_sft.py --run runs/demo --reward midterm
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from trl import SFTConfig

from data.errors import exit_on_input_error
from policy.training import build_on_ranks, overridden, trainer_defaults
from policy.weighted_sft import WeightedSettings, train_weighted_sft
from scripts.command_line import ScriptParser
from scripts.opened import ModelArguments, open_run


@dataclass
class WeightedArguments(ModelArguments):
    """Which run, which model, which reward."""

    reward: str = field(default="midterm", metadata={"help": "reward model: midterm or click"})
    name: str = field(default="weighted_sft", metadata={"help": "name of the adapter under policy/"})
    temperature: float = field(default=0.5, metadata={"help": "of the weights exp(reward / temperature)"})
    model_seed: int = field(default=0, metadata={"help": "seed of sampling and order"})


def stage(args: WeightedArguments, given: SFTConfig | None = None) -> bool:
    """Train the adapter; True when it was trained, False when an unchanged one was there."""
    run = open_run(Path(args.run))
    preset, base = args.resolved(), run.folder / "policy" / "sft"
    settings = WeightedSettings(run.cut, args.temperature, args.model_seed)
    changed = overridden(given)

    def make(temporary: Path) -> None:
        reward = run.slate_reward(args.reward)
        train_weighted_sft(
            base, run.histories, run.decisions, run.catalog, reward, preset, settings, temporary, changed, args.name
        )

    return build_on_ranks(
        run.folder / "policy" / args.name,
        config={
            "preset": preset.training("weighted"),
            "settings": asdict(settings),
            "reward": args.reward,
            "trl": changed,
        },
        inputs=[*run.inputs, base, run.folder / "rewards" / args.reward],
        seed=args.model_seed,
        make=make,
    )


def main() -> None:
    parser = ScriptParser((WeightedArguments, SFTConfig))
    parser.set_defaults(**trainer_defaults())
    args, given = parser.parse_args_and_config()
    stage(args, given)


if __name__ == "__main__":
    exit_on_input_error(main)
