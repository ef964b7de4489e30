"""Intervals: known values, and coverage where rounds of a listener move together."""

import numpy as np
import pytest
from scipy import stats

from data.errors import InputError
from eval.intervals import mean_interval, ratio_interval, seeds_interval


def test_own_clusters_give_the_textbook_t_interval() -> None:
    sample = np.random.default_rng(0).normal(2.0, 3.0, 40)
    ours = mean_interval(sample)
    theirs = stats.ttest_1samp(sample, 0.0).confidence_interval(0.95)
    assert (ours.lo, ours.hi) == pytest.approx((theirs.low, theirs.high))


def test_equal_clusters_give_the_interval_of_cluster_means() -> None:
    sample = np.random.default_rng(1).normal(size=(30, 7))
    by_row = mean_interval(sample.ravel(), np.repeat(np.arange(30), 7))
    by_mean = mean_interval(sample.mean(axis=1))
    assert (by_row.value, by_row.lo, by_row.hi) == pytest.approx((by_mean.value, by_mean.lo, by_mean.hi))


def test_interval_ignores_row_order_and_cluster_names() -> None:
    rng = np.random.default_rng(2)
    values, cluster = rng.normal(size=60), rng.integers(0, 9, 60)
    order = rng.permutation(60)
    names = np.array([f"listener {c}" for c in cluster])
    assert mean_interval(values, cluster).hi == pytest.approx(mean_interval(values[order], names[order]).hi)


def test_ratio_of_constant_multiple_is_exact() -> None:
    bottom = np.random.default_rng(3).uniform(1, 2, 50)
    ratio = ratio_interval(3.0 * bottom, bottom)
    assert ratio.value == pytest.approx(3.0)
    assert ratio.se == pytest.approx(0.0, abs=1e-12)


def test_clustered_interval_covers_where_a_naive_one_does_not() -> None:
    """n = 5000, 25 rounds a user, a user effect as large as the noise: nominal 95% (REFERENCE.md, Intervals)."""
    rng = np.random.default_rng(4)
    cluster = np.repeat(np.arange(200), 25)
    clustered = naive = 0
    runs = 400
    for _ in range(runs):
        values = np.repeat(rng.normal(size=200), 25) + rng.normal(size=5000)
        inside = mean_interval(values, cluster)
        clustered += inside.lo <= 0.0 <= inside.hi
        outside = mean_interval(values)
        naive += outside.lo <= 0.0 <= outside.hi
    assert 0.925 <= clustered / runs <= 0.975
    assert naive / runs < 0.6


def test_seeds_interval_needs_two_seeds() -> None:
    assert seeds_interval([1.0]) is None
    both = seeds_interval([1.0, 2.0, 3.0])
    assert both is not None
    assert both.hi == pytest.approx(2.0 + stats.t.ppf(0.975, 2) / np.sqrt(3))


def test_bad_input_is_one_clear_line() -> None:
    with pytest.raises(InputError, match="row 2"):
        mean_interval(np.array([1.0, 2.0, np.nan]))
    with pytest.raises(InputError, match="two users"):
        mean_interval(np.ones(5), np.zeros(5))
    with pytest.raises(InputError, match="one cluster"):
        mean_interval(np.ones(5), np.arange(4))
    with pytest.raises(InputError, match="zero"):
        ratio_interval(np.ones(3), np.zeros(3))
