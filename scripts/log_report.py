"""A report from a log and what policies say of its slates, without a run: what `evaluate.py --log` does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from data.artifacts import build, fingerprint, manifest
from data.errors import InputError
from data.ingest import write_store
from data.outcomes import read_outcomes, write_outcomes
from data.readers import READERS
from data.store import LogStore
from eval.habit import habit_section
from eval.report import make_report
from eval.report.inputs import Missing, ReportInputs
from eval.slate_probabilities import off_policy_of_log, outcome_to_value, read_slate_probabilities


@dataclass(frozen=True)
class LogReportArguments:
    """The flags of `evaluate.py` that go with --log."""

    log: str
    reader: str
    slate_probabilities: str | None
    outcome: str | None
    since: str | None
    out: str | None
    seed: int


def log_report(args: LogReportArguments) -> Path:
    """Write the report, unless an unchanged one is there, and say where. Raises InputError for what is wrong."""
    if args.slate_probabilities is None:
        raise InputError("--log needs --slate_probabilities: a file with decision_id and a column per policy")
    if args.out is None:
        raise InputError("--log needs --out: the folder that the report goes to")
    if args.reader not in READERS:
        raise InputError(f"unknown reader {args.reader!r}: choose one of {', '.join(READERS)}")
    log, file = Path(args.log), Path(args.slate_probabilities)
    if not log.exists():
        raise InputError(f"no log at {args.log!r}: give a log store (runs/demo/logs) or a log that --reader reads")
    since = None if args.since is None else day(args.since)
    config = {name: value for name, value in asdict(args).items() if name in ("reader", "outcome", "since")}
    out = Path(args.out)
    build(
        out,
        config=config,
        inputs=[log, file],
        seed=args.seed,
        make=lambda folder: write_log_report(args, log, file, since, folder, out.name),
    )
    return out


def day(text: str) -> datetime:
    """Midnight UTC of a day; raises InputError where it is none."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        raise InputError(f"--since {text!r} is no day: write it as 2026-03-01") from None


def write_log_report(
    args: LogReportArguments, log: Path, file: Path, since: datetime | None, folder: Path, name: str
) -> None:
    """The report of a log: off-policy values, habit, what the log lacks."""
    given = read_slate_probabilities(file)
    with opened_log(log, args.reader) as (store, outcomes_folder):
        outcomes = read_outcomes(outcomes_folder)
        label = outcome_to_value(outcomes, args.outcome)
        off_policy, lacks = off_policy_of_log(store, outcomes, given, label, since)
        inputs = ReportInputs(
            run=name,
            source=f"log {log.name} and the slate probabilities of {file.name}",
            preset="",
            off_policy=off_policy,
            habit=habit_section(store, args.seed),
            missing=[*lacks, *missing(store, outcomes_folder)],
            manifest={
                "log": {"sha256": fingerprint(log), "start": f"{store.start:%Y-%m-%d}", "end": f"{store.end:%Y-%m-%d}"},
                "slate_probabilities": {"sha256": fingerprint(file), "policies": list(given.policies)},
                "since": args.since,
                "seed": args.seed,
            },
        )
    make_report(inputs, folder)


@contextmanager
def opened_log(log: Path, reader: str) -> Iterator[tuple[LogStore, Path]]:
    """(store, outcomes folder): those of a run where the outcomes were made from this very log, else made for now."""
    with TemporaryDirectory() as room:
        place = log
        if not (log / "store.json").is_file():
            place = Path(room) / "logs"
            write_store(READERS[reader](log), place, source=str(log))
        store, beside = LogStore(place), log.parent / "outcomes"
        made = (beside / "manifest.json").is_file() and [log.name, fingerprint(log)] in manifest(beside)["inputs"]
        if not made:
            beside = Path(room) / "outcomes"
            write_outcomes(store, beside)
        yield store, beside


def missing(store: LogStore, outcomes: Path) -> list[Missing]:
    """What the log does not have, as its reader and its labels say."""
    gaps = []
    if store.organic:
        gaps.append(
            Missing(
                "impressions",
                "The log says what was played, not what was shown: the items of a session stand for its slate, so an "
                "advantage here compares sessions, not decisions of a product.",
            )
        )
        gaps.append(
            Missing(
                "propensities",
                "Nobody wrote down how likely a slate was to be shown, so off-policy values are refused, not guessed.",
            )
        )
    gaps += [Missing(what, why) for what, why in store.notes.items() if what not in ("impressions", "propensities")]
    left_out = json.loads((outcomes / "outcomes.json").read_text())["left_out"]
    return gaps + [Missing(label, f"Left out: {why}.") for label, why in left_out.items()]
