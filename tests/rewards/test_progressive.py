"""The posterior of a window: against plain Gaussian conditioning, and calibrated where the truth is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError
from rewards.progressive import Filter, Sums, TracePrior
from rewards.stickiness import DAYS, bandit_regret, day_two, progressive, simulate_shows, stickiness_error, waiting


@pytest.fixture(scope="module")
def shows():
    return simulate_shows(160, 2000, np.random.default_rng(0))


@pytest.fixture(scope="module")
def train(shows):
    return shows.take(slice(100))


@pytest.fixture(scope="module")
def held_out(shows):
    return shows.take(slice(100, None))


def made_up_prior(days: int, seed: int) -> TracePrior:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, days, days))
    return TracePrior(rng.random(days), 0.1 * a @ a.T, b @ b.T + np.eye(days))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 10_000))
def test_a_shows_posterior_is_that_of_the_joint_gaussian(days: int, listeners: int, seed: int) -> None:
    prior, rng = made_up_prior(days, seed), np.random.default_rng(seed)
    traces, known = rng.standard_normal((listeners, days)), rng.integers(0, days + 1, listeners)
    found = prior.of_shows(prior.sums(traces, known, np.zeros(listeners, int), 1))
    # The same from the joint of theta and of everything seen, spelled out.
    seen = [(i, t) for i in range(listeners) for t in range(known[i])]
    within = prior.within + (1e-4 * np.mean(np.diag(prior.within)) + 1e-12) * np.eye(days)
    same = [[within[t, s] * (i == j) for j, s in seen] for i, t in seen]
    times = [t for _, t in seen]
    joint = prior.between[np.ix_(times, times)] + np.array(same).reshape(len(seen), len(seen))
    cross = prior.between[:, times].sum(0)
    off = np.array([traces[i, t] - prior.mean[t] for i, t in seen])
    gain = np.linalg.solve(joint, cross) if seen else np.zeros(0)
    assert found.mean[0] == pytest.approx(prior.mean.sum() + gain @ off, rel=1e-6, abs=1e-6)
    assert found.variance[0] == pytest.approx(prior.between.sum() - gain @ cross, rel=1e-5, abs=1e-6)


@given(st.integers(2, 8), st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_a_listener_is_surer_every_day_and_certain_at_the_end(days: int, seed: int) -> None:
    prior = made_up_prior(days, seed)
    trace = np.random.default_rng(seed).standard_normal((1, days))
    found = [prior.of_listeners(trace, np.array([k])) for k in range(days + 1)]
    variance = np.array([f.variance[0] for f in found])
    assert np.all(np.diff(variance) <= 1e-9)
    assert found[0].mean[0] == pytest.approx(prior.mean.sum())
    assert found[-1].mean[0] == pytest.approx(trace.sum())
    assert found[-1].variance[0] == 0.0


def test_many_whole_windows_are_their_average() -> None:
    prior = made_up_prior(5, 1)
    total = np.random.default_rng(1).standard_normal(5)
    count, sums = np.zeros((1, 6)), np.zeros((1, 6, 5))
    count[0, 5], sums[0, 5] = 1e9, 1e9 * total
    found = Filter(prior)(Sums(count, sums))
    assert found.mean[0] == pytest.approx(total.sum(), abs=1e-4)
    assert found.variance[0] < 1e-6


def test_the_sampling_noise_of_shows_is_not_taken_for_their_difference() -> None:
    rng = np.random.default_rng(3)
    traces = (rng.random((4000, 6)) < 0.4).astype(float)  # all shows alike, five listeners each
    prior = TracePrior.fit(traces, np.repeat(np.arange(800), 5))
    assert prior.between.sum() < 0.02 * prior.within.sum()
    assert prior.mean == pytest.approx(np.full(6, 0.4), abs=0.03)
    with pytest.raises(InputError, match="2 rows or more"):
        TracePrior.fit(traces[:1])
    with pytest.raises(InputError, match="one listener only"):
        TracePrior.fit(traces, np.arange(4000))


def test_stickiness_is_known_sooner_than_by_waiting_or_by_day_two(train, held_out) -> None:
    prior = train.prior()
    early, late, proxy = progressive(prior), waiting(prior), day_two(train)

    def off(estimate, listeners, days):
        return stickiness_error(held_out, estimate, listeners, days, np.random.default_rng(1))

    nothing, some, most, whole = (off(early, 1000, k).mean for k in (0, 5, 10, DAYS + 1))
    assert nothing > 1.2 * some > 1.2 * most > 1.2 * whole
    assert off(late, 1000, DAYS - 1).mean == pytest.approx(nothing)
    assert off(late, 1000, DAYS + 1).mean == pytest.approx(whole)
    assert off(proxy, 1000, 10).mean > 2 * most
    # The published error after 10 days of 1000 listeners is .241, after all 60 with 100 listeners .378.
    assert most == pytest.approx(0.241, abs=0.08)
    assert off(early, 100, DAYS + 1).mean == pytest.approx(0.378, abs=0.08)
    for days in (0, 5, 20, DAYS + 1):
        assert off(early, 100, days).covered > 0.85


def test_a_bandit_that_need_not_wait_loses_least(train, held_out) -> None:
    prior, few = train.prior(), held_out.take(slice(30))
    lost = {
        signal: bandit_regret(few, prior, signal, 120, 30, np.random.default_rng(2)).mean()
        for signal in ("oracle", "progressive", "delayed", "day_two")
    }
    assert lost["oracle"] < lost["delayed"] < lost["day_two"]
    assert lost["progressive"] - lost["oracle"] < 0.5 * (lost["delayed"] - lost["oracle"])
