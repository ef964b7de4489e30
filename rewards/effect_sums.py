"""Sums of products of the two regressions of `rewards.advantage`, so that rows are streamed and never kept.

A chunk's columns are differences from what is shown anyway; the one-hot of an item shown is never spelled out, because
its products are counts. Sums are kept by side, two groups of users, so that what was learned on one can be used on the
other.
"""

from dataclasses import dataclass

import numpy as np

from rewards.ridge import Posterior, fit_ridge


@dataclass(frozen=True)
class Chunk:
    """R rows of a fold, with everything relative to the logging policy."""

    rows: np.ndarray
    rates: np.ndarray  # (R, M)
    expected: np.ndarray  # (R, K, C) reaction of the item shown less that of an item shown anyway
    surprise: np.ndarray  # (R, K, C)
    items: np.ndarray  # (R, K) place among the reference items, -1 outside or not shown
    weight: np.ndarray  # (R, K) position weight, 0 where nothing is shown
    content: np.ndarray  # (R, K, P)


def slate_design(chunk: Chunk) -> np.ndarray:
    """Weighted differences from what is shown anyway, summed over the slate: (R, P + M)."""
    content = np.einsum("rk,rkp->rp", chunk.weight, chunk.content)
    return np.concatenate([content, _counts(chunk, chunk.weight) - chunk.weight.sum(1, keepdims=True) * chunk.rates], 1)


def _counts(chunk: Chunk, weight: np.ndarray) -> np.ndarray:
    counts = np.zeros(chunk.rates.shape, np.float32)
    row, k = np.nonzero(chunk.items >= 0)
    np.add.at(counts, (row, chunk.items[row, k]), weight[row, k])
    return counts


class ReactionSums:
    """Sums of products of the first regression, per side: columns are (own slope | content | items), rows positions."""

    def __init__(self, C: int, P: int, M: int) -> None:
        self.P, self.M = P, M
        self.shared = np.zeros((2, P + M, P + M))
        self.cross = np.zeros((2, C, P + M))  # own column times the shared ones
        self.own = np.zeros((2, C))
        self.moment = np.zeros((2, C, 1 + P + M))
        self.square = np.zeros((2, C))
        self.count = np.zeros(2)

    def add(self, chunk: Chunk, of: np.ndarray, side: int) -> None:
        """Add the rows `of` a chunk. The one-hot of an item shown is never spelled out: its products are counts."""
        if not of.any():
            return
        part = Chunk(
            chunk.rows[of], chunk.rates[of], chunk.expected[of], chunk.surprise[of], chunk.items[of], chunk.weight[of],
            chunk.content[of],
        )  # fmt: skip
        P, w, w2 = self.P, part.weight, part.weight**2
        counts = _counts(part, w2)  # (R, M)
        total = w2.sum(1, keepdims=True)
        gram = np.zeros((P + self.M, P + self.M), np.float32)
        content = part.content * w[..., None]
        gram[:P, :P] = np.einsum("rkp,rkq->pq", content, content)
        seen = part.items >= 0
        by_item = np.zeros((self.M, P), np.float32)
        np.add.at(by_item, part.items[seen], part.content[seen] * w2[seen][:, None])
        summed = np.einsum("rkp,rk->rp", part.content, w2)
        gram[:P, P:] = by_item.T - summed.T @ part.rates
        gram[P:, :P] = gram[:P, P:].T
        mixed = counts.T @ part.rates
        scaled = part.rates * np.sqrt(total)
        gram[P:, P:] = np.diag(counts.sum(0)) - mixed - mixed.T + scaled.T @ scaled
        self.shared[side] += gram
        self.count[side] += float((w > 0).sum())
        for c in range(part.expected.shape[2]):
            x, y = part.expected[..., c] * w, part.surprise[..., c]
            self.own[side, c] += float(np.sum(x * x))
            self.square[side, c] += float(np.sum(y * y))
            self.moment[side, c, 0] += float(np.sum(x * y))
            for values, into in ((x, self.cross[side, c]), (y, self.moment[side, c, 1:])):
                weighted = values * w
                into[:P] += np.einsum("rkp,rk->p", part.content, weighted)
                into[P:] += np.bincount(part.items[seen], weights=weighted[seen], minlength=self.M)
                into[P:] -= weighted.sum(1) @ part.rates

    def solve(self, c: int, sides: tuple[int, ...], precision: np.ndarray | None) -> Posterior:
        """Posterior of channel c from the given sides; prior precisions are learned unless given."""
        of = list(sides)
        size = 1 + self.P + self.M
        gram = np.zeros((size, size))
        gram[1:, 1:] = self.shared[of].sum(0)
        gram[0, 1:] = gram[1:, 0] = self.cross[of, c].sum(0)
        gram[0, 0] = self.own[of, c].sum()
        noise = self.square[of, c].sum() / max(self.count[of].sum(), 1.0)
        group = np.repeat([0, 1, 2] if self.P else [0, 1], [1, self.P, self.M] if self.P else [1, self.M])
        known = {0: 1.0} if precision is None else dict(enumerate(precision.tolist()))
        return fit_ridge(gram, self.moment[of, c].sum(0), noise, group, known)


