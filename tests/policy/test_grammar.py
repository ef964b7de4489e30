import itertools

import numpy as np
import pytest
import torch

from data.errors import InputError
from policy.grammar import SlateGrammar
from policy.moves import MOVES
from policy.vocabulary import Vocabulary, nano_tokenizer


@pytest.fixture(scope="module")
def grammar(make_catalog):
    catalog = make_catalog(60)
    return SlateGrammar.of(Vocabulary.of(nano_tokenizer(catalog), catalog), 4)


def small(make_catalog, items: int, sizes: tuple[int, ...], slate: int, seed: int = 0) -> SlateGrammar:
    catalog = make_catalog(items, sizes, seed)
    return SlateGrammar.of(Vocabulary.of(nano_tokenizer(catalog), catalog), slate)


def random_slates(rng, rows: int, items: int, slate: int) -> torch.Tensor:
    return torch.as_tensor(np.argsort(rng.random((rows, items)), axis=1)[:, :slate].copy())


def test_ten_thousand_slates_survive_the_round_trip(grammar):
    rng = np.random.default_rng(0)
    moves = torch.as_tensor(rng.integers(0, len(MOVES), 10_000))
    items = random_slates(rng, 10_000, 60, 4)
    tokens = grammar.encode(moves, items)
    assert tokens.shape == (10_000, grammar.length)
    assert int(tokens.min()) >= grammar.vocabulary.first
    back = grammar.decode(tokens)
    assert torch.equal(back[0], moves)
    assert torch.equal(back[1], items)
    assert torch.equal(grammar.decode(tokens - grammar.vocabulary.first)[1], items)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shared", [True, False])
def test_masks_equal_brute_force_down_to_the_last_item(make_catalog, seed, shared):
    # Seven to ten eligible items for slates of five: the late positions are nearly exhausted.
    rng = np.random.default_rng(seed)
    sizes = [(3, 4), (2, 3, 4), (12,)][seed % 3]
    grammar = small(make_catalog, 12, sizes, 5, seed)
    rows = 8
    eligible = np.ones((rows, 12), dtype=bool)
    for row in eligible:
        row[rng.choice(12, rng.integers(0, 7 if seed else 1), replace=False)] = False
    if shared:
        eligible[:] = eligible[0]
    slates = torch.as_tensor(np.stack([rng.permutation(np.flatnonzero(row))[:5] for row in eligible]))
    tokens = grammar.encode(torch.as_tensor(rng.integers(0, 4, rows)), slates)
    given = torch.as_tensor(eligible[0] if shared else eligible)
    together = grammar.legal_all(tokens, given)
    counted = grammar.eligibility(given)
    codes = grammar.vocabulary.codes
    levels = grammar.trie.levels
    for position in range(grammar.length):
        mask = grammar.legal(tokens[:, :position], counted)
        assert torch.equal(mask, grammar.legal(tokens[:, :position], given))
        assert torch.equal(mask, together[:, position])
        assert mask.gather(1, tokens[:, position : position + 1] - grammar.vocabulary.first).all()
        if position == 0:
            assert mask.nonzero()[:, 1].reshape(rows, 4).tolist() == [[0, 1, 2, 3]] * rows
            continue
        place, level = divmod(position - 1, levels)
        for row in range(rows):
            prefix = tuple(codes[slates[row, place], :level])
            gone = set(slates[row, :place].tolist())
            left = [i for i in range(12) if eligible[row, i] and i not in gone and tuple(codes[i, :level]) == prefix]
            expected = sorted({int(codes[i, level]) + grammar.trie.level_offsets[level] for i in left})
            assert mask[row].nonzero().squeeze(1).tolist() == expected


