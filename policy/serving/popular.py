"""The last rung: slates drawn by popularity, without the model server, and with a propensity of their own.

Items are drawn one after the other without replacement, each with probability proportional to how often the log says it
was chosen (plus one), among those that may be shown: a Plackett-Luce draw, so that the probability of the slate in its
order is a product one can write down, and every eligible item has some.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.catalog import Catalog
from data.store import LogStore

NAME = "popular"
# What a listener chose, or stayed with; a skip or a dislike is no vote.
VOTES = ("play", "complete", "save", "like", "open", "convert")


@dataclass(frozen=True)
class Popular:
    """weights (N,) float64, > 0: by catalog row."""

    weights: NDArray[np.float64]

    @classmethod
    def of(cls, catalog: Catalog, store: LogStore | None) -> Popular:
        """Count the log's events by item; without a log all items weigh the same."""
        counts = pl.DataFrame(schema={"item_id": pl.String, "votes": pl.UInt32})
        if store is not None:
            files = [file for bucket in range(store.buckets) for file in store.files("events", bucket)]
            events = pl.scan_parquet(files, glob=False).filter(pl.col("action").is_in(VOTES))
            counts = events.group_by("item_id").agg(pl.len().alias("votes")).collect()
        votes = catalog.items.select("item_id").join(counts, on="item_id", how="left", maintain_order="left")["votes"]
        return cls(votes.fill_null(0).to_numpy().astype(np.float64) + 1.0)

    @cached_property
    def version(self) -> str:
        """ "popular@version" as it is logged: the version hashes the weights."""
        return f"{NAME}@{hashlib.sha256(self.weights.tobytes()).hexdigest()[:10]}"

    def draw(
        self, eligible: NDArray[np.bool_] | None, size: int, rng: np.random.Generator
    ) -> tuple[tuple[int, ...], float]:
        """A slate of `size` catalog rows and its probability. eligible (N,): at least `size` of them True."""
        weights = self.weights if eligible is None else np.where(eligible, self.weights, 0.0)
        with np.errstate(divide="ignore"):
            # Gumbel noise on log weights, sorted, is the draw one after the other (Yellott 1977).
            keys = np.log(weights) + rng.gumbel(size=len(weights))
        top = np.argpartition(-keys, size - 1)[:size]
        rows = tuple(int(row) for row in top[np.argsort(-keys[top])])
        return rows, self.propensity(rows, eligible)

    def propensity(self, rows: tuple[int, ...], eligible: NDArray[np.bool_] | None = None) -> float:
        """The probability of drawing these rows in this order."""
        weights = self.weights if eligible is None else np.where(eligible, self.weights, 0.0)
        chosen = weights[list(rows)]
        before = np.concatenate([[0.0], np.cumsum(chosen)[:-1]])
        return float(np.prod(chosen / (weights.sum() - before)))
