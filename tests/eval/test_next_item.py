"""A policy with counting added: the prior that validation chooses helps where the policy knows nothing."""

import numpy as np
import pytest
import torch

from eval.next_item import CountPrior, choose_prior, rank_by_policy, with_prior
from eval.ranking import RankingSettings, TransitionCount, hits, last_items, next_item_targets, seen_before
from tests.eval.test_ranking import HOUR, histories
from tests.policy.conftest import make_catalog
from tests.policy.test_language_model import make_speaker

ITEMS = 40
__all__ = ["make_catalog"]  # a fixture of the policy's tests


@pytest.fixture(scope="module")
def asked(make_catalog):
    """An untrained policy and a log in which the next item follows from the last one."""
    rng = np.random.default_rng(0)
    log = histories(*[((np.arange(7) * 3 + start) % ITEMS).tolist() for start in rng.integers(0, ITEMS, 60)])
    targets = next_item_targets(log, cut=6 * HOUR, settings=RankingSettings(), seed=0)
    return make_speaker(make_catalog(ITEMS), slate_size=1), log, targets, TransitionCount.fit(log, ITEMS, 6 * HOUR)


def test_validation_chooses_the_counts_where_the_policy_knows_nothing(asked) -> None:
    spoken, log, targets, counted = asked
    prior = choose_prior(lambda tried: rank_by_policy(spoken, log, targets, 10, tried), counted, targets)
    assert prior.weight >= 0.5
    alone, both = (rank_by_policy(spoken, log, targets, 10, chosen) for chosen in (None, prior))
    answers = targets.slate[:, 0]
    assert hits(both, answers, (10,))["ndcg@10"].mean() > hits(alone, answers, (10,))["ndcg@10"].mean() + 0.3


def test_no_weight_changes_nothing(asked) -> None:
    spoken, log, targets, counted = asked
    none = CountPrior(counted, weight=0.0, backing=1.0)
    scores = torch.randn(len(targets), ITEMS)
    added = torch.cat(list(with_prior(scores.split(7), none, last_items(log, targets))))
    assert torch.allclose(added, scores.log_softmax(1), atol=1e-5)
    plain, weightless = (rank_by_policy(spoken, log, targets, 5, prior) for prior in (None, none))
    np.testing.assert_array_equal(plain, weightless)
    rows, items = seen_before(log, targets)
    assert not (plain[rows] == items[:, None]).any()
