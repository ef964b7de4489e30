"""The outcomes we predict, and one likelihood for each kind.

* The return day is a discrete-time hazard (Tutz & Schmid, Modeling Discrete Time-to-Event Data, 2016, ch. 3): a
  listener who has not come back by day j does so on day j + 1 with probability h_j. A row whose window is still open
  adds the survival up to the last day seen and nothing more. Retention at 1, 7, 14, 28 days is read off the one curve,
  so it cannot fall as the horizon grows.
* Counts of days (or weeks, or items of a slate) out of a known number are beta-binomial: a mean and a spread of
  its own, because active days are far more dispersed than coin flips.
* Yes-or-no outcomes are logits; whether one can be reached is two competing risks (`rewards.reach`).

A null label is a label not known yet: it is masked, never read as zero.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewards import reach

RETURN = "return"  # the head behind returned_{days}d


@dataclass(frozen=True)
class Label:
    """One column of the outcomes: how it is distributed, out of how many, and how many days its window is."""

    name: str
    kind: str  # hazard | trials | logit | risks
    trials: int = 1
    days: int = 0  # 0: known when the session ends


def _retention(days: int) -> Label:
    return Label(f"returned_{days}d", "hazard", 1, days)


LABELS: Mapping[str, Label] = MappingProxyType(
    {
        label.name: label
        for label in (
            *(_retention(days) for days in (1, 7, 14, 28)),
            Label("active_days_7", "trials", 7, 7),
            Label("active_days_28", "trials", 28, 28),
            Label("habit_28", "trials", 4, 28),
            Label("sticky_days_28", "trials", 28, 28),
            Label("sticky_days_60", "trials", 60, 60),
            Label("reachable_28", "risks", 1, 28),
            Label("converted_28", "logit", 1, 28),
            Label("plays", "trials", 0, 0),
            Label("completes", "trials", 0, 0),
            Label("saves", "trials", 0, 0),
            Label("dislikes", "trials", 0, 0),
        )
    }
)


def resolve(name: str, slate_size: int) -> Label:
    """The label called `name`; the short-term counts are out of the slate's size."""
    label = LABELS[name]
    return Label(name, label.kind, slate_size, 0) if label.days == 0 else label


@dataclass(frozen=True)
class Targets:
    """Labels of D decisions as arrays; NaN = not known.

    values: name -> (D,) float32. return_day (D,) int64: local day of the return after that of the decision, or the
    number of days seen without one; returned (D,) bool. Rows with neither have 0 and False, which adds nothing.
    left_day, left (D,): the same of leaving (`rewards.reach`).
    """

    labels: tuple[Label, ...]
    values: Mapping[str, np.ndarray]
    return_day: np.ndarray
    returned: np.ndarray
    left_day: np.ndarray
    left: np.ndarray

    @property
    def bins(self) -> int:
        """Daily bins of the hazard: 0 (later the same day) up to the longest retention label; 0 bins without one."""
        return max((label.days + 1 for label in self.labels if label.kind == "hazard"), default=0)

    def matrix(self) -> np.ndarray:
        """All label values, (D, labels) float32."""
        if not self.labels:
            return np.zeros((len(self.return_day), 0), np.float32)
        return np.stack([self.values[label.name] for label in self.labels], axis=1)

    def of_those_who_stay(self, gone: np.ndarray) -> "Targets":
        """The same, without anything on the reach of those who had left before the decision, gone (D,): they teach
        nothing about who leaves, nor about what slates have to do with it."""
        values = {
            label.name: np.where(gone, np.float32("nan"), self.values[label.name])
            if label.kind == "risks"
            else self.values[label.name]
            for label in self.labels
        }
        return replace(self, values=values, left_day=np.where(gone, 0, self.left_day), left=self.left & ~gone)


