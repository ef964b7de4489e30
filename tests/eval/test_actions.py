"""From every action's probability to columns: exact in expectation, by enumeration, and unforgiving of bad input."""

import numpy as np
import pytest

from data.errors import InputError
from eval.actions import ActionBlock, action_rounds
from eval.estimators import point_and_influence
from eval.rounds import checked_columns

RNG = np.random.default_rng(0)
CLUSTER = np.array([0, 0, 1, 1, 1, 2])
P_LOG, P_NEW = RNG.dirichlet(np.ones(6) * 3), RNG.dirichlet(np.ones(6) * 3)
OF_CLUSTER, OF_ACTION = RNG.normal(size=3)[CLUSTER], RNG.normal(size=6)


def expected(name: str, mean: np.ndarray, q: np.ndarray, p_log: np.ndarray = P_LOG) -> float:
    """E_log of an estimator over one context's six actions, exactly: its terms at each, weighed by p_log."""
    n = 6
    block = ActionBlock(
        np.arange(n), np.tile(p_log, (n, 1)), np.tile(P_NEW, (n, 1)), mean, np.arange(n), np.tile(q, (n, 1))
    )
    value, influence = point_and_influence(name, checked_columns(action_rounds(block, CLUSTER)))
    return float(p_log @ (value + influence))


@pytest.mark.parametrize("name", ["ips", "dr"])
def test_single_actions_are_exact_whatever_the_model(name: str) -> None:
    mean = OF_CLUSTER + OF_ACTION
    assert expected(name, mean, RNG.normal(size=6)) == pytest.approx(float(P_NEW @ mean))


def test_mips_is_exact_where_only_the_cluster_acts_and_off_otherwise() -> None:
    assert expected("mips", OF_CLUSTER, np.zeros(6)) == pytest.approx(float(P_NEW @ OF_CLUSTER))
    mean = OF_CLUSTER + OF_ACTION
    assert abs(expected("mips", mean, np.zeros(6)) - float(P_NEW @ mean)) > 1e-3


def test_offcem_is_exact_where_the_model_has_what_the_cluster_lacks() -> None:
    mean = OF_CLUSTER + OF_ACTION
    assert expected("offcem", mean, OF_ACTION) == pytest.approx(float(P_NEW @ mean))  # wrong by the cluster's effect


def test_a_posterior_over_actions_gives_the_weight_of_their_cluster() -> None:
    n = 6
    mine = CLUSTER[:, None] == CLUSTER[None, :]
    posterior = mine * P_LOG / (mine * P_LOG).sum(axis=1, keepdims=True)
    block = ActionBlock(np.arange(n), np.tile(P_LOG, (n, 1)), np.tile(P_NEW, (n, 1)), np.zeros(n), np.arange(n))
    by_cluster, by_posterior = action_rounds(block, CLUSTER), action_rounds(block, posterior)
    assert by_cluster.embedding_weight == pytest.approx(by_posterior.embedding_weight)


def test_mass_where_logging_never_goes_is_counted() -> None:
    p_log = np.array([[0.5, 0.5, 0.0]])
    block = ActionBlock(np.array([0]), p_log, np.array([[0.2, 0.5, 0.3]]), np.zeros(1), np.zeros(1))
    assert action_rounds(block).off_support == pytest.approx([0.3])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"p_new": np.array([[0.5, 0.5], [0.5, 0.4]])}, "p_new.*row 1 sum to 0.9"),
        ({"p_log": np.array([[0.5, 0.6], [0.5, 0.5]])}, "p_log.*row 0 sum to 1.1"),
        ({"p_new": np.array([[0.5, 0.5], [np.nan, 0.5]])}, "row 1 sum to nan"),
        ({"p_new": np.array([[1.5, -0.5], [0.5, 0.5]])}, "below 0"),
        ({"action": np.array([0, 2])}, "2 in row 1; one of 0..1"),
        ({"q": np.zeros((2, 3))}, "q: shape"),
        ({"action": np.array([0.0, 1.0])}, "action: float64"),
        ({"p_new": np.array([0.5, 0.5])}, r"p_new: shape \(2,\)"),
        ({"p_log": np.array([0.5, -0.5])}, "p_log.*below 0"),
    ],
)
def test_bad_blocks_are_one_clear_line(change: dict[str, np.ndarray], words: str) -> None:
    half = np.full((2, 2), 0.5)
    given = {"action": np.array([0, 1]), "p_log": half, "p_new": half, "reward": np.zeros(2), "user": np.arange(2)}
    with pytest.raises(InputError, match=words) as raised:
        action_rounds(ActionBlock(**(given | change)))
    assert "\n" not in str(raised.value)


def test_a_propensity_above_one_is_refused_and_not_cut_to_one() -> None:
    half = np.full((2, 2), 0.5)
    block = ActionBlock(np.array([0, 1]), np.array([0.5, 1.5]), half, np.zeros(2), np.arange(2))
    with pytest.raises(InputError, match=r"log_p_log: 0.4.* in row 1 is no log-probability"):
        checked_columns(action_rounds(block))
