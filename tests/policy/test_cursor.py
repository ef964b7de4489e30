"""A cursor says what the grammar says, wherever it stands and whatever is left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError
from policy.cursor import Cursor, Doors, Paths
from policy.grammar import SlateGrammar
from policy.vocabulary import Vocabulary, nano_tokenizer
from tests.policy.serving.tiny_run import tiny_catalog

SLATE = 5


@pytest.fixture(scope="module")
def grammar() -> SlateGrammar:
    catalog = tiny_catalog()
    return SlateGrammar.of(Vocabulary.of(nano_tokenizer(catalog), catalog), SLATE)


@given(st.integers(0, 2**32 - 1), st.integers(SLATE, 60), st.booleans())
@settings(max_examples=60, deadline=None)
def test_masks_and_slates_are_those_of_the_grammar(grammar: SlateGrammar, seed: int, eligible: int, one: bool) -> None:
    """Down to as many eligible items as the slate has places, left out by the count or one by one."""
    rng = np.random.default_rng(seed)
    mask = torch.zeros(60, dtype=torch.bool)
    mask[rng.permutation(60)[:eligible]] = True
    paths = Paths.of(grammar)
    if one:
        half = mask | torch.from_numpy(rng.random(60) < 0.5)
        unwanted = paths.leaf_of[np.flatnonzero(~mask.numpy())]
        cursor = Cursor(Doors.of(paths, grammar.trie.count(half)), [*unwanted.tolist(), *unwanted[:3].tolist()])
    else:
        cursor = Cursor(Doors.of(paths, grammar.trie.count(mask)))
    counted = grammar.eligibility(mask)

    said: list[int] = []
    for _ in range(grammar.length):
        legal = np.zeros(paths.width, dtype=np.bool_)
        cursor.mark(legal)
        expected = grammar.legal(torch.tensor([said], dtype=torch.long).reshape(1, -1), counted)[0]
        assert legal.tolist() == expected.tolist()
        said.append(paths.first + int(rng.choice(np.flatnonzero(legal))))
        cursor.follow(said[-1:])

    move, rows = grammar.decode(torch.tensor([said]))
    assert (cursor.move, cursor.rows) == (int(move[0]), tuple(rows[0].tolist()))
    assert bool(mask[rows[0]].all())


def test_what_is_out_of_place_is_an_error(grammar: SlateGrammar) -> None:
    doors = Doors.of(Paths.of(grammar), grammar.trie.count(None))
    said = grammar.encode(torch.tensor([1]), torch.tensor([[3, 1, 4, 15, 9]]))[0].tolist()
    codes = {tuple(codes) for codes in grammar.vocabulary.codes.tolist()}
    offsets, first = grammar.trie.level_offsets, grammar.vocabulary.first
    nobody = next((a, b, c) for a in range(6) for b in range(6) for c in range(4) if (a, b, c) not in codes)
    off = [first + offset + code for offset, code in zip(offsets, nobody, strict=True)]
    for wrong, words in (
        (said[1:], "begin with a move"),
        ([said[0], said[2]], "out of its place"),
        ([said[0], *off], "lead off the trie"),
        ([*said[:4], *said[1:4]], "twice"),
    ):
        with pytest.raises(InputError, match=words):
            Cursor(doors).follow(wrong)


def test_an_empty_set_is_an_error_not_an_open_mask(grammar: SlateGrammar) -> None:
    paths = Paths.of(grammar)
    nothing = Doors.of(paths, grammar.trie.count(torch.zeros(60, dtype=torch.bool)))
    everything = Doors.of(paths, grammar.trie.count(None))
    for cursor in (Cursor(nothing), Cursor(everything, range(60))):
        cursor.follow([paths.first])
        with pytest.raises(InputError, match="no eligible item is left"):
            cursor.mark(np.zeros(paths.width, dtype=np.bool_))
