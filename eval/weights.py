"""What importance weights look like as a whole: effective size, heaviest round, tail, and what exploration would cost.

All of it is added up over blocks. The tail is judged by Pareto's k: weights with k above .7 have no usable variance at
any size of log that one could have (Vehtari et al. 2024).
"""

from __future__ import annotations

import numpy as np

from eval.intervals import Floats

EXPLORATION_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
TAIL_ROWS = 50_000  # the most weights kept for the tail; 3 sqrt(n) of them are used, so enough for 2.7e8 rounds
FEWEST_TAIL = 5


def effective(weights: Floats) -> float:
    """Kish's effective sample size (sum w)^2 / sum w^2 (1965); zero when all weights are zero."""
    peak = float(np.abs(weights).max(initial=0.0))
    if peak == 0.0:
        return 0.0
    scaled = weights / peak  # so that squares of large weights cannot overflow
    return float(scaled.sum() ** 2 / np.square(scaled).sum())


class WeightTally:
    """Adds up one column of weights."""

    def __init__(self) -> None:
        self.rounds = 0
        self.total = 0.0
        self.peak = 0.0
        self._squares = 0.0  # sum of (w / peak)^2
        self._tail: Floats = np.empty(0)
        self._least = -np.inf  # what may still belong to the tail
        self.mixed = np.zeros(len(EXPLORATION_SHARES))  # sums of w w', w' = w / (1 - e + e w)

    def add(self, weights: Floats) -> None:
        """Counts weights (n,) in."""
        self.rounds += weights.size
        self.total += float(weights.sum())
        peak = max(self.peak, float(np.abs(weights).max(initial=0.0)))
        if peak > 0:
            self._squares = self._squares * (self.peak / peak) ** 2 + float(np.square(weights / peak).sum())
        self.peak = peak
        positive = np.maximum(weights, 0.0)
        for place, share in enumerate(EXPLORATION_SHARES):
            mixture = np.maximum(1.0 - share + share * positive, np.finfo(float).tiny)
            self.mixed[place] += float((positive * (positive / mixture)).sum())
        self._tail = np.concatenate([self._tail, weights[weights >= self._least]])
        if self._tail.size > 2 * TAIL_ROWS:
            self._tail = np.partition(self._tail, -TAIL_ROWS)[-TAIL_ROWS:]
            self._least = float(self._tail.min())

    @property
    def effective(self) -> float:
        """Effective rounds."""
        return (self.total / self.peak) ** 2 / self._squares if self.peak > 0 else 0.0

    @property
    def heaviest_share(self) -> float | None:
        """Share of all weight on the heaviest round."""
        return self.peak / self.total if self.total > 0 else None

    @property
    def pareto_k(self) -> float | None:
        """Shape of the weights' tail; None with too few different weights."""
        return pareto_k(self._tail, self.rounds)


def pareto_k(weights: Floats, rounds: int | None = None) -> float | None:
    """Shape k of a generalised Pareto tail fitted to the largest weights; None where there is no tail to fit.

    weights: all of them, or at least the 3 sqrt(n) + 1 largest of n = `rounds`. The tail is the largest
    min(n / 5, 3 sqrt(n)) (Vehtari et al. 2024), less the largest that is not in it.
    """
    n = weights.size if rounds is None else rounds
    size = int(np.ceil(min(0.2 * n, 3.0 * np.sqrt(n))))
    if size < FEWEST_TAIL or weights.size <= size:
        return None
    ordered = np.sort(weights)
    cut = ordered[-size - 1]
    exceeding = ordered[-size:] - cut
    exceeding = exceeding[exceeding > 0]
    if exceeding.size < FEWEST_TAIL or exceeding[-1] <= 1e-9 * max(abs(cut), 1e-300):
        return None
    with np.errstate(all="ignore"):
        k, _ = generalised_pareto(exceeding)
    return k if np.isfinite(k) else None  # a handful of different weights has no tail


def generalised_pareto(excesses: Floats) -> tuple[float, float]:
    """Shape k and scale of a generalised Pareto distribution of excesses (m,), sorted upwards and above zero.

    The posterior-mean fit of Zhang & Stephens (Technometrics 2009), with k drawn to .5 by ten observations' worth as
    Vehtari et al. (2024) do. k > 0 is a heavy tail; moments from 1 / k on do not exist.
    """
    m = excesses.size
    grid = 30 + int(np.sqrt(m))
    quartile = excesses[int(m / 4 + 0.5) - 1]
    theta = 1.0 / excesses[-1] + (1.0 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))) / (3.0 * quartile)
    shape = np.log1p(-theta[:, None] * excesses[None, :]).mean(axis=1)  # (grid,)
    profile = m * (np.log(-theta / shape) - shape - 1.0)
    posterior = 1.0 / np.exp(profile[None, :] - profile[:, None]).sum(axis=1)
    keep = posterior >= 10 * np.finfo(float).eps
    mean_theta = float((theta[keep] * posterior[keep]).sum() / posterior[keep].sum())
    k = float(np.log1p(-mean_theta * excesses).mean())
    scale = -k / mean_theta
    return (m * k + 5.0) / (m + 10.0), scale
