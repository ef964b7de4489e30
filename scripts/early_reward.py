"""How much earlier than waiting: the posterior of a window given its first days, beside the proxies in use.

    python scripts/early_reward.py                      # simulated shows with a known stickiness, and the bandit
    python scripts/early_reward.py --run runs/demo --window 28

Without --run it repeats the simulation of Impatient Bandits (KDD 2023): the error of a show's stickiness after M
listeners were seen for k days, and the regret of a bandit that learns from it. Intervals are over fresh worlds (seeds).
With --run it asks the same of the listeners of a run's log. --json prints one object instead of tables.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from scipy.stats import t as student_t

from data.errors import InputError, exit_on_input_error
from rewards.early import EarlyError, closed_windows, daily_traces, early_errors
from rewards.progressive import Floats
from rewards.stickiness import (
    DAYS,
    SIGNALS,
    bandit_regret,
    day_two,
    progressive,
    simulate_shows,
    stickiness_table,
    waiting,
)
from rewards.surrogate import fit_surrogate, pooled
from scripts.command_line import ScriptParser
from scripts.opened import open_run

LOOKS = (0, 2, 5, 10, 20, 30, 60)
METHODS = ("waiting", "day_two", "progressive", "neural")


@dataclass
class EarlyArguments:
    """A run, or how large the simulation is."""

    run: str | None = field(default=None, metadata={"help": "a run folder; without one, simulated shows"})
    window: int = field(default=28, metadata={"help": "days of the window, with --run"})
    seed: int = field(default=0, metadata={"help": "the first seed"})
    seeds: int = field(default=5, metadata={"help": "simulated worlds"})
    shows: int = field(default=200, metadata={"help": "shows that teach, and as many that are judged"})
    listeners: int = field(default=10_000, metadata={"help": "listeners of each show"})
    bandit_shows: int = field(default=50, metadata={"help": "shows the bandit chooses among, as many times a day"})
    bandit_days: int = field(default=180, metadata={"help": "days the bandit plays"})
    json: bool = field(default=False, metadata={"help": "print one JSON object"})


def of_run(args: EarlyArguments) -> dict[str, list[dict[str, Any]]]:
    """Errors by method and days known, for the listeners of a run's log."""
    assert args.run is not None
    opened = open_run(Path(args.run))
    rng = np.random.default_rng(args.seed)
    end = int(opened.store.end.timestamp() * 1e6)
    rows = closed_windows(opened.decisions, end, args.window, rng)
    traces = daily_traces(opened.histories, opened.decisions, rows, args.window)
    return {name: [asdict(error) for error in errors] for name, errors in early_errors(traces, args.seed).items()}


def of_shows(args: EarlyArguments) -> dict[str, Any]:
    """Per seed, {"errors": {method: {M: {k: [..]}}}, "regret": {signal: [..]}}."""
    if args.seeds < 2 or args.shows < DAYS or args.listeners < 1000 or args.bandit_shows > args.shows:
        raise InputError(f"early reward: give 2 seeds, {DAYS} shows, 1000 listeners each, a bandit of at most --shows")
    errors: dict[str, dict[int, dict[int, list[float]]]] = {
        name: {M: {k: [] for k in LOOKS} for M in (100, 1000)} for name in METHODS
    }
    regret: dict[str, list[float]] = {signal: [] for signal in SIGNALS}
    with Progress(transient=True) as progress:
        task = progress.add_task("worlds", total=args.seeds * 2)
        for seed in range(args.seed, args.seed + args.seeds):
            rng = np.random.default_rng(seed)
            shows = simulate_shows(2 * args.shows, args.listeners, rng)
            train, held_out = shows.take(slice(args.shows)), shows.take(slice(args.shows, None))
            prior = train.prior()
            network = fit_surrogate(train.traces.reshape(-1, DAYS), seed)
            estimators = (waiting(prior), day_two(train), progressive(prior), pooled(network, train))
            found = stickiness_table(held_out, dict(zip(METHODS, estimators)), (100, 1000), LOOKS, seed)
            for name, by_listeners in found.items():
                for M, by_days in by_listeners.items():
                    for k, error in by_days.items():
                        errors[name][M][k].append(error.mean)
            progress.advance(task)
            chosen = held_out.take(slice(args.bandit_shows))
            for signal in SIGNALS:
                draws = np.random.default_rng([seed, 1])
                losses = bandit_regret(chosen, prior, signal, args.bandit_days, args.bandit_shows, draws)
                regret[signal].append(float(losses.mean()))
            progress.advance(task)
    return {"errors": errors, "regret": regret}


def _over_seeds(values: Sequence[float]) -> str:
    found: Floats = np.array(values)
    half = student_t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    return f"{found.mean():.3f} ±{half:.3f}"


def show_run(found: dict[str, list[dict[str, Any]]], console: Console) -> None:
    title = "Active days of the window, guessed from its first days: RMSE, mean absolute error, within 2 sd"
    table = Table("days known", *found, title=title, title_justify="left")
    for at in zip(*found.values()):
        errors = [EarlyError(**error) for error in at]
        table.add_row(str(errors[0].days), *(f"{e.rmse:.2f}  {e.mae:.2f}  {e.within:.0%}" for e in errors))
    console.print(table)


def show_shows(found: dict[str, Any], args: EarlyArguments, console: Console) -> None:
    about = f"mean over {args.seeds} worlds ± 95% (t)"
    for M in (100, 1000):
        title = f"Error of a show's stickiness, {M} listeners seen: {about}"
        table = Table("days seen", *METHODS, title=title, title_justify="left")
        for k in LOOKS:
            table.add_row(str(k), *(_over_seeds(found["errors"][name][M][k]) for name in METHODS))
        console.print(table)
    table = Table(
        "belief from", "average regret", title=f"Bandit, {args.bandit_days} days: {about}", title_justify="left"
    )
    for signal in SIGNALS:
        table.add_row(signal, _over_seeds(found["regret"][signal]))
    console.print(table)


def main() -> None:
    (args,) = ScriptParser((EarlyArguments,)).parse_args_and_config()
    console = Console()
    if args.run is not None:
        of_log = of_run(args)
        print(json.dumps(of_log)) if args.json else show_run(of_log, console)
    else:
        found = of_shows(args)
        print(json.dumps(found)) if args.json else show_shows(found, args, console)


if __name__ == "__main__":
    exit_on_input_error(main)
