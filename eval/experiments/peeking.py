"""What looking costs: how often a test of no difference at all says that there is one, when one looks all the time.

Simulated A/A experiments, users arriving one of each arm at a time, a look after every pair (survival: forty looks,
while they enter and are followed). Beside the always-valid interval stands what people otherwise do, Welch's interval
read once at the planned end and read at every look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.progress import Progress
from scipy.stats import norm

from data.errors import InputError
from eval.experiments.sequential import FIRST_LOOK, reach
from eval.experiments.survival import influence
from eval.intervals import Floats

_CELLS = 2_000_000  # of one block of simulations
_LOOKS = 40  # of a survival experiment


@dataclass(frozen=True)
class FalseAlarms:
    """Shares of A/A experiments that ever called a difference; `error` is twice the largest standard error of them."""

    outcome: str
    simulations: int
    users: int
    alpha: float
    once: float
    peeking: float
    always_valid: float
    error: float

    def as_json(self) -> dict[str, Any]:
        """The fields, as they are."""
        return asdict(self)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    return rng.normal(size=shape), np.ones(shape)


def _share(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    return (rng.random(shape) < 0.1).astype(np.float64), np.ones(shape)


def _spend(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """One user in five spends, log-normally: skewness near 10."""
    return np.where(rng.random(shape) < 0.2, rng.lognormal(0.0, 1.0, shape), 0.0), np.ones(shape)


def _ratio(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Plays per session: sessions are Poisson + 1, and users differ in how much they play."""
    sessions = 1.0 + rng.poisson(3.0, shape)
    return rng.poisson(sessions * rng.gamma(2.0, 1.0, shape)).astype(np.float64), sessions.astype(np.float64)


OUTCOMES: Mapping[str, Callable[[np.random.Generator, tuple[int, ...]], tuple[Floats, Floats]]] = MappingProxyType(
    {"normal": _normal, "share": _share, "spend": _spend, "ratio": _ratio}
)


def false_alarms(
    outcome: str,
    simulations: int = 2_000,
    users: int = 4_000,
    alpha: float = 0.05,
    seed: int = 0,
    progress: Progress | None = None,
) -> FalseAlarms:
    """Simulate `simulations` A/A experiments of `users` in all (half an arm); outcome: of OUTCOMES, or "survival".

    Raises InputError for an outcome that is not known, and for fewer users than a first look needs.
    """
    if outcome not in OUTCOMES and outcome != "survival":
        raise InputError(f"outcome {outcome!r} is not known: choose {', '.join(OUTCOMES)} or survival")
    if users < 4 * FIRST_LOOK or simulations < 1:
        raise InputError(f"{simulations} experiments of {users} users: give at least 1 of {4 * FIRST_LOOK}")
    task = None if progress is None else progress.add_task(f"A/A, {outcome}", total=simulations)
    rng = np.random.default_rng([seed, sorted([*OUTCOMES, "survival"]).index(outcome)])
    called = np.zeros(3)
    done = 0
    while done < simulations:
        block = 1 if outcome == "survival" else min(simulations - done, max(1, _CELLS // users))
        if outcome == "survival":
            z, seen = _survival_looks(rng, users)
        else:
            z, seen = _looks(*OUTCOMES[outcome](rng, (2, block, users // 2)))
        fixed = float(norm.isf(alpha / 2))
        bounds = np.array([reach(alpha, count, users) for count in seen])
        called += [(z[:, -1] > fixed).sum(), (z > fixed).any(axis=1).sum(), (z > bounds).any(axis=1).sum()]
        done += block
        if progress is not None and task is not None:
            progress.update(task, completed=done)
    once, peeking, valid = (called / simulations).tolist()
    error = 2 * max(np.sqrt(p * (1 - p) / simulations) for p in (once, peeking, valid))
    return FalseAlarms(outcome, simulations, users, alpha, once, peeking, valid, float(error))


def _looks(top: Floats, bottom: Floats) -> tuple[Floats, Floats]:
    """|z| (B, looks) of the difference of two ratios after each pair, and the users seen; top, bottom (2, B, n).

    The delta method on running sums: var = (Syy - 2 r Sxy + r^2 Sxx) / (n - 1) / mean(x)^2 about r = Sy / Sx.
    """
    n = np.arange(1, top.shape[-1] + 1, dtype=np.float64)
    y, x = np.cumsum(top, -1), np.cumsum(bottom, -1)
    yy, xy, xx = np.cumsum(top * top, -1), np.cumsum(top * bottom, -1), np.cumsum(bottom * bottom, -1)
    ratio = y / x
    variance = (yy - 2 * ratio * xy + ratio**2 * xx) / np.maximum(n - 1, 1) / (x / n) ** 2
    look = slice(FIRST_LOOK - 1, None)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.abs(ratio[1] - ratio[0]) / np.sqrt((variance / n).sum(axis=0))
    return np.nan_to_num(z[:, look], nan=0.0), 2 * n[look]


def _survival_looks(rng: np.random.Generator, users: int, window: float = 14.0) -> tuple[Floats, Floats]:
    """The same for the restricted mean of one experiment whose users enter over 60 days and return when they return.

    At a look the later ones are not followed for the whole window yet: censored, as in life.
    """
    half = users // 2
    entry = np.sort(rng.uniform(0.0, 60.0, (2, half)), axis=1)
    time = rng.exponential(rng.gamma(1.5, 6.0, (2, half)))  # people differ
    z, seen = [], []
    for now in np.linspace(20.0, 60.0 + window, _LOOKS):
        values = []
        count = 0
        for arm in range(2):
            here = entry[arm] <= now
            followed = now - entry[arm][here]
            own = time[arm][here]
            count += int(here.sum())
            value, psi = influence(np.minimum(own, followed), own <= followed, window, "rmst", "simulation")
            values.append((value, float(psi @ psi) / psi.size**2))
        if count >= 2 * FIRST_LOOK:
            z.append(abs(values[1][0] - values[0][0]) / np.sqrt(values[0][1] + values[1][1]))
            seen.append(count)
    return np.array([z]), np.array(seen, np.float64)