class OutcomeSums:
    """Sums of products of the second regression; columns are (reactions | content | items), rows slates.

    Labels that are known for the same rows share their sums. Sums are kept by side, so that a column made of what was
    learned on one side can be used on the other.
    """

    def __init__(self, C: int, P: int, M: int, residual: np.ndarray) -> None:
        self.C, self.P, self.M, self.residual = C, P, M, residual
        known = ~np.isnan(residual)  # (R, L)
        patterns, self.pattern = np.unique(known, axis=0, return_inverse=True)
        self.patterns = patterns
        size = C + P + M
        self.gram = np.zeros((2, len(patterns), size, size))
        self.moment = np.zeros((2, residual.shape[1], size))

    def add(self, design: np.ndarray, rows: np.ndarray, side: int) -> None:
        """Add the design (R, C + P + M) of a chunk's rows on one side."""
        pattern = self.pattern.reshape(-1)[rows]
        for index in np.unique(pattern):
            if self.patterns[index].any():
                part = design[pattern == index]
                self.gram[side, index] += part.T @ part
        self.moment[side] += np.nan_to_num(self.residual[rows]).T @ design

    def solve(
        self, label: int, weights: np.ndarray, effect: float, proxy: np.ndarray | None = None
    ) -> Posterior | None:
        """Posterior of (index slope | reactions | content | items); None where the label never varies.

        proxy (2, C + P + M): effects to be used on each side as one more column, the first.
        """
        known = ~np.isnan(self.residual[:, label])
        noise = float(np.mean(self.residual[known, label] ** 2)) * effect if known.any() else 0.0
        if noise <= 1e-9:
            return None
        mixtures = [self._mixture(weights, None if proxy is None else proxy[side]) for side in (0, 1)]
        known_for = self.patterns[:, label]
        gram = np.sum([m.T @ self.gram[side, known_for].sum(0) @ m for side, m in enumerate(mixtures)], axis=0)
        moment = np.sum([m.T @ self.moment[side, label] for side, m in enumerate(mixtures)], axis=0)
        group, fixed = self._groups(proxy is not None)
        return fit_ridge(gram, moment, noise, group, fixed)

    def by_side(self, label: int, weights: np.ndarray, whole: Posterior) -> np.ndarray:
        """Effects (2, C + P + M) on a label for use on each side: learned on the other, with the whole fold's prior."""
        mixture, (group, _) = self._mixture(weights, None), self._groups(False)
        found = []
        for other in (1, 0):
            gram = mixture.T @ self.gram[other, self.patterns[:, label]].sum(0) @ mixture
            known = dict(enumerate(whole.precision.tolist()))
            posterior = fit_ridge(gram, mixture.T @ self.moment[other, label], whole.noise, group, known)
            found.append(mixture @ posterior.mean)
        return np.stack(found)

    def _mixture(self, weights: np.ndarray, proxy: np.ndarray | None) -> np.ndarray:
        """Columns of the regression (C + P + M, ..) in terms of the summed ones: proxy and index are mixtures."""
        size = self.gram.shape[-1]
        index = np.zeros(size)
        index[: self.C] = weights
        columns = [index[:, None], np.eye(size)]
        return np.concatenate(columns if proxy is None else [proxy[:, None], *columns], axis=1)

    def _groups(self, proxied: bool) -> tuple[np.ndarray, dict[int, float]]:
        sizes = [size for size in ([1] * proxied + [1, self.C, self.P, self.M]) if size]
        # Beside a proxy, an index of the outcome's own has to earn its place.
        return np.repeat(np.arange(len(sizes)), sizes), {0: 0.25}
