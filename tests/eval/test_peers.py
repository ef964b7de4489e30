"""Agreement with others, to 1e-6: numbers that the Open Bandit Pipeline (sb-obp 0.5.10) and ArviZ 0.23.4 answered.

Neither can live in our environment (the first wants NumPy below 2); their answers to these inputs are frozen here.
`python scripts/bench.py ope` asks the first one anew.
"""

import numpy as np
import pytest
from scipy.stats import genpareto

from eval.actions import ActionBlock, action_rounds
from eval.estimators import point_and_influence
from eval.rounds import LoggedRounds, checked_columns
from eval.weights import generalised_pareto, pareto_k


@pytest.fixture(scope="module")
def slates_and_clusters() -> tuple[LoggedRounds, LoggedRounds]:
    """60 slates of 3 items out of 5, and 80 rounds over 6 actions in 3 clusters, from one seed."""
    rng = np.random.default_rng(7)
    n, size, items = 60, 3, 5
    position_log, position_new = rng.uniform(0.1, 0.6, (n, size)), rng.uniform(0.1, 0.6, (n, size))
    prefix_log, prefix_new = (rng.uniform(0.2, 0.7, (n, size)).cumprod(1) for _ in range(2))
    reward = rng.integers(0, 2, (n, size)).astype(float)
    action = rng.integers(0, items, (n, size))
    p, q = rng.dirichlet(np.ones(items), (n, size)), rng.uniform(size=(n, size, items))
    slates = LoggedRounds(
        np.log(prefix_log[:, -1]),
        np.log(prefix_new[:, -1]),
        reward.sum(axis=1),
        np.arange(n),
        position_log=np.log(position_log),
        position_new=np.log(position_new),
        prefix_log=np.log(prefix_log),
        prefix_new=np.log(prefix_new),
        position_reward=reward,
        position_q=np.take_along_axis(q, action[..., None], axis=2)[..., 0],
        position_v=(p * q).sum(axis=2),
    )
    n, actions = 80, 6
    cluster = np.array([0, 0, 1, 1, 2, 2])
    p_log, p_new = rng.dirichlet(np.ones(actions), n), rng.dirichlet(np.ones(actions), n)
    taken = np.array([rng.choice(actions, p=row) for row in p_log])
    block = ActionBlock(taken, p_log, p_new, rng.normal(size=n), np.arange(n))
    return slates, action_rounds(block, cluster)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("ips", 1.5796069659438414),
        ("independent", 1.7430628054960238),
        ("rips", 1.5447238401439545),
        ("cascade_dr", 1.5143488223258297),
    ],
)
def test_slate_estimators(slates_and_clusters: tuple[LoggedRounds, LoggedRounds], name: str, theirs: float) -> None:
    ours, _ = point_and_influence(name, checked_columns(slates_and_clusters[0]))
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_mips_of_known_clusters(slates_and_clusters: tuple[LoggedRounds, LoggedRounds]) -> None:
    ours, _ = point_and_influence("mips", checked_columns(slates_and_clusters[1]))
    assert ours == pytest.approx(0.028229744120573087, abs=1e-9)


@pytest.mark.parametrize(
    ("seed", "shape", "k", "scale"),
    [
        (0, 0.3, 0.27577102243059515, 1.161681610600685),
        (1, 0.8, 0.7788024490048846, 0.9618038885849294),
        (2, -0.2, -0.1443967378935836, 0.9486782856255581),
    ],
)
def test_generalised_pareto_fit(seed: int, shape: float, k: float, scale: float) -> None:
    sample = np.sort(genpareto.rvs(shape, size=500, random_state=np.random.default_rng(seed)))
    assert generalised_pareto(sample) == pytest.approx((k, scale), abs=1e-9)


@pytest.mark.parametrize(
    ("seed", "spread", "k"),
    [(0, 0.5, -0.04955137712676241), (1, 1.5, 0.5847966393101857), (2, 3.0, 0.9276832095742062)],
)
def test_pareto_k_of_weights(seed: int, spread: float, k: float) -> None:
    assert pareto_k(np.random.default_rng(seed).lognormal(0, spread, 4000)) == pytest.approx(k, abs=1e-9)
