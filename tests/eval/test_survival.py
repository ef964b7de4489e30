"""Kaplan-Meier: a published example, lifelines, the bootstrap, and rows that repeat a person."""

import numpy as np
import pytest
from lifelines import KaplanMeierFitter

from data.errors import InputError
from eval.survival import kaplan_meier

# 6-mercaptopurine arm of Freireich et al. 1963: weeks of remission, the textbook example (Cox & Oakes 1984, p. 8).
WEEKS = np.array([6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35], dtype=float)
OBSERVED = np.array([1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0], dtype=bool)


def test_the_published_example() -> None:
    curve = kaplan_meier(WEEKS, OBSERVED)
    assert curve.times.tolist() == [6, 7, 10, 13, 16, 22, 23]
    assert curve.survival.round(4).tolist() == [0.8571, 0.8067, 0.7529, 0.6902, 0.6275, 0.5378, 0.4482]
    assert curve.at_risk.tolist() == [21, 17, 15, 12, 11, 7, 6]
    assert curve.events.tolist() == [3, 1, 1, 1, 1, 1, 1]
    assert (curve.at(0), curve.at(6), curve.at(9.9)) == (1.0, curve.survival[0], curve.survival[1])


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_lifelines_with_ties_zeros_and_heavy_censoring(seed: int) -> None:
    rng = np.random.default_rng(seed)
    time = rng.integers(0, 20, 300).astype(float) if seed % 2 else rng.exponential(8, 300)
    observed = rng.random(300) < (0.2, 0.5, 0.9, 0.6)[seed]
    curve = kaplan_meier(time, observed)
    theirs = KaplanMeierFitter().fit(time, observed)
    assert curve.survival == pytest.approx(theirs.survival_function_at_times(curve.times).to_numpy())
    bounds = theirs.confidence_interval_survival_function_.loc[curve.times].to_numpy()
    alive = curve.survival > 0
    assert curve.lo[alive] == pytest.approx(bounds[alive, 0], abs=1e-8)
    assert curve.hi[alive] == pytest.approx(bounds[alive, 1], abs=1e-8)


def test_with_one_row_a_person_clustering_gives_greenwood() -> None:
    rng = np.random.default_rng(1)
    time, observed = rng.integers(1, 9, 4000).astype(float), rng.random(4000) < 0.7
    plain, clustered = kaplan_meier(time, observed), kaplan_meier(time, observed, np.arange(4000))
    assert clustered.lo == pytest.approx(plain.lo, abs=1e-4)
    assert clustered.hi == pytest.approx(plain.hi, abs=1e-4)


def test_rows_that_are_there_five_times_are_not_five_times_as_certain() -> None:
    rng = np.random.default_rng(2)
    time, observed = rng.integers(1, 9, 500).astype(float), rng.random(500) < 0.7
    once = kaplan_meier(time, observed, np.arange(500))
    again = kaplan_meier(np.tile(time, 5), np.tile(observed, 5), np.tile(np.arange(500), 5))
    assert again.survival == pytest.approx(once.survival)
    assert again.lo == pytest.approx(once.lo)
    assert again.clusters == 500 and again.rows == 2500


def test_clustered_interval_covers_where_people_differ() -> None:
    """Everybody has a hazard of their own and gives ten gaps; the interval without clusters is far too narrow."""
    inside = {"clustered": 0, "plain": 0}
    rng = np.random.default_rng(3)
    truth = float(((1 - rng.beta(1, 2, 200_000)) ** 3).mean())
    for _ in range(200):
        hazard = np.repeat(rng.beta(1, 2, 60), 10)
        gap, user = rng.geometric(hazard), np.repeat(np.arange(60), 10)
        time, observed = np.minimum(gap, 6).astype(float), gap <= 6
        for name, curve in (
            ("clustered", kaplan_meier(time, observed, user)),
            ("plain", kaplan_meier(time, observed)),
        ):
            at = int(np.searchsorted(curve.times, 3))
            inside[name] += curve.lo[at] <= truth <= curve.hi[at]
    assert inside["clustered"] >= 182
    assert inside["plain"] < 150


def test_a_curve_that_ends_and_one_without_events() -> None:
    ended = kaplan_meier([1.0, 2.0], [True, True])
    assert ended.survival.tolist() == [0.5, 0.0]
    assert np.isnan(ended.lo[1])
    nothing = kaplan_meier([1.0, 2.0], [False, False])
    assert nothing.times.size == 0
    assert nothing.at(5) == 1.0


@pytest.mark.parametrize(
    ("time", "observed", "words"),
    [([], [], "at least one"), ([-1.0], [True], "negative"), ([1.0], [True, False], "one per row"),
     ([float("nan")], [True], "finite")],
)  # fmt: skip
def test_what_is_not_a_survival_sample(time: list[float], observed: list[bool], words: str) -> None:
    with pytest.raises(InputError, match=words):
        kaplan_meier(time, observed)
