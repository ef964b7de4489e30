"""Experiments: plan one, read one, and see what reading it early or often is worth.

    python scripts/experiment.py plan --config scripts/configs/experiment_plan.yaml
    python scripts/experiment.py analyse --table players.parquet --user userid --arm version --control gate_30 \\
        --metrics "retention_7 effect=2%" "retention_1 role=guardrail margin=2%"
    python scripts/experiment.py peeking --simulations 10000
    python scripts/experiment.py interim --world clickbait --treatment random --seeds 3

`VERB --help` lists a verb's flags; docs/experiments.md explains what comes out. With --json true standard output is one
JSON object, all else goes to standard error.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.progress import Progress

from data.errors import InputError, exit_on_input_error
from data.world import PRESETS
from eval.experiments.analyse import AnalysisSettings, analyse
from eval.experiments.decompose import decompose
from eval.experiments.effect import Reading
from eval.experiments.interim_world import StudySettings, study
from eval.experiments.metric import Metric, parse_metrics
from eval.experiments.peeking import OUTCOMES, false_alarms
from eval.experiments.plan import PlanSettings, plan
from eval.experiments.sample import Sample, sample_of
from eval.experiments.segments import SegmentSettings, effects_by, honest_segments
from eval.experiments.source import BEFORE, rows_of_run, rows_of_table, window_of
from eval.experiments.tables import (
    print_analysis,
    print_decomposition,
    print_false_alarms,
    print_plan,
    print_segments,
    print_study,
)
from eval.experiments.traffic import Traffic
from policy.assignment import checked_shares
from scripts.command_line import ScriptParser

METRIC_HELP = (
    "one a word group: NAME role=success|guardrail|quality kind=mean|ratio|survival value=COLUMN per=COLUMN "
    "observed=COLUMN window=DAYS estimand=rmst|survival|hazard_ratio better=up|down covariate=COLUMN effect=2%% "
    "margin=1%%"
)


@dataclass
class SourceArguments:
    """Whose rows, which metrics."""

    metrics: list[str] = field(default_factory=list, metadata={"help": METRIC_HELP})
    table: str | None = field(default=None, metadata={"help": "a .parquet or .csv table, one row a user or several"})
    run: str | None = field(default=None, metadata={"help": "instead: a run folder with logs/ and outcomes/"})
    start: str | None = field(default=None, metadata={"help": "with --run: when the experiment began, ISO 8601"})
    experiment: str | None = field(default=None, metadata={"help": "with --run: the one whose arms are NAME:arm"})
    user: str = field(default="user_id", metadata={"help": "column of the user: rows of one user are no two users"})
    arm: str = field(default="arm", metadata={"help": "column of the arm"})
    shares: list[str] = field(
        default_factory=list, metadata={"help": "share of users each arm is to get, control first; equal by default"}
    )
    alpha: float = field(default=0.05, metadata={"help": "false positive rate of the decision, two-sided"})
    quality_alpha: float = field(default=0.001, metadata={"help": "level of the checks of the experiment itself"})
    json: bool = field(default=False, metadata={"help": "one JSON object on standard output"})

    def rows(self, metrics: list[Metric]) -> pl.DataFrame | None:
        """The rows of --table or --run, None where neither is given."""
        if self.table is not None and self.run is not None:
            raise InputError("--table and --run are both given: choose one")
        if self.table is not None:
            return rows_of_table(Path(self.table))
        if self.run is None:
            return None
        covariates = [m.covariate for m in metrics if m.covariate is not None and m.covariate.startswith(BEFORE)]
        return rows_of_run(Path(self.run), moment(self.start), list(dict.fromkeys(covariates)), self.experiment)


@dataclass
class PlanArguments(SourceArguments):
    """How long to run."""

    daily_users: float | None = field(default=None, metadata={"help": "new users a day; default: as the log's come"})
    traffic_share: float = field(default=1.0, metadata={"help": "share of users who are let into the experiment"})
    power: float = field(default=0.8, metadata={"help": "chance to ship what has the effects planned for"})
    sequential: bool = field(default=False, metadata={"help": "plan for always-valid intervals"})


@dataclass
class AnalyseArguments(SourceArguments):
    """What it did."""

    control: str | None = field(default=None, metadata={"help": "arm that the others are compared with"})
    planned_users: int | None = field(
        default=None, metadata={"help": "users of all arms at the planned end: gives always-valid intervals"}
    )
    correction: str = field(default="holm", metadata={"help": "of success metrics: holm, or bh (Benjamini-Hochberg)"})
    segments: list[str] = field(default_factory=list, metadata={"help": "columns to show effects by"})
    search: list[str] = field(default_factory=list, metadata={"help": "columns to look for segments in, honestly"})
    funnel: list[str] = field(default_factory=list, metadata={"help": "columns of flags, in order: take change apart"})
    funnel_by: str | None = field(default=None, metadata={"help": "column of the segments to take it apart by"})


@dataclass
class PeekingArguments:
    """What looking costs."""

    outcomes: list[str] = field(
        default_factory=lambda: [*OUTCOMES, "survival"], metadata={"help": f"of {', '.join(OUTCOMES)}, survival"}
    )
    simulations: int = field(default=2_000, metadata={"help": "A/A experiments (survival: a twentieth of them)"})
    users: int = field(default=4_000, metadata={"help": "users of each, in both arms"})
    alpha: float = field(default=0.05, metadata={"help": "level"})
    peeking_seed: int = field(default=0, metadata={"help": "seed of the simulation"})
    json: bool = field(default=False, metadata={"help": "one JSON object on standard output"})


@dataclass
class InterimArguments:
    """How wrong early readings are."""

    world: str = field(default="clickbait", metadata={"help": f"world preset: {', '.join(PRESETS)}"})
    treatment: str = field(default="random", metadata={"help": "random, popularity, greedy_click or oracle"})
    listeners: int = field(default=1_000, metadata={"help": "people of each world"})
    assignments: int = field(default=5, metadata={"help": "draws of the arms, each an experiment, a seed"})
    seeds: int = field(default=8, metadata={"help": "fresh worlds"})
    read_on: list[int] = field(
        default_factory=lambda: [1, 2, 3, 5, 7, 10, 14, 21], metadata={"help": "days on which to read"}
    )
    json: bool = field(default=False, metadata={"help": "one JSON object on standard output"})


def run_plan(args: PlanArguments, out: Console) -> dict[str, Any]:
    """Print and return the plan."""
    metrics = [known_after(metric) for metric in parse_metrics(args.metrics)]
    rows = args.rows(metrics)
    if args.daily_users is not None:
        traffic = Traffic.flat(args.daily_users * args.traffic_share)
    elif rows is not None and "time" in rows.columns and args.user in rows.columns:
        traffic = Traffic.of_log(rows[args.user], rows["time"], args.traffic_share)
    else:
        raise InputError("how many users come? add --daily_users 5000, or give a --run whose log says when they came")
    log = None
    if rows is not None:
        if args.user not in rows.columns:
            raise InputError(f"no column {args.user!r} for --user; the table has {', '.join(rows.columns)}")
        if args.run is not None:  # the first decision of each, as `analyse` will read them
            rows = rows.unique(args.user, keep="first", maintain_order=True)
        log = Sample(rows.with_columns(pl.lit("all").alias(args.arm)), args.user, args.arm, ("all",))
    shares = shares_of(args.shares) or {"control": 0.5, "treatment": 0.5}
    settings = PlanSettings(shares, traffic, args.alpha, args.power, args.quality_alpha, args.sequential)
    made = plan(metrics, settings, log)
    print_plan(made, out)
    return made.as_json()


def run_analyse(args: AnalyseArguments, out: Console) -> dict[str, Any]:
    """Print and return checks, effects and verdicts, then segments and decompositions where asked for."""
    metrics = parse_metrics(args.metrics)
    rows = args.rows(metrics)
    if rows is None:
        raise InputError("whose rows? add --table FILE (one row a user or several) or --run FOLDER")
    shares = shares_of(args.shares)
    if args.run is not None and args.arm in rows.columns:
        rows = rows.filter(pl.col(args.arm).is_not_null())  # decisions outside the experiment
    sample = sample_of(rows, args.user, args.arm, args.control, list(shares) or None)
    shares = shares or {arm: 1 / len(sample.arms) for arm in sample.arms}
    reading = Reading(args.alpha, args.planned_users)
    if args.correction not in ("holm", "bh"):
        raise InputError(f"--correction {args.correction}: choose holm or bh")
    settings = AnalysisSettings(reading, "holm" if args.correction == "holm" else "bh", args.quality_alpha)
    found = analyse(sample, metrics, shares, settings)
    print_analysis(found, out)
    told = found.as_json()
    for arm in sample.arms[1:]:
        told["arms"][arm] |= closer_look(args, sample, metrics, arm, reading, out)
    return told


def closer_look(
    args: AnalyseArguments, sample: Sample, metrics: list[Metric], arm: str, reading: Reading, out: Console
) -> dict[str, Any]:
    """Segments of the first success metric, and the decomposition, of one arm."""
    told: dict[str, Any] = {}
    first = next((metric for metric in metrics if metric.role == "success"), metrics[0])
    limits = SegmentSettings()
    for column in args.segments:
        by = effects_by(sample, first, arm, column, reading, limits)
        print_segments(f"of {arm} by {column}", first, by, out)
        told.setdefault("segments", {})[column] = asdict(by)
    if args.search:
        honest = honest_segments(sample, first, arm, args.search, reading, limits)
        print_segments(f"of {arm}, segments found in one half, read in the other", first, honest, out)
        told["honest_segments"] = asdict(honest)
    if args.funnel:
        parts = decompose(sample, arm, args.funnel, args.funnel_by)
        print_decomposition(parts, out)
        told["decomposition"] = asdict(parts)
    return told


def run_peeking(args: PeekingArguments, out: Console) -> dict[str, Any]:
    """Print and return false alarms by outcome."""
    found = []
    with Progress(console=Console(stderr=True)) as progress:
        for outcome in args.outcomes:
            times = math.ceil(args.simulations / 20) if outcome == "survival" else args.simulations
            found.append(false_alarms(outcome, times, args.users, args.alpha, args.peeking_seed, progress))
    if found:
        print_false_alarms(found, out)
    return {one.outcome: one.as_json() for one in found}


def run_interim(args: InterimArguments, out: Console) -> dict[str, Any]:
    """Print and return the errors of early readings."""
    settings = StudySettings(args.world, args.treatment, args.listeners, args.assignments, tuple(args.read_on))
    if args.seeds < 1:
        raise InputError(f"--seeds {args.seeds}: give at least one")
    with Progress(console=Console(stderr=True)) as progress:
        found = study(settings, range(args.seeds), progress)
    print_study(found, out)
    return found.as_json()


def shares_of(words: list[str]) -> dict[str, float]:
    """arm=share words as shares; raises InputError for others, and as `checked_shares`."""
    shares: dict[str, float] = {}
    for word in words:
        arm, _, text = word.rpartition("=")
        try:
            shares[arm] = float(text)
        except ValueError:
            raise InputError(f"--shares {word}: write arm=share, as in control=0.5 treatment=0.5") from None
        if not arm:
            raise InputError(f"--shares {word}: write arm=share, as in control=0.5 treatment=0.5")
    return checked_shares(shares) if shares else {}


def known_after(metric: Metric) -> Metric:
    """The metric with the days that an outcome label takes to be known, where it does not say."""
    return metric if metric.window is not None else replace(metric, window=window_of(metric.value))


def moment(text: str | None) -> datetime | None:
    """A time in UTC; raises InputError for what is none."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"--start {text}: not a time; write it as 2026-02-02 or 2026-02-02T00:00:00+00:00") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


VERBS: Mapping[str, tuple[type[Any], Callable[..., dict[str, Any]]]] = {
    "plan": (PlanArguments, run_plan),
    "analyse": (AnalyseArguments, run_analyse),
    "peeking": (PeekingArguments, run_peeking),
    "interim": (InterimArguments, run_interim),
}


def main() -> None:
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb in ("-h", "--help"):
        print(__doc__)
        return
    if verb not in VERBS:
        raise InputError(f"there is no verb {verb!r}: choose {', '.join(VERBS)}")
    arguments, work = VERBS[verb]
    parser = ScriptParser((arguments,), prog=f"experiment.py {verb}")
    (args,) = parser.parse_args_and_config(args=sys.argv[2:])
    told = work(args, Console(stderr=args.json, width=None if sys.stdout.isatty() else 160))
    if args.json:
        print(json.dumps(told))


if __name__ == "__main__":
    exit_on_input_error(main)
