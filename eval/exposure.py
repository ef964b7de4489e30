"""What a policy shows: how much of the catalog, how unevenly, how predictably.

A policy that earns return by playing the same forty items to everybody has found a different answer from one that
plays the whole catalog, and creators feel the difference; so the report prints both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.histories import Contexts
from data.world.environment import SlatePolicy


@dataclass(frozen=True)
class Exposure:
    """Counts of what was shown, and the policy's own randomness.

    shown: (N,) how often each item stood in a slate. slates: how many slates. entropy: mean of -log p of the drawn
    slates, an unbiased estimate of the policy's entropy in nats; None where the policy gave no probabilities.
    """

    shown: NDArray[np.int64]
    slates: int
    entropy: float | None

    def coverage(self) -> float:
        """Share of the catalog that was shown at least once."""
        return float((self.shown > 0).mean())

    def effective_items(self) -> float:
        """exp(Shannon entropy) of the shares of exposure: as many items as, shown equally often, are as varied."""
        return effective_number(self.shown)

    def gini(self) -> float:
        """Gini coefficient of exposure over the catalog: 0 all items alike, towards 1 a single item."""
        return gini(self.shown)

    def top_share(self, share: float = 0.1) -> float:
        """Share of all exposure on the most shown `share` of the catalog."""
        best = np.sort(self.shown)[::-1][: max(1, round(share * self.shown.size))]
        return float(best.sum() / max(1, self.shown.sum()))

    def of_creators(self, items: pl.DataFrame) -> NDArray[np.int64]:
        """Exposure summed by creator (C,); `items` is the ITEMS table in catalog order. Unnamed creators are one."""
        _, codes = np.unique(items["creator"].fill_null("").to_numpy(), return_inverse=True)
        return np.bincount(codes, weights=self.shown).astype(np.int64)

    def summary(self, items: pl.DataFrame) -> dict[str, float]:
        """The numbers of the report's section on catalog use."""
        creators = self.of_creators(items)
        found = {
            "coverage": self.coverage(),
            "effective_items": self.effective_items(),
            "gini": self.gini(),
            "top_10_percent_share": self.top_share(),
            "effective_creators": effective_number(creators),
            "creator_coverage": float((creators > 0).mean()),
        }
        if self.entropy is not None:
            found["slate_entropy"] = self.entropy
        return found


def of_slates(slates: NDArray[np.int32], items: int, log_probability: NDArray[np.float64] | None = None) -> Exposure:
    """Exposure of slates (B, K), padded with -1, over a catalog of `items` items."""
    shown = np.bincount(slates[slates >= 0], minlength=items).astype(np.int64)
    known = log_probability is not None and log_probability.size > 0 and bool(np.isfinite(log_probability).all())
    entropy = float(-np.mean(log_probability)) if known and log_probability is not None else None
    return Exposure(shown, slates.shape[0], entropy)


class Watched:
    """A policy that counts what it shows; otherwise exactly the policy it wraps."""

    def __init__(self, policy: SlatePolicy, items: int) -> None:
        """Counts over a catalog of `items` items."""
        self.name = policy.name
        self._policy = policy
        self._shown = np.zeros(items, dtype=np.int64)
        self._slates = 0
        self._surprise = 0.0

    def choose(self, contexts: Contexts, rng: np.random.Generator) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """The wrapped policy's slates (B, K) and log-probabilities (B,)."""
        slates, log_probability = self._policy.choose(contexts, rng)
        self._shown += np.bincount(slates[slates >= 0], minlength=self._shown.size)
        self._slates += slates.shape[0]
        self._surprise -= float(log_probability.sum())
        return slates, log_probability

    def exposure(self) -> Exposure:
        """What was shown so far."""
        entropy = self._surprise / self._slates if self._slates and np.isfinite(self._surprise) else None
        return Exposure(self._shown.copy(), self._slates, entropy)


def effective_number(counts: NDArray[np.int64]) -> float:
    """exp of the Shannon entropy of counts; 0 when there are none (Hill number of order one, Hill 1973)."""
    total = counts.sum()
    if total == 0:
        return 0.0
    share = counts[counts > 0] / total
    return float(np.exp(-(share * np.log(share)).sum()))


def gini(counts: NDArray[np.int64]) -> float:
    """Gini coefficient of counts (N,), by the ordered-sum formula; 0 when there are none."""
    total = float(counts.sum())
    if total == 0:
        return 0.0
    ordered = np.sort(counts)
    rank = np.arange(1, ordered.size + 1)
    return float(2.0 * (rank * ordered).sum() / (ordered.size * total) - (ordered.size + 1) / ordered.size)
