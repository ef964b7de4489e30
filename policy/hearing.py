"""What a listener asks for in words, as a preference over the catalog's items while a slate is decoded.

The model reads the words in its prompt and has learned what they mean, but a sentence is one token sequence among
thousands that it has seen, and what it was rewarded for lately can be louder. So the catalog is asked too: which tags,
kinds, creators, titles and words of it does the sentence name, typing errors allowed, and which does it not want ("no
techno")? Where none is named, a sentence encoder says which tags are meant by it, if the catalog was placed by one.

    hearing = Hearing(catalog)
    hearing.asks("somethng calmer, but no podcast")     # [Ask("calm", ...), Ask("podcast", ..., wanted=False)]
    hearing.log_weights("some jazz")                    # (N,), None where nothing is recognised

The weights are a prior over items (`policy.item_prior`), added to the logits and renormalised over what is legal, so
the policy that is served, evaluated and logged is the product of both, and a propensity is that of the product. What is
rare is said louder: an ask of n among N items is weighed so that over items that are otherwise alike it gets the share
WANTED. Training leaves the prior out, so that the model goes on learning to listen by itself.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import OSA
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from torch import Tensor

from data.catalog import Catalog
from data.text_vectors import place_text, place_words, unit
from policy.item_prior import ItemPrior
from policy.trie import Trie

LONGEST = 500  # characters of a request that are listened to
# Shares of a slate that what is asked for gets, over items that are otherwise alike: a name, a word of a text, a guess
# at what is meant.
NAMED, IN_THE_TEXT, MEANT = 0.97, 0.9, 0.8
UNWANTED = -20.0  # log-weight: a policy that plays little else by itself should not either
# How people call the kinds of items, beside the kind itself.
SPOKEN_KINDS = {
    "track": ("song", "music", "tune"),
    "podcast": ("episode", "show"),
    "audiobook": ("audio book", "book", "chapter"),
}
_POLITE = """any anything bit give hear listen listening like little maybe mood play please put some something stuff
thing things time try want now today tonight"""
_FILLERS = frozenset(_POLITE.split()) | ENGLISH_STOP_WORDS
_NEGATIONS = frozenset(["no", "not", "nothing", "without", "except", "less", "never", "skip", "stop", "hate", "dont"])
# Cosine from which a tag is taken to be meant, and how much less than the nearest tag another may have.
NEAR, _AS_NEAR = 0.35, 0.1
_READ_PER_TAG = 64  # items
_LONGEST_NAME = 5  # words
_COMMON = 0.2  # a word in more than this share of the items says nothing about any
_MOST_WORDS = 20_000
_TEXTS_KEPT = 256


@dataclass(frozen=True)
class Ask:
    """One thing that was asked for, or asked not to be. rows (n,): catalog rows that are it; share: see NAMED."""

    name: str
    rows: NDArray[np.int64]
    share: float = NAMED
    wanted: bool = True


class Hearing:
    """What sentences ask for in one catalog of N items."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.asks = lru_cache(maxsize=_TEXTS_KEPT)(self._asks)

    def prior(self, trie: Trie, texts: Sequence[str | None], eligible: Tensor | None = None) -> ItemPrior | None:
        """The prior of B requests, None for those who said nothing; None when nobody asks for anything known.

        eligible: as `ItemPrior.of`.
        """
        distinct = list(dict.fromkeys(texts))
        weights = [None if text is None else self.log_weights(text) for text in distinct]
        if all(one is None for one in weights):
            return None
        nothing = torch.zeros(len(self.catalog))
        stacked = torch.stack([nothing if one is None else one for one in weights])
        which = torch.tensor([distinct.index(text) for text in texts])
        if eligible is not None and eligible.ndim == 2:
            return ItemPrior.of(trie, stacked[which], eligible)
        return ItemPrior.of(trie, stacked, eligible).rows(which.to(trie.device))

    def log_weights(self, text: str) -> Tensor | None:
        """Log-weights (N,) of the items for one request; None where nothing in it is recognised."""
        asks = self.asks(text)
        if not asks:
            return None
        weights = np.zeros(len(self.catalog), np.float32)
        for ask in asks:
            weights[ask.rows] += _loudness(len(ask.rows) / len(self.catalog), ask.share) if ask.wanted else UNWANTED
        return torch.from_numpy(weights)

    def _asks(self, text: str) -> list[Ask]:
        found: list[Ask] = []
        unknown: list[str] = []
        for clause in re.split(r"[,.;:!?]", text[:LONGEST]):
            words = _words(clause)
            at, wanted = 0, True
            while at < len(words):
                word, heard = words[at], self._named(words[at:])
                if heard is not None:
                    name, taken, share = heard
                    rows = (self._names if share == NAMED else self._in_texts)[name]
                    found.append(Ask(name, rows, share, wanted))
                    wanted, at = True, at + taken
                    continue
                if word in _NEGATIONS or words[at : at + 2] == ["anything", "but"]:
                    wanted, at = False, at + (word == "anything")
                elif word == "but":
                    wanted = True
                elif word not in _FILLERS:
                    unknown.append(word)
                at += 1
        # A kind alone says little: "late night bar music" means more than music.
        if all(ask.name in self._kinds for ask in found):
            found += self._meant(unknown)
        return found

    def _named(self, words: Sequence[str]) -> tuple[str, int, float] | None:
        """(name, words it took, share) of what `words` begin with: a name, a word of the texts, or either misspelt."""
        spans = [" ".join(words[:size]) for size in range(min(_LONGEST_NAME, len(words)), 0, -1)]
        for span in spans:
            size = span.count(" ") + 1
            for form in _forms(span):
                if form in self._names:
                    return form, size, NAMED
            if size > 1 and (name := _nearest(span, self._spellings)):
                return name, size, NAMED
        first = words[0]
        if first in _FILLERS or first in _NEGATIONS or len(first) < 3:
            return None
        for form in _forms(first):
            if form in self._in_texts:
                return form, 1, IN_THE_TEXT
        if _nearest(first, list(_FILLERS)):
            return None
        if name := _nearest(first, self._spellings):
            return name, 1, NAMED
        word = _nearest(first, self._written) if len(first) > 3 else None
        return None if word is None else (word, 1, IN_THE_TEXT)

    def _meant(self, words: Sequence[str]) -> list[Ask]:
        """The tags nearest to what was said, by the encoder that placed the catalog; none where it is not near any."""
        if not words or not self._tags:
            return []
        said = place_words([" ".join(words)], self.catalog.text)
        if said is None:
            return []
        near = self._tag_vectors @ said[0]
        closest = np.flatnonzero(near >= max(NEAR, float(near.max()) - _AS_NEAR))
        if len(closest) == 0:
            return []
        rows = np.unique(np.concatenate([self._tags[at][1] for at in closest]))
        return [Ask("~ " + ", ".join(self._tags[at][0] for at in closest), rows, MEANT)]

    @cached_property
    def _tags(self) -> list[tuple[str, NDArray[np.int64]]]:
        """Tags, kinds left out, that no great part of the catalog has, and their rows."""
        tags = [(text, rows.astype(np.int64)) for column, text, rows in askable(self.catalog) if column == "tags"]
        return [
            (text, rows) for text, rows in tags if text not in self._kinds and len(rows) <= _COMMON * len(self.catalog)
        ]

    @cached_property
    def _tag_vectors(self) -> NDArray[np.float32]:
        """Unit vectors (tags, D): the mean of what the items of a tag say."""
        means = [
            place_text(self.catalog.items[rows[:_READ_PER_TAG]], self.catalog.text).mean(0) for _, rows in self._tags
        ]
        return unit(np.stack(means))

    @cached_property
    def _kinds(self) -> dict[str, str]:
        """Kind of every word for one."""
        kinds = self.catalog.items["kind"].unique().to_list()
        return {word: kind for kind in kinds for word in (" ".join(_words(kind)), *SPOKEN_KINDS.get(kind, ()))}

    @cached_property
    def _names(self) -> dict[str, NDArray[np.int64]]:
        """What tags, kinds, creators and titles are called, and the catalog rows that have the name."""
        rows: defaultdict[str, set[int]] = defaultdict(set)
        for _, text, fitting in askable(self.catalog):
            rows[" ".join(_words(text))].update(fitting.tolist())
        for word, kind in self._kinds.items():
            rows[word].update(self.catalog.items["kind"].eq(kind).arg_true().to_list())
        for row, title in enumerate(self.catalog.items["title"]):
            if len(words := _words(title or "")) > 1:  # one word may be any word
                rows[" ".join(words)].add(row)
        rows.pop("", None)
        return {name: np.array(sorted(found)) for name, found in rows.items()}

    @cached_property
    def _spellings(self) -> list[str]:
        return list(self._names)

    @cached_property
    def _in_texts(self) -> dict[str, NDArray[np.int64]]:
        """Words of titles, creators, tags and texts that are not common, and the rows that have them."""
        rows: defaultdict[str, list[int]] = defaultdict(list)
        columns = self.catalog.items.select("title", "creator", "tags", "text").iter_rows()
        for row, (title, creator, tags, text) in enumerate(columns):
            for word in dict.fromkeys(_words(" ".join(part for part in (title, creator, text, *(tags or ())) if part))):
                if len(word) > 2 and word not in _FILLERS:
                    rows[word].append(row)
        kept = [word for word, found in rows.items() if len(found) <= max(1, _COMMON * len(self.catalog))]
        kept.sort(key=lambda word: -len(rows[word]))
        return {word: np.array(rows[word]) for word in kept[:_MOST_WORDS]}

    @cached_property
    def _written(self) -> list[str]:
        return list(self._in_texts)


