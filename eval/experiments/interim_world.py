"""How wrong is an interim reading? Experiments in a world whose end is known, read every day of the way.

A world lives 28 days to warm up, 28 to be looked back on, and 28 that are the past log the forecast learns from, all
under the logging policy. Then the same people go on under the logging policy and, from the same evening, under the
treatment: both lives of everybody are known, so is the true effect, and every draw of the arms is an experiment on it.

Read beside each other: the forecast after k days; the proxies that teams use instead (active days, or plays, of the
first two days, scaled by their slope in the past log); and the finished experiment, which costs 28 days of waiting. All
have the same covariate from before the experiment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from data.errors import InputError
from data.world import PRESETS, World, WorldSettings, burned_in
from eval.experiments.interim import EarlyDays, GaussianForecast, effect_of
from eval.intervals import Floats
from policy.assignment import uniform

HORIZON = 28
PROXY_DAYS = 2
CHANNELS = ("visits", "plays", "completes", "saves", "dislikes", "minutes")


@dataclass(frozen=True)
class StudySettings:
    """Which world, which treatment against the logging policy, how many people, draws of the arms and days to read."""

    world: str = "clickbait"
    treatment: str = "oracle"
    share: float = 1.0  # of sessions that the treatment decides; the others are left to the logging policy
    listeners: int = 4_000
    assignments: int = 50
    read_on: tuple[int, ...] = (1, 2, 3, 5, 7, 10, 14, 21, 28)

    def __post_init__(self) -> None:
        if self.world not in PRESETS:
            raise InputError(f"unknown world {self.world!r}: choose one of {', '.join(PRESETS)}")
        if not all(1 <= day <= HORIZON for day in self.read_on):
            raise InputError(f"read_on {self.read_on}: days must lie from 1 to {HORIZON}")
        if self.listeners < 200 or self.assignments < 2:
            raise InputError(f"{self.listeners} listeners, {self.assignments} assignments: give at least 200 and 2")


@dataclass(frozen=True)
class ReadingError:
    """How one way of reading did over all seeds and draws: bias, standard deviation (within a seed, over draws of the
    arms) and root mean square error of the effect, the mean of its own standard error, how often its 95% interval held
    the truth, and how often the interval lay wholly on the true side of zero and wholly on the wrong one."""

    how: str
    days: int
    bias: float
    sd: float
    rmse: float
    stated_se: float
    covered: float
    right: float
    wrong: float


@dataclass(frozen=True)
class Study:
    """The errors of each way of reading, and the true effects (active days of 28), one a seed."""

    settings: StudySettings
    truth: tuple[float, ...]
    errors: tuple[ReadingError, ...]

    def as_json(self) -> dict[str, Any]:
        """settings, truth, errors[]."""
        return asdict(self)


def study(settings: StudySettings, seeds: Sequence[int], progress: Progress | None = None) -> Study:
    """Run the study over fresh worlds; the same settings and seeds give the same numbers."""
    task = None if progress is None else progress.add_task("experiments", total=len(seeds) * settings.assignments)
    truths: list[float] = []
    by_way: dict[tuple[str, int], list[list[tuple[float, float, float]]]] = {}
    for seed in seeds:
        control, treatment, before, values = _both_lives(settings, seed)
        truth = float((treatment[:, :, 0].sum(1) - control[:, :, 0].sum(1)).mean())
        truths.append(truth)
        for drawn in range(settings.assignments):
            salt = f"interim-{seed}-{drawn}"
            treated = np.array([uniform(str(row), salt) < 0.5 for row in range(len(control))])
            lived = EarlyDays(before, np.where(treated[:, None, None], treatment, control))
            for way, value in values(lived).items():
                found = effect_of(value, treated, values.covariate(lived))
                rows = by_way.setdefault(way, [])
                if len(rows) < len(truths):
                    rows.append([])
                rows[-1].append((found.diff - truth, found.se, float(np.sign(truth))))
                rows[-1][-1] = (found.diff, found.lo, found.hi)
            if progress is not None and task is not None:
                progress.advance(task)
    errors = tuple(_errors(how, days, rows, truths) for (how, days), rows in by_way.items())
    return Study(settings, tuple(truths), errors)


class _Ways:
    """Every way of reading, fitted to the past log."""

    def __init__(self, past: EarlyDays, outcome: Floats, read_on: Sequence[int]) -> None:
        self.forecast = GaussianForecast.fit(past, outcome)
        self.read_on = read_on
        self.slopes = {name: _slope(proxy, outcome) for name, proxy in _proxies(past).items()}

    def covariate(self, lived: EarlyDays) -> Floats:
        return self.forecast.posterior(lived.first(0))[0]

    def __call__(self, lived: EarlyDays) -> dict[tuple[str, int], Floats]:
        values = {("forecast", k): self.forecast.posterior(lived.first(k))[0] for k in self.read_on if k < HORIZON}
        values |= {(name, PROXY_DAYS): self.slopes[name] * proxy for name, proxy in _proxies(lived).items()}
        return values | {("finished", HORIZON): lived.traces[:, :, 0].sum(1)}


def _proxies(lived: EarlyDays) -> dict[str, Floats]:
    early = lived.first(PROXY_DAYS).traces.sum(1)
    return {"proxy: active days": early[:, 0], "proxy: plays": early[:, 1]}


def _slope(x: Floats, y: Floats) -> float:
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def _errors(
    how: str, days: int, rows: list[list[tuple[float, float, float]]], truths: Sequence[float]
) -> ReadingError:
    found = np.array(rows)  # (seeds, draws, 3)
    truth = np.array(truths)[:, None]
    off = found[..., 0] - truth
    side = np.sign(truth)
    above, below = found[..., 1] > 0, found[..., 2] < 0
    return ReadingError(
        how,
        days,
        float(off.mean()),
        float(np.sqrt(off.var(axis=1, ddof=1).mean())),
        float(np.sqrt((off**2).mean())),
        float((found[..., 2] - found[..., 1]).mean() / 3.92),
        float(((found[..., 1] <= truth) & (truth <= found[..., 2])).mean()),
        float(np.where(side > 0, above, below).mean()),
        float(np.where(side > 0, below, above).mean()),
    )


def _both_lives(settings: StudySettings, seed: int) -> tuple[Floats, Floats, Floats, _Ways]:
    """Days (U, 28, C) under the logging policy and under the treatment, what was before, and the ways to read them."""
    preset: WorldSettings = PRESETS[settings.world].with_listeners(settings.listeners)
    world = burned_in(preset, seed, days=HORIZON)
    earlier = _lived(world, "logging", seed)
    past = _lived(world, "logging", seed + 1)
    ways = _Ways(EarlyDays(_summary(earlier), past), past[:, :, 0].sum(1), settings.read_on)
    control = _lived(world.branch(), "logging", seed + 2)
    treatment = _lived(world.branch(), settings.treatment, seed + 2)
    return control, treatment, _summary(past), ways


def _lived(world: World, policy: str, seed: int) -> Floats:
    """The next 28 days (U, 28, C) of a world under a built-in policy; the world moves on."""
    world.play(world.built_in(policy), HORIZON, np.random.default_rng([seed, 7]))
    traces = np.zeros((len(world.listeners), HORIZON, len(CHANNELS)))
    for row, day in enumerate(world.days[-HORIZON:]):
        session = day.session
        per_visit: NDArray[np.float64] = np.stack(
            [
                np.ones(len(day.listeners)),
                session.played.sum(1),
                session.completed.sum(1),
                session.saved.sum(1),
                session.disliked.sum(1),
                session.seconds.sum(1) / 60.0,
            ],
            axis=1,
        ).astype(np.float64)
        traces[day.listeners, row] = per_visit
    return traces


def _summary(traces: Floats) -> Floats:
    """What is known of users from the 28 days before: totals of each channel, over all of them and the last week."""
    return np.concatenate([traces.sum(1), traces[:, -7:].sum(1)], axis=1)
