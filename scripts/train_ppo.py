"""Proximal policy optimisation against a reward model: runs/<name>/policy/ppo (or ppo_click).

    accelerate launch scripts/train_ppo.py --run runs/demo --reward midterm --start dpo
    accelerate launch scripts/train_ppo.py --run runs/demo --reward click --start dpo_click --name ppo_click

Starts from a DPO adapter (or afresh with --start none); the reference is policy/sft with the adapter disabled.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trl.experimental.ppo import PPOConfig

from data.errors import exit_on_input_error
from policy.ppo import PPOSettings, ppo_config, train_ppo
from policy.training import build_on_ranks, overridden, trainer_defaults
from scripts.command_line import ScriptParser
from scripts.opened import ModelArguments, open_run


@dataclass
class PPOArguments(ModelArguments):
    """Which run, which model, which reward, from where."""

    reward: str = field(default="midterm", metadata={"help": "reward model: midterm or click"})
    start: str = field(default="dpo", metadata={"help": "adapter to start from, or none"})
    name: str = field(default="ppo", metadata={"help": "name of the adapter under policy/"})
    kl_target: float = field(
        default=0.0, metadata={"help": "divergence from SFT to steer to, nats per slate; 0: a fixed penalty"}
    )
    model_seed: int = field(default=0, metadata={"help": "seed of sampling and order"})


def stage(args: PPOArguments, given: PPOConfig | None = None) -> bool:
    """Train the adapter; True when it was trained, False when an unchanged one was there."""
    run = open_run(Path(args.run))
    preset = args.resolved()
    settings = PPOSettings(until=run.cut, kl_target=args.kl_target or None, seed=args.model_seed)
    base = run.folder / "policy" / "sft"
    start = None if args.start == "none" else run.folder / "policy" / args.start
    changed = overridden(given)

    def make(temporary: Path) -> None:
        reward = run.slate_reward(args.reward)
        config = ppo_config(preset, temporary, args.model_seed, changed)
        train_ppo(
            base,
            start,
            run.histories,
            run.decisions,
            run.catalog,
            reward,
            preset,
            settings,
            temporary,
            config,
            args.name,
        )

    return build_on_ranks(
        run.folder / "policy" / args.name,
        config={"preset": preset.training("ppo"), "settings": asdict(settings), "reward": args.reward, "trl": changed},
        inputs=[*run.inputs, base, *([start] if start else []), run.folder / "rewards" / args.reward],
        seed=args.model_seed,
        make=make,
    )


def main() -> None:
    parser = ScriptParser((PPOArguments, PPOConfig))
    parser.set_defaults(**trainer_defaults())
    args, given = parser.parse_args_and_config()
    stage(args, given)


if __name__ == "__main__":
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    exit_on_input_error(main)
