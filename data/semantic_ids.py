"""Semantic IDs: a path of codes for every item, alike for items alike, and no two items with the same one.

Residual quantisation (as in TIGER, Rajput et al., NeurIPS 2023), with two differences. Clusters are balanced: no
prefix may hold more items than fit under it, so no part of the ID space overflows and codes are used evenly. And the
last level is an assignment, not a nearest neighbour: under each prefix, items are matched one to one to codes at the
least total distance, so IDs are unique by construction where others append a counter. Every prefix keeps codes to
spare for items that come later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.optimize import linear_sum_assignment

from data.balanced_kmeans import centres, cluster, distances
from data.catalog import Catalog
from data.errors import InputError
from data.item_vectors import VectorSettings, item_vectors, vectors_from_text
from data.schema import validate
from data.text_vectors import unit

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

ROOM = 1.4  # IDs per item, at least
SPARE = 0.1  # of the last level's codes, free under every prefix
_MATCH_CELLS = 20_000_000  # beyond this an exact matching would take minutes


@dataclass(frozen=True)
class CatalogSettings:
    """levels: codes per item. level_sizes: codes of each level, or None to choose them from the number of items."""

    levels: int = 3
    level_sizes: tuple[int, ...] | None = None
    vectors: VectorSettings = field(default_factory=VectorSettings)


def choose_level_sizes(items: int, levels: int) -> tuple[int, ...]:
    """Powers of two, about equal, with at least 1.4 IDs per item: 600 -> (8, 8, 16), 46,033 -> (32, 32, 64)."""
    step = 2 ** max(1, round(np.log2(max(items, 2)) / levels))
    upper = (step,) * (levels - 1)
    last = 2
    while last * step ** (levels - 1) < ROOM * items:
        last *= 2
    return (*upper, last)


def build_catalog(
    items: pl.DataFrame,
    events: pl.DataFrame | None,
    settings: CatalogSettings,
    seed: int,
    *,
    begin: Callable[[str], object] = lambda step: None,
) -> Catalog:
    """Embed `items` (ITEMS columns; the optional ones may be missing) and give each an ID. Rows keep their order.

    `events` (EVENTS columns) is the behaviour that may be looked at, or None. The same seed gives the same catalog.
    `begin` is told of each of the 2 + levels steps as it begins: what it is.
    Raises InputError for no items, an item_id twice, or level sizes with fewer IDs than items.
    """
    items = _complete(items)
    sizes = settings.level_sizes or choose_level_sizes(items.height, settings.levels)
    vectors, model = item_vectors(items, events, settings.vectors, seed, begin=begin)
    if vectors.shape[1] == 0:
        vectors = np.zeros((items.height, 1), dtype=np.float32)
    codes, books = semantic_ids(vectors, sizes, seed, begin=begin)
    return Catalog(items, vectors, codes, tuple(sizes), books, model)


def semantic_ids(
    vectors: Floats, level_sizes: tuple[int, ...], seed: int, *, begin: Callable[[str], object] = lambda step: None
) -> tuple[Ints, tuple[Floats, ...]]:
    """Unique codes (N, L) of `vectors` (N, D), and each level's codebook (size, D), of residuals after the first.

    Raises InputError when there are more items than IDs.
    """
    items, levels = len(vectors), len(level_sizes)
    room = int(np.prod([int(size) for size in level_sizes], dtype=object))
    if items > room:
        raise InputError(
            f"{items} items do not fit into level sizes {tuple(level_sizes)} ({room} IDs): make them larger"
        )
    rng = np.random.default_rng(seed)
    most = _most_under(items, level_sizes)
    codes = np.zeros((items, levels), dtype=np.int32)
    group = np.zeros(items, dtype=np.int64)
    residual = vectors.astype(np.float32)
    books: list[Floats] = []
    for level in range(levels - 1):
        begin(f"level {level + 1} of {levels}")
        size = level_sizes[level]
        code, book = cluster(residual, group, size, most[level], rng)
        codes[:, level] = code
        residual = residual - book[code]
        group = group * size + code
        books.append(book)
    begin(f"level {levels} of {levels}")
    code, book = _last_level(residual, group, level_sizes[-1], rng)
    codes[:, -1] = code
    return codes, (*books, book)


def add_items(catalog: Catalog, items: pl.DataFrame) -> Catalog:
    """A catalog with `items` (M rows) behind the old ones, each with a free ID near its words. No old ID moves.

    Each new item goes down the path of nearest codes that still has a free ID under it. Codebooks, and so a trained
    policy's tokens, stay. Raises InputError for an item that is already there, one twice, or a catalog without room.
    """
    items = _complete(items)
    known = set(catalog.items["item_id"].to_list())
    again = next((item for item in items["item_id"].to_list() if item in known), None)
    if again is not None:
        raise InputError(f"item {again!r} is already in the catalog: add only items that are new")
    sizes = catalog.level_sizes
    room = int(np.prod([int(size) for size in sizes], dtype=object))
    if len(catalog) + items.height > room:
        raise InputError(
            f"{items.height} new items do not fit: the catalog has {room - len(catalog)} of {room} IDs left; rebuild it"
        )
    vectors = vectors_from_text(items, catalog.text)
    if vectors.shape[1] != catalog.embeddings.shape[1]:
        vectors = np.zeros((items.height, catalog.embeddings.shape[1]), dtype=np.float32)
    used = _used_under(catalog.codes)
    below = [int(np.prod([int(size) for size in sizes[level + 1 :]], dtype=object)) for level in range(len(sizes))]
    codes = np.zeros((items.height, len(sizes)), dtype=np.int32)
    for row in range(items.height):
        prefix: tuple[int, ...] = ()
        residual = vectors[row]
        for level, size in enumerate(sizes):
            full = np.array([used[level].get((*prefix, code), 0) >= below[level] for code in range(size)])
            far = ((catalog.codebooks[level] - residual) ** 2).sum(1)
            code = int(np.argmin(np.where(full, np.inf, far)))
            residual = residual - catalog.codebooks[level][code]
            prefix = (*prefix, code)
            used[level][prefix] = used[level].get(prefix, 0) + 1
        codes[row] = prefix
    both = pl.concat([catalog.items, items.select(catalog.items.columns)], how="vertical_relaxed")
    return replace(
        catalog,
        items=both,
        embeddings=np.concatenate([catalog.embeddings, vectors]),
        codes=np.concatenate([catalog.codes, codes]),
    )


def quality(catalog: Catalog, seed: int = 0, sample: int = 2000, neighbours: int = 10) -> pl.DataFrame:
    """How well IDs say what is alike, one row per level.

    Columns: level; size; used (codes); perplexity (exp of the entropy of code use); share (of an item's `neighbours`
    nearest by cosine, those with the same codes down to this level, over `sample` items); random (the same with codes
    dealt out at random).
    """
    rng = np.random.default_rng(seed)
    items = len(catalog)
    asked = np.sort(rng.choice(items, min(sample, items), replace=False))
    vectors = unit(catalog.embeddings)
    count = max(1, min(neighbours, items - 1))
    near = []
    for block in np.array_split(asked, max(1, len(asked) * items // 20_000_000)):
        likeness = vectors[block] @ vectors.T
        likeness[np.arange(len(block)), block] = -np.inf
        near.append(np.argpartition(-likeness, count - 1, axis=1)[:, :count])
    nearest = np.concatenate(near)
    dealt = catalog.codes[rng.permutation(items)]
    rows = []
    for level, size in enumerate(catalog.level_sizes):
        use = np.bincount(catalog.codes[:, level], minlength=size) / items
        use = use[use > 0]

        def shared(codes: Ints, depth: int = level + 1) -> float:
            return float((codes[nearest, :depth] == codes[asked][:, None, :depth]).all(2).mean())

        rows.append(
            {
                "level": level,
                "size": size,
                "used": len(use),
                "perplexity": float(np.exp(-(use * np.log(use)).sum())),
                "share": shared(catalog.codes),
                "random": shared(dealt),
            }
        )
    return pl.DataFrame(rows)


def _complete(items: pl.DataFrame) -> pl.DataFrame:
    """All ITEMS columns, in order, optional ones null where they were missing; other columns go."""
    if items.height == 0:
        raise InputError("there are no items: a catalog needs at least one")
    return validate(items, "items", "items")


def _most_under(items: int, sizes: tuple[int, ...]) -> list[int]:
    """How many items a prefix of each length but the last may hold.

    From the leaves up, so that what fits under a prefix always fits under its children. The slack over an even split
    is the same at each level, and what the last level can spare is left free.
    """
    levels = len(sizes)
    room = float(np.prod([float(size) for size in sizes]))
    slack = max(1.0, ((1 - SPARE) * room / items) ** (1 / max(1, levels - 1)))
    slack = min(slack, 1.5)
    most = [0] * (levels - 1)
    fits = sizes[-1]
    for level in range(levels - 2, -1, -1):
        even = items / float(np.prod([float(size) for size in sizes[: level + 1]]))
        most[level] = min(int(np.ceil(even * slack ** (level + 1))), fits)
        fits = most[level] * sizes[level]
    return most


def _last_level(
    residual: Floats, group: npt.NDArray[np.int64], size: int, rng: np.random.Generator
) -> tuple[Ints, Floats]:
    """One code per item, different within a group, near to the level's codebook. (N,), (size, D)"""
    book = centres(residual, size, rng)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) != 0, True])
    code = np.zeros(len(group), dtype=np.int32)
    for first, end in pairwise(starts.tolist()):
        members = order[first:end]
        if len(members) * size > _MATCH_CELLS:
            spread = residual[members] @ np.linalg.svd(book - book.mean(0), full_matrices=False)[2][0]
            rank = np.argsort(np.argsort(spread, kind="stable"), kind="stable")
            code[members] = rank * size // len(members)
            continue
        rows, columns = linear_sum_assignment(distances(residual[members], book))
        code[members[rows]] = columns
    total = np.zeros_like(book)
    np.add.at(total, code, residual)
    use = np.bincount(code, minlength=size)[:, None]
    return code, np.where(use > 0, total / np.maximum(use, 1), book).astype(np.float32)


def _used_under(codes: Ints) -> list[dict[tuple[int, ...], int]]:
    used: list[dict[tuple[int, ...], int]] = []
    for level in range(codes.shape[1]):
        prefixes, count = np.unique(codes[:, : level + 1], axis=0, return_counts=True)
        used.append({tuple(map(int, prefix)): int(n) for prefix, n in zip(prefixes, count)})
    return used