def test_probabilities_of_all_legal_completions_sum_to_one(make_catalog):
    grammar = small(make_catalog, 5, (2, 4), 2)
    generator = torch.Generator().manual_seed(0)
    eligible = torch.tensor([True, True, False, True, True])
    slates = [s for s in itertools.permutations(range(5), 2) if 2 not in s]
    moves, items = zip(*itertools.product(range(4), slates))
    tokens = grammar.encode(torch.tensor(moves), torch.tensor(items)) - grammar.vocabulary.first
    # A "model" whose logits depend on the whole prefix: a table over prefixes, drawn once.
    table: dict[tuple[int, ...], torch.Tensor] = {}
    logits = torch.stack(
        [
            torch.stack(
                [
                    table.setdefault(tuple(row[:t]), torch.randn(grammar.trie.width, generator=generator))
                    for t in range(grammar.length)
                ]
            )
            for row in tokens.tolist()
        ]
    )
    legal = grammar.legal_all(tokens, eligible)
    log_probabilities = logits.masked_fill(~legal, -torch.inf).log_softmax(-1)
    chosen = log_probabilities.gather(2, tokens.unsqueeze(2)).squeeze(2).sum(1).exp()
    assert len(tokens) == 4 * 12
    assert float(chosen.sum()) == pytest.approx(1, abs=1e-5)


def test_random_walks_never_repeat_and_never_leave_the_eligible(make_catalog):
    grammar = small(make_catalog, 30, (3, 3, 6), 6, 3)
    rng = torch.Generator().manual_seed(1)
    eligible = torch.rand((500, 30), generator=rng) < 0.4
    eligible[:, :6] = True
    counted = grammar.eligibility(eligible)
    tokens = torch.zeros((500, 0), dtype=torch.long)
    for _ in range(grammar.length):
        weights = grammar.legal(tokens, counted).float()
        tokens = torch.cat([tokens, torch.multinomial(weights, 1, generator=rng)], 1)
    _, items = grammar.decode(tokens)
    assert all(len(set(slate)) == 6 for slate in items.tolist())
    assert eligible.gather(1, items).all()


def test_a_slate_may_use_the_whole_catalog(make_catalog):
    grammar = small(make_catalog, 4, (2, 2), 4)
    last = grammar.encode(torch.tensor([0]), torch.tensor([[3, 1, 0, 2]]))
    assert grammar.legal_all(last)[0, -1].sum() == 1


def test_too_few_eligible_items_are_an_error_not_an_open_mask(grammar):
    eligible = torch.zeros((3, 60), dtype=torch.bool)
    eligible[:, :4] = True
    eligible[1, 0] = False
    with pytest.raises(InputError, match="3 eligible items for row 1"):
        grammar.legal(torch.zeros((3, 0), dtype=torch.long), eligible)
    with pytest.raises(InputError, match="0 eligible items"):
        grammar.legal(torch.zeros((3, 0), dtype=torch.long), torch.zeros(60, dtype=torch.bool))


def test_an_illegal_prefix_is_an_error(grammar):
    slates = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]])
    tokens = grammar.encode(torch.tensor([1, 2]), slates)
    only = torch.as_tensor(grammar.vocabulary.codes[:, 0] != grammar.vocabulary.codes[0, 0])
    with pytest.raises(InputError, match="row 0 has no legal token"):
        grammar.legal(tokens[:, :2], only)
    wrong = tokens.clone()
    wrong[1, 1] = grammar.vocabulary.first
    with pytest.raises(InputError, match="completion 1 spells no item"):
        grammar.legal(wrong[:, :4])
    with pytest.raises(InputError, match="begin with a move"):
        grammar.legal(tokens[:, 1:2])
    with pytest.raises(InputError, match="already has all"):
        grammar.legal(tokens)


@pytest.mark.parametrize(
    ("items", "words"), [([[0, 1, 1, 2]], "twice"), ([[0, 1, 2, 60]], "not a row"), ([[0, 1, 2]], "slates here")]
)
def test_a_faulty_slate_is_not_encoded(grammar, items, words):
    with pytest.raises(InputError, match=words):
        grammar.encode(torch.tensor([0]), torch.tensor(items))


def test_a_repeated_item_is_not_decoded(grammar):
    tokens = grammar.encode(torch.tensor([0]), torch.tensor([[0, 1, 2, 3]]))
    tokens[:, 4:7] = tokens[:, 1:4]
    with pytest.raises(InputError, match="twice"):
        grammar.decode(tokens)