def askable(catalog: Catalog) -> list[tuple[str, str, NDArray[np.int32]]]:
    """What a listener may name: (column, text, catalog rows that fit), for every tag, kind and creator."""
    frame = catalog.items.with_row_index("row")
    asked: list[tuple[str, str, NDArray[np.int32]]] = []
    for column in ("tags", "kind", "creator"):
        values = frame.explode(column) if column == "tags" else frame
        grouped = values.filter(pl.col(column).is_not_null() & (pl.col(column).cast(pl.String) != "")).group_by(
            column, maintain_order=True
        )
        asked += [(column, str(key[0]), np.sort(group["row"].to_numpy()).astype(np.int32)) for key, group in grouped]
    return asked


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold().replace("'", ""))


def _forms(words: str) -> Iterator[str]:
    """The words themselves, then what they may be the plural or the comparative of ("songs", "calmer", "happiest")."""
    yield words
    for ending, instead in (("s", ""), ("es", ""), ("ier", "y"), ("iest", "y"), ("er", ""), ("est", ""), ("r", "")):
        if words.endswith(ending) and len(words) - len(ending) > 2:
            yield words[: len(words) - len(ending)] + instead


def _nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word that is a slip of the finger away: one edit from three letters on, two from eight on."""
    edits = 0 if len(word) < 3 else 1 if len(word) < 8 else 2
    found = process.extractOne(word, known, scorer=OSA.distance, score_cutoff=edits) if edits else None
    if found is None or (len(word) == 3 and not (found[0][0] == word[0] and len(found[0]) == 4)):
        return None  # of three letters too many words are one edit away
    return str(found[0])


def _loudness(among: float, share: float) -> float:
    """Log-weight that gives items which are `among` of all the share `share`, if all are alike otherwise."""
    if among >= 1:
        return 0.0
    return max(0.0, math.log(share / (1 - share)) - math.log(among / (1 - among)))
