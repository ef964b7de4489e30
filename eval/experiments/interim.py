"""The mid-term effect from an experiment's first days: read what each user's days so far foretell, not the days alone.

A forecast learned from a past log gives every user a posterior of the outcome given the days seen; the arms' difference
of posterior means is the interim reading (the surrogate index of Athey, Chetty, Imbens & Kang 2019; per day, as the
progressive reward of McDonald et al. 2023, "Impatient Bandits"). It is unbiased when the treatment reaches the outcome
only through what the forecast sees, and when what follows the seen days follows as in the past. An arm that goes on
treating breaks the second: its later days are credited at the old policy's rate, so that the reading tends to fall short
of a lasting effect. eval/experiments/interim_world.py measures by how much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.errors import InputError
from eval.experiments.effect import Effect, Reading, effect_of_users
from eval.intervals import Floats


@dataclass(frozen=True)
class EarlyDays:
    """What U users did. before (U, P): known when the experiment began. traces (U, k, C): each of its first k days, in
    channels, of which the first is 1 on days with a visit."""

    before: Floats
    traces: Floats

    def __post_init__(self) -> None:
        if self.before.ndim != 2 or self.traces.ndim != 3 or len(self.before) != len(self.traces):
            raise InputError(
                f"early days: before {self.before.shape}, traces {self.traces.shape}; they must be (users, features) and "
                "(users, days, channels) of the same users"
            )
        if not (np.isfinite(self.before).all() and np.isfinite(self.traces).all()):
            raise InputError("early days: NaN or infinite; a day on which nothing was seen is a day of zeros")

    @property
    def days(self) -> int:
        """How many days have been seen."""
        return self.traces.shape[1]

    def first(self, days: int) -> EarlyDays:
        """The same, seen for fewer days."""
        return EarlyDays(self.before, self.traces[:, :days])


class MidTermForecast(Protocol):
    """Anything that foretells a mid-term outcome from the days seen so far."""

    def posterior(self, early: EarlyDays) -> tuple[Floats, Floats]:
        """Mean and variance (U,) of each user's outcome."""
        ...


@dataclass(frozen=True)
class GaussianForecast:
    """Outcome and days as one Gaussian, fitted to a past log and conditioned on the days seen.

    At k days it conditions on `before`, on each day's visit and on the totals of the other channels. weights[k]:
    intercept first; variances[k]: of the outcome given them, the same for all, as Gaussians have it.
    """

    weights: tuple[Floats, ...]
    variances: tuple[float, ...]

    @classmethod
    def fit(cls, past: EarlyDays, outcome: NDArray[np.floating], ridge: float = 1.0) -> GaussianForecast:
        """Learn from users of a past log whose outcome (U,) is known. `ridge` counts as that many users at zero."""
        if outcome.shape != (len(past.traces),) or not np.isfinite(outcome).all():
            raise InputError(f"forecast: outcome {outcome.shape} for {len(past.traces)} users; give each a finite one")
        weights, variances = [], []
        for k in range(past.days + 1):
            x = _features(past.first(k))
            centre = x.mean(0)
            gram = (x - centre).T @ (x - centre)
            gram += ridge * np.diag(np.maximum(gram.diagonal() / len(x), 1e-9))
            slope = np.linalg.solve(gram, (x - centre).T @ (outcome - outcome.mean()))
            left = outcome - outcome.mean() - (x - centre) @ slope
            weights.append(np.concatenate([[outcome.mean() - centre @ slope], slope]))
            variances.append(float(left @ left) / max(len(x) - x.shape[1] - 1, 1))
        return cls(tuple(weights), tuple(variances))

    def posterior(self, early: EarlyDays) -> tuple[Floats, Floats]:
        """Mean and variance (U,); raises InputError for more days than the past log was followed."""
        if early.days >= len(self.weights):
            raise InputError(f"forecast: {early.days} days seen, learned from {len(self.weights) - 1}: give fewer")
        own = self.weights[early.days]
        mean: Floats = own[0] + _features(early) @ own[1:]
        return mean, np.full(mean.size, self.variances[early.days])


def _features(early: EarlyDays) -> Floats:
    return np.concatenate([early.before, early.traces[:, :, 0], early.traces[:, :, 1:].sum(1)], axis=1)


@dataclass(frozen=True)
class InterimReading:
    """The effect as the first `days` days foretell it. effect: its interval is that of the posterior means, and knows
    nothing of a bias of the forecast. readout_se: standard error of this as a forecast of the finished experiment's
    own read-out, which adds what is still open for every user.
    """

    days: int
    effect: Effect
    readout_se: float


def interim_effect(
    forecast: MidTermForecast, early: EarlyDays, treated: NDArray[np.bool_], reading: Reading | None = None
) -> InterimReading:
    """Read an experiment after its first days; treated (U,). What was known before serves as CUPED's covariate."""
    mean, variance = forecast.posterior(early)
    found = effect_of(mean, treated, forecast.posterior(early.first(0))[0], reading)
    still_open = sum(float(variance[arm].mean()) / int(arm.sum()) for arm in (treated, ~treated))
    return InterimReading(early.days, found, float(np.sqrt(found.se**2 + still_open)))


def effect_of(values: Floats, treated: NDArray[np.bool_], covariate: Floats, reading: Reading | None = None) -> Effect:
    """Difference in means of values (U,), with CUPED on covariate (U,)."""
    users = pl.DataFrame({"top": values, "covariate": covariate, "arm": np.where(treated, "treatment", "control")})
    users = users.with_columns(bottom=pl.lit(1.0))
    return effect_of_users(users, "outcome", ("control", "treatment"), reading or Reading())
