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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from data.artifacts import run_lock
from data.errors import exit_on_input_error
from data.world import PRESETS
from eval.report.summary import print_summary
from eval.sections import BUILT_IN
from scripts import (
    build_catalog,
    build_outcomes,
    evaluate,
    ingest,
    play,
    simulate,
    train_dpo,
    train_grpo,
    train_message_rewards,
    train_messages,
    train_ppo,
    train_rewards,
    train_sft,
)
from scripts.command_line import ScriptParser
from scripts.opened import ModelArguments, open_run
from scripts.road import Stage, Taken, travel, workers_here


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
    baselines: bool = field(
        default=True, metadata={"help": "train what the reward model's forecasts are compared with"}
    )
    workers: int = field(
        default=0,
        metadata={"help": "stages made at once, which share the threads; 0: as suits the machine, 1: one by one"},
    )


def unless_organic(run: str, make: Callable[[], bool]) -> bool:
    """Without impressions everything in the log was tapped: there is no click-tuned twin to be had from it."""
    return not open_run(Path(run)).store.organic and make()


def stages(args: RunArguments) -> list[Stage]:
    """The road's stages, in an order in which one process makes them, what takes longest as early as it can."""
    run, seed = args.run, args.seed
    model = (run, args.preset, args.base_model, args.set)
    if args.logs is None:
        first = partial(simulate.stage, simulate.SimulateArguments(run, args.world, args.listeners, args.days, seed))
    else:
        first = partial(ingest.stage, ingest.IngestArguments(run, args.logs, args.reader, args.slate_size))

    def rewards(name: str) -> Callable[[], bool]:
        given = train_rewards.RewardArguments(run=run, name=name, seed=seed, baselines=args.baselines)
        return partial(train_rewards.stage, given)

    def dpo(name: str, reward: str) -> Callable[[], bool]:
        chosen = train_dpo.DPOArguments(*model, reward=reward, name=name, model_seed=seed)
        return partial(train_dpo.stage, chosen)

    def click(make: Callable[[], bool]) -> Callable[[], bool]:
        return partial(unless_organic, run, make)

    sft = train_sft.SFTArguments(*model, slate_size=args.slate_size, model_seed=seed)
    ppo = train_ppo.PPOArguments(*model, reward="midterm", start="dpo", name="ppo", model_seed=seed)
    grpo = train_grpo.GroupArguments(*model, reward="midterm", name="grpo", model_seed=seed)
    made = [
        Stage("logs", first),
        Stage("catalog", partial(build_catalog.stage, build_catalog.CatalogArguments(run, seed=seed)), ("logs",)),
        Stage("outcomes", partial(build_outcomes.stage, build_outcomes.OutcomesArguments(run)), ("logs",)),
        # SFT is twice as fast on twice the threads, the rest is not: nothing is made beside it, so that it has all.
        Stage("policy/sft", partial(train_sft.stage, sft), ("catalog", "outcomes")),
        Stage("rewards/midterm", rewards("midterm"), ("policy/sft", "outcomes")),
        Stage("rewards/click", click(rewards("click")), ("policy/sft", "outcomes")),
        Stage("policy/grpo", partial(train_grpo.stage, grpo), ("policy/sft", "rewards/midterm")),
        Stage("policy/dpo", dpo("dpo", "midterm"), ("policy/sft", "rewards/midterm")),
        Stage("policy/ppo", partial(train_ppo.stage, ppo), ("policy/dpo",)),
        Stage("policy/dpo_click", click(dpo("dpo_click", "click")), ("policy/sft", "rewards/click")),
    ]
    if args.logs is None and args.world in PRESETS and PRESETS[args.world].switches.messages:
        weighed = train_message_rewards.MessageRewardArguments(run, seed=seed)
        decided = train_messages.MessageArguments(*model, model_seed=seed)
        made += [
            Stage("rewards/messages", partial(train_message_rewards.stage, weighed), ("catalog", "policy/sft")),
            Stage("policy/messages", partial(train_messages.stage, decided), ("policy/sft", "rewards/messages")),
        ]
    if args.logs is None:
        made += played_stages(model, ("sft", "grpo", "dpo", "dpo_click", "ppo", *BUILT_IN))
    judged = evaluate.EvaluateArguments(*model, compare=args.compare, eval_seed=seed)
    everything = tuple(stage.name for stage in made)
    return [*made, Stage("reports", partial(evaluate.stage, judged), everything)]


def played_stages(
    model: tuple[str, str, str | None, list[str]], names: Iterable[str], listeners: int = 0, draws: int = 0
) -> list[Stage]:
    """What plays these policies, trained on the same road or not at all; `listeners` and `draws` as in scripts/play.py.

    model: run, preset, base model and changed fields, as in `ModelArguments`.
    """
    return [
        Stage(
            f"{play.PLAYED}/{name}",
            partial(play.stage, play.PlayArguments(*model, name, listeners, draws)),
            ("policy/sft", "rewards/midterm" if name == play.BEST_OF else f"policy/{name}"),
        )
        for name in names
    ]


def go(args: RunArguments) -> list[Taken]:
    """Go the road. Raises InputError when another process works on the run."""
    args.resolved()  # a wrong preset is told now, not after the rewards
    with run_lock(Path(args.run)):
        return travel(stages(args), args.workers or workers_here(), Path(args.run))


def print_times(took: Sequence[Taken], wall: float) -> None:
    """Where the time went; `wall` seconds in all."""
    table = Table(title="where the time went")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    table.add_column("")
    for one in took:
        table.add_row(one.name, f"{one.seconds:.1f}", "" if one.made else "unchanged")
    added = sum(one.seconds for one in took)
    beside = f"{added:.1f} added up" if added > 1.05 * wall else ""
    table.add_row("in all", f"{wall:.1f}", beside, style="bold")
    Console().print(table)


def main() -> None:
    (args,) = ScriptParser((RunArguments,)).parse_args_and_config()
    started = time.monotonic()
    took = go(args)
    reports = Path(args.run) / "reports"
    print_times(took, time.monotonic() - started)
    print_summary(json.loads((reports / "report.json").read_text()), Console(), reports / "index.html")


if __name__ == "__main__":
    exit_on_input_error(main)
