"""Tune the policy's decisions about messages by GRPO against the message reward: runs/<name>/policy/messages.

    python scripts/train_messages.py --run runs/messages
    python scripts/train_messages.py --run runs/messages --reward opens --name messages_opens
    python scripts/train_messages.py --config scripts/configs/train_messages.yaml

A LoRA adapter over policy/sft, which decides as the log did and is the reference. A decision is rewarded by how much
better than holding it is, by the lower bound. Reachability has a price, the smallest at which the reward's own best
decisions cost no more of it than the log's did, or --multiplier; and so has a message, the smallest at which they send
no more often. One vLLM serves it beside the slate adapters.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from trl import GRPOConfig

from data.errors import InputError, exit_on_input_error
from data.message_log import MessageLog
from policy.message_choice import keeping_reach
from policy.messaging.prompt import message_words
from policy.messaging.training import NAME, REWARDS, MessageSettings, train_messages, worth
from policy.training import build_on_ranks, overridden, trainer_defaults
from rewards.message_training import PRICED
from rewards.messages import HEADS, KAPPA, MessageReward
from rewards.messages import NAME as REWARD
from scripts.command_line import ScriptParser
from scripts.opened import ModelArguments, open_run


@dataclass
class MessageArguments(ModelArguments):
    """Which run, which model, which reward."""

    reward: str = field(default="midterm", metadata={"help": f"one of {', '.join(REWARDS)}"})
    name: str = field(default=NAME, metadata={"help": "name of the adapter under policy/"})
    weights: list[str] = field(
        default_factory=list, metadata={"help": "of midterm, as active_days_28=1 converted_28=0.5; default: its own"}
    )
    kappa: float = field(default=KAPPA, metadata={"help": "spreads that the reward is below its mean"})
    multiplier: float | None = field(
        default=None, metadata={"help": "price of reachability; left out: the smallest that keeps the log's"}
    )
    group: int = field(default=8, metadata={"help": "decisions drawn for each prompt"})
    kl_target: float = field(
        default=0.0, metadata={"help": "divergence from SFT to steer to, nats per decision; 0: a fixed penalty"}
    )
    model_seed: int = field(default=0, metadata={"help": "seed of sampling and order"})


def stage(args: MessageArguments, given: GRPOConfig | None = None) -> bool:
    """Train the adapter; True when it was trained, False when an unchanged one was there."""
    run = open_run(Path(args.run))
    preset, base, folder = args.resolved(), run.folder / "policy" / "sft", run.folder / "rewards" / REWARD
    settings = MessageSettings(run.cut, args.group, kl_target=args.kl_target or None, seed=args.model_seed)
    changed, weights = overridden(given), weights_of(args.weights)
    asked = {"reward": args.reward, "weights": weights, "kappa": args.kappa, "multiplier": args.multiplier}

    def make(temporary: Path) -> None:
        log = run.message_log()
        reward = priced(MessageReward.load(folder), args, weights, log, run.cut)
        train_messages(
            base,
            None,
            log,
            message_words(run.store.items()),
            run.catalog,
            worth(reward, args.reward),
            preset,
            settings,
            temporary,
            changed,
            title=args.name,
        )

    return build_on_ranks(
        run.folder / "policy" / args.name,
        config={
            "preset": preset.training("grpo", "message"),
            "settings": asdict(settings),
            "asked": asked,
            "trl": changed,
        },
        inputs=[*run.inputs, base, folder],
        seed=args.model_seed,
        make=make,
    )


def weights_of(given: list[str]) -> dict[str, float] | None:
    """Weights by head; None where none are given. Raises InputError for what is none."""
    found = {}
    for one in given:
        head, _, size = one.partition("=")
        try:
            found[head] = float(size)
        except ValueError:
            raise InputError(f"--weights {one}: give head=number, of {', '.join(HEADS)}") from None
    return found or None


def priced(
    reward: MessageReward, args: MessageArguments, weights: dict[str, float] | None, log: MessageLog, until: int
) -> MessageReward:
    """The reward as asked for, with its prices of reachability and of a message."""
    rows = np.random.default_rng(args.model_seed).permutation(np.flatnonzero(log.contexts.time < until))[:PRICED]
    asked = log.take(rows)
    free = reward.weighted(weights, args.multiplier or 0.0, args.kappa)
    kept = keeping_reach(free, asked.contexts) if args.multiplier is None else free
    return kept.keeping_sends(asked)


def main() -> None:
    parser = ScriptParser((MessageArguments, GRPOConfig))
    parser.set_defaults(**trainer_defaults())
    args, given = parser.parse_args_and_config()
    stage(args, given)


if __name__ == "__main__":
    exit_on_input_error(main)
