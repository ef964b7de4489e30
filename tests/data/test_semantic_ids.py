import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.balanced_kmeans import assign
from data.errors import InputError
from data.semantic_ids import CatalogSettings, add_items, build_catalog, choose_level_sizes, quality, semantic_ids

STYLES = ["ambient", "techno", "folk", "jazz", "opera", "metal"]


def items_frame(count: int, first: int = 0, words: bool = True) -> pl.DataFrame:
    rows = range(first, first + count)
    style = [STYLES[row % len(STYLES)] for row in rows]
    return pl.DataFrame(
        {
            "item_id": [f"item-{row}" for row in rows],
            "kind": ["track"] * count,
            "title": ["" for _ in rows] if not words else [f"piece {row}" for row in rows],
            "creator": [f"{s} band {row % 4}" if words else None for s, row in zip(style, rows)],
            "tags": [[s] if words else [] for s in style],
            "text": [f"{s} recording" if words else None for s in style],
        },
        schema_overrides={"creator": pl.String, "text": pl.String, "tags": pl.List(pl.String)},
    )


def events_frame(count: int, sessions: int, seed: int = 0) -> pl.DataFrame:
    """Sessions of four items of one style each."""
    rng = np.random.default_rng(seed)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    rows = []
    for session in range(sessions):
        style = int(rng.integers(len(STYLES)))
        for place in range(4):
            item = style + len(STYLES) * int(rng.integers(count // len(STYLES)))
            when = start + timedelta(hours=session, minutes=place)
            rows.append((f"user-{session % 20}", when, "home", "play", f"item-{item}", None))
    return pl.DataFrame(
        rows,
        schema={
            "user_id": pl.String,
            "time": pl.Datetime("us", "UTC"),
            "surface": pl.String,
            "action": pl.String,
            "item_id": pl.String,
            "session_id": pl.String,
        },
        orient="row",
    )


def unique(codes: np.ndarray) -> bool:
    return len(np.unique(codes, axis=0)) == len(codes)


@settings(max_examples=60, deadline=None)
@given(
    items=st.integers(1, 150),
    dimensions=st.integers(1, 6),
    levels=st.integers(1, 4),
    distinct=st.integers(1, 150),
    seed=st.integers(0, 3),
)
def test_every_item_has_its_own_id(items, dimensions, levels, distinct, seed):
    # Few distinct vectors: most items are exactly alike, which is where nearest-neighbour quantisation collides.
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(distinct, dimensions)).astype(np.float32)[rng.integers(distinct, size=items)]
    sizes = choose_level_sizes(items, levels)
    codes, books = semantic_ids(vectors, sizes, seed)
    assert unique(codes)
    assert (codes >= 0).all()
    assert (codes < np.array(sizes)).all()
    assert [book.shape for book in books] == [(size, dimensions) for size in sizes]
    assert all(np.isfinite(book).all() for book in books)


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple), seed=st.integers(0, 5))
def test_a_catalog_may_fill_its_last_id(sizes, seed):
    items = int(np.prod(sizes))
    vectors = np.random.default_rng(seed).normal(size=(items, 3)).astype(np.float32)
    assert unique(semantic_ids(vectors, sizes, seed)[0])


@pytest.mark.parametrize(("items", "sizes"), [(600, (8, 8, 16)), (46_033, (32, 32, 64)), (4_344, (16, 16, 32))])
def test_level_sizes_follow_from_the_number_of_items(items, sizes):
    assert choose_level_sizes(items, 3) == sizes


def test_ids_say_what_is_alike_and_codes_are_used_evenly():
    catalog = build_catalog(items_frame(600), events_frame(600, 400), CatalogSettings(), seed=0)
    assert catalog.level_sizes == (8, 8, 16)
    table = quality(catalog)
    first = table.row(0, named=True)
    assert first["share"] > 4 * first["random"]
    assert (table["used"] == table["size"]).all()
    assert (table["perplexity"] > 0.7 * table["size"]).all()
    # No prefix is full: new items find room near what they are like.
    under = np.unique(catalog.codes[:, :2], axis=0, return_counts=True)[1]
    assert under.max() < 16


def test_behaviour_alone_groups_what_is_heard_together():
    catalog = build_catalog(items_frame(120, words=False), events_frame(120, 2000), CatalogSettings(), seed=0)
    style = np.arange(120) % len(STYLES)
    alike = catalog.embeddings @ catalog.embeddings.T
    same = style[:, None] == style[None, :]
    np.fill_diagonal(same, False)
    assert alike[same].mean() > alike[~same & ~np.eye(120, dtype=bool)].mean() + 0.3
    assert unique(catalog.codes)


def test_a_log_of_one_item_a_session_is_read_as_histories():
    """Reviews, purchases: nothing is ever taken in one sitting, and still like goes with like."""
    alone = events_frame(240, 3000).with_columns(
        user_id=pl.col("time").dt.truncate("1h").cast(pl.String), session_id=pl.col("time").cast(pl.String)
    )
    catalog = build_catalog(items_frame(240, words=False), alone, CatalogSettings(), seed=0)
    levels = quality(catalog)
    assert levels["share"][0] > 3 * levels["random"][0]


