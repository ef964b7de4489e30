"""The catalog: every item with its embedding and its own semantic ID.

A semantic ID is a path of L codes, coarse to fine, that no other item has. The row of an item in `Catalog.items` is its
index everywhere else: in histories, slates and masks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import polars as pl

from data.errors import InputError

Floats = npt.NDArray[np.float32]

QUALITY = "quality.json"
"""The file, beside a run's catalog, with the rows of `data.semantic_ids.quality`."""


@dataclass(frozen=True)
class Catalog:
    """N items, L levels, D dimensions.

    items: one row per item, columns of the ITEMS schema. embeddings (N, D) float32 unit rows. codes (N, L) int32, no
    two rows alike. level_sizes: how many codes each level has, used or spare. codebooks: for each level the (size, D)
    float32 vectors of its codes (residuals, from the second level on). text: what turns a new item's words into an
    embedding.
    """

    items: pl.DataFrame
    embeddings: Floats
    codes: npt.NDArray[np.int32]
    level_sizes: tuple[int, ...]
    codebooks: tuple[Floats, ...]
    text: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    @cached_property
    def version(self) -> str:
        """Hash of the items' ids and codes: equal versions spell every item alike."""
        digest = hashlib.sha256(repr(self.level_sizes).encode())
        digest.update(np.ascontiguousarray(self.codes, dtype=np.int32).tobytes())
        digest.update("\x1f".join(self.items["item_id"].to_list()).encode())
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        return self.items.height

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.items["item_id"].to_list())}

    def index_of(self, ids: Sequence[str]) -> npt.NDArray[np.int32]:
        """Catalog rows of item ids, same order. Raises InputError naming the first one that is missing."""
        rows = self._rows
        try:
            return np.fromiter((rows[item] for item in ids), dtype=np.int32, count=len(ids))
        except KeyError as missing:
            raise InputError(
                f"item {missing.args[0]!r} is not in the catalog: add it to items and rebuild, or use add_items"
            ) from None

    def save(self, folder: Path) -> None:
        """Write items.parquet and catalog.npz into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.items.write_parquet(folder / "items.parquet", compression="zstd")
        arrays: dict[str, Any] = {
            "embeddings": self.embeddings,
            "codes": self.codes,
            "level_sizes": np.asarray(self.level_sizes, dtype=np.int64),
            **{f"codebook_{level}": book for level, book in enumerate(self.codebooks)},
            **{f"text_{name}": values for name, values in self.text.items()},
        }
        np.savez(folder / "catalog.npz", **arrays)

    @classmethod
    def load(cls, folder: Path) -> Catalog:
        """Read what `save` wrote. Raises InputError when the folder holds no whole catalog."""
        try:
            items = pl.read_parquet(folder / "items.parquet")
            with np.load(folder / "catalog.npz", allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except (OSError, EOFError, ValueError, KeyError, BadZipFile, pl.exceptions.PolarsError) as error:
            raise InputError(f"{folder} holds no readable catalog ({error}): build it again") from error
        sizes = tuple(int(size) for size in arrays["level_sizes"])
        return cls(
            items=items,
            embeddings=arrays["embeddings"],
            codes=arrays["codes"],
            level_sizes=sizes,
            codebooks=tuple(arrays[f"codebook_{level}"] for level in range(len(sizes))),
            text={name[5:]: values for name, values in arrays.items() if name.startswith("text_")},
        )


def listenable(items: pl.DataFrame) -> pl.DataFrame:
    """What slates are made of: all items but messages, unless the log has nothing else (a trial of e-mails)."""
    others = items.filter(pl.col("kind") != "message")
    return items if others.is_empty() else others
