"""Catalogs with random distinct codes: the grammar and the vocabulary do not care where codes come from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data.catalog import Catalog
from data.histories import Decisions, Histories, load
from data.store import LogStore
from tests.policy.serving.tiny_run import build

MakeCatalog = Callable[..., Catalog]
Run = tuple[Path, Catalog, Histories, Decisions]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a tiny policy, and its log."""
    folder = tmp_path_factory.mktemp("run")
    catalog = build(folder)
    return folder, catalog, *load(LogStore(folder / "logs"), catalog.index_of)


@pytest.fixture(scope="session")
def make_catalog() -> MakeCatalog:
    def make(items: int, level_sizes: tuple[int, ...] = (4, 4, 8), seed: int = 0, dimensions: int = 8) -> Catalog:
        rng = np.random.default_rng(seed)
        paths = rng.choice(int(np.prod(level_sizes)), items, replace=False)
        codes = np.stack(np.unravel_index(paths, level_sizes), axis=1).astype(np.int32)
        styles = ["ambient", "techno", "folk", "jazz", "news"]
        frame = pl.DataFrame(
            {
                "item_id": [f"item-{row}" for row in range(items)],
                "kind": ["podcast" if row % 5 == 4 else "track" for row in range(items)],
                "title": [f"Song number {row}" for row in range(items)],
                "creator": [f"artist {row % 7}" for row in range(items)],
                "tags": [[styles[row % 5]] for row in range(items)],
                "text": [f"A quiet {styles[row % 5]} piece for the evening" for row in range(items)],
            }
        )
        embeddings = rng.normal(size=(items, dimensions)).astype(np.float32)
        books = tuple(rng.normal(size=(size, dimensions)).astype(np.float32) for size in level_sizes)
        return Catalog(frame, embeddings, codes, level_sizes, books)

    return make