@pytest.mark.parametrize("words", [True, False])
@pytest.mark.parametrize("behaviour", [True, False])
def test_any_kind_of_catalog_gets_ids(words, behaviour):
    events = events_frame(60, 5) if behaviour else None
    for count in (1, 2, 3, 7, 60):
        catalog = build_catalog(items_frame(count, words=words), events, CatalogSettings(), seed=0)
        assert unique(catalog.codes)
        assert np.isfinite(catalog.embeddings).all()


@settings(max_examples=25, deadline=None)
@given(old=st.integers(1, 60), new=st.integers(1, 15), words=st.booleans(), seed=st.integers(0, 2))
def test_new_items_get_their_own_ids_and_move_nobody(old, new, words, seed):
    catalog = build_catalog(items_frame(old), events_frame(60, 10), CatalogSettings(), seed)
    room = int(np.prod(catalog.level_sizes)) - old
    more = items_frame(new, first=1000, words=words)
    if new > room:
        with pytest.raises(InputError, match=f"{room} of"):
            add_items(catalog, more)
        return
    grown = add_items(catalog, more)
    assert np.array_equal(grown.codes[:old], catalog.codes)
    assert np.array_equal(grown.embeddings[:old], catalog.embeddings)
    assert grown.items["item_id"].to_list() == [*catalog.items["item_id"], *more["item_id"]]
    assert all(np.array_equal(a, b) for a, b in zip(grown.codebooks, catalog.codebooks))
    assert unique(grown.codes)


def test_new_items_land_with_their_like():
    catalog = build_catalog(items_frame(600), events_frame(600, 400), CatalogSettings(), seed=0)
    grown = add_items(catalog, items_frame(12, first=6000))
    for row in range(600, 612):
        style = row % len(STYLES)
        beside = np.flatnonzero(catalog.codes[:, 0] == grown.codes[row, 0])
        assert (beside % len(STYLES) == style).mean() > 0.5


def test_a_catalog_can_be_filled_to_the_last_id_one_item_at_a_time():
    catalog = build_catalog(items_frame(4), None, CatalogSettings(levels=2, level_sizes=(2, 4)), seed=0)
    grown = add_items(catalog, items_frame(4, first=10))
    assert unique(grown.codes)
    with pytest.raises(InputError, match="0 of 8 IDs left"):
        add_items(grown, items_frame(1, first=20))


def test_an_item_is_not_added_twice():
    catalog = build_catalog(items_frame(6), None, CatalogSettings(), seed=0)
    with pytest.raises(InputError, match="'item-5' is already"):
        add_items(catalog, items_frame(1, first=5))


@pytest.mark.parametrize(
    ("frame", "chosen", "words"),
    [
        (items_frame(0), CatalogSettings(), "no items"),
        (pl.concat([items_frame(2), items_frame(1)]), CatalogSettings(), "twice"),
        (items_frame(3).drop("kind"), CatalogSettings(), "kind"),
        (items_frame(9), CatalogSettings(levels=2, level_sizes=(2, 4)), "do not fit"),
    ],
)
def test_a_faulty_catalog_is_refused(frame, chosen, words):
    with pytest.raises(InputError, match=words):
        build_catalog(frame, None, chosen, seed=0)


def test_the_same_seed_gives_the_same_bytes():
    made = [build_catalog(items_frame(200), events_frame(120, 300), CatalogSettings(), seed=5) for _ in range(2)]
    assert made[0].embeddings.tobytes() == made[1].embeddings.tobytes()
    assert made[0].codes.tobytes() == made[1].codes.tobytes()
    assert [b.tobytes() for b in made[0].codebooks] == [b.tobytes() for b in made[1].codebooks]


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 6), slack=st.integers(0, 5), seed=st.integers(0, 9))
def test_no_column_is_given_more_rows_than_it_holds(rows, columns, slack, seed):
    most = -(-rows // columns) + slack
    cost = np.random.default_rng(seed).random((rows, columns)).astype(np.float32)
    choice = assign(cost, most)
    assert np.bincount(choice, minlength=columns).max() <= most
    if rows <= most:
        assert np.array_equal(choice, cost.argmin(1))


def test_a_balanced_assignment_is_near_the_best_possible():
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(0)
    points, book = rng.normal(size=(200, 4)), rng.normal(size=(10, 4))
    cost = ((points[:, None] - book) ** 2).sum(2).astype(np.float32)
    rows, places = linear_sum_assignment(np.repeat(cost, 20, axis=1))
    best = cost[rows, places // 20].sum()
    assert cost[np.arange(200), assign(cost, 20)].sum() < 1.1 * best


def test_a_news_catalog_without_words_in_under_a_minute():
    folder = Path(os.environ.get("LONGPLAY_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    path = folder / "globo_news_clicks" / "clicks_sample_1in32_users.parquet"
    if not path.exists():
        pytest.skip(f"no Globo log at {path}")
    from data.readers import READERS

    logs = READERS["globo"](path)
    started = time.process_time()
    catalog = build_catalog(logs.items, logs.events, CatalogSettings(), seed=0)
    assert time.process_time() - started < 60
    assert unique(catalog.codes)
    table = quality(catalog, sample=500)
    assert table["share"][0] > 5 * table["random"][0]
