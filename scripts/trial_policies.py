"""What policies of contact are worth on a log in which chance decided who got what.

    python scripts/trial_policies.py --logs ../shared/data/hillstrom_email_rct --reader hillstrom --control no_email

For visits (open), conversions (convert) and spend (value of conversions): the mean and the average effect of each arm,
and the value of contacting nobody, everybody by arm, and the people whom a learned policy picks within a budget, beside
as many at random. Values are doubly robust, intervals 95%.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from data.errors import InputError, exit_on_input_error
from data.logs import Logs
from data.readers import READERS
from eval.intervals import Floats, Interval
from eval.trial import ArmTrial, arm_means, average_effects, crossfit, policies, policy_value, targeting
from scripts.command_line import ScriptParser
from scripts.uplift import arm_chance, columns

OUTCOMES = ("open", "convert", "value")


@dataclass
class TrialArguments:
    """Which log, which arm is the control, how many may be contacted."""

    logs: str = field(metadata={"help": "folder or file of the log"})
    reader: str = field(default="hillstrom", metadata={"help": f"one of {', '.join(READERS)}"})
    control: str = field(default="no_email", metadata={"help": "the arm that contacts nobody"})
    budgets: list[float] = field(default_factory=lambda: [0.3, 0.5], metadata={"help": "shares of people to contact"})
    seed: int = field(default=0, metadata={"help": "seed of the folds"})
    json: bool = field(default=False, metadata={"help": "print one JSON object"})


def trial_of(logs: Logs, args: TrialArguments) -> tuple[ArmTrial, dict[str, Floats]]:
    """The trial, and its OUTCOMES by name, one per person. Raises InputError where the log is no trial of one decision
    a person with one chance an arm."""
    if logs.decisions is None or "arm" not in logs.decisions.columns or logs.users is None:
        raise InputError(f"{args.logs}: a trial needs decisions with arms, and users with attributes")
    frame = logs.decisions.join(logs.users, on="user_id", how="left", maintain_order="left")
    if frame["user_id"].n_unique() != frame.height:
        raise InputError(f"{args.logs}: some people have several decisions: value them with eval.trajectories")
    if frame["propensity"].null_count() or frame["arm"].null_count():
        raise InputError(f"{args.logs}: some decisions have no arm or no propensity: they say nothing of a policy")
    arms = tuple(frame["arm"].unique().sort().to_list())
    chance = np.array([arm_chance(frame, arm, args.logs) for arm in arms])
    facts = pl.json_normalize([json.loads(text) for text in frame["attributes"].to_list()])
    spent = logs.events.filter(pl.col("action") == "convert").group_by("user_id").agg(pl.col("value").sum())
    did = {name: logs.events.filter(pl.col("action") == name)["user_id"].unique() for name in ("open", "convert")}
    outcomes = {name: frame["user_id"].is_in(who.implode()).cast(pl.Float64).to_numpy() for name, who in did.items()}
    value = frame.join(spent, on="user_id", how="left", maintain_order="left")["value"]
    outcomes["value"] = value.fill_null(0.0).cast(pl.Float64).to_numpy()
    place = frame["arm"].replace_strict({arm: i for i, arm in enumerate(arms)}, return_dtype=pl.Int64).to_numpy()
    return ArmTrial(columns(facts).to_numpy(), place, arms, chance, args.control), outcomes


def judged(trial: ArmTrial, outcome: Floats, args: TrialArguments) -> dict[str, Any]:
    """Means, effects and policy values of one outcome (JSON)."""
    models = crossfit(trial, outcome, args.seed)
    chance = policies(trial, models, tuple(args.budgets))
    found: dict[str, Any] = {
        "means": {arm: asdict(i) for arm, i in arm_means(trial, outcome).items()},
        "effects": {arm: asdict(i) for arm, i in average_effects(trial, models).items()},
        "policies": {},
    }
    for name, of in chance.items():
        value = policy_value(trial, models, of)
        found["policies"][name] = {
            "contacted": float(1.0 - of[:, trial.zero].mean()),
            "estimates": {estimator: asdict(e) for estimator, e in value.estimates.items()},
            "effective_people": value.support.ess_users,
        }
        if name.startswith("learned"):
            over = targeting(models, chance, name, name.replace("learned", "random"))
            found["policies"][name]["over_random"] = asdict(over)
    return found


def show(name: str, found: dict[str, Any], console: Console) -> None:
    """One table of an outcome."""
    scale, unit = (1.0, "per person") if name == "value" else (100.0, "of 100 people")
    title = f"{name}, {unit}. " + "; ".join(
        f"{arm} {written(Interval(**i), scale)}" for arm, i in found["effects"].items()
    )
    table = Table("policy", "contacted", "value (DR)", "value (SNIPS)", "over as many at random", title=title)
    for policy, of in found["policies"].items():
        cells = []
        for estimator in ("dr", "snips"):
            e = of["estimates"][estimator]
            cells.append(
                e["refused"]
                if e["value"] is None
                else f"{scale * e['value']:.2f} [{scale * e['lo']:.2f}, {scale * e['hi']:.2f}]"
            )
        over = of.get("over_random")
        table.add_row(policy, f"{of['contacted']:.0%}", *cells, written(Interval(**over), scale) if over else "")
    console.print(table)


def written(found: Interval, scale: float) -> str:
    """A difference with its interval."""
    return f"{scale * found.value:+.2f} [{scale * found.lo:+.2f}, {scale * found.hi:+.2f}]"


def main() -> None:
    (args,) = ScriptParser((TrialArguments,)).parse_args_and_config()
    if args.reader not in READERS:
        raise InputError(f"--reader {args.reader}: no such reader: choose one of {', '.join(READERS)}")
    trial, outcomes = trial_of(READERS[args.reader](Path(args.logs)), args)
    found = {name: judged(trial, outcomes[name], args) for name in OUTCOMES}
    if args.json:
        print(json.dumps(found))
    else:
        for name, of in found.items():
            show(name, of, Console(width=max(Console().width, 140)))


if __name__ == "__main__":
    exit_on_input_error(main)
