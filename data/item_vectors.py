"""What an item is like, as a vector: its words joined with the company it keeps.

Words are placed by `data.text_vectors`. Company is session co-occurrence: positive pointwise mutual information
of items within a few places of each other in a session (Levy & Goldberg, NeurIPS 2014, with their context smoothing),
reduced the same way; where sessions hold one item each, in a user's history. Each part is of unit length before they
are joined. An item that few have met borrows from what its words say about company, by a ridge regression over the
items that many have; one without words has company alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from data.sessions import sessionize
from data.text_vectors import fit_text, place_text, reduce, unit

Floats = npt.NDArray[np.float32]

LEAST_TOGETHER = 0.1  # share of interactions in a session with others below which a user's whole history is one
_LIKED = ("play", "complete", "save", "like", "open", "convert")


@dataclass(frozen=True)
class VectorSettings:
    """How item vectors are made. Dimensions are upper bounds: a small catalog has fewer."""

    encoder: str = "auto"  # of words: a name in data.text_vectors.ENCODERS
    text_dimensions: int = 64
    behaviour_dimensions: int = 64
    text_weight: float = 0.5  # share of the squared length; behaviour has the rest
    max_words: int = 8192
    window: int = 5  # co-occurrence reaches this many places in a session
    context_smoothing: float = 0.75
    enough: float = 5.0  # co-occurrences at which an item's own company weighs as much as what its words suggest


def item_vectors(
    items: pl.DataFrame,
    events: pl.DataFrame | None,
    settings: VectorSettings,
    seed: int,
    *,
    begin: Callable[[str], object] = lambda step: None,
) -> tuple[Floats, dict[str, npt.NDArray[Any]]]:
    """Unit vectors (N, D) of the items, and the arrays by which `vectors_from_text` places items that come later.

    `events` has the EVENTS columns or is None. An item with neither words nor company gets a row of zeros.
    """
    begin("words")
    text, model = fit_text(items, settings.encoder, settings.text_dimensions, settings.max_words, seed)
    begin("company")
    company, met = _company_vectors(items, events, settings, seed)
    spoken = np.linalg.norm(text, axis=1) > 0
    seen = np.linalg.norm(company, axis=1) > 0
    ridge = np.zeros((text.shape[1], company.shape[1]), dtype=np.float32)
    both = spoken & seen
    if both.sum() >= 8:
        weight = (met[both] / (met[both] + settings.enough))[:, None]
        gram = text[both].T @ (weight * text[both]) + 1.0 * np.eye(text.shape[1])
        ridge = np.linalg.solve(gram, text[both].T @ (weight * company[both])).astype(np.float32)
    trust = (met / (met + settings.enough))[:, None]
    company = np.where(spoken[:, None], trust * company + (1 - trust) * (text @ ridge), company)
    share = settings.text_weight if spoken.any() and seen.any() else float(spoken.any())
    model.update(ridge=ridge, share=np.array([share], dtype=np.float32))
    return _join(text, company, share), model


def vectors_from_text(items: pl.DataFrame, model: dict[str, npt.NDArray[Any]]) -> Floats:
    """Vectors (M, D) of items nobody has met yet, in the space that `item_vectors` made. No words: a row of zeros."""
    text, ridge = place_text(items, model), model["ridge"]
    return _join(text, text @ ridge, float(model["share"][0]))


def _join(text: Floats, company: Floats, share: float) -> Floats:
    return unit(np.concatenate([np.sqrt(share) * unit(text), np.sqrt(1 - share) * unit(company)], axis=1))


def _company_vectors(
    items: pl.DataFrame, events: pl.DataFrame | None, settings: VectorSettings, seed: int
) -> tuple[Floats, npt.NDArray[np.float64]]:
    """Unit vectors (N, D) and how many co-occurrences each item has (N,)."""
    size = items.height
    nothing = np.zeros((size, 0), dtype=np.float32), np.zeros(size)
    if events is None or size < 4:
        return nothing
    counts = _co_occurrences(items, events, settings.window)
    total = counts.sum()
    if total == 0:
        return nothing
    met = np.asarray(counts.sum(1)).ravel()
    smooth = met**settings.context_smoothing
    smooth /= smooth.sum()
    pairs = counts.tocoo()
    information = np.log(pairs.data / (met[pairs.row] * smooth[pairs.col]))
    kept = information > 0
    matrix = sparse.csr_matrix((information[kept], (pairs.row[kept], pairs.col[kept])), shape=(size, size))
    if matrix.nnz == 0:
        return nothing
    reduced = reduce(matrix, settings.behaviour_dimensions, seed)
    # Half of each singular value: the symmetric split of a factored PMI matrix (Levy, Goldberg & Dagan, TACL 2015).
    vectors = matrix @ reduced.components_.T / np.sqrt(np.maximum(reduced.singular_values_, 1e-9))
    return unit(vectors), met


def _co_occurrences(items: pl.DataFrame, events: pl.DataFrame, window: int) -> Any:
    """Symmetric counts (N, N), sparse: items up to `window` places apart in one session, near ones counting more.

    Where hardly any session holds two items, places are counted through each user's whole history.
    """
    size = items.height
    rows = items.select("item_id", pl.int_range(pl.len(), dtype=pl.Int32).alias("row"))
    liked = events.filter(pl.col("item_id").is_not_null() & pl.col("action").is_in(_LIKED))
    if "session_id" not in liked.columns or liked["session_id"].null_count():
        liked = sessionize(
            liked if "session_id" in liked.columns else liked.with_columns(session_id=pl.lit(None, pl.String))
        )
    walks = (
        liked.join(rows, on="item_id", how="inner")
        .group_by("user_id", "session_id", "row")
        .agg(pl.col("time").min())
        .sort("user_id", "session_id", "time", "row")
        .with_columns(sitting=pl.struct("user_id", "session_id").rle_id())
    )
    # A log of one item a session (purchases, reviews) still says who took what after what.
    if walks.select((pl.len().over("sitting") > 1).mean()).item() < LEAST_TOGETHER:
        walks = walks.sort("user_id", "time", "row").with_columns(sitting=pl.col("user_id").rle_id())
    item, sitting = walks["row"].to_numpy(), walks["sitting"].to_numpy()
    counts = sparse.csr_matrix((size, size), dtype=np.float64)
    for step in range(1, window + 1):
        same = sitting[step:] == sitting[:-step]
        left, right = item[step:][same], item[:-step][same]
        weight = np.full(len(left), 1.0 / step)
        counts = counts + sparse.coo_matrix((weight, (left, right)), shape=(size, size)).tocsr()
    return counts + counts.T