def carried(frame: pl.DataFrame, slate_size: int, wanted: Sequence[str] | None = None) -> tuple[Label, ...]:
    """The labels a frame has at least two different values of, in the order of LABELS (or only those `wanted`)."""
    names = [name for name in LABELS if wanted is None or name in wanted]
    found = [name for name in names if name in frame.columns and frame[name].drop_nulls().n_unique() >= 2]
    return tuple(resolve(name, slate_size) for name in found)


class Heads(nn.Module):
    """One linear read-out of the state for all labels; `log_likelihood` and `means` know what each number is."""

    def __init__(self, width: int, labels: Sequence[Label], bins: int) -> None:
        super().__init__()
        self.labels = tuple(labels)
        self.bins = bins
        self.others = [label for label in labels if label.kind != "hazard"]
        sizes = [reach.COLUMNS if label.kind == "risks" else 2 for label in self.others]
        ends = [bins + sum(sizes[: j + 1]) for j in range(len(sizes))]
        self.columns = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        self.read = nn.Linear(width, bins + sum(sizes))

    def start(self, targets: Targets, rows: np.ndarray) -> None:
        """Start the biases at the marginal rates of the training rows."""
        with torch.no_grad():
            self.read.weight.mul_(0.1)
            self.read.bias.zero_()
            if self.bins:
                day, returned = targets.return_day[rows], targets.returned[rows]
                at_risk = np.array([np.sum(day >= j) - np.sum((day == j) & ~returned) for j in range(self.bins)])
                events = np.bincount(day[returned], minlength=self.bins)[: self.bins]
                rate = (events + 0.5) / (at_risk + 1.0)
                self.read.bias[: self.bins] = torch.logit(torch.from_numpy(rate).float(), eps=1e-3)
            for columns, label in zip(self.columns, self.others, strict=True):
                values = targets.values[label.name][rows]
                if label.kind == "risks":
                    self.read.bias[columns] = reach.marginal(values, targets.left_day[rows], targets.left[rows])
                    continue
                known = values[~np.isnan(values)]
                share = (known.sum() + 0.5) / (len(known) * label.trials + 1.0)
                self.read.bias[columns.start] = float(np.log(share / (1 - share))) if 0 < share < 1 else 0.0
                self.read.bias[columns.start + 1] = 1.0

    def rows_known(
        self, values: Tensor, return_day: Tensor, returned: Tensor, left_day: Tensor, left: Tensor
    ) -> list[Tensor]:
        """Which rows (R,) say something of each head, in the order of `log_likelihood`."""
        found = [(return_day > 0) | returned] if self.bins else []
        for j, label in enumerate(self.labels):
            if label.kind == "risks":
                found.append(reach.informative(values[:, j], left_day, left))
            elif label.kind != "hazard":
                found.append(~values[:, j].isnan())
        return found

    def log_likelihood(
        self, state: Tensor, values: Tensor, return_day: Tensor, returned: Tensor, left_day: Tensor, left: Tensor
    ) -> list[Tensor]:
        """Mean log-likelihood of each head over the rows that say something of it; 0 for a head without any.

        state (R, W); values (R, labels) with NaN for not known; return_day, returned, left_day, left (R,).
        """
        raw = self.read(state)
        terms: list[Tensor] = []
        said = self.rows_known(values, return_day, returned, left_day, left)
        if self.bins:
            known = said.pop(0)
            if not bool(known.any()):
                terms.append(raw.sum() * 0.0)
            else:
                terms.append(hazard_log_likelihood(raw[known, : self.bins], return_day[known], returned[known]).mean())
        places = [j for j, label in enumerate(self.labels) if label.kind != "hazard"]
        for known, place, columns, label in zip(said, places, self.columns, self.others, strict=True):
            if not bool(known.any()):
                terms.append(raw.sum() * 0.0)
                continue
            own, y = raw[known, columns], values[known, place]
            if label.kind == "risks":
                terms.append(reach.log_likelihood(own, y, left_day[known], left[known]).mean())
            elif label.kind == "logit":
                terms.append(-F.binary_cross_entropy_with_logits(own[:, 0], y))
            else:
                terms.append(beta_binomial_log_likelihood(own[:, 0], own[:, 1], y, label.trials).mean())
        return terms

    def means(self, state: Tensor) -> Tensor:
        """Expected value of every label, (R, labels): shares of one for yes-or-no labels, counts for the others."""
        raw = self.read(state)
        columns: list[Tensor] = []
        retention = returned_within(raw[:, : self.bins]) if self.bins else None
        others = iter(self.columns)
        for label in self.labels:
            if label.kind == "hazard":
                assert retention is not None
                columns.append(retention[:, label.days])
            elif label.kind == "risks":
                columns.append(reach.reachable(raw[:, next(others)]))
            else:
                columns.append(torch.sigmoid(raw[:, next(others).start]) * label.trials)
        return torch.stack(columns, dim=1) if columns else state.new_zeros((state.shape[0], 0))

    def variances(self, state: Tensor) -> Tensor:
        """Variance of every label given the state, (R, labels)."""
        raw, mean = self.read(state), self.means(state)
        columns: list[Tensor] = []
        others = iter(self.columns)
        for column, label in enumerate(self.labels):
            share = mean[:, column] / label.trials
            variance = share * (1 - share)
            own = raw[:, next(others)] if label.kind != "hazard" else raw
            if label.kind == "trials":
                variance = beta_binomial_variance(own[:, 0], own[:, 1], label.trials)
            columns.append(variance)
        return torch.stack(columns, dim=1) if columns else state.new_zeros((state.shape[0], 0))


