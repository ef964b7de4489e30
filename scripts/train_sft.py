"""Supervised fine-tuning of the recommendation policy: runs/<name>/policy/sft.

A base model learns the catalog's language and then slates that listeners engaged with; where the log decides on
messages, those decisions too, so that an adapter can be tuned on them. Any argument of TRL's SFTConfig can be given;
what is not given comes from the preset.

    accelerate launch scripts/train_sft.py --run runs/demo --preset nano
    accelerate launch scripts/train_sft.py --config scripts/configs/train_sft.yaml
    accelerate launch scripts/train_sft.py --run runs/demo --base_model Qwen/Qwen3-0.6B --bf16
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trl import SFTConfig

from data.errors import exit_on_input_error
from policy.messaging.examples import MessageLesson
from policy.messaging.prompt import message_words
from policy.sft import SFTSettings, sft_config, train_sft
from policy.training import build_on_ranks, overridden, trainer_defaults
from scripts.command_line import ScriptParser
from scripts.opened import ModelArguments, open_run

MESSAGE_SHARE = 2 / 3  # decisions about messages to an engaged slate, where the log has any


@dataclass
class SFTArguments(ModelArguments):
    """Which run, which model."""

    slate_size: int = field(default=5, metadata={"help": "items of a slate"})
    word_share: float = field(
        default=0.5, metadata={"help": "requests in words and what fits them, per slate that people engaged with"}
    )
    balance_share: float = field(
        default=0.15,
        metadata={
            "help": "wanted balances of objectives and what roughly fits them, per slate that people engaged with"
        },
    )
    move_share: float = field(
        default=0.0, metadata={"help": "moves and slates that carry them out, per slate that people engaged with"}
    )
    model_seed: int = field(default=0, metadata={"help": "seed of initialisation, sampling and order"})


def stage(args: SFTArguments, given: SFTConfig | None = None) -> bool:
    """Train the SFT policy; True when it was trained, False when an unchanged one was there."""
    run = open_run(Path(args.run))
    preset = args.resolved()
    settings = SFTSettings(
        args.slate_size,
        run.cut,
        word_share=args.word_share,
        balance_share=args.balance_share,
        move_share=args.move_share,
        seed=args.model_seed,
    )
    folder = run.folder / "policy" / "sft"
    changed = overridden(given)
    decisions = round(preset.sft_slates * MESSAGE_SHARE) if run.decides_on_messages else 0

    def make(temporary: Path) -> None:
        config = sft_config(preset, temporary, args.model_seed, changed)
        lesson = MessageLesson(run.message_log(), message_words(run.store.items()), decisions) if decisions else None
        train_sft(run.histories, run.decisions, run.catalog, preset, settings, temporary, config, lesson)

    config: dict[str, Any] = {"preset": preset.training("sft"), "settings": asdict(settings), "trl": changed}
    if decisions:
        config["messages"] = decisions
    return build_on_ranks(folder, config=config, inputs=run.inputs, seed=args.model_seed, make=make)


def main() -> None:
    parser = ScriptParser((SFTArguments, SFTConfig))
    parser.set_defaults(**trainer_defaults())
    args, given = parser.parse_args_and_config()
    stage(args, given)


if __name__ == "__main__":
    exit_on_input_error(main)
