"""Ranking: metrics by hand, floors that never look ahead, item-level hits."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InputError
from data.histories import Histories, contexts
from data.schema import ACTIONS
from eval.ranking import (
    Popularity,
    RankingSettings,
    TransitionCount,
    best_unseen,
    evaluate_ranking,
    fitting_half_life,
    floors,
    hits,
    last_items,
    next_item_targets,
    only_unseen,
)
from eval.sasrec import SASRecSettings, fit_sasrec

PLAY, SKIP = ACTIONS.index("play"), ACTIONS.index("skip")
HOUR = 3_600_000_000


def histories(*items_by_user: list[int], skips: tuple[int, ...] = ()) -> Histories:
    """One interaction an hour for each user; `skips` are absolute rows that were skipped."""
    item = np.concatenate([np.asarray(items, dtype=np.int32) for items in items_by_user])
    action = np.full(item.size, PLAY, dtype=np.int8)
    action[list(skips)] = SKIP
    return Histories(
        user_ids=[f"u{i}" for i in range(len(items_by_user))],
        offsets=np.concatenate([[0], np.cumsum([len(items) for items in items_by_user])]).astype(np.int64),
        item=item,
        action=action,
        time=np.concatenate([np.arange(len(items), dtype=np.int64) * HOUR for items in items_by_user]),
        surface=np.zeros(item.size, dtype=np.int8),
        hour_of_week=np.zeros(item.size, dtype=np.int16),
    )


def test_metrics_by_hand() -> None:
    ranked = np.array([[5, 6, 7], [5, 6, 7], [5, 6, 7], [-1, -1, -1]], dtype=np.int32)
    found = hits(ranked, np.array([5, 7, 9, 5], dtype=np.int32), cutoffs=(1, 3))
    assert found["hr@1"].tolist() == [1, 0, 0, 0]
    assert found["hr@3"].tolist() == [1, 1, 0, 0]
    assert found["ndcg@3"].tolist() == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert found["ndcg@1"].tolist() == [1, 0, 0, 0]


@given(st.permutations(range(8)), st.integers(0, 7), st.integers(1, 8))
def test_ndcg_is_at_most_the_hit_and_falls_with_the_rank(order: list[int], target: int, k: int) -> None:
    found = hits(np.array([order], dtype=np.int32), np.array([target], dtype=np.int32), cutoffs=(k,))
    rank = order.index(target)
    assert found[f"hr@{k}"][0] == float(rank < k)
    assert found[f"ndcg@{k}"][0] == pytest.approx(1 / np.log2(rank + 2) if rank < k else 0.0)


def test_targets_lie_after_the_cut_and_their_context_before_them() -> None:
    log = histories([1, 2, 3, 4], [7], [5, 6, 5], skips=(3,))
    targets = next_item_targets(log, cut=2 * HOUR, settings=RankingSettings(), seed=0)
    assert targets.slate[:, 0].tolist() == [3, 5]  # 4 was skipped, 7 has no past
    assert last_items(log, targets).tolist() == [2, 6]
    seen = contexts(log, targets, 3)
    assert seen.item.tolist() == [[-1, 1, 2], [-1, 5, 6]]


def test_transition_count_ranks_what_followed_and_backs_off_to_popularity() -> None:
    log = histories([0, 1, 0, 1, 0, 2], [3, 3, 3, 3])
    counted = TransitionCount.fit(log, items=5, cut=100 * HOUR)
    assert counted.rank(np.array([0, 1, 4, -1], dtype=np.int32), k=3).tolist() == [
        [1, 2, 3],  # 0 -> 1 twice, 0 -> 2 once, then the most popular
        [0, 3, 1],
        [3, 0, 1],  # nothing ever followed item 4
        [3, 0, 1],
    ]


def test_no_transition_crosses_from_one_listener_to_the_next() -> None:
    counted = TransitionCount.fit(histories([0, 1], [2, 3]), items=4, cut=100 * HOUR)
    assert counted.successor.tolist() == [1, 3]


def test_floors_do_not_look_past_the_cut() -> None:
    before = histories([0, 1, 2, 9, 9], [0, 1, 3, 8, 8])
    after = histories([0, 1, 2, 7, 4], [0, 1, 3, 6, 5])
    a, b = (TransitionCount.fit(log, items=10, cut=3 * HOUR) for log in (before, after))
    np.testing.assert_array_equal(a.successor, b.successor)
    np.testing.assert_array_equal(a.popularity.order, b.popularity.order)


def test_counts_age_where_taste_moves_on_and_only_there() -> None:
    """News: everybody takes this hour's story. A steady catalog: the same favourites all along."""
    rng = np.random.default_rng(1)
    hours = 240
    news = histories(*[(np.arange(hours) // 12).tolist()] * 5)
    steady = histories(*[rng.choice(20, hours, p=np.arange(1, 21) / 210).tolist() for _ in range(5)])
    fast = fitting_half_life(news, 20, 200 * HOUR, "popularity", k=1)
    slow = fitting_half_life(steady, 20, 200 * HOUR, "popularity", k=3)
    assert fast is not None
    assert fast < 3
    assert slow is None or slow >= 7
    assert Popularity.fit(news, 20, 200 * HOUR, fast).order[0] == 200 // 12


def test_ageing_is_chosen_before_the_cut_only() -> None:
    rng = np.random.default_rng(2)
    walk = [rng.integers(0, 9, 60).tolist() for _ in range(20)]
    other = [items[:40] + rng.integers(0, 9, 20).tolist() for items in walk]
    for floor in ("popularity", "transition_count"):
        found = [fitting_half_life(histories(*log), 9, 40 * HOUR, floor) for log in (walk, other)]
        assert found[0] == found[1]


def test_lists_longer_than_the_catalog_are_padded() -> None:
    short = Popularity.fit(histories([0, 1, 1]), items=2, cut=100 * HOUR).rank(2, 4)
    assert short.tolist() == [[1, 0, -1, -1]] * 2


def test_a_chain_is_read_off_by_counting_and_not_by_popularity() -> None:
    rng = np.random.default_rng(0)
    walks = [((np.arange(30) + start) % 20).tolist() for start in rng.integers(0, 20, 40)]
    log = histories(*walks)
    targets = next_item_targets(log, cut=20 * HOUR, settings=RankingSettings(cutoffs=(1,)), seed=0)
    settings = RankingSettings(cutoffs=(1,))
    found = evaluate_ranking(floors(log, targets, items=20, cut=20 * HOUR, k=1), targets, settings)
    assert found["transition_count"].metrics["hr@1"].value == 1.0
    assert found["popularity"].metrics["hr@1"].value < 0.2
    assert found["popularity"].over_floor["hr@1"].hi < 0
    assert found["popularity"].metrics["hr@1"].clusters == 40


def test_a_sample_of_targets_is_seeded() -> None:
    log = histories(*[list(range(9))] * 30)
    settings = RankingSettings(max_targets=25)
    a, b, c = (next_item_targets(log, 3 * HOUR, settings, seed) for seed in (1, 1, 2))
    assert len(a.decision_id) == 25
    assert a.decision_id == b.decision_id != c.decision_id


def test_bad_input_is_a_clear_line() -> None:
    target = np.array([1], dtype=np.int32)
    with pytest.raises(InputError, match="twice"):
        hits(np.array([[1, 2, 1]], dtype=np.int32), target, (3,))
    with pytest.raises(InputError, match="k = 10"):
        hits(np.array([[1, 2, 3]], dtype=np.int32), target, (10,))
    with pytest.raises(InputError, match="cut"):
        next_item_targets(histories([1, 2]), cut=50 * HOUR, settings=RankingSettings(), seed=0)


def test_a_ranker_may_be_kept_to_what_is_new() -> None:
    log = histories([1, 2, 3], [0, 4, 2])
    targets = next_item_targets(log, cut=2 * HOUR, settings=RankingSettings(), seed=0)
    ranked = np.array([[2, 1, 3, 0], [4, 0, 1, 2]], dtype=np.int32)
    assert only_unseen(ranked, log, targets, 2).tolist() == [[3, 0], [1, 2]]
    assert only_unseen(ranked[:, :3], log, targets, 2).tolist() == [[3, -1], [1, -1]]
    scores = torch.tensor([[0.1, 0.9, 0.8, 0.5, 0.2], [0.9, 0.3, 0.1, 0.2, 0.8]])
    assert best_unseen(scores.split(1), log, targets, 2).tolist() == [[3, 4], [1, 3]]
    assert best_unseen([scores], log, targets, 4).tolist() == [[3, 4, 0, -1], [1, 3, 2, -1]]


def test_counts_as_a_prior_are_a_distribution_that_ranks_as_the_counts_do() -> None:
    log = histories([0, 1, 0, 1, 0, 2], [3, 3, 3, 3])
    counted = TransitionCount.fit(log, items=5, cut=100 * HOUR)
    last = np.array([0, 4, -1], dtype=np.int32)
    found = counted.log_probs(last, backing=0.5)
    assert np.exp(found).sum(1) == pytest.approx(1.0, abs=1e-5)
    assert np.argsort(-found[0], kind="stable")[:2].tolist() == [1, 2]
    # 0 went to 1 twice and to 2 once; the imagined half goes by popularity, where 1 has 3 of 15.
    assert np.exp(found[0, 1]) == pytest.approx((2 + 0.5 * 3 / 15) / 3.5, rel=1e-5)
    assert found[1] == pytest.approx(found[2])


def test_sasrec_learns_a_chain_and_is_the_same_for_the_same_seed() -> None:
    rng = np.random.default_rng(0)
    log = histories(*[((np.arange(6) + start) % 15).tolist() for start in rng.integers(0, 15, 150)])
    asked = next_item_targets(log, cut=5 * HOUR, settings=RankingSettings(cutoffs=(1,)), seed=0)
    small = SASRecSettings(hidden=32, layers=1, dropout=0.1, epochs=12, every=4, learning_rate=1e-2, length=8)
    told: list[int] = []
    model = fit_sasrec(log, 15, 5 * HOUR, asked, small, 0, lambda epoch, ndcg: told.append(epoch))
    ranked = model.rank(log, asked, 3)
    assert hits(ranked, asked.slate[:, 0], (1,))["hr@1"].mean() > 0.9
    assert told == list(range(1, len(told) + 1))
    again = fit_sasrec(log, 15, 5 * HOUR, asked, small, 0)
    np.testing.assert_array_equal(ranked, again.rank(log, asked, 3))
    with pytest.raises(InputError, match="two interactions before the cut"):
        fit_sasrec(log, 15, HOUR, asked, small, 0)
