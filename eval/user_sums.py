"""Sums by user over a log that comes in blocks: all that values, standard errors and bootstraps need of it.

Memory is users x columns, whatever the number of rounds. The same blocks in the same order give the same bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError
from eval.intervals import Floats


class UserSums:
    """Adds up columns by user. Users may be of any type that sorts, and may come back in later blocks."""

    def __init__(self) -> None:
        self._parts: list[tuple[NDArray[np.generic], Floats]] = []
        self._settled = 0  # rows of the last merge
        self.rounds = 0

    def add(self, user: NDArray[np.generic], columns: Floats) -> None:
        """Adds columns (n, m) of rounds whose users are user (n,). Raises InputError on differing lengths."""
        labels = np.asarray(user)
        if labels.shape != (len(columns),):
            raise InputError(f"cluster: {labels.shape} labels for {len(columns)} rows; give one cluster (user) per row")
        if labels.dtype.kind in "fO":  # nan and None, which equal nothing that a user could be
            unknown = np.isnan(labels) if labels.dtype.kind == "f" else np.array([label is None for label in labels])
            if unknown.any():
                row = int(unknown.argmax())
                raise InputError(f"user: {labels[row]} in row {row}; every round needs its user")
        self.rounds += len(columns)
        self._parts.append(_by_label(labels, columns))
        waiting = sum(len(users) for users, _ in self._parts)
        if waiting > 2 * max(self._settled, 1 << 13):  # merging seldom keeps the cost in proportion to the log
            self._merge()

    def table(self) -> tuple[NDArray[np.generic], Floats]:
        """Users (U,) in order and their sums (U, m). Raises InputError below two users: a variance needs two."""
        if not self._parts:
            raise InputError("rounds: none; there is nothing to estimate from")
        self._merge()
        users, sums = self._parts[0]
        if len(users) < 2:
            raise InputError(
                f"cluster: {len(users)} cluster in {self.rounds} rows; an interval needs rows of at least two users"
            )
        return users, sums

    def _merge(self) -> None:
        if len(self._parts) > 1:
            labels = np.concatenate([users for users, _ in self._parts])
            self._parts = [_by_label(labels, np.concatenate([sums for _, sums in self._parts]))]
        self._settled = len(self._parts[0][0])


def _by_label(labels: NDArray[np.generic], columns: Floats) -> tuple[NDArray[np.generic], Floats]:
    users, codes = np.unique(labels, return_inverse=True)
    sums = np.empty((len(users), columns.shape[1]))
    for column in range(columns.shape[1]):
        sums[:, column] = np.bincount(codes, weights=columns[:, column], minlength=len(users))
    return users, sums
