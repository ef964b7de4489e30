"""Judge a run's policies and write the report: runs/<name>/reports/index.html and report.json.

    python scripts/evaluate.py --run runs/demo
    python scripts/evaluate.py --run runs/demo-smollm2 --compare runs/demo
    python scripts/evaluate.py --log my-log --slate_probabilities policies.parquet --out reports/mine

In a simulated world the policies are played to fresh listeners; on a real log, what only a world can know is left out.
The third form needs no run and no model of ours: a log and, per logged decision, every policy's log-probability of the
logged slate (`eval/slate_probabilities.py`). --log is a log store or anything that --reader reads.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console

from data.artifacts import build, fingerprint, manifest
from data.catalog import QUALITY, Catalog
from data.errors import InputError, exit_on_input_error
from data.histories import Contexts
from data.progress import progress
from data.readers import READERS
from data.world import PRESETS, LoggingPolicy, World
from data.world.environment import MessagePolicy
from eval.habit import habit_section
from eval.messages import fresh_evening, play_messages, sent_by
from eval.report import make_report
from eval.report.inputs import Comparison, ExposureSection, IdLevel, ReportInputs, WorldSection
from eval.report.summary import print_summary
from eval.rollout import Rollout
from eval.sections import (
    BUILT_IN,
    Judged,
    advantage_truth,
    fairness_section,
    listener_slates,
    off_policy_section,
    pareto_section,
    ranking_section,
    reward_section,
    shown_by,
    world_rollout,
)
from eval.world_section import world_portrait
from policy.agent import LanguageModelPolicy
from policy.checkpoint import Speaker, load_speaker
from policy.messaging.agent import LanguageModelMessages
from policy.messaging.prompt import MessagePrompt, message_words
from policy.messaging.training import NAME as TUNED
from policy.messaging.training import is_message_policy
from rewards.messages import NAME as MESSAGES
from rewards.model import RewardModel
from scripts import play
from scripts.command_line import ScriptParser
from scripts.log_report import LogReportArguments, log_report, missing
from scripts.opened import ModelArguments, Opened, open_run

OUTCOMES_BY_CHOICE = (
    "active_days_7",
    "returned_7d",
    "returned_1d",
)  # what off-policy values are of: the first that has matured
PARETO_DECISIONS = 300


@dataclass
class EvaluateArguments(ModelArguments):
    """Which run, how thoroughly."""

    compare: str | None = field(default=None, metadata={"help": "another run whose report is put beside this one"})
    eval_seed: int = field(default=0, metadata={"help": "seed of samples and draws"})
    best_of: int = field(
        default=0,
        metadata={
            "help": "in a world also play the best of so many slates drawn from SFT, by the reward (16 is usual)"
        },
    )
    log: str | None = field(default=None, metadata={"help": "a log store, or a log to read, instead of a run"})
    reader: str = field(default="longplay", metadata={"help": f"how to read the log: {', '.join(READERS)}"})
    slate_probabilities: str | None = field(
        default=None, metadata={"help": "Parquet or CSV: decision_id and a column of log-probabilities per policy"}
    )
    outcome: str | None = field(
        default=None, metadata={"help": "the outcome to be valued; left out: active_days_7, or the first there is"}
    )
    since: str | None = field(
        default=None,
        metadata={"help": "value decisions from this day on (2026-03-01, UTC): those before were learned from"},
    )
    out: str | None = field(default=None, metadata={"help": "with --log: the folder of the report"})


class Clock:
    """Seconds of each part of the evaluation."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def lap(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 2)


def stage(args: EvaluateArguments) -> bool:
    """Write the report; True when it was made, False when an unchanged one was there."""
    run = open_run(Path(args.run))
    policies = adapters(run.folder) | message_adapters(run.folder)
    other = Path(args.compare) if args.compare else None
    if other is not None and not (other / "reports" / "report.json").is_file():
        raise InputError(f"{other} has no reports/report.json: run scripts/evaluate.py on it first")
    preset = args.resolved()
    config = {
        "cases": preset.ranking_cases,
        "listeners": preset.rollout_listeners,
        "rounds": preset.off_policy_rounds,
        "compare": args.compare,
        **({"best_of": args.best_of} if args.best_of else {}),
    }
    inputs = [*sorted((run.folder / "rewards").glob("[!.]*")), run.folder / "policy" / "sft", *policies.values()]
    if other is not None:
        inputs.append(other / "reports")
    return build(
        run.folder / "reports",
        config=config,
        inputs=[run.folder / "logs", run.folder / "outcomes", run.folder / "catalog", *inputs],
        seed=args.eval_seed,
        make=lambda folder: write_report(args, run, folder),
    )


