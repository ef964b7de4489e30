"""Group-relative policy optimisation against a reward model: runs/<name>/policy/grpo (or rloo, grpo_click, ...).

    accelerate launch scripts/train_grpo.py --run runs/demo --reward midterm
    accelerate launch scripts/train_grpo.py --run runs/demo --method rloo --start dpo --name rloo
    accelerate launch scripts/train_grpo.py --run runs/demo --anchor true --name abpo
    accelerate launch scripts/train_grpo.py --run runs/demo --trade_off true --name trade_off

Starts from SFT, or from an adapter of it (--start dpo); the reference is policy/sft with the adapter disabled. With
--anchor one slate of each group is the one that was logged. With --trade_off every prompt asks for a drawn balance of
mid-term and clicks, and both rewards are weighed as asked: one policy for the whole front.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from trl import GRPOConfig

from data.errors import exit_on_input_error
from policy.grpo import METHODS, GroupSettings, train_group
from policy.trade_off import TradeOffReward
from policy.training import build_on_ranks, overridden, trainer_defaults
from scripts.command_line import ScriptParser
from scripts.opened import ModelArguments, Opened, open_run


@dataclass
class GroupArguments(ModelArguments):
    """Which run, which model, which reward, from where."""

    method: str = field(default="grpo", metadata={"help": f"one of {', '.join(METHODS)}"})
    reward: str = field(default="midterm", metadata={"help": "reward model: midterm or click"})
    start: str = field(default="none", metadata={"help": "adapter to start from, as dpo; none: from SFT"})
    name: str = field(default="grpo", metadata={"help": "name of the adapter under policy/"})
    credit: str | None = field(
        default=None, metadata={"help": "what a reward is credited to: item (GRPO's default) or slate (RLOO's)"}
    )
    lesson: bool | None = field(
        default=None,
        metadata={"help": "imitate slates that the reward would show first (default: where GRPO starts from SFT)"},
    )
    asked: float = field(
        default=0.15,
        metadata={"help": "share of silent prompts in which a request is made up, for obeying to be worth it"},
    )
    group: int = field(default=16, metadata={"help": "slates drawn for each prompt"})
    trade_off: bool = field(
        default=False, metadata={"help": "prompts ask for a drawn balance of midterm and clicks; --reward is not read"}
    )
    anchor: bool = field(default=False, metadata={"help": "one slate of each group is the logged one (ABPO)"})
    kl_target: float = field(
        default=0.0, metadata={"help": "divergence from SFT to steer to, nats per slate; 0: a fixed penalty"}
    )
    model_seed: int = field(default=0, metadata={"help": "seed of sampling and order"})


def stage(args: GroupArguments, given: GRPOConfig | None = None) -> bool:
    """Train the adapter; True when it was trained, False when an unchanged one was there."""
    run = open_run(Path(args.run))
    preset, base = args.resolved(), run.folder / "policy" / "sft"
    start = None if args.start == "none" else run.folder / "policy" / args.start
    fresh = start is None and args.method == "grpo"
    settings = GroupSettings(
        until=run.cut,
        method=args.method,
        group=args.group,
        credit=args.credit or ("item" if args.method == "grpo" else "slate"),
        lesson=fresh if args.lesson is None else args.lesson,
        asked=args.asked,
        anchor=args.anchor,
        trade_off=args.trade_off,
        kl_target=args.kl_target or None,
        seed=args.model_seed,
    )
    names = ("midterm", "click") if args.trade_off else (args.reward,)
    changed = overridden(given)

    def make(temporary: Path) -> None:
        train_group(
            base,
            start,
            run.histories,
            run.decisions,
            run.catalog,
            trade_off_reward(run) if args.trade_off else run.slate_reward(args.reward),
            preset,
            settings,
            temporary,
            changed,
            args.name,
        )

    return build_on_ranks(
        run.folder / "policy" / args.name,
        config={"preset": preset.training("grpo"), "settings": asdict(settings), "reward": names, "trl": changed},
        inputs=[*run.inputs, base, *([start] if start else []), *(run.folder / "rewards" / name for name in names)],
        seed=args.model_seed,
        make=make,
    )


def trade_off_reward(run: Opened) -> TradeOffReward:
    """The run's two rewards, to be weighed as a prompt asks."""
    return TradeOffReward({"midterm": run.slate_reward("midterm"), "clicks": run.slate_reward("click")})


def main() -> None:
    parser = ScriptParser((GroupArguments, GRPOConfig))
    parser.set_defaults(**trainer_defaults())
    args, given = parser.parse_args_and_config()
    stage(args, given)


if __name__ == "__main__":
    exit_on_input_error(main)
