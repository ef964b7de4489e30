"""Who is moved by it: uplift curves on a log in which chance decided who got what.

    python scripts/uplift.py --logs ../shared/data/hillstrom_email_rct --reader hillstrom \\
        --treated womens_email --control no_email --outcome open

Two arms of the log are compared, decision by decision (in a mailing there is one a person): who did `--outcome` (an
action) after it. Four rankings are printed beside each other, each fitted without the people it ranks: the plain
outcome model that is in use, a T-learner, an R-learner and a DR-learner. Qini is what a ranking gains over choosing at
random, per 1,000 decisions of the log. Intervals draw people, with all their decisions.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from data.errors import InputError, exit_on_input_error
from data.logs import Logs
from data.readers import READERS
from rewards.uplift import Trial, UpliftReport, estimate
from scripts.command_line import ScriptParser


@dataclass
class UpliftArguments:
    """Which log, which arms, which outcome."""

    logs: str = field(metadata={"help": "folder or file of the log"})
    reader: str = field(default="hillstrom", metadata={"help": f"one of {', '.join(READERS)}"})
    treated: str = field(default="womens_email", metadata={"help": "the arm whose effect is sought"})
    control: str = field(default="no_email", metadata={"help": "the arm it is compared with"})
    outcome: str = field(default="open", metadata={"help": "the action that counts, once or more often"})
    propensities: str = field(default="logged", metadata={"help": "logged, or estimated as if they were not known"})
    seed: int = field(default=0, metadata={"help": "seed of folds and bootstrap"})
    json: bool = field(default=False, metadata={"help": "print one JSON object"})


def trial_of(logs: Logs, args: UpliftArguments) -> Trial:
    """One row per decision of the two arms, and whose it is.

    Raises InputError where the log has no such arm, no attributes, or propensities that say nothing of both arms.
    """
    if logs.decisions is None or "arm" not in logs.decisions.columns or logs.users is None:
        raise InputError(f"{args.logs}: uplift needs decisions with arms, and users with attributes")
    arms = logs.decisions["arm"].drop_nulls().unique().sort().to_list()
    for arm in (args.treated, args.control):
        if arm not in arms:
            raise InputError(f"{args.logs}: no arm {arm!r}: the log has {', '.join(map(str, arms))}")
    if args.propensities not in ("logged", "estimated"):
        raise InputError(f"--propensities {args.propensities}: choose logged or estimated")
    did = logs.events.filter(pl.col("action") == args.outcome).select("user_id", did_at="time")
    if did.is_empty():
        raise InputError(f"{args.logs}: nobody did {args.outcome!r}: choose an action of the log")
    made = logs.decisions.filter(pl.col("arm").is_in([args.treated, args.control]))
    later = made.select("decision_id", "user_id", "time").join(did, on="user_id")
    after = later.filter(pl.col("did_at") >= pl.col("time"))
    frame = made.join(logs.users, on="user_id", how="left", maintain_order="left").with_columns(
        outcome=pl.col("decision_id").is_in(after["decision_id"].to_list()).cast(pl.Float64)
    )
    facts = pl.json_normalize([json.loads(text) for text in frame["attributes"].to_list()])
    treated = (frame["arm"] == args.treated).to_numpy()
    known = None
    if args.propensities == "logged" and frame["propensity"].null_count() == 0:
        # Of the two arms compared: the chance of the one drawn over that of either.
        up, down = (arm_chance(frame, arm, args.logs) for arm in (args.treated, args.control))
        known = np.full(len(frame), up / (up + down))
    who = frame["user_id"].to_numpy()
    return Trial(columns(facts).to_numpy(), treated, frame["outcome"].to_numpy(), known, who)


def arm_chance(frame: pl.DataFrame, arm: str, source: str) -> float:
    """The logged probability of being put in `arm`. Raises InputError where it is not one number for everybody.

    A log has each person's chance of the arm they got, not of the other one: where chances differ, the ratio that
    compares the two arms is not in the log.
    """
    logged = frame["propensity"].filter(frame["arm"] == arm).to_numpy()
    low, high = float(logged.min()), float(logged.max())
    if high - low > 1e-6 * high:
        raise InputError(
            f"{source}: the propensity of arm {arm!r} is from {low:.4g} to {high:.4g}, and what the other arm's would "
            "have been is not logged: add --propensities estimated"
        )
    return high


def columns(facts: pl.DataFrame) -> pl.DataFrame:
    """Numbers as they are, words as one column each (the 20 most frequent)."""
    numbers = facts.select(pl.selectors.numeric() | pl.selectors.boolean()).cast(pl.Float64).fill_null(-1.0)
    words = facts.select(pl.selectors.string())
    found = []
    for name in words.columns:
        values = words[name].drop_nulls().value_counts(sort=True).head(20)[name].to_list()
        found += [(words[name] == value).fill_null(False).cast(pl.Float64).alias(f"{name}={value}") for value in values]
    return numbers.with_columns(found)


def show(report: UpliftReport, args: UpliftArguments, console: Console) -> None:
    value, low, high = (1000 * x for x in report.effect)
    more = f"{value:+.1f} of 1,000 more do {args.outcome!r}, 95% {low:+.1f} to {high:+.1f}"
    console.print(f"{args.treated} against {args.control}: {more}")
    o = report.overlap
    console.print(f"Propensities {'logged' if o.known else 'estimated'}: {o.least:.3f} to {o.most:.3f}")
    console.print(f"{o.extreme:.1%} of decisions beyond .05 or .95; treatment can be told with AUC {o.auc:.3f}")
    console.print(f"Effective decisions {o.ess[0]:,.0f} treated, {o.ess[1]:,.0f} not")
    console.print(f"Largest imbalance {o.imbalance[0]:.3f} sd, {o.imbalance[1]:.3f} after weighting")
    about = "per 1,000 decisions [95%]"
    table = Table("ranked by", f"Qini {about}", f"AUUC {about}", "Qini over the outcome model", "gain at 30% treated")
    for name, found in report.learners.items():
        cells = [_interval(found.qini), _interval(found.auuc)]
        cells += [_interval(found.over_outcome) if found.over_outcome else "-", f"{1000 * found.curve[30]:.1f}"]
        table.add_row(name, *cells)
    console.print(table)


def _interval(found: tuple[float, float, float]) -> str:
    value, low, high = (1000 * x for x in found)
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def main() -> None:
    (args,) = ScriptParser((UpliftArguments,)).parse_args_and_config()
    if args.reader not in READERS:
        raise InputError(f"--reader {args.reader}: no such reader: choose one of {', '.join(READERS)}")
    report = estimate(trial_of(READERS[args.reader](Path(args.logs)), args), args.seed)
    if args.json:
        found = asdict(report)
        for learner in found["learners"].values():
            learner["curve"] = learner["curve"].tolist()
        print(json.dumps(found))
    else:
        show(report, args, Console())


if __name__ == "__main__":
    exit_on_input_error(main)
