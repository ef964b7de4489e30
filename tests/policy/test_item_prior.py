"""A prior over items: alone it is drawn from exactly, with a model the scores and the draws are of one distribution."""

from dataclasses import replace

import pytest
import torch

from data.errors import InputError
from policy.agent import slate_log_probs
from policy.beam import best_items, item_log_probs, likeliest_items
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


def test_over_a_policy_without_opinion_the_product_is_the_prior(make_catalog, monkeypatch) -> None:
    """Every ID of the catalog is taken and every logit level, so that all items are equally likely before."""
    level = make_speaker(make_catalog(32, level_sizes=(2, 4, 4)), slate_size=1)
    ids, mask = level.prompt.encode(make_contexts(32, 5), None)
    monkeypatch.setattr(type(level.legal), "catalog_head", lambda self: torch.zeros(level.vocabulary.size, 32))
    for log_weights in (weights()[:32], weights(5)[:, :32]):
        found = item_log_probs(level.legal, ids, mask, prior=ItemPrior.of(level.grammar.trie, log_weights))
        assert torch.allclose(found, log_weights.log_softmax(-1).expand(5, -1), atol=1e-4)


def test_weights_that_are_all_alike_change_nothing(spoken, asked) -> None:
    _, ids, mask = asked
    eligible = torch.arange(ITEMS) % 3 > 0
    none = ItemPrior.of(spoken.grammar.trie, torch.full((ITEMS,), -7.0), eligible)
    plain = item_log_probs(spoken.legal, ids, mask, eligible)
    assert torch.allclose(item_log_probs(spoken.legal, ids, mask, eligible, none), plain, atol=1e-4)
    one, other = (
        spoken.legal.draw(ids, mask, 8, generator=torch.Generator().manual_seed(0), eligible=eligible, prior=prior)
        for prior in (None, none)
    )
    assert torch.equal(one.tokens, other.tokens)


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


@pytest.mark.parametrize("width", [1, 4, 64])
@pytest.mark.parametrize("with_prior", [False, True])
def test_the_best_items_are_those_of_all_scores_however_few_are_read(spoken, asked, width, with_prior) -> None:
    _, ids, mask = asked
    eligible = torch.rand(5, ITEMS, generator=torch.Generator().manual_seed(0)) < 0.5
    eligible[4] = torch.arange(ITEMS) < 4  # fewer than are asked for
    prior = ItemPrior.of(spoken.grammar.trie, weights(5), eligible) if with_prior else None
    scores, order = item_log_probs(spoken.legal, ids, mask, eligible, prior).topk(6, 1)
    found = best_items(spoken.legal, ids, mask, 6, eligible, prior, width)
    assert torch.equal(found, order.masked_fill(scores == -torch.inf, -1))


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
    legal = trie.count(eligible).counts[0]
    for level, (one, other) in enumerate(zip(by_mask.mean, by_weight.mean, strict=True)):
        first = sum(trie.nodes_at[: level + 1])
        share = (legal / trie.count(None).counts[0])[first : first + one.shape[1]]  # of a mean over more items
        assert torch.allclose(one.exp() * share, other.exp(), atol=1e-5)
    best = weights()[eligible].max()
    leaves = by_mask.mean[-1][0].new_empty(ITEMS).index_copy_(0, trie.leaf_item, by_mask.mean[-1][0])
    assert torch.allclose(leaves[eligible], weights()[eligible] - best, atol=1e-4)


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
    mean = prior.at(0, torch.zeros(1, dtype=torch.long)).masked_fill(~legal[:, offset : offset + size], -torch.inf)
    assert torch.allclose(found[:, offset : offset + size], mean.softmax(-1), atol=1e-6)
