"""The whole road in one command: logs -> outcomes -> catalog -> rewards -> SFT -> DPO -> PPO, GRPO -> report.

In a world that sends messages their reward and their policy are on the road too.

    python scripts/run.py --run runs/demo
    python scripts/run.py --run runs/globo --logs clicks.parquet --reader globo
    python scripts/run.py --config scripts/configs/run.yaml

A stage whose inputs and settings are unchanged is skipped, a killed one is done again: run it twice, get it once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from trl import TrlParser

from data.artifacts import run_lock
from data.errors import exit_on_input_error
from data.world import PRESETS
from eval.report.summary import print_summary
from scripts import (
    build_catalog,
    build_outcomes,
    evaluate,
    ingest,
    simulate,
    train_dpo,
    train_grpo,
    train_message_rewards,
    train_messages,
    train_ppo,
    train_rewards,
    train_sft,
)
from scripts.opened import ModelArguments, open_run


@dataclass
class RunArguments(ModelArguments):
    """Where from, which model, where to."""

    world: str = field(default="clickbait", metadata={"help": "simulated world, when no log is given"})
    listeners: int = field(default=5_000, metadata={"help": "listeners of the simulated world"})
    days: int = field(default=84, metadata={"help": "days of the simulated log"})
    logs: str | None = field(default=None, metadata={"help": "a log of your own instead of a world"})
    reader: str = field(default="longplay", metadata={"help": "how to read it: globo, longplay"})
    slate_size: int = field(default=5, metadata={"help": "items of a slate"})
    compare: str | None = field(default=None, metadata={"help": "a finished run to put beside this one in the report"})
    seed: int = field(default=0, metadata={"help": "seed of the world and of everything trained"})


Stage = tuple[str, Callable[[], bool]]


def stages(args: RunArguments) -> list[Stage]:
    """The road's stages in order: name and what makes it (True: made, False: was there)."""
    run, seed = args.run, args.seed
    model = (run, args.preset, args.base_model, args.set)
    if args.logs is None:
        logs = simulate.SimulateArguments(run, args.world, args.listeners, args.days, seed)
        first: Stage = ("logs", lambda: simulate.stage(logs))
    else:
        given = ingest.IngestArguments(run, args.logs, args.reader, args.slate_size)
        first = ("logs", lambda: ingest.stage(given))

    def rewards(name: str) -> Stage:
        chosen = train_rewards.RewardArguments(run=run, name=name, seed=seed)
        return (f"rewards/{name}", lambda: train_rewards.stage(chosen))

    def dpo(name: str, reward: str) -> Stage:
        chosen = train_dpo.DPOArguments(*model, reward=reward, name=name, model_seed=seed)
        return (f"policy/{name}", lambda: train_dpo.stage(chosen))

    def with_impressions(stage: Stage) -> Stage:
        """Without impressions everything in the log was tapped: there is no click-tuned twin to be had from it."""
        name, make = stage
        return name, lambda: not open_run(Path(run)).store.organic and make()

    sft = train_sft.SFTArguments(*model, slate_size=args.slate_size, model_seed=seed)
    ppo = train_ppo.PPOArguments(*model, reward="midterm", start="dpo", name="ppo", model_seed=seed)
    grpo = train_grpo.GroupArguments(*model, reward="midterm", start="none", name="grpo", model_seed=seed)
    sends = args.logs is None and args.world in PRESETS and PRESETS[args.world].switches.messages
    weighed = train_message_rewards.MessageRewardArguments(run, seed=seed)
    decided = train_messages.MessageArguments(*model, model_seed=seed)
    messages: list[Stage] = [
        ("rewards/messages", lambda: train_message_rewards.stage(weighed)),
        ("policy/messages", lambda: train_messages.stage(decided)),
    ]
    judged = evaluate.EvaluateArguments(*model, compare=args.compare, eval_seed=seed)
    return [
        first,
        ("outcomes", lambda: build_outcomes.stage(build_outcomes.OutcomesArguments(run))),
        ("catalog", lambda: build_catalog.stage(build_catalog.CatalogArguments(run, seed=seed))),
        rewards("midterm"),
        with_impressions(rewards("click")),
        ("policy/sft", lambda: train_sft.stage(sft)),
        with_impressions(dpo("dpo_click", "click")),
        dpo("dpo", "midterm"),
        ("policy/ppo", lambda: train_ppo.stage(ppo)),
        ("policy/grpo", lambda: train_grpo.stage(grpo)),
        *(messages if sends else []),
        ("reports", lambda: evaluate.stage(judged)),
    ]


def travel(args: RunArguments) -> list[tuple[str, float, bool]]:
    """Go the road; (stage, seconds, made) for each. Raises InputError when another process works on the run."""
    args.resolved()  # a wrong preset is told now, not after the rewards
    took = []
    console = Console(stderr=True)
    with run_lock(Path(args.run)):
        for name, make in stages(args):
            console.rule(f"[bold]{name}", align="left")
            started = time.monotonic()
            made = make()
            took.append((name, time.monotonic() - started, made))
    return took


def print_times(took: Sequence[tuple[str, float, bool]]) -> None:
    """Where the time went."""
    table = Table(title="where the time went")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    table.add_column("")
    for name, seconds, made in took:
        table.add_row(name, f"{seconds:.1f}", "" if made else "unchanged")
    table.add_row("in all", f"{sum(seconds for _, seconds, _ in took):.1f}", "", style="bold")
    Console().print(table)


def main() -> None:
    (args,) = TrlParser((RunArguments,)).parse_args_and_config()
    took = travel(args)
    reports = Path(args.run) / "reports"
    print_times(took)
    print_summary(json.loads((reports / "report.json").read_text()), Console(), reports / "index.html")


if __name__ == "__main__":
    exit_on_input_error(main)
