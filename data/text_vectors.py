"""An item's words as a vector: by a packaged sentence encoder where one is installed, by TF-IDF and an SVD otherwise.

The encoder is WordLlama (its weights come in its wheel, so nothing is downloaded): token embeddings of a large language
model, trained to be averaged. Its 256 dimensions are centred and reduced like the counts of words are. Which of the two
placed a catalog is written into it, and items that come later are placed by the same one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from data.errors import InputError

Floats = npt.NDArray[np.float32]
Model = dict[str, npt.NDArray[Any]]

ENCODERS = ("auto", "tf-idf", "wordllama")
_BLOCK = 65_536  # texts encoded at once
_SAMPLE = 100_000  # texts whose leading directions are all texts'


def encoder_of(name: str) -> str:
    """The encoder that `name`, one of ENCODERS, stands for here. Raises InputError where it is unknown or missing."""
    there = find_spec("wordllama") is not None
    if name == "auto":
        return "wordllama" if there else "tf-idf"
    if name not in ENCODERS:
        raise InputError(f"unknown text encoder {name!r}: choose one of {', '.join(ENCODERS)}")
    if name == "wordllama" and not there:
        raise InputError("text encoder 'wordllama' is not installed: pip install '.[sentences]', or use tf-idf")
    return name


def fit_text(items: pl.DataFrame, encoder: str, dimensions: int, max_words: int, seed: int) -> tuple[Floats, Model]:
    """Unit vectors (N, D) of the items' words, D at most `dimensions`, and what `place_text` needs to place others.

    Rows of items without words are zeros; D is 0 where fewer than three items, or words, could be told apart.
    """
    if encoder_of(encoder) == "tf-idf":
        return _fit_counts(_terms(items), dimensions, max_words, seed)
    texts = _sentences(items)
    spoken = np.array([bool(text) for text in texts])
    if spoken.sum() < 3:
        return np.zeros((len(texts), 0), dtype=np.float32), {"components": np.zeros((0, 0), dtype=np.float32)}
    heard = np.flatnonzero(spoken)
    some = heard[np.linspace(0, len(heard) - 1, min(len(heard), _SAMPLE)).astype(np.int64)]
    vectors = np.concatenate(list(_encoded([texts[row] for row in some])))
    centre = vectors.mean(axis=0)
    components = reduce(vectors - centre, dimensions, seed).components_.astype(np.float32)
    model = {"components": components, "centre": centre}
    return _read(texts, model), model


def place_text(items: pl.DataFrame, model: Mapping[str, npt.NDArray[Any]]) -> Floats:
    """Unit vectors (M, D) of other items' words in the space of `fit_text`; zeros where there are none."""
    if "centre" in model:
        encoder_of("wordllama")
        return _read(_sentences(items), model)
    if not len(model.get("terms", ())):
        return np.zeros((items.height, 0), dtype=np.float32)
    vectorizer = TfidfVectorizer(vocabulary=model["terms"].tolist(), sublinear_tf=True)
    vectorizer.idf_ = model["idf"]
    return unit(vectorizer.transform(_terms(items)) @ model["components"].T)


def place_words(texts: list[str], model: Mapping[str, npt.NDArray[Any]]) -> Floats | None:
    """Unit vectors (M, D) of sentences in the space of the items' words; None where only counts of words made it.

    Counts place a sentence by the catalog's own words, which can be looked up; an encoder has read others too.
    """
    if "centre" not in model or find_spec("wordllama") is None:
        return None
    return _read(texts, model)


def unit(rows: npt.NDArray[Any]) -> Floats:
    """Rows at length 1; a row of zeros stays."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 1e-12, length, 1.0), dtype=np.float32)


def reduce(matrix: Any, dimensions: int, seed: int) -> TruncatedSVD:
    """The leading directions of a matrix (Halko, Martinsson & Tropp, SIAM Review 2011)."""
    return TruncatedSVD(min(dimensions, min(matrix.shape) - 1), random_state=seed, n_iter=4).fit(matrix)


def _terms(items: pl.DataFrame) -> list[str]:
    """One text per item to count words in: title, creator (also as one word), tags twice, kind, text."""
    texts = []
    for title, creator, tags, kind, text in items.select("title", "creator", "tags", "kind", "text").iter_rows():
        tagged = " ".join(tag for tag in tags or () if tag)
        one_word = f"by_{'_'.join(creator.lower().split())}" if creator else ""
        parts = [title or "", creator or "", one_word, tagged, tagged, text or ""]
        said = " ".join(part for part in parts if part)
        texts.append(f"{said} kind_{kind}" if said else "")
    return texts


def _sentences(items: pl.DataFrame) -> list[str]:
    """One text per item to read: title, creator, tags and text."""
    rows = items.select("title", "creator", tags=pl.col("tags").list.drop_nulls().list.join(", "), text="text")
    return [". ".join(part for part in row if part) for row in rows.iter_rows()]


def _fit_counts(texts: list[str], dimensions: int, max_words: int, seed: int) -> tuple[Floats, Model]:
    empty = {
        "terms": np.zeros(0, dtype="<U1"),
        "idf": np.zeros(0),
        "components": np.zeros((0, 0), dtype=np.float32),
    }
    nothing = np.zeros((len(texts), 0), dtype=np.float32), empty
    vectorizer = TfidfVectorizer(sublinear_tf=True, max_features=max_words)
    try:
        matrix = vectorizer.fit_transform(texts)
    except ValueError:  # no words at all
        return nothing
    if min(matrix.shape) < 3:
        return nothing
    components = reduce(matrix, dimensions, seed).components_.astype(np.float32)
    terms = np.asarray(vectorizer.get_feature_names_out(), dtype=str)
    return unit(matrix @ components.T), {"terms": terms, "idf": vectorizer.idf_, "components": components}


def _read(texts: list[str], model: Mapping[str, npt.NDArray[Any]]) -> Floats:
    """Unit vectors (N, D) by the encoder, block by block, as what it says at first is four times as wide."""
    blocks = [unit((block - model["centre"]) @ model["components"].T) for block in _encoded(texts)]
    vectors: Floats = np.concatenate([np.zeros((0, len(model["components"])), dtype=np.float32), *blocks])
    vectors[[not text for text in texts]] = 0.0
    return vectors


def _encoded(texts: list[str]) -> Iterator[Floats]:
    """(n, 256) float32, block by block."""
    encoder = _wordllama()
    for start in range(0, len(texts), _BLOCK):
        yield encoder.embed(texts[start : start + _BLOCK]).astype(np.float32)


@lru_cache(maxsize=1)
def _wordllama() -> Any:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    import wordllama

    # Its import sets the root logger to tell everything that every library says: put it back.
    root.handlers[:] = handlers
    root.setLevel(level)
    # The weights lie in the package, where it looks for them only when that is called its cache.
    return wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
