"""Ask a trained reward what it would trade, what a promise costs, and what it can be fooled into.

    python scripts/probe_rewards.py --run runs/demo
    python scripts/probe_rewards.py --run runs/demo --first habit_28 --second plays --promise reachable_28

Candidates are slates that the log showed to somebody, offered to listeners of later days. One of the model's two
networks chooses among them, the other, which learned from other people's outcomes, says what they are worth. In a
simulated world, whose truth is known, it also searches for slates that the reward loves and the world hates, with the
plain mean and with the lower bound; and with --moments 6 it lives six evenings many times over, to say how well the
advantage agrees with what slates truly do, beside the click-only twin (minutes).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from data.artifacts import manifest
from data.errors import InputError, exit_on_input_error
from data.progress import track
from data.world import PRESETS, World
from eval.sections import Judged
from rewards.counterfactual import LifeSettings, Pairs, agreement, live_moments
from rewards.model import RewardModel
from rewards.pareto import keep, sweep
from rewards.red_team import Scored, red_team
from scripts.command_line import ScriptParser
from scripts.opened import Opened, open_run


@dataclass
class ProbeArguments:
    """Which reward, which two outcomes, how many listeners."""

    run: str = field(default="runs/demo", metadata={"help": "run folder with a trained reward"})
    name: str = field(default="midterm", metadata={"help": "which reward: midterm or click"})
    first: str = field(default="active_days_28", metadata={"help": "the outcome that is wanted"})
    second: str = field(default="plays", metadata={"help": "the outcome it is traded against"})
    promise: str = field(default="plays", metadata={"help": "the outcome that must not fall below today's"})
    listeners: int = field(default=200, metadata={"help": "decisions after the cut to ask about"})
    candidates: int = field(default=64, metadata={"help": "slates to choose among for each"})
    seed: int = field(default=0, metadata={"help": "seed of the samples and searches"})
    moments: int = field(default=0, metadata={"help": "moments of the world whose truth is lived; 0: none"})
    lives: int = field(default=12, metadata={"help": "how often each is lived, an even number"})


def trade(args: ProbeArguments, model: RewardModel, states: Tensor, slates: Tensor, console: Console) -> None:
    for label in (args.first, args.second, args.promise):
        if label not in model.labels:
            raise InputError(f"reward {args.name} has no head {label!r}: it has {', '.join(model.labels)}")
    choose, value = (one.advantage(own, slates) for one, own in model.apart(states))
    front = sweep(model.moments, (args.first, args.second), choose, value)
    table = Table("weight", args.first, args.second, title="What is traded for what", title_justify="left")
    for point in front.points:
        cells = [f"{point.gain[one]:+.3f} ±{1.96 * point.error[one]:.3f}" for one in front.traded]
        table.add_row(f"{point.weights[args.second]:.1f}", *cells, style="dim" if point.dominated else None)
    console.print(table)
    objective = model.objective({args.first: 1.0}, constraints=(args.promise,))
    for sentence in (*front.sentences(), *keep(objective, model.advantage(states, slates)).sentences()):
        console.print(f"- {sentence}")


def fool(args: ProbeArguments, opened: Opened, model: RewardModel, states: Tensor, logged: Tensor) -> Table:
    origin = manifest(opened.folder / "logs")
    quality = World(PRESETS[origin["config"]["world"]].with_listeners(2), origin["seed"]).items.quality
    worth = torch.from_numpy(quality)

    def truth(rows: Tensor, slates: Tensor) -> Tensor:
        return worth[slates].mean(-1)

    def scored(kappa: float, penalty: float) -> Scored:
        objective = model.objective(kappa=kappa, penalty=penalty)
        return lambda rows, slates: objective.lower_bound(model.advantage(states[rows], slates))

    table = Table("reward", "search", "reward found", "true quality found", "in the log's worst tenth", "fooled")
    table.title, table.title_justify = "Slates that the reward loves (sd over logged slates)", "left"
    for words, kappa, penalty in (("mean", 0.0, 0.0), ("lower bound", 1.0, 0.0), ("bound and support", 1.0, 0.5)):
        found = red_team(scored(kappa, penalty), truth, torch.arange(len(states)), logged, len(worth), args.seed)
        for search, one in found.items():
            cells = [f"{one.reward_sd:+.2f}", f"{one.truth_sd:+.2f}", f"{one.hated:.0%}"]
            table.add_row(words, search, *cells, f"{one.fooled:.1%} ±{1.96 * one.error:.1%}")
    return table


def agree(args: ProbeArguments, opened: Opened) -> Table:
    """The advantage of every reward of the run beside what one logged slate truly does more than another."""
    origin = manifest(opened.folder / "logs")
    config = origin["config"]
    world = World(PRESETS[config["world"]].with_listeners(config["listeners"]), origin["seed"])
    days = np.linspace(0.62 * config["days"], 0.85 * config["days"], args.moments).astype(int).tolist()
    lived = live_moments(world, days, args.seed, LifeSettings(lives=args.lives))
    pairs = Pairs.joined(list(track(lived, total=args.moments, description="Living moments")))
    ids, decisions = opened.histories.user_ids, opened.decisions
    rows = {
        (ids[user], time): row for row, (user, time) in enumerate(zip(decisions.user.tolist(), decisions.time.tolist()))
    }
    at = [rows[f"u{one:05d}", time] for one, time in zip(pairs.listener.tolist(), pairs.time.tolist())]
    estimates = {}
    for name in (args.name, "click"):
        if (opened.folder / "rewards" / name).is_dir():
            model = RewardModel.load(opened.folder / "rewards" / name)
            states = model.encode(opened.histories, decisions.take(at))
            scores = model.advantage(states, torch.from_numpy(pairs.slates.astype(np.int64)))
            reward = model.objective().lower_bound(scores)
            estimates[f"{name}: the reward"] = (reward[:, 1] - reward[:, 0]).double().numpy()
            for column, label in enumerate(model.labels):
                if label in ("active_days_7", "active_days_28", "plays"):
                    mean = scores.mean[..., column]
                    estimates[f"{name}: {label}"] = (mean[:, 1] - mean[:, 0]).double().numpy()
    table = Table("estimate", "correlation with the effect on active days", "effect per unit of estimate")
    table.add_column("rank correlation with that on the session's enjoyment")
    table.title = f"What slates truly do to this listener, now: {len(pairs.listener):,} pairs of logged slates, 95%"
    table.title_justify = "left"
    for name, found in agreement(pairs, estimates, args.seed).items():
        cells = [
            f"{value:+.2f} [{low:+.2f}, {high:+.2f}]" for value, low, high in (found.days, found.slope, found.enjoyment)
        ]
        table.add_row(name, *cells)
    return table


def main() -> None:
    (args,) = ScriptParser((ProbeArguments,)).parse_args_and_config()
    opened = open_run(Path(args.run))
    model = RewardModel.load(opened.folder / "rewards" / args.name)
    judged = Judged(opened.catalog, opened.histories, opened.decisions, opened.cut, {})
    rows = judged.later(args.listeners, args.seed)
    decisions = opened.decisions.take(rows)
    whole = decisions.slate[(decisions.slate >= 0).all(1)]
    if len(whole) < 2:
        raise InputError(f"{args.run}: no two full slates after the cut: nothing to choose among")
    states = model.encode(opened.histories, decisions)
    generator = torch.Generator().manual_seed(args.seed)
    pool = torch.from_numpy(opened.decisions.slate[(opened.decisions.slate >= 0).all(1)]).long()
    drawn = torch.randint(len(pool), (len(rows), args.candidates), generator=generator)
    console = Console()
    if len(model.labels) > 1:
        trade(args, model, states, pool[drawn], console)
    if "world" in manifest(opened.folder / "logs")["config"]:
        full = (decisions.slate >= 0).all(1)
        logged = torch.from_numpy(whole).long()
        console.print(fool(args, opened, model, states[torch.from_numpy(full)], logged))
        if args.moments:
            console.print(agree(args, opened))


if __name__ == "__main__":
    exit_on_input_error(main)
