"""The mid-term effect from an experiment's first days: read what each user's days so far foretell, not the days alone.

A forecast learned from a past log gives every user a posterior of the outcome given the days seen; the arms' difference
of posterior means is the interim reading (the surrogate index of Athey, Chetty, Imbens & Kang 2019; day by day, as the
progressive reward of McDonald et al. 2023, "Impatient Bandits").

What it answers is: what would this have done if the treatment had ended today? The days to come are foretold at the
old policy's rate, so of a treatment that goes on, and whose effect grows with it, the reading sees only the part so
far. And it is unbiased even for that only where the treatment acts through what the forecast sees.
eval/experiments/interim_world.py measures both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import norm

from data.errors import InputError
from eval.experiments.effect import Effect, Reading, effect_of_users
from eval.intervals import LEVEL, Floats
from rewards.surrogate import NeuralSurrogate, SurrogateSettings, fit_surrogate


@dataclass(frozen=True)
class EarlyDays:
    """What U users did.

    before (U, P): known when the experiment began. traces (U, k, C): each of its first k days, in channels, of which
    the first is 1 on days with a visit. earlier (U, D), where a forecast needs it: the same 1 of each of the D days
    before. Raises InputError for other shapes and for NaN.
    """

    before: Floats
    traces: Floats
    earlier: Floats | None = None

    def __post_init__(self) -> None:
        if self.earlier is not None and (self.earlier.ndim != 2 or len(self.earlier) != len(self.traces)):
            raise InputError(f"early days: earlier {self.earlier.shape}; give (users, days) of the same users")
        if self.before.ndim != 2 or self.traces.ndim != 3 or len(self.before) != len(self.traces):
            raise InputError(
                f"early days: before {self.before.shape}, traces {self.traces.shape}; they must be (users, features) "
                "and (users, days, channels) of the same users"
            )
        if not (np.isfinite(self.before).all() and np.isfinite(self.traces).all()):
            raise InputError("early days: NaN or infinite; a day on which nothing was seen is a day of zeros")

    @property
    def days(self) -> int:
        """How many days have been seen."""
        return int(self.traces.shape[1])

    def first(self, days: int) -> EarlyDays:
        """The same, seen for fewer days."""
        return replace(self, traces=self.traces[:, :days])

    def channels(self, count: int) -> EarlyDays:
        """The same, seen in the first `count` channels only: 1 for visits alone."""
        return replace(self, traces=self.traces[:, :, :count])


class MidTermForecast(Protocol):
    """Anything that foretells a mid-term outcome from the days seen so far."""

    def posterior(self, early: EarlyDays) -> tuple[Floats, Floats]:
        """Mean and variance (U,) of each user's outcome."""
        ...

    def learned_variance(self, early: EarlyDays, contrast: Floats) -> float:
        """Variance of contrast (U,) @ posterior means that comes of having learned from so many users only."""
        ...


@dataclass(frozen=True)
class GaussianForecast:
    """Outcome and days as one Gaussian, fitted to a past log and conditioned on the days seen.

    At k days it conditions on `before`, on each day's visit and on the totals of the other channels. weights[k]:
    intercept first; spreads[k]: covariance of the weights; variances[k]: of the outcome, the same for all users.
    """

    weights: tuple[Floats, ...]
    spreads: tuple[Floats, ...]
    variances: tuple[float, ...]

    @classmethod
    def fit(cls, past: EarlyDays, outcome: Floats, ridge: float = 1.0) -> GaussianForecast:
        """Learn from users of a past log whose outcome (U,) is known. `ridge` counts as that many users at zero.

        Raises InputError for an outcome that is not finite and for fewer users than there are weights to learn.
        """
        if outcome.shape != (len(past.traces),) or not np.isfinite(outcome).all():
            raise InputError(f"forecast: outcome {outcome.shape} for {len(past.traces)} users; give each a finite one")
        weights: list[Floats] = []
        spreads: list[Floats] = []
        variances: list[float] = []
        for k in range(past.days + 1):
            x = _features(past.first(k))
            if len(x) < x.shape[1] + 2:
                raise InputError(f"forecast: {len(x)} users to learn {x.shape[1]} weights from: give a longer past log")
            gram = x.T @ x
            gram += ridge * np.diag(np.append(0.0, np.maximum(x[:, 1:].var(0), 1e-9)))
            inverse = np.linalg.inv(gram)
            own = inverse @ (x.T @ outcome)
            left = outcome - x @ own
            variances.append(float(left @ left) / (len(x) - x.shape[1]))
            scores = x * left[:, None]
            weights.append(own)
            spreads.append(inverse @ (scores.T @ scores) @ inverse)  # White (1980): the noise need not be even
        return cls(tuple(weights), tuple(spreads), tuple(variances))

    def posterior(self, early: EarlyDays) -> tuple[Floats, Floats]:
        """Mean and variance (U,); raises InputError for more days than the past log was followed."""
        if early.days >= len(self.weights):
            raise InputError(f"forecast: {early.days} days seen, learned from {len(self.weights) - 1}: give fewer")
        mean: Floats = _features(early) @ self.weights[early.days]
        return mean, np.full(mean.size, self.variances[early.days])

    def learned_variance(self, early: EarlyDays, contrast: Floats) -> float:
        """As the protocol says, by the sandwich of the least-squares weights."""
        direction = contrast @ _features(early)
        return float(direction @ self.spreads[early.days] @ direction)


