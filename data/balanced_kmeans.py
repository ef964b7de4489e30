"""K-means in which no cluster may overflow, within groups that share one codebook."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

_SAMPLE = 20_000  # points that centres are fitted on: more change them by less than they differ between seeds
_ROUNDS = 12
_SINKHORN = 25


def distances(points: Floats, book: Floats) -> Floats:
    """Squared distances (n, K)."""
    far = (points**2).sum(1)[:, None] - 2 * points @ book.T + (book**2).sum(1)
    return np.asarray(np.maximum(far, 0), dtype=np.float32)


def centres(points: Floats, size: int, rng: np.random.Generator) -> Floats:
    """Lloyd's k-means from a k-means++ start, on at most 20,000 of the points. (size, D)

    With fewer points than centres, the rest are points moved by a hair, so that no two are alike.
    """
    some = points if len(points) <= _SAMPLE else points[np.sort(rng.choice(len(points), _SAMPLE, replace=False))]
    book = np.empty((size, points.shape[1]), dtype=np.float32)
    book[0] = some[rng.integers(len(some))]
    far = ((some - book[0]) ** 2).sum(1)
    for k in range(1, size):
        total = float(far.sum(dtype=np.float64))
        if total > 1e-9:
            pick = int(np.searchsorted(np.cumsum(far, dtype=np.float64), rng.random() * total))
            book[k] = some[min(pick, len(some) - 1)]
        else:
            book[k] = some[rng.integers(len(some))] + 1e-3 * rng.normal(size=points.shape[1])
        far = np.minimum(far, ((some - book[k]) ** 2).sum(1))
    for _ in range(_ROUNDS):
        book = _means(some, distances(some, book).argmin(1), book)
    return book


def cluster(
    points: Floats, group: npt.NDArray[np.int64], size: int, most: int, rng: np.random.Generator
) -> tuple[Ints, Floats]:
    """Codes (N,) and one codebook (size, D) for all groups, at most `most` points per (group, code).

    The codebook is fitted to all points, then codes are assigned within each group under the limit and the codebook
    moved to the means, twice over. Needs size * most >= the largest group.
    """
    book = centres(points, size, rng)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) != 0, True])
    code = np.zeros(len(points), dtype=np.int32)
    for turn in range(3):
        for first, end in pairwise(starts.tolist()):
            members = order[first:end]
            code[members] = assign(distances(points[members], book), most)
        if turn < 2:
            book = _means(points, code, book)
    return code, _means(points, code, book)


def assign(cost: Floats, most: int) -> Ints:
    """A column for each row of `cost` (n, K), near to the cheapest in total, no column more than `most` times. (n,)

    Prices for crowded columns come from entropic optimal transport with upper limits on the columns (Sinkhorn;
    Cuturi, NeurIPS 2013). Then each row takes its cheapest priced column, a full column keeps the rows that would
    lose most by going, and the others choose again. Raises ValueError when n > K * most.
    """
    rows, columns = cost.shape
    if rows > columns * most:
        raise ValueError(f"{rows} rows do not fit into {columns} columns of {most}")
    choice: npt.NDArray[Any] = cost.argmin(1)
    if np.bincount(choice, minlength=columns).max() <= most:
        return np.asarray(choice, dtype=np.int32)
    priced = cost + _prices(cost, most)
    choice = np.full(rows, -1)
    left = np.full(columns, most)
    waiting = np.arange(rows)
    while len(waiting):
        open_cost = np.where(left > 0, priced[waiting], np.inf)
        best = open_cost.argmin(1)
        cheapest = open_cost[np.arange(len(waiting)), best]
        open_cost[np.arange(len(waiting)), best] = np.inf
        second = open_cost.min(1)
        regret = np.where(np.isinf(second), np.inf, second - cheapest)
        # Within each column, those with most to lose first.
        order = np.lexsort((waiting, -regret, best))
        column = best[order]
        place = np.arange(len(order)) - np.searchsorted(column, column, side="left")
        taken = place < left[column]
        choice[waiting[order[taken]]] = column[taken]
        left -= np.bincount(column[taken], minlength=columns)
        waiting = np.sort(waiting[order[~taken]])
    return np.asarray(choice, dtype=np.int32)


def _prices(cost: Floats, most: int) -> Floats:
    """What to add to each column's cost so that few columns are asked for too often. (K,)"""
    spread = float(np.median(cost.max(1) - cost.min(1)))
    soft = max(spread, 1e-9) * 0.02
    room = most / len(cost)
    if len(cost) > _SAMPLE:  # a price is what a share of the rows would pay, and the share is known from some of them
        cost = cost[np.linspace(0, len(cost) - 1, _SAMPLE).astype(np.int64)]
    scaled = cost * np.float32(-1 / soft)
    price = np.zeros(cost.shape[1], dtype=np.float64)
    for _ in range(_SINKHORN):
        likely = scaled - (price / soft).astype(np.float32)
        likely -= likely.max(1, keepdims=True)
        np.exp(likely, out=likely)
        asked = np.mean(likely / likely.sum(1, keepdims=True), axis=0, dtype=np.float64)
        price = np.maximum(0.0, price + soft * np.log(np.maximum(asked, 1e-12) / room))
    return price.astype(np.float32)


def _means(points: Floats, code: npt.NDArray[Any], book: Floats) -> Floats:
    """Mean of each code's points; a code without points stays where it was."""
    use = np.bincount(code, minlength=len(book))
    order = np.argsort(code, kind="stable")
    total = np.zeros(book.shape, dtype=np.float64)
    present = np.flatnonzero(use)
    if len(present):
        ends = np.cumsum(use)[present]
        total[present] = np.add.reduceat(points[order], ends - use[present], axis=0, dtype=np.float64)
    return np.where(use[:, None] > 0, total / np.maximum(use, 1)[:, None], book).astype(np.float32)