def adapters(run: Path) -> dict[str, Path]:
    """The adapters of a run that show slates, by name, click-tuned twins first, so that tables read from baseline to
    proposal."""
    found = [folder for folder in _tuned(run) if not is_message_policy(folder)]
    order = sorted(found, key=lambda path: ("click" not in path.name, path.name))
    return {path.name: path for path in order}


def message_adapters(run: Path) -> dict[str, Path]:
    """The adapters of a run that decide on messages, by name."""
    return {folder.name: folder for folder in _tuned(run) if is_message_policy(folder)}


def _tuned(run: Path) -> list[Path]:
    return [path.parent for path in sorted((run / "policy").glob("*/adapter_config.json"))]


def speakers(run: Path, catalog: Catalog) -> dict[str, Speaker]:
    """Every trained policy of a run, SFT first."""
    base = run / "policy" / "sft"
    loaded = {"sft": load_speaker(base, catalog)}
    return loaded | {name: load_speaker(base, catalog, path) for name, path in adapters(run).items()}


def message_speakers(run: Path, catalog: Catalog, items: pl.DataFrame) -> dict[str, MessagePolicy]:
    """Every tuned policy of a run that decides on messages, in the words of its items; its own is called `policy`."""
    found: dict[str, MessagePolicy] = {}
    for name, folder in message_adapters(run).items():
        spoken = load_speaker(run / "policy" / "sft", catalog, folder)
        prompt = MessagePrompt(spoken.prompt, message_words(items))
        found["policy" if name == TUNED else name] = LanguageModelMessages(f"{name}@1", spoken, prompt)
    return found