def _features(early: EarlyDays) -> Floats:
    one = np.ones((len(early.before), 1))
    return np.concatenate([one, early.before, early.traces[:, :, 0], early.traces[:, :, 1:].sum(1)], axis=1)


@dataclass(frozen=True)
class EarlyReward:
    """The early reward of `rewards/surrogate.py`: a network reads a user's visits, before and since, day by day.

    The outcome is the days with a visit, of as many as the past log was followed. Each network learned from other users
    of the past log, drawn with replacement; the forecast is their mean, and how far they differ says how much of it is
    the luck of that log.
    """

    networks: tuple[NeuralSurrogate, ...]

    @classmethod
    def fit(
        cls, past: EarlyDays, seed: int, settings: SurrogateSettings | None = None, networks: int = 4
    ) -> EarlyReward:
        """Learn from users of a past log. Raises InputError without the days before, and for less than two networks."""
        if networks < 2:
            raise InputError(f"early reward: {networks} networks; how far they differ takes two or more")
        visits, rng, how = _visits(past), np.random.default_rng(seed), settings or SurrogateSettings()
        drawn = [rng.integers(0, len(visits), len(visits)) for _ in range(networks)]
        return cls(tuple(fit_surrogate(visits[rows], seed + place, how) for place, rows in enumerate(drawn)))

    def posterior(self, early: EarlyDays) -> tuple[Floats, Floats]:
        """Mean and variance (U,); raises InputError where days before and since are not as in the past log."""
        means, variances = zip(*(self._each(early)), strict=True)
        mean: Floats = np.mean(means, axis=0)
        variance: Floats = np.mean(variances, axis=0)
        return mean, variance

    def learned_variance(self, early: EarlyDays, contrast: Floats) -> float:
        """As the protocol says, by the bootstrap."""
        return float(np.var([contrast @ mean for mean, _ in self._each(early)], ddof=1))

    def _each(self, early: EarlyDays) -> list[tuple[Floats, Floats]]:
        seen, length = _visits(early), self.networks[0].days
        if seen.shape[1] > length:
            raise InputError(f"early reward: {seen.shape[1]} days before and since, learned from {length}: give fewer")
        whole = np.pad(seen, ((0, 0), (0, length - seen.shape[1])))
        known, gone = np.full(len(seen), seen.shape[1]), seen[:, : seen.shape[1] - early.days].sum(1)
        found = (network.of_listeners(whole, known) for network in self.networks)
        return [(one.mean - gone, one.variance) for one in found]


def _visits(early: EarlyDays) -> Floats:
    if early.earlier is None:
        raise InputError("early reward: the days before the experiment are missing: give EarlyDays its `earlier`")
    return np.concatenate([early.earlier, early.traces[:, :, 0]], axis=1)


@dataclass(frozen=True)
class InterimReading:
    """The effect as the first `days` days foretell it, with its 95% interval.

    se: from users and from what the forecast learned; a bias of the forecast is not in it. readout_se: of this as a
    forecast of the finished experiment's own read-out, which adds what is still open for every user.
    """

    days: int
    diff: float
    lo: float
    hi: float
    se: float
    readout_se: float


def interim_effect(forecast: MidTermForecast, early: EarlyDays, treated: NDArray[np.bool_]) -> InterimReading:
    """Read an experiment after its first days; treated (U,). What was known before serves as CUPED's covariate.

    Raises InputError when an arm has fewer than two users.
    """
    mean, variance = forecast.posterior(early)
    found = effect_of(mean, treated, forecast.posterior(early.first(0))[0])
    contrast = np.where(treated, 1.0 / treated.sum(), -1.0 / (~treated).sum())
    squared = found.se**2 + forecast.learned_variance(early, contrast)
    still_open = sum(float(variance[arm].mean()) / int(arm.sum()) for arm in (treated, ~treated))
    reach = float(norm.isf((1 - LEVEL) / 2)) * squared**0.5
    return InterimReading(
        early.days, found.diff, found.diff - reach, found.diff + reach, squared**0.5, (squared + still_open) ** 0.5
    )


def effect_of(values: Floats, treated: NDArray[np.bool_], covariate: Floats) -> Effect:
    """Difference in means of values (U,), with CUPED on covariate (U,)."""
    if min(int(treated.sum()), int((~treated).sum())) < 2:
        raise InputError("interim: an arm has fewer than two users; there is nothing to compare")
    users = pl.DataFrame({"top": values, "covariate": covariate, "arm": np.where(treated, "treatment", "control")})
    return effect_of_users(users.with_columns(bottom=pl.lit(1.0)), "outcome", ("control", "treatment"), Reading())
