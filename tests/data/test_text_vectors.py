"""Words as vectors: what is said alike lies together, and what comes later is placed where it would have been."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data.catalog import Catalog
from data.errors import InputError
from data.item_vectors import VectorSettings
from data.semantic_ids import CatalogSettings, add_items, build_catalog
from data.text_vectors import encoder_of, fit_text, place_text

THEMES = {
    "garden": [
        "growing tomatoes at home",
        "pruning roses in spring",
        "compost for vegetable beds",
        "a lawn without weeds",
    ],
    "football": [
        "the cup final replayed",
        "penalties and own goals",
        "a striker looks back",
        "league tables explained",
    ],
    "sea": ["sailing across the ocean", "harbours and lighthouses", "whales of the north", "a storm off the coast"],
}


def items(times: int = 3) -> pl.DataFrame:
    rows = [(theme, f"{title}, part {k}") for k in range(times) for theme, titles in THEMES.items() for title in titles]
    return pl.DataFrame(
        {
            "item_id": [f"i{k}" for k in range(len(rows))],
            "kind": ["podcast"] * len(rows),
            "title": [title for _, title in rows],
            "creator": [None] * len(rows),
            "tags": [[] for _ in rows],
            "text": [None] * len(rows),
        },
        schema_overrides={"creator": pl.String, "text": pl.String, "tags": pl.List(pl.String)},
    )


@pytest.fixture(params=["tf-idf", "wordllama"])
def encoder(request: pytest.FixtureRequest) -> str:
    if request.param == "wordllama":
        pytest.importorskip("wordllama")
    return str(request.param)


def test_what_comes_later_is_placed_where_it_would_have_been(encoder: str) -> None:
    frame = items()
    vectors, model = fit_text(frame, encoder, 16, 1000, 0)
    assert vectors.shape == (36, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(place_text(frame, model), vectors, atol=1e-5)
    np.testing.assert_array_equal(fit_text(frame, encoder, 16, 1000, 0)[0], vectors)
    mute = frame.head(2).with_columns(title=pl.lit(""))
    assert not place_text(mute, model).any()


def test_an_encoder_hears_what_counts_of_words_cannot() -> None:
    """Other words, the same things: without a word in common a sentence still lands with its theme."""
    pytest.importorskip("wordllama")
    frame = items(1)
    said = ["watering plants and seedlings", "goalkeeper saves in the match", "boats on the waves"]
    new = frame.head(3).with_columns(title=pl.Series(said))
    vectors, model = fit_text(frame, "wordllama", 10, 1000, 0)
    likeness = place_text(new, model) @ vectors.T
    assert (likeness.argmax(1) // 4).tolist() == [0, 1, 2]
    assert likeness.reshape(3, 3, 4).mean(2).argmax(1).tolist() == [0, 1, 2]


def test_a_catalog_goes_on_with_the_encoder_that_made_it(encoder: str, tmp_path: Path) -> None:
    settings = CatalogSettings(vectors=VectorSettings(encoder=encoder))
    catalog = build_catalog(items(), None, settings, 0)
    catalog.save(tmp_path / "catalog")
    loaded = Catalog.load(tmp_path / "catalog")
    new = items(1).with_columns(item_id="new-" + pl.col("item_id"))
    grown = add_items(loaded, new)
    np.testing.assert_array_equal(grown.codes, add_items(catalog, new).codes)
    theme = np.arange(48) % 12 // 4
    nearest = (grown.embeddings[36:] @ grown.embeddings[:36].T).argmax(1)
    assert (theme[nearest] == theme[36:]).mean() > 0.9


def test_reading_words_leaves_the_logging_of_others_alone() -> None:
    pytest.importorskip("wordllama")
    code = (
        "import logging; from tests.data.test_text_vectors import items; from data.text_vectors import fit_text;"
        "fit_text(items(), 'wordllama', 8, 100, 0); logging.getLogger('anybody').info('not asked for')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert "not asked for" not in done.stderr


@pytest.mark.parametrize("encoder", ["tf-idf", "auto"])
def test_items_without_words_have_no_place(encoder: str) -> None:
    vectors, model = fit_text(items().with_columns(title=pl.lit("")), encoder, 16, 1000, 0)
    assert vectors.shape == (36, 0)
    assert place_text(items(), model).shape == (36, 0)


def test_an_encoder_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="unknown text encoder 'bert': choose one of auto, tf-idf, wordllama"):
        encoder_of("bert")
    monkeypatch.setattr("data.text_vectors.find_spec", lambda name: None)
    assert encoder_of("auto") == "tf-idf"
    with pytest.raises(InputError, match="'wordllama' is not installed"):
        encoder_of("wordllama")
