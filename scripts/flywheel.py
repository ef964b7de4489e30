"""Weeks of act, log, retrain in a simulated world: the mid-term policy and its click-tuned twin, and both their fates.

    python scripts/flywheel.py --run runs/flywheel
    python scripts/flywheel.py --config scripts/configs/flywheel.yaml --json true

Both begin on one evening with one population, one log and one SFT. Every week each fills its own listeners' slates by
sampling (its move and propensity logged), the week is added to its own log, outcomes are labelled and its reward is
trained again, and GRPO (its lesson, then the gradient) goes on from last week's adapter on the moments of the last four
weeks. Today's policy and the oracle live the same weeks beside them. A stopped run goes on where it stopped:
runs/<name>/<fate>/weeks holds what was shown, and a world gives the same answers to the same slates. The page and
fates.json are in runs/<name>/reports.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from data.artifacts import build, run_lock
from data.errors import InputError, exit_on_input_error
from data.histories import MICROSECONDS_PER_HOUR
from data.progress import track
from data.store import write_parquet
from data.world import PRESETS, World
from eval.fates import WEEK, Shown, Week, fates_json, live, live_again, week_of
from eval.report.fates import page
from policy.agent import LanguageModelPolicy
from policy.checkpoint import load_speaker
from policy.grpo import GroupSettings, train_group
from policy.slate_reward import SlateReward
from policy.training import METRICS
from policy.watch import WatchSettings
from rewards.model import RewardModel
from scripts import build_catalog, build_outcomes, ingest, simulate, train_rewards, train_sft
from scripts.command_line import ScriptParser
from scripts.opened import ModelArguments, open_run

FATES = {"grpo": "midterm", "grpo_click": "click"}  # policy -> the reward it is tuned on
RECENT_DAYS = 28  # whose moments are prompts
FOREVER = 2**62  # us: the world tells the truth, so nothing of the log is held back to judge on
LOOKS, LOOKED_AT = 2, 96  # of the watch at every training, and at how many moments
TABLES = ("items", "events", "decisions", "users")


@dataclass
class FlywheelArguments(ModelArguments):
    """Which world, how many people, how long."""

    run: str = field(default="runs/flywheel", metadata={"help": "where everything goes"})
    world: str = field(default="clickbait", metadata={"help": f"world preset: {', '.join(PRESETS)}"})
    listeners: int = field(default=1_000, metadata={"help": "people, the same in every fate"})
    days: int = field(default=56, metadata={"help": "days of the log that both begin with"})
    weeks: int = field(default=3, metadata={"help": "weeks of act, log, retrain"})
    lesson: int = field(
        default=2_048, metadata={"help": "slates that the reward would show, imitated first every week"}
    )
    slates: int = field(default=1_536, metadata={"help": "slates that GRPO draws every week"})
    reward_epochs: int = field(default=3, metadata={"help": "passes of the reward's networks, every week"})
    reward_members: int = field(default=4, metadata={"help": "ensemble members of a reward"})
    seed: int = field(default=0, metadata={"help": "seed of the world and of everything trained"})
    json: bool = field(
        default=False, metadata={"help": "one JSON object on standard output, all else on standard error"}
    )


def check(args: FlywheelArguments) -> None:
    """Raises InputError for what is no flywheel."""
    if args.world not in PRESETS:
        raise InputError(f"unknown world {args.world!r}: choose one of {', '.join(PRESETS)}")
    if PRESETS[args.world].switches.messages:
        raise InputError(f"--world {args.world} sends messages: choose a world without")
    if args.weeks < 1 or args.days < 2 * WEEK:
        raise InputError(
            f"{args.weeks} weeks after {args.days} days: give 1 week or more, after {2 * WEEK} days or more"
        )
    fixed = {name: value for name, value in asdict(args).items() if name not in ("run", "weeks", "json")}
    settings = Path(args.run) / "flywheel.json"
    if settings.is_file() and json.loads(settings.read_text()) != fixed:
        raise InputError(f"{args.run} was begun with other settings ({settings}): give those, or choose another --run")
    settings.write_text(json.dumps(fixed, indent=1) + "\n")


def begun(args: FlywheelArguments, rule: Callable[[str], None]) -> Path:
    """What both fates begin with, made by the road's stages: log, catalog and SFT; the folder."""
    start = str(Path(args.run) / "start")
    rule("the log that both begin with")
    simulate.stage(simulate.SimulateArguments(start, args.world, args.listeners, args.days, args.seed))
    build_catalog.stage(build_catalog.CatalogArguments(start, seed=args.seed))
    rule("SFT")
    size = PRESETS[args.world].dynamics.slate_size
    train_sft.stage(
        train_sft.SFTArguments(start, args.preset, args.base_model, args.set, slate_size=size, model_seed=args.seed)
    )
    return Path(start)


