"""The catalog of a world: what every item is, what it looks like from outside, and the words it goes by."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.errors import InputError
from data.world import words
from data.world.settings import CatalogSettings
from data.world.shocks import Purpose, generator

_DURATIONS = {"track": (140.0, 330.0), "podcast": (700.0, 1300.0), "audiobook": (700.0, 1300.0)}  # seconds
_BLOCK = 128  # rows whose products stay in a core's cache
_PHRASES = 24  # ways of asking for one (style, kind)


@dataclass(frozen=True)
class Items:
    """N items in a D-dimensional taste space; the row is the item's index everywhere in the world.

    Hidden from every honest policy: `place` (N, D) unit vectors, `quality` (N,), `allure` (N,). What the product knows:
    `seen_place` (N, D) and `popularity` (N,), the same with errors, and `style`, `kind` as tagged.
    """

    place: NDArray[np.float32]  # (N, D)
    quality: NDArray[np.float32]  # (N,) standard normal
    allure: NDArray[np.float32]  # (N,) standard normal
    style: NDArray[np.int32]  # (N,)
    kind: NDArray[np.int32]  # (N,) position in `kinds`
    creator: NDArray[np.int32]  # (N,)
    duration: NDArray[np.float32]  # (N,) seconds
    centre: NDArray[np.float32]  # (S, D) unit vectors: the middle of each style
    seen_place: NDArray[np.float32]  # (N, D)
    popularity: NDArray[np.float32]  # (N,)
    kinds: tuple[str, ...]
    frame: pl.DataFrame  # the ITEMS table
    spoken: NDArray[np.bool_]  # (N,) podcast or audiobook
    phrases: tuple[tuple[tuple[str, ...], ...], ...]  # [style or S for none][kind or len(kinds) for none] -> texts

    def __len__(self) -> int:
        return len(self.quality)


def make_items(settings: CatalogSettings, seed: int, start: datetime) -> Items:
    """Draws the catalog of a world. Items exist before `start` and do not depend on who listens.

    Raises InputError when the settings ask for more styles than there are words for.
    """
    if not 1 <= settings.styles <= len(words.STYLES):
        raise InputError(f"world: {settings.styles} styles asked for; choose between 1 and {len(words.STYLES)}")
    rng = generator(seed, -1, Purpose.ITEMS)
    n, creators, dims = settings.items, min(settings.creators, settings.items), settings.dimensions
    kinds = tuple(name for name, _ in settings.kind_shares)
    shares = np.array([share for _, share in settings.kind_shares])

    centre = _unit(_spread_out(rng, settings.styles, dims))
    creator_style = np.arange(creators) % settings.styles
    creator_kind = rng.choice(len(kinds), creators, p=shares / shares.sum())
    creator = np.concatenate([np.arange(creators), rng.integers(creators, size=n - creators)])
    style, kind = creator_style[creator], creator_kind[creator]
    creator_place = rng.standard_normal((creators, dims)) / np.sqrt(dims)
    own_place = rng.standard_normal((n, dims)) / np.sqrt(dims)
    wander = (creator_place[creator] + own_place) / np.sqrt(2.0)
    place = _unit(centre[style] + settings.style_spread * wander)

    # Quality and allure correlate alike between creators and between the items of one creator.
    rho, share = settings.allure_quality_correlation, settings.creator_share
    of_creator, of_item = rng.standard_normal((creators, 2)), rng.standard_normal((n, 2))
    worth = np.sqrt(share) * of_creator[creator] + np.sqrt(1.0 - share) * of_item
    quality = worth[:, 0]
    allure = rho * quality + np.sqrt(1.0 - rho**2) * worth[:, 1]

    low, high = np.array([_DURATIONS[k] for k in kinds])[kind].T
    duration = low + (high - low) * rng.random(n)
    seen = place + settings.embedding_noise * rng.standard_normal((n, dims)) / np.sqrt(dims)
    popularity = allure + settings.popularity_noise * rng.standard_normal(n)
    age_days = rng.integers(30, 2000, size=n)

    write = generator(seed, -1, Purpose.WORDS)
    names = [
        words.name_of_creator(write, words.STYLES[s], kinds[k])
        for s, k in zip(creator_style, creator_kind, strict=True)
    ]
    rows = []
    for i in range(n):
        item_style, item_kind = words.STYLES[style[i]], kinds[kind[i]]
        stray = words.STYLES[int(write.integers(settings.styles))]
        rows.append(
            (
                f"i{i:04d}",
                item_kind,
                words.title_of_item(write, item_style),
                names[creator[i]],
                words.tags_of_item(write, item_style, item_kind, stray),
                float(duration[i]),
                start - timedelta(days=int(age_days[i])),
                words.text_of_item(write, item_style, item_kind),
            )
        )
    frame = pl.DataFrame(
        rows,
        schema={
            "item_id": pl.String,
            "kind": pl.String,
            "title": pl.String,
            "creator": pl.String,
            "tags": pl.List(pl.String),
            "duration": pl.Float32,
            "released_at": pl.Datetime("us", "UTC"),
            "text": pl.String,
        },
        orient="row",
    )
    return Items(
        place=place.astype(np.float32),
        quality=quality.astype(np.float32),
        allure=allure.astype(np.float32),
        style=style.astype(np.int32),
        kind=kind.astype(np.int32),
        creator=creator.astype(np.int32),
        duration=duration.astype(np.float32),
        centre=centre.astype(np.float32),
        seen_place=seen.astype(np.float32),
        popularity=popularity.astype(np.float32),
        kinds=kinds,
        frame=frame,
        spoken=np.array([k != "track" for k in kinds])[kind],
        phrases=_phrases(write, settings.styles, kinds),
    )


def inner(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inner products (B, N) of rows of `a` (B, D) and `b` (N, D), to the same last bit on any number of threads.

    A matrix product would be faster, but BLAS rounds by how it splits the work, and a seed must fix every byte.
    """
    result = np.zeros((len(a), len(b)), dtype=np.float32)
    columns = np.ascontiguousarray(b.T)
    for start in range(0, len(a), _BLOCK):
        rows, out = a[start : start + _BLOCK], result[start : start + _BLOCK]
        part = np.empty_like(out)
        for d, column in enumerate(columns):
            np.multiply(rows[:, d, None], column, out=part)
            out += part
    return result


def _phrases(rng: np.random.Generator, styles: int, kinds: tuple[str, ...]) -> tuple[tuple[tuple[str, ...], ...], ...]:
    def ways(style: words.Style | None, kind: str | None) -> tuple[str, ...]:
        if style is None and kind is None:
            return ()
        return tuple(words.ask(rng, style, kind) for _ in range(_PHRASES))

    return tuple(tuple(ways(style, kind) for kind in (*kinds, None)) for style in (*words.STYLES[:styles], None))


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit


def _spread_out(rng: np.random.Generator, count: int, dims: int) -> NDArray[np.float64]:
    """Style centres drawn at random, then pushed apart, so that no two styles are the same by accident."""
    points = _unit(rng.standard_normal((count, dims)))
    for _ in range(50):
        gap = points[:, None] - points[None]
        push = gap / (np.square(gap).sum(-1, keepdims=True) + 1e-2)
        points = _unit(points + 0.02 * push.sum(1))
    return points
