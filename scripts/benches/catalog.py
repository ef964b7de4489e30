"""A catalog's embeddings and semantic IDs: time and memory for a million items, and whether IDs say what is alike.

Run as a script it builds one catalog and says what that took: `python scripts/benches/catalog.py 1000000 tf-idf`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data.item_vectors import VectorSettings
from data.semantic_ids import CatalogSettings, add_items, build_catalog, quality
from data.text_vectors import encoder_of
from scripts.benches.measure import Measure, peak_gib, said_by
from scripts.benches.synthetic_items import made_up_items, made_up_sessions

_NEW = 1000  # items that come later


def bench_catalog(sizes: Sequence[int] = (10_000, 100_000, 1_000_000)) -> Iterable[Measure]:
    """A made-up catalog of each of `sizes` items, with as many sessions of five plays, from the tables to the IDs.

    Held: ten minutes and 6 GiB for a million items, with either way of reading words (what is made up says nothing to
    a sentence encoder, so its neighbours are not looked at); all IDs different, and none moved by new items, or the
    run stops; and, beside codes dealt out at random, how many of an item's ten nearest neighbours share its first code.
    """
    encoders = ["tf-idf"] + (["wordllama"] if encoder_of("auto") == "wordllama" else [])
    for items in sizes:
        for encoder in encoders if items == sizes[-1] else ["tf-idf"]:
            said = said_by(Path(__file__), str(items), encoder)
            name = f"catalog: {items:,} items, {encoder}"
            yield Measure(f"{name}", "s", said["seconds"], None, max(60.0, items / 1_000_000 * 600))
            yield Measure(f"{name}, peak memory", "GiB", said["gib"], None, 6.0)
            if encoder == "tf-idf":
                near = f"{name}, neighbours that share the first code, beside random"
                yield Measure(near, "share", said["share"], said["random"], 5.0, "higher")


def main() -> None:
    items, encoder = int(sys.argv[1]), sys.argv[2]
    table, events = made_up_items(items), made_up_sessions(items, items)
    began = time.perf_counter()
    catalog = build_catalog(table, events, CatalogSettings(vectors=VectorSettings(encoder=encoder)), seed=0)
    spent = {"seconds": time.perf_counter() - began, "gib": peak_gib()}
    grown = add_items(catalog, made_up_items(_NEW, first=items))
    if len(np.unique(grown.codes, axis=0)) < len(grown):
        raise AssertionError("two items have the same ID")
    if not np.array_equal(grown.codes[:items], catalog.codes):
        raise AssertionError("a new item has moved the ID of an old one")
    first = quality(catalog, sample=1000).row(0, named=True)
    print(json.dumps({**spent, "share": first["share"], "random": first["random"]}))


if __name__ == "__main__":
    main()
