"""One number to optimise from many outcomes: weights, a lower bound, a price for leaving the log's support,
constraints.

Every head is first put in units of the standard deviation of its advantage under the logging policy, what is unknown of
it included: a weight of 1.0 on active days and 0.5 on habit means what it says, and a head that slates do not move is
not blown up. Their sum is scaled again to unit variance under logging.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from data.errors import InputError


@dataclass(frozen=True)
class SlateScores:
    """Advantage of N slates for each of B states on Hd labels.

    mean (B, N, Hd), in the label's unit; spread (B, N, Hd), standard deviation between ensemble members; support (B,
    N): mean log rate of the slate's items under the logging policy at that state, less the first percentile of logged
    slates (negative: rarer than 99 of 100 slates in the log).
    """

    mean: Tensor
    spread: Tensor
    support: Tensor


@dataclass(frozen=True)
class Constraint:
    """The mean advantage on `label` must stay at or above `floor` (standard deviations under logging; 0: as today)."""

    label: str
    floor: float = 0.0
    multiplier: float = 0.0  # the Lagrange multiplier, >= 0
    rate: float = 0.5  # step of the dual ascent


@dataclass(frozen=True)
class Objective:
    """Weights over labels, and what is needed to turn scores into one reward.

    labels: order of the heads in the scores. scales (Hd,): standard deviation of each head's advantage under logging.
    total: standard deviation of the weighted sum. kappa: how many spreads the lower bound is below the mean. penalty:
    taken off per unit of log rate below the log's support.
    """

    weights: Mapping[str, float]
    labels: tuple[str, ...]
    scales: tuple[float, ...]
    total: float = 1.0
    kappa: float = 1.0
    penalty: float = 0.5
    constraints: tuple[Constraint, ...] = ()

    def lower_bound(self, scores: SlateScores) -> Tensor:
        """The reward (B, N): unit variance under the logging policy before the bound and the penalty are taken off."""
        price = self._prices().to(scores.mean)
        mean = scores.mean @ price
        # Heads of one member move together, so their spreads add; a sum of squares would promise too much.
        spread = scores.spread @ price.abs()
        return mean - self.kappa * spread - self.penalty * torch.relu(-scores.support)

    def value(self, scores: SlateScores) -> Tensor:
        """The weighted mean advantage (B, N) without bound and penalty, for diagnostics."""
        return scores.mean @ self._prices().to(scores.mean)

    def updated(self, scores: SlateScores) -> "Objective":
        """The objective after one step of dual ascent on the slates (B, N) a policy now shows."""
        moved = []
        for constraint in self.constraints:
            at = self.labels.index(constraint.label)
            level = float(scores.mean[..., at].mean()) / self.scales[at]
            multiplier = max(constraint.multiplier + constraint.rate * (constraint.floor - level), 0.0)
            moved.append(replace(constraint, multiplier=multiplier))
        return replace(self, constraints=tuple(moved))

    def _prices(self) -> Tensor:
        price = {label: self.weights.get(label, 0.0) for label in self.labels}
        for constraint in self.constraints:
            price[constraint.label] += constraint.multiplier
        values = [price[label] / scale for label, scale in zip(self.labels, self.scales, strict=True)]
        return torch.tensor(values) / self.total


MIDTERM: Mapping[str, float] = MappingProxyType({"active_days_28": 1.0, "habit_28": 0.5, "returned_7d": 0.5})
SHORT_LOG: Mapping[str, float] = MappingProxyType({"returned_7d": 1.0, "active_days_7": 1.0, "returned_1d": 0.5})


def default_weights(labels: Sequence[str]) -> dict[str, float]:
    """The mid-term weights for what a log carries: 28-day labels, else 7-day ones, else whatever there is."""
    for weights in (MIDTERM, SHORT_LOG):
        first = next(iter(weights))
        if first in labels:
            return {label: weight for label, weight in weights.items() if label in labels}
    return dict.fromkeys(labels, 1.0)


@dataclass(frozen=True)
class LoggingMoments:
    """Second moments of the advantage over logged slates: what objectives are normalised by."""

    labels: tuple[str, ...]
    covariance: np.ndarray = field(repr=False)  # (Hd, Hd)

    def objective(
        self,
        weights: Mapping[str, float] | None = None,
        kappa: float = 1.0,
        penalty: float = 0.5,
        constraints: Sequence[str] = (),
    ) -> Objective:
        """An objective with these weights (default: `default_weights`), of unit variance under logging.

        A constraint on a label that the log does not carry is left out. Raises InputError for a weight on such a label.
        """
        chosen = dict(weights) if weights is not None else default_weights(self.labels)
        for label in chosen:
            if label not in self.labels:
                raise InputError(f"objective: no reward head {label!r}: weight one of {', '.join(self.labels)}")
        scales = np.sqrt(np.maximum(np.diag(self.covariance), 0.0))
        scales = np.where(scales > 1e-9, scales, 1.0)
        price = np.array([chosen.get(label, 0.0) for label in self.labels]) / scales
        total = float(np.sqrt(max(float(price @ self.covariance @ price), 0.0)))
        return Objective(
            weights=MappingProxyType(chosen),
            labels=self.labels,
            scales=tuple(float(scale) for scale in scales),
            total=total if total > 1e-9 else 1.0,
            kappa=kappa,
            penalty=penalty,
            constraints=tuple(Constraint(label) for label in constraints if label in self.labels),
        )