def opened_fate(args: FlywheelArguments, name: str, start: Path) -> Path:
    """The fate's own run folder: the log it begins with, which will grow, the catalog and SFT."""
    folder = Path(args.run) / name
    for part in ("logs", "catalog", "policy/sft"):
        if not (folder / part).is_dir():
            half = folder / f".{Path(part).name}.copied"
            shutil.rmtree(half, ignore_errors=True)
            shutil.copytree(start / part, half)
            (folder / part).parent.mkdir(parents=True, exist_ok=True)
            half.rename(folder / part)
    return folder


def tuned(args: FlywheelArguments, name: str, week: int, folder: Path) -> bool:
    """Label the log as it is now, train the reward again, and go on with GRPO: policy/week-NN; False where it is."""
    place = folder / "policy" / f"week-{week:02d}"
    if place.is_dir():
        return False
    reward, seed = FATES[name], args.seed + 1_000 * week
    build_outcomes.stage(build_outcomes.OutcomesArguments(str(folder)))
    open_run.cache_clear()  # the log has grown
    train_rewards.stage(
        train_rewards.RewardArguments(
            str(folder),
            reward,
            seed,
            args.reward_epochs,
            args.reward_members,
            cut=0.85,
            calibrated=0.95,
            baselines=False,
        )
    )
    run = open_run(folder)
    since = int(run.store.end.timestamp() * 1e6) - RECENT_DAYS * 24 * MICROSECONDS_PER_HOUR
    recent = run.decisions.take(run.decisions.time >= since)
    model = RewardModel.load(folder / "rewards" / reward)
    before = folder / "policy" / f"week-{week - 1:02d}" if week else None
    steps = max(1, args.slates // args.resolved().grpo_batch)
    watch = WatchSettings(max(1, steps // LOOKS), LOOKED_AT, least_entropy=least_entropy(folder, week))
    settings = GroupSettings(FOREVER, lesson=True, watch=watch, seed=seed)
    preset = replace(args.resolved(), grpo_slates=args.slates, grpo_lesson=args.lesson)

    def make(temporary: Path) -> None:
        worth = SlateReward(model, model.objective(), model.encode(run.histories, recent))
        title = f"{name}, week {week}"
        base = folder / "policy" / "sft"
        train_group(base, before, run.histories, recent, run.catalog, worth, preset, settings, temporary, title=title)

    return build(
        place,
        config={"preset": preset.training("grpo"), "settings": asdict(settings), "reward": reward},
        inputs=[folder / "logs", folder / "rewards" / reward, *([before] if before else [])],
        seed=seed,
        make=make,
    )


def least_entropy(folder: Path, week: int) -> float:
    """The share of last week's entropy that is half of SFT's, at most 1: a policy must not halve it every week."""
    if not week:
        return WatchSettings().least_entropy

    def told(at: int) -> tuple[float, float]:
        lines = [json.loads(line) for line in (folder / "policy" / f"week-{at:02d}" / METRICS).read_text().splitlines()]
        end = next(line for line in lines if "watch/best_step" in line)
        seen = {line["step"]: line["watch/entropy"] for line in lines if "watch/entropy" in line}
        return end["watch/first_entropy"], seen[end["watch/best_step"]]

    (first, _), (_, kept) = told(0), told(week - 1)
    return min(1.0, WatchSettings().least_entropy * first / kept)


def lived(args: FlywheelArguments, name: str, week: int, folder: Path, world: World) -> Week:
    """Fill a week's slates by last week's policy and add the week to the fate's log; `world` lives it too."""
    place, policy = folder / "weeks" / f"{week:02d}", folder / "policy" / f"week-{week - 1:02d}"

    def make(temporary: Path) -> None:
        run = open_run(folder)
        spoken = load_speaker(folder / "policy" / "sft", run.catalog, policy)
        agent = LanguageModelPolicy(f"{name}@{week - 1}", spoken)
        ahead = world.branch()
        shown = live(ahead, agent, WEEK, np.random.default_rng([args.seed, week]))
        log = ahead.log()
        (temporary / "log").mkdir()
        for table in TABLES:
            write_parquet(getattr(log, table), temporary / "log" / f"{table}.parquet")
        shown.save(temporary / "shown.npz")

    build(place, config={"days": WEEK, "policy": name}, inputs=[policy], seed=args.seed, make=make)
    ingest.stage(ingest.IngestArguments(str(folder), str(place / "log"), append=True))
    return again(world, partial(live_again, world, Shown.load(place / "shown.npz"), f"{name}@{week - 1}"))


def again(world: World, act: Callable[[], object]) -> Week:
    """The week that `act` lets `world` live."""
    first = world.day
    world.rounds.clear()
    act()
    return week_of(world, first)


def spin(args: FlywheelArguments, console: Console) -> dict[str, Any]:
    """Every fate from beginning to end; the JSON object of the page."""

    def rule(what: str) -> None:
        console.rule(f"[bold]{what}", align="left")

    start = begun(args, rule)
    # As `simulate` drew it: the world and the log that both begin with tell of the same days.
    evening, luck = (
        World(PRESETS[args.world].with_listeners(args.listeners), args.seed),
        np.random.default_rng(args.seed),
    )
    today = evening.built_in("logging")
    evening.play(today, args.days - WEEK, luck)
    last = again(evening, partial(evening.play, today, WEEK, luck))
    fates: dict[str, list[Week]] = {}
    for name in ("logging", "oracle"):
        world = evening.branch()
        policy, rng = world.built_in(name), np.random.default_rng([args.seed, 0])
        fates[name] = [last]
        for _ in track(range(args.weeks), description=f"{name} lives on"):
            fates[name].append(again(world, partial(world.play, policy, WEEK, rng)))
    for name in FATES:
        folder, world = opened_fate(args, name, start), evening.branch()
        fates[name] = [last]
        for week in range(args.weeks + 1):
            if week:
                rule(f"{name}, week {week}: act, log")
                fates[name].append(lived(args, name, week, folder, world))
            if week < args.weeks:
                rule(f"{name}, week {week}: learn")
                tuned(args, name, week, folder)
    pairs = (("grpo", "grpo_click"), ("grpo", "logging"), ("grpo_click", "logging"))
    order = {name: fates[name] for name in ("logging", "grpo_click", "grpo", "oracle")}
    about = {"world": args.world, "seed": args.seed, "listeners": args.listeners, "weeks": args.weeks}
    return about | fates_json(order, pairs)


def print_fates(told: dict[str, Any], console: Console) -> None:
    """Active days of 7, week by week, and how the two differ."""
    weeks = range(told["weeks"] + 1)
    table = Table("active days of 7", *(f"week {week}" for week in weeks))
    for name, by in told["fates"].items():
        table.add_row(name, *(f"{week['mean']:.2f}" for week in by["active_days"]))
    for pair, by in told["paired"].items():
        table.add_row(pair, *(f"{w['diff']:+.2f} [{w['lo']:+.2f}, {w['hi']:+.2f}]" for w in by["active_days"]))
    console.print(table)


def main() -> None:
    (args,) = ScriptParser((FlywheelArguments,)).parse_args_and_config()
    console = Console(stderr=args.json)
    # Progress is for people: with --json nothing but the result is on standard output.
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout), run_lock(Path(args.run)):
        check(args)
        told = spin(args, console)

        def make(folder: Path) -> None:
            (folder / "fates.json").write_text(json.dumps(told, indent=1) + "\n")
            (folder / "index.html").write_text(page(told), encoding="utf-8")

        reports = Path(args.run) / "reports"
        weeks = [Path(args.run) / name / "weeks" / f"{week:02d}" for name in FATES for week in range(1, args.weeks + 1)]
        build(reports, config={"weeks": args.weeks}, inputs=weeks, seed=args.seed, make=make)
        print_fates(told, console)
        console.print(f"the page: {reports / 'index.html'}")
    if args.json:
        sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    exit_on_input_error(main)
