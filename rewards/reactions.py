"""What the listener did right after, and what it says about what comes later.

A window of 28 days is slow and noisy; the reactions in the session itself are there at once and say much of it. The
surrogate index (Athey, Chetty, Imbens & Kang, 2019) is E[Y | history, reactions], fitted where Y is known and read
everywhere. Here it is linear in the reactions' surprise (what happened less what this listener does anyway, at this
position): one weight per kind of reaction, which is also what makes it readable.

The index can be wrong about causes: a listener in a good mood taps more and returns more. So its slope against the
outcome is fitted a second time in `rewards.advantage`, along the differences between slates that the logging policy
drew at random (regularised instruments: Peysakhovich & Eckles, 2018; the same concern as LOPE's correction term).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.histories import Decisions
from data.schema import ACTIONS

RARE = 1e-3  # a reaction seen at fewer than this share of positions has no channel of its own


@dataclass(frozen=True)
class Channels:
    """The kinds of reaction that a log has, as codes of data.schema.ACTIONS; class 0 is no reaction at all."""

    codes: tuple[int, ...]

    @staticmethod
    def of(decisions: Decisions, rows: np.ndarray) -> "Channels":
        """The reactions seen often enough in `rows`. None when every shown item has the same one."""
        shown = decisions.slate[rows] >= 0
        reaction = decisions.reaction[rows][shown]
        if len(reaction) == 0:
            return Channels(())
        codes = tuple(code for code in range(len(ACTIONS)) if np.mean(reaction == code) >= RARE)
        varies = len(codes) > 1 or (len(codes) == 1 and np.mean(reaction == codes[0]) <= 1 - RARE)
        return Channels(codes if varies else ())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the reactions, without that of no reaction."""
        return tuple(ACTIONS[code] for code in self.codes)

    def classes(self, reaction: np.ndarray) -> np.ndarray:
        """Class 0..C of each reaction code; what has no channel counts as no reaction."""
        table = np.zeros(len(ACTIONS) + 1, np.int64)
        for index, code in enumerate(self.codes):
            table[code + 1] = index + 1
        return table[reaction.astype(np.int64) + 1]

    def indicators(self, reaction: np.ndarray) -> np.ndarray:
        """One column per channel, float32 (..., C)."""
        columns: np.ndarray = self.classes(reaction)[..., None] == np.arange(1, len(self.codes) + 1)
        return columns.astype(np.float32)


@dataclass(frozen=True)
class Index:
    """Weights (C, labels) of the reactions in each outcome, and how much of the residual variance they explain."""

    channels: tuple[str, ...]
    weights: np.ndarray
    explained: np.ndarray  # (labels,)


def fit_index(channels: Sequence[str], surprise: np.ndarray, residual: np.ndarray, ridge: float = 10.0) -> Index:
    """Least squares of the outcomes' residuals on the reactions' surprise, per label over its known rows.

    surprise (D, C): reactions of a slate less their expectation. residual (D, labels): outcome less V(history), NaN
    where not known yet. `ridge` counts as that many rows of prior weight at zero.
    """
    C, L = surprise.shape[1], residual.shape[1]
    weights, explained = np.zeros((C, L), np.float64), np.zeros(L)
    scale = surprise.std(0).astype(np.float64) if len(surprise) else np.ones(C)
    for label in range(L):
        known = ~np.isnan(residual[:, label])
        if known.sum() <= C + 1:
            continue
        x, y = surprise[known].astype(np.float64), residual[known, label].astype(np.float64)
        x, y = x - x.mean(0), y - y.mean()
        gram = x.T @ x + ridge * np.diag(np.maximum(scale, 1e-6) ** 2)
        weights[:, label] = np.linalg.solve(gram, x.T @ y)
        total = float(y @ y)
        explained[label] = 1.0 - float(np.sum((y - x @ weights[:, label]) ** 2)) / total if total > 0 else 0.0
    return Index(tuple(channels), weights, explained)