def write_report(args: EvaluateArguments, run: Opened, folder: Path) -> None:
    """Put the run's policies to every question its log can carry."""
    preset = args.resolved()
    origin = manifest(run.folder / "logs")
    world = origin["config"].get("world")
    clock, seed = Clock(), args.eval_seed
    logging = None if world is None else logging_scores(world, origin["seed"])
    judged = Judged(run.catalog, run.histories, run.decisions, run.cut, speakers(run.folder, run.catalog), logging)
    rollout, others = None, None
    other = Path(args.compare) if args.compare else None
    if world is not None:
        names = [*judged.speakers, *([play.BEST_OF] if args.best_of else [])]
        for name in (*BUILT_IN, *names):
            play.stage(play.PlayArguments(args.run, args.preset, args.base_model, args.set, name, draws=args.best_of))
        rollout = play.played(run.folder, names)
        if other is not None and fingerprint(other / "logs") == fingerprint(run.folder / "logs"):
            # Means of two reports differ by their listeners too: only the same ones tell the models apart.
            catalog, people = Catalog.load(other / "catalog"), preset.rollout_listeners
            theirs = {name: LanguageModelPolicy(name, spoken) for name, spoken in speakers(other, catalog).items()}
            with clock.lap("rollouts of the other run"), progress() as bar:
                others = world_rollout(catalog, world, origin["seed"], people, theirs, BUILT_IN, bar)
    with progress() as bar:
        task = bar.add_task("judging", total=None)
        bar.update(task, description="ranking the next item")
        with clock.lap("ranking"):
            ranking = ranking_section(judged, preset.ranking_cases, seed)
        bar.update(task, description="off-policy values")
        reward, outcomes = RewardModel.load(run.folder / "rewards" / "midterm"), run.folder / "outcomes"
        rounds = preset.off_policy_rounds
        with clock.lap("off_policy"):
            off_policy = off_policy_section(judged, outcomes, reward, OUTCOMES_BY_CHOICE, rounds, seed)
        truth = {}
        if world is not None:
            of_slates = [path for path in sorted((run.folder / "rewards").glob("[!.]*")) if path.name != MESSAGES]
            both = {path.name: RewardModel.load(path) for path in of_slates}
            truth = advantage_truth(judged, both, world, origin["seed"])
        with clock.lap("slates"):
            slates = listener_slates(judged, 6, seed)
            shown = shown_by(judged, rollout, rounds, seed)
            fairness = fairness_section(judged, shown, rollout)
        with clock.lap("pareto front"):
            pareto = pareto_section(judged, reward, PARETO_DECISIONS, seed)
        bar.update(task, description="habit in the log")
        with clock.lap("habit"):
            habit = habit_section(run.store, seed)
        portrait = None
        if world is not None:
            bar.update(task, description="showing the world")
            with clock.lap("the world"):
                portrait = world_portrait(world, origin["seed"])
        messages = None
        if world is not None and PRESETS[world].switches.messages:
            bar.update(task, description="playing message policies")
            evening = fresh_evening(world, origin["seed"], preset.rollout_listeners)
            tuned = message_speakers(run.folder, run.catalog, run.store.items())
            with clock.lap("messages"):
                messages = play_messages(evening, sent_by(evening, run.folder / "rewards" / MESSAGES, tuned), seed=seed)
    inputs = ReportInputs(
        run=run.folder.name,
        source=f"world {world}" if world else f"log read by {origin['config'].get('reader')}",
        preset=preset.name,
        world=WorldSection(rollouts=[rollout], world=world) if rollout is not None else None,
        rewards=reward_section(run.folder / "rewards" / "midterm", truth),
        off_policy=off_policy,
        ranking=ranking,
        exposure=ExposureSection({name: seen.summary(run.catalog.items) for name, seen in shown.items()}),
        fairness=fairness,
        pareto=pareto,
        semantic_ids=[IdLevel(**level) for level in json.loads((run.folder / "catalog" / QUALITY).read_text())],
        habit=habit,
        portrait=portrait,
        messages=messages,
        slates=slates,
        missing=missing(run.store, run.folder / "outcomes"),
        comparison=comparison(other, others),
        timing=stage_seconds(run.folder) | {f"report: {name}": seconds for name, seconds in clock.seconds.items()},
        manifest={"logs": {key: origin[key] for key in ("config", "seed")}, "packages": origin["packages"]},
    )
    make_report(inputs, folder)


def logging_scores(world: str, seed: int) -> Callable[[Contexts], NDArray[np.floating]]:
    """Asks the policy that wrote a world's log again; it scores what a product knows, no hidden state."""
    return LoggingPolicy(
        World(PRESETS[world].with_listeners(2), seed).items, PRESETS[world].logging, PRESETS[world].dynamics.slate_size
    ).scores


def stage_seconds(run: Path) -> dict[str, float]:
    """Wall seconds of every stage, from the manifests."""
    found = sorted(run.glob("*/manifest.json")) + sorted(run.glob("*/*/manifest.json"))
    made = [path.parent for path in found if path.parent.name != "reports"]
    return {path.relative_to(run).as_posix(): float(manifest(path)["wall_seconds"]) for path in made}


def comparison(other: Path | None, rollout: Rollout | None) -> Comparison | None:
    """The other run's report, if one is to be put beside this one, and its policies on this run's listeners."""
    if other is None:
        return None
    report: dict[str, Any] = json.loads((other / "reports" / "report.json").read_text())
    return Comparison(f"{report['preset']} ({report['run']})", report, rollout)


def main() -> None:
    (args,) = ScriptParser((EvaluateArguments,)).parse_args_and_config()
    if args.log is not None:
        asked = LogReportArguments(
            args.log, args.reader, args.slate_probabilities, args.outcome, args.since, args.out, args.eval_seed
        )
        reports = log_report(asked)
    else:
        stage(args)
        reports = Path(args.run) / "reports"
    print_summary(json.loads((reports / "report.json").read_text()), Console(), reports / "index.html")


if __name__ == "__main__":
    exit_on_input_error(main)
