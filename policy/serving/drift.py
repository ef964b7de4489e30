"""Whether what is served still looks like what was trained for: windows of served decisions against a reference.

The population stability index compares two samples over the deciles of the first: the sum over bins of (q - p)
log(q/p), with p the reference's share of a bin and q the window's. By custom below 0.1 is stable, above 0.25 has moved.
For a policy's propensities and predicted rewards the reference is what the same policy does at decisions of the
training log (`policy.serving.reference`), so a drift means that listeners, or how they are read, have changed.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

BINS = 10
# Fewer than this say nothing: ten bins of a sample of 100 have a PSI of 0.1 by chance alone.
LEAST = 100


def psi(reference: Sequence[float], window: Sequence[float], bins: int = BINS) -> float | None:
    """Population stability index of two samples; None when either has fewer than LEAST values.

    Half a count is added to every bin, so that an empty one is finite.
    """
    if min(len(reference), len(window)) < LEAST:
        return None
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1]))
    p, q = (
        np.bincount(np.searchsorted(edges, sample), minlength=len(edges) + 1) + 0.5 for sample in (reference, window)
    )
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def entropy(counts: Counter[int]) -> float:
    """Of the items shown, in nats: log of as many items as would, shown equally often, be as varied."""
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values()) if total else 0.0


@dataclass
class Watch:
    """The last decisions by policy and by arm. window: how many of each. For one event loop."""

    window: int = 2000
    values: dict[tuple[str, str], deque[float]] = field(default_factory=dict)
    shown: dict[str, deque[tuple[int, ...]]] = field(default_factory=dict)
    references: dict[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)

    def see(self, policy: str, arm: str, rows: Sequence[int], propensity: float) -> None:
        """Note a served slate. The propensity is taken per item and in the logarithm, so that lengths compare."""
        self.shown.setdefault(arm, deque(maxlen=self.window)).append(tuple(rows))
        self._note(policy, "log_propensity", math.log(propensity) / len(rows) if propensity > 0 else -math.inf)

    def see_reward(self, policy: str, reward: float) -> None:
        """Note the predicted reward of a served slate."""
        self._note(policy, "reward", reward)

    def drift(self) -> dict[tuple[str, str], float]:
        """PSI by (policy, quantity), where both the reference and the window are large enough."""
        found = {}
        for (policy, quantity), values in self.values.items():
            index = psi(self.references.get(policy, {}).get(quantity, ()), list(values))
            if index is not None:
                found[policy, quantity] = index
        return found

    def coverage(self, items: int) -> float:
        """Share of the catalog's items among those shown lately, by whichever arm."""
        return len({row for slates in self.shown.values() for slate in slates for row in slate}) / items

    def entropies(self) -> dict[str, float]:
        """Entropy of the items that each arm shows, in nats."""
        return {arm: entropy(Counter(row for slate in slates for row in slate)) for arm, slates in self.shown.items()}

    def _note(self, policy: str, quantity: str, value: float) -> None:
        self.values.setdefault((policy, quantity), deque(maxlen=self.window)).append(value)
