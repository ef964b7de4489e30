"""How wrong is an interim reading? Experiments in a world whose end is known, read every day of the way.

A world lives 28 days to warm up, 28 to be looked back on, and 28 that are the past log the forecast learns from, all
under the logging policy. Then the same people go on under the logging policy and, from the same evening, under the
treatment: both lives of everybody are known, so is the true effect, and every draw of the arms is an experiment on it.
They also live through the treatment ended after k days, which is what a reading on day k can know of.

Read beside each other: the Gaussian forecast after k days, from visits alone and from visits and reactions; the early
reward of `rewards/surrogate.py`, from the days of visits; the proxies that teams use instead (active days, or plays, of
the first two days, scaled by their slope in the past log); and the finished experiment, which costs 28 days of waiting.
All have the same covariate from before the experiment, but for the early reward, which has its own first guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from data.errors import InputError
from data.world import PRESETS, World, burned_in
from eval.experiments.interim import (
    EarlyDays,
    EarlyReward,
    GaussianForecast,
    MidTermForecast,
    effect_of,
    interim_effect,
)
from eval.intervals import Floats
from policy.assignment import place
from rewards.surrogate import SurrogateSettings

HORIZON = 28
PROXY_DAYS = 2
VISITS, EVERYTHING, EARLY_REWARD = "forecast: visits", "forecast: visits, reactions", "early reward: visits"
FORECASTS = (VISITS, EVERYTHING, EARLY_REWARD)
CHANNELS = ("visits", "plays", "completes", "saves", "dislikes", "minutes")


@dataclass(frozen=True)
class StudySettings:
    """Which world, which treatment against the logging policy, how many people, draws of the arms and days to read.

    early_reward: how its networks are trained.
    """

    world: str = "clickbait"
    treatment: str = "oracle"
    listeners: int = 1_000
    assignments: int = 5
    read_on: tuple[int, ...] = (1, 2, 3, 5, 7, 10, 14, 21, 28)
    early_reward: SurrogateSettings = field(default_factory=lambda: SurrogateSettings(steps=600, rows=512))

    def __post_init__(self) -> None:
        if self.world not in PRESETS:
            raise InputError(f"unknown world {self.world!r}: choose one of {', '.join(PRESETS)}")
        if not all(1 <= day <= HORIZON for day in self.read_on):
            raise InputError(f"read_on {self.read_on}: days must lie from 1 to {HORIZON}")
        if self.listeners < 200 or self.assignments < 2:
            raise InputError(f"{self.listeners} listeners, {self.assignments} assignments: give at least 200 and 2")


@dataclass(frozen=True)
class ReadingError:
    """How one way of reading did over all seeds and draws of the arms.

    bias: from the true effect of the whole 28 days; bias_if_ended: from that of the treatment ended on the day of
    reading (None where the reading does not claim it). sd: over draws within a seed. rmse: root mean square error, of
    the whole effect. se: mean of its own standard error. covered: how often its 95% interval held the true effect;
    right, wrong: how often it lay wholly on the true side of zero, or on the other (where there is no effect: on
    either side).
    """

    how: str
    days: int
    bias: float
    bias_if_ended: float | None
    sd: float
    rmse: float
    se: float
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


Way = tuple[str, int]
Line = tuple[float, float, float, float]  # diff, lo, hi, se


def study(settings: StudySettings, seeds: Sequence[int], progress: Progress | None = None) -> Study:
    """Run the study over fresh worlds; the same settings and seeds give the same numbers."""
    task = None if progress is None else progress.add_task("experiments", total=len(seeds) * settings.assignments)
    lives, drawn = [], []
    for seed in seeds:
        life = _live(settings, seed)
        lives.append(life)
        lines: dict[Way, list[Line]] = {}
        for draw in range(settings.assignments):
            salt = f"interim-{seed}-{draw}"
            treated = np.array([place(salt, str(row)) < 0.5 for row in range(settings.listeners)])
            for way, line in _read(life, treated, settings.read_on).items():
                lines.setdefault(way, []).append(line)
            if progress is not None and task is not None:
                progress.advance(task)
        drawn.append({way: np.array(rows) for way, rows in lines.items()})
    truth = np.array([life.effect for life in lives])
    errors = []
    for way in sorted(drawn[0], key=lambda way: (way[0] not in FORECASTS, way[0] == "finished", way[0], way[1])):
        found = np.stack([by_way[way] for by_way in drawn])  # (seeds, draws, 4)
        ended = np.array([life.if_ended[way[1]] for life in lives]) if way[0] in FORECASTS else None
        errors.append(_error(way, found, truth, ended))
    return Study(settings, tuple(truth.tolist()), tuple(errors))


@dataclass(frozen=True)
class _Life:
    """One world lived: days (U, 28, C) under both policies, and what the past taught."""

    control: Floats
    treatment: Floats
    before: Floats
    earlier: Floats
    forecasts: Mapping[str, MidTermForecast]
    slopes: Mapping[str, float]
    effect: float
    if_ended: Mapping[int, float]


def _live(settings: StudySettings, seed: int) -> _Life:
    world = burned_in(PRESETS[settings.world].with_listeners(settings.listeners), seed, days=HORIZON)
    earlier = _lived(world, "logging", HORIZON, seed)
    past = _lived(world, "logging", HORIZON, seed + 1)
    seen, outcome = EarlyDays(_summary(earlier), past, earlier[:, :, 0]), past[:, :, 0].sum(1)
    control = _lived(world.branch(), "logging", HORIZON, seed + 2)
    treatment = _lived(world.branch(), settings.treatment, HORIZON, seed + 2)
    base = float(control[:, :, 0].sum(1).mean())
    if_ended = {}
    for k in settings.read_on:
        other = world.branch()
        parts = [_lived(other, settings.treatment, k, seed + 2)]
        parts += [_lived(other, "logging", HORIZON - k, seed + 3)] if k < HORIZON else []
        if_ended[k] = float(sum(part[:, :, 0].sum(1).mean() for part in parts)) - base
    slopes = {name: _slope(proxy, outcome) for name, proxy in _proxies(seen).items()}
    effect = float(treatment[:, :, 0].sum(1).mean()) - base
    forecasts: dict[str, MidTermForecast] = {
        VISITS: GaussianForecast.fit(seen.channels(1), outcome),
        EVERYTHING: GaussianForecast.fit(seen, outcome),
        EARLY_REWARD: EarlyReward.fit(seen, seed, settings.early_reward),
    }
    return _Life(control, treatment, _summary(past), past[:, :, 0], forecasts, slopes, effect, if_ended)


def _read(life: _Life, treated: NDArray[np.bool_], read_on: Sequence[int]) -> dict[Way, Line]:
    """Every way of reading one experiment."""
    lived = EarlyDays(life.before, np.where(treated[:, None, None], life.treatment, life.control), life.earlier)
    lines: dict[Way, Line] = {}
    for k in read_on:
        if k < HORIZON:
            for name, forecast in life.forecasts.items():
                seen = lived if name == EVERYTHING else lived.channels(1)
                read = interim_effect(forecast, seen.first(k), treated)
                lines[name, k] = (read.diff, read.lo, read.hi, read.se)
    others = {(name, PROXY_DAYS): life.slopes[name] * proxy for name, proxy in _proxies(lived).items()}
    others["finished", HORIZON] = lived.traces[:, :, 0].sum(1)
    covariate = life.forecasts[EVERYTHING].posterior(lived.first(0))[0]
    for way, values in others.items():
        found = effect_of(values, treated, covariate)
        lines[way] = (found.diff, found.lo, found.hi, found.se)
    return lines


def _proxies(lived: EarlyDays) -> dict[str, Floats]:
    early = lived.first(PROXY_DAYS).traces.sum(1)
    return {"proxy: active days": early[:, 0], "proxy: plays": early[:, 1]}


def _slope(x: Floats, y: Floats) -> float:
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def _error(way: Way, found: Floats, truth: Floats, ended: Floats | None) -> ReadingError:
    """found (seeds, draws, 4); truth, ended (seeds,)."""
    diff, lo, hi, se = np.moveaxis(found, -1, 0)
    off, side = diff - truth[:, None], np.sign(truth)[:, None]
    above, below = lo > 0, hi < 0
    return ReadingError(
        *way,
        bias=float(off.mean()),
        bias_if_ended=None if ended is None else float((diff - ended[:, None]).mean()),
        sd=float(np.sqrt(off.var(axis=1, ddof=1).mean())),
        rmse=float(np.sqrt((off**2).mean())),
        se=float(se.mean()),
        covered=float(((lo <= truth[:, None]) & (truth[:, None] <= hi)).mean()),
        right=float(((above & (side > 0)) | (below & (side < 0))).mean()),
        wrong=float(((above & (side <= 0)) | (below & (side >= 0))).mean()),
    )


def _lived(world: World, policy: str, days: int, seed: int) -> Floats:
    """The next `days` days (U, days, C) of a world under a built-in policy; the world moves on."""
    began = world.day
    world.play(world.built_in(policy), days, np.random.default_rng([seed, 7]))
    traces = np.zeros((len(world.listeners), days, len(CHANNELS)))
    for lived in world.rounds:  # a listener comes at most once in each
        if lived.day < began:
            continue
        row, session = lived.day - began, lived.session
        traces[lived.listeners, row, 0] = 1.0
        reactions = (session.played, session.completed, session.saved, session.disliked, session.seconds / 60.0)
        for channel, reaction in enumerate(reactions, start=1):
            traces[lived.listeners, row, channel] += reaction.sum(axis=1)
    return traces


def _summary(traces: Floats) -> Floats:
    """What is known of users from the 28 days before: totals of each channel, over all of them and the last week."""
    return np.concatenate([traces.sum(1), traces[:, -7:].sum(1)], axis=1)
