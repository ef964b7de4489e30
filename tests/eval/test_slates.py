"""Slate estimators against truth by enumeration: every slate of a small catalog, weighed by its probability."""

from itertools import permutations, product

import numpy as np
import pytest

from data.errors import InputError
from data.world.policies import plackett_luce_log_probability
from eval.estimators import point_and_influence
from eval.rounds import Columns, LoggedRounds, checked_columns
from eval.slates import logged_by, plackett_luce_positions, plackett_luce_prefixes, pseudo_inverse_weights

ITEMS, SIZE = 5, 3
RANKED = np.array(list(permutations(range(ITEMS), SIZE)))
FREE = np.array(list(product(range(ITEMS), repeat=SIZE)))
RNG = np.random.default_rng(0)
EFFECT = RNG.normal(size=(SIZE, ITEMS))
PLACES = np.arange(SIZE)


def ranked_policy(scores: np.ndarray) -> np.ndarray:
    """Probabilities of all ranked slates under Plackett-Luce."""
    return np.exp(plackett_luce_log_probability(np.tile(scores, (len(RANKED), 1)).astype(np.float32), RANKED))


def indicators(slates: np.ndarray) -> np.ndarray:
    """(position, item) indicators (slates, SIZE x ITEMS)."""
    return (slates[:, :, None] == np.arange(ITEMS)).reshape(len(slates), -1).astype(float)


def test_prefixes_end_in_the_whole_slate_and_start_as_a_softmax() -> None:
    scores = RNG.normal(size=(4, ITEMS)).astype(np.float32)
    slates = RANKED[[3, 17, 30, 59]]
    found = plackett_luce_prefixes(scores, slates)
    assert found[:, -1] == pytest.approx(plackett_luce_log_probability(scores, slates))
    share = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert np.exp(found[:, 0]) == pytest.approx(share[np.arange(4), slates[:, 0]], rel=1e-5)


def test_positions_are_sums_over_slates() -> None:
    scores = RNG.normal(size=ITEMS).astype(np.float32)
    p = ranked_policy(scores)
    exact = np.log([[p[RANKED[:, place] == slate[place]].sum() for place in PLACES] for slate in RANKED])
    drawn = plackett_luce_positions(np.tile(scores, (60, 1)), RANKED, np.random.default_rng(1), draws=2000)
    assert np.exp(drawn) == pytest.approx(np.exp(exact), abs=0.02)


def test_pseudo_inverse_is_exact_for_additive_outcomes_of_any_ranking_policy() -> None:
    p_log, p_new = (ranked_policy(RNG.normal(size=ITEMS).astype(np.float32)) for _ in range(2))
    outcome = EFFECT[PLACES, RANKED].sum(axis=1)
    marks = indicators(RANKED)
    gamma = (marks * p_log[:, None]).T @ marks
    w = pseudo_inverse_weights(gamma, p_new @ marks, RANKED)
    assert p_log @ (w * outcome) == pytest.approx(float(p_new @ outcome))
    interacting = outcome + 2.0 * (RANKED[:, 0] == 0) * (RANKED[:, 1] == 1)
    assert abs(p_log @ (w * interacting) - p_new @ interacting) > 1e-3
    whole = p_new / p_log
    assert p_log @ w**2 < p_log @ whole**2  # what the assumption buys


def test_pi_of_position_weights_is_exact_where_logging_draws_positions_independently() -> None:
    by_place = RNG.dirichlet(np.ones(ITEMS), SIZE)
    p_log = by_place[PLACES, FREE].prod(axis=1)
    p_new = RNG.dirichlet(np.ones(len(FREE)))  # any policy at all
    new_place = np.stack([[p_new[FREE[:, l] == i].sum() for i in range(ITEMS)] for l in range(SIZE)])  # noqa: E741
    outcome, n = EFFECT[PLACES, FREE].sum(axis=1), len(FREE)
    columns = Columns(
        w=p_new / p_log, r=outcome, q=RNG.normal(size=n), v=np.zeros(n), positions=(new_place / by_place)[PLACES, FREE]
    )
    value, influence = point_and_influence("pi", columns)
    assert p_log @ (value + influence) == pytest.approx(float(p_new @ outcome))


@pytest.mark.parametrize("name", ["rips", "cascade_dr", "ips"])
def test_cascades_are_exact_where_an_item_feels_only_those_above(name: str) -> None:
    p_log, p_new = (ranked_policy(RNG.normal(size=ITEMS).astype(np.float32)) for _ in range(2))
    reward = EFFECT[PLACES, RANKED] * np.cumprod(np.where(RANKED == 0, 0.5, 1.0), axis=1)  # item 0 tires
    q = RNG.normal(size=reward.shape)
    same = [[(RANKED[:, : place + 1] == slate[: place + 1]).all(axis=1) for place in PLACES] for slate in RANKED]
    prefix_log, prefix_new = (np.array([[p[mine].sum() for mine in row] for row in same]) for p in (p_log, p_new))
    # v: the new policy's mean q of the next item, given the prefix above it; q depends on the prefix and the item.
    q_of = {tuple(slate[: l + 1]): q[row, l] for row, slate in enumerate(RANKED) for l in PLACES}  # noqa: E741
    q = np.array([[q_of[tuple(slate[: place + 1])] for place in PLACES] for slate in RANKED])
    above = [[(RANKED[:, :place] == slate[:place]).all(axis=1) for place in PLACES] for slate in RANKED]
    v = np.array([[(p_new[m] @ q[m, place]) / p_new[m].sum() for place, m in enumerate(row)] for row in above])
    rounds = LoggedRounds(
        np.log(p_log), np.log(p_new), reward.sum(axis=1), np.arange(len(RANKED)), prefix_log=np.log(prefix_log),
        prefix_new=np.log(prefix_new), position_reward=reward, position_q=q, position_v=v,
    )  # fmt: skip
    value, influence = point_and_influence(name, checked_columns(rounds))
    assert p_log @ (value + influence) == pytest.approx(float(p_new @ reward.sum(axis=1)))


def test_a_logging_policy_that_did_not_write_the_log_is_told() -> None:
    prefixes = np.log(np.array([[0.5, 0.2], [0.4, 0.1]]))
    logged_by(prefixes, np.log([0.2, 0.1]))
    with pytest.raises(InputError, match=r"row 1.*not the policy that wrote this log"):
        logged_by(prefixes, np.log([0.2, 0.3]))