def hazard_log_likelihood(logits: Tensor, day: Tensor, returned: Tensor) -> Tensor:
    """Log-likelihood (R,) of a discrete-time hazard with right censoring.

    logits (R, J): of returning on day j for one who has not yet, j = 0 being later on the same day. day (R,): of the
    return, or how many days (that one included) passed without one; days from J on are censored at J.
    """
    J = logits.shape[1]
    returned = returned & (day < J)
    step = torch.arange(J, device=logits.device)
    survived = (step[None, :] < day.clamp_max(J)[:, None]) * F.logsigmoid(-logits)
    event = F.logsigmoid(logits.gather(1, day.clamp_max(J - 1)[:, None]))[:, 0]
    return survived.sum(1) + torch.where(returned, event, torch.zeros_like(event))


def returned_within(logits: Tensor) -> Tensor:
    """Probability (R, J) of having returned by the end of day 0..J - 1; grows along J by construction."""
    return -torch.expm1(F.logsigmoid(-logits).cumsum(1))


def _mass(spread: Tensor) -> Tensor:
    # The beta's alpha + beta. Bounded, because the likelihood is flat where the spread is binomial.
    return F.softplus(spread).clamp(0.05, 50.0)


def beta_binomial_log_likelihood(logit: Tensor, spread: Tensor, y: Tensor, trials: int | Tensor) -> Tensor:
    """Log-likelihood (R,) of y successes out of `trials`, mean sigmoid(logit), but for the constant choose(n, y)."""
    mass = _mass(spread)
    share = torch.sigmoid(logit).clamp(1e-4, 1 - 1e-4)
    a, b = share * mass, (1 - share) * mass
    return (
        torch.lgamma(y + a)
        + torch.lgamma(trials - y + b)
        - torch.lgamma(mass + trials)
        + torch.lgamma(mass)
        - torch.lgamma(a)
        - torch.lgamma(b)
    )


def beta_binomial_variance(logit: Tensor, spread: Tensor, trials: int | Tensor) -> Tensor:
    """Variance (R,) of the number of successes out of `trials`, mean sigmoid(logit)."""
    mass, share = _mass(spread), torch.sigmoid(logit)
    return share * (1 - share) * trials * (mass + trials) / (mass + 1.0)


def is_return(name: str) -> bool:
    """Whether a label is read off the return curve."""
    return re.fullmatch(r"returned_\d+d", name) is not None
