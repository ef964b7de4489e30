"""A prior over items: alone it is drawn from exactly, with a model the scores and the draws are of one distribution."""

from dataclasses import replace

import pytest
import torch

from data.errors import InputError
from policy.agent import slate_log_probs
from policy.beam import item_log_probs, likeliest_items
from policy.grammar import SlateGrammar
from policy.item_prior import ItemPrior
from policy.moves import MOVES
from tests.policy.test_language_model import make_contexts, make_speaker

ITEMS = 40


@pytest.fixture(scope="module")
def spoken(make_catalog):
    return make_speaker(make_catalog(ITEMS), slate_size=1)


@pytest.fixture(scope="module")
def asked(spoken):
    known = make_contexts(ITEMS, 5)
    return known, *spoken.prompt.encode(known, None)


def weights(rows: int | None = None) -> torch.Tensor:
    shape = (ITEMS,) if rows is None else (rows, ITEMS)
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 2


def test_every_item_is_scored_as_the_slate_of_it_alone(spoken, asked) -> None:
    known, ids, mask = asked
    found = item_log_probs(spoken.legal, ids, mask)
    assert found.exp().sum(1) == pytest.approx([1.0] * 5, abs=1e-5)
    for item in (0, 7, ITEMS - 1):
        alone = slate_log_probs(spoken, known, torch.full((5, 1), item).numpy().astype("int32"))
        assert found[:, item].tolist() == pytest.approx(alone.tolist(), abs=1e-4)


@pytest.mark.parametrize("of_each_row", [False, True])
def test_only_eligible_items_have_probability(spoken, asked, of_each_row) -> None:
    _, ids, mask = asked
    some = torch.rand(5, ITEMS, generator=torch.Generator().manual_seed(0)) < 0.4
    eligible = some if of_each_row else some[0]
    found = item_log_probs(spoken.legal, ids, mask, eligible)
    assert found.exp().sum(1) == pytest.approx([1.0] * 5, abs=1e-5)
    assert bool((found == -torch.inf).eq(~eligible).all())


def test_without_a_model_the_prior_is_what_is_drawn(spoken, asked, monkeypatch) -> None:
    """All rows of the head at zero: every logit is level, and what is left is the prior, item by item."""
    _, ids, mask = asked
    monkeypatch.setattr(type(spoken.legal), "catalog_head", lambda self: torch.zeros(spoken.vocabulary.size, 32))
    for log_weights in (weights(), weights(5)):
        prior = ItemPrior.of(spoken.grammar.trie, log_weights)
        found = item_log_probs(spoken.legal, ids, mask, prior=prior)
        assert torch.allclose(found, log_weights.log_softmax(-1).expand(5, -1), atol=1e-4)


def test_beams_and_draws_follow_the_scores_under_a_prior(spoken, asked) -> None:
    _, ids, mask = asked
    prior = ItemPrior.of(spoken.grammar.trie, weights(5))
    found = item_log_probs(spoken.legal, ids, mask, prior=prior)
    best = likeliest_items(spoken.legal, ids, mask, count=6, beams=4 * ITEMS, prior=prior)
    assert torch.equal(best, found.topk(6, 1).indices)

    drawn = spoken.legal.draw(ids, mask, samples=800, generator=torch.Generator().manual_seed(1), prior=prior)
    items = spoken.grammar.decode(drawn.tokens.flatten(0, 1))[1].view(5, -1)
    shares = torch.stack([torch.bincount(row, minlength=ITEMS) / 800 for row in items])
    assert (shares - found.exp()).abs().max() < 0.06
    # What is said to be the probability of a draw is that of its move and its item under the same distribution.
    moves = spoken.grammar.decode(drawn.tokens.flatten(0, 1))[0].view(5, -1)
    per_pair = drawn.log_probs.exp()
    for move in range(len(MOVES)):
        pair = (moves == move) & (items == items[:, :1])
        assert ((per_pair * pair).amax(1) <= found.exp().gather(1, items[:, :1]).squeeze(1) + 1e-5).all()


def test_a_slate_under_a_prior_still_has_no_item_twice(make_catalog) -> None:
    spoken = make_speaker(make_catalog(ITEMS), slate_size=3)
    ids, mask = spoken.prompt.encode(make_contexts(ITEMS, 4), None)
    sharp = torch.zeros(ITEMS).index_fill(0, torch.tensor([3]), 30.0)  # one item has nearly all the mass
    drawn = spoken.legal.draw(ids, mask, samples=50, prior=ItemPrior.of(spoken.grammar.trie, sharp))
    items = spoken.grammar.decode(drawn.tokens.flatten(0, 1))[1]  # raises where an item stands twice
    assert bool((items[:, 0] == 3).all())


def test_ineligible_items_weigh_nothing_and_no_weight_is_no_way(spoken) -> None:
    trie = spoken.grammar.trie
    eligible = torch.arange(ITEMS) % 2 == 0
    by_mask = ItemPrior.of(trie, weights(), eligible)
    by_weight = ItemPrior.of(trie, weights().masked_fill(~eligible, -torch.inf))
    for one, other in zip(by_mask.mass, by_weight.mass, strict=True):
        assert torch.equal(one, other)
    total = weights()[eligible].logsumexp(0)
    assert by_mask.mass[0].logsumexp(1).item() == pytest.approx(
        total.item() - weights()[eligible].max().item(), abs=1e-4
    )


def test_a_prior_of_another_catalog_is_refused(spoken) -> None:
    with pytest.raises(InputError, match="40 items"):
        ItemPrior.of(spoken.grammar.trie, torch.zeros(ITEMS + 1))
    with pytest.raises(InputError, match="not a number"):
        ItemPrior.of(spoken.grammar.trie, torch.full((ITEMS,), torch.nan))


def test_a_grammar_of_longer_slates_restricts_the_second_item_too(make_catalog) -> None:
    spoken = make_speaker(make_catalog(ITEMS), slate_size=2)
    grammar: SlateGrammar = replace(spoken.grammar)
    said = grammar.encode(torch.tensor([1]), torch.tensor([[5, 6]]))[:, : 1 + grammar.trie.levels]
    prior = ItemPrior.of(grammar.trie, weights())
    level = torch.zeros(1, spoken.vocabulary.size)
    found = grammar.restricted(level, said, None, prior).softmax(-1)
    legal = grammar.legal(said)
    assert bool((found[~legal] == 0).all())
    offset, size = grammar.trie.level_offsets[0], grammar.trie.level_sizes[0]
    mass = prior.at(0, torch.zeros(1, dtype=torch.long)).masked_fill(~legal[:, offset : offset + size], -torch.inf)
    assert torch.allclose(found[:, offset : offset + size], mass.softmax(-1), atol=1e-6)
