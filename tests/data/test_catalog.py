import numpy as np
import polars as pl
import pytest

from data.catalog import Catalog, listenable
from data.errors import InputError
from data.semantic_ids import CatalogSettings, add_items, build_catalog


def items_frame(count: int, first: int = 0, styles: int = 5) -> pl.DataFrame:
    names = ["ambient", "techno", "folk", "jazz", "opera"][:styles]
    rows = range(first, first + count)
    return pl.DataFrame(
        {
            "item_id": [f"item-{row}" for row in rows],
            "kind": ["track"] * count,
            "title": [f"piece {row}" for row in rows],
            "creator": [f"{names[row % styles]} band {row % 9}" for row in rows],
            "tags": [[names[row % styles]] for row in rows],
            "text": [f"A {names[row % styles]} recording" for row in rows],
        }
    )


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return build_catalog(items_frame(120), None, CatalogSettings(), seed=0)


def test_a_saved_catalog_comes_back_whole(catalog, tmp_path):
    catalog.save(tmp_path / "catalog")
    loaded = Catalog.load(tmp_path / "catalog")
    assert loaded.items.equals(catalog.items)
    assert np.array_equal(loaded.codes, catalog.codes)
    assert np.array_equal(loaded.embeddings, catalog.embeddings)
    assert all(np.array_equal(a, b) for a, b in zip(loaded.codebooks, catalog.codebooks))
    assert loaded.level_sizes == catalog.level_sizes
    assert loaded.version == catalog.version
    more = items_frame(3, first=500)
    assert np.array_equal(add_items(loaded, more).codes, add_items(catalog, more).codes)


def test_rows_are_found_by_id_in_the_order_asked(catalog):
    assert catalog.index_of(["item-7", "item-0", "item-7"]).tolist() == [7, 0, 7]
    assert catalog.index_of([]).tolist() == []
    with pytest.raises(InputError, match="item 'item-999' is not in the catalog"):
        catalog.index_of(["item-1", "item-999"])


@pytest.mark.parametrize("harm", ["missing", "truncated", "not a catalog"])
def test_a_folder_without_a_whole_catalog_is_an_error(catalog, tmp_path, harm):
    catalog.save(tmp_path)
    if harm == "missing":
        (tmp_path / "items.parquet").unlink()
    elif harm == "truncated":
        stored = (tmp_path / "catalog.npz").read_bytes()
        (tmp_path / "catalog.npz").write_bytes(stored[: len(stored) // 2])
    else:
        (tmp_path / "items.parquet").write_text("hello")
    with pytest.raises(InputError, match="holds no readable catalog"):
        Catalog.load(tmp_path)


def test_versions_tell_catalogs_apart(catalog):
    same = build_catalog(items_frame(120), None, CatalogSettings(), seed=0)
    other = build_catalog(items_frame(120), None, CatalogSettings(), seed=1)
    assert same.version == catalog.version
    assert other.version != catalog.version
    assert add_items(catalog, items_frame(1, first=120)).version != catalog.version


def test_slates_are_made_of_all_but_messages_unless_a_log_has_nothing_else() -> None:
    items = pl.DataFrame({"item_id": ["a", "m", "b"], "kind": ["track", "message", "podcast"]})
    assert listenable(items)["item_id"].to_list() == ["a", "b"]
    mail = items.filter(pl.col("kind") == "message")
    assert listenable(mail).equals(mail)
