"""The neural surrogate: what it knows that a linear guess does not, and what it must not claim to know."""

import numpy as np
import pytest

from data.errors import InputError
from rewards.early import closed_windows, daily_traces, early_errors
from rewards.recency import DAY
from rewards.stickiness import DAYS, simulate_shows, stickiness_error
from rewards.surrogate import SurrogateSettings, fit_surrogate, pooled

QUICK = SurrogateSettings(width=32, steps=300, rows=1024)


@pytest.fixture(scope="module")
def train():
    return simulate_shows(60, 1000, np.random.default_rng(0))


@pytest.fixture(scope="module")
def network(one_thread, train):
    return fit_surrogate(train.traces.reshape(-1, DAYS), 0, QUICK)


def test_a_closed_window_is_its_own_sum(network, train) -> None:
    traces = train.traces[0, :50]
    found = network.of_listeners(traces, np.full(50, DAYS))
    assert found.mean == pytest.approx(traces.sum(1))
    assert found.variance == pytest.approx(np.zeros(50))


def test_days_that_are_not_known_yet_are_not_looked_at(network, train) -> None:
    traces, days = train.traces[1, :200].copy(), np.full(200, 10)
    before = network.of_listeners(traces, days).mean
    traces[:, 10:] = ~traces[:, 10:]
    assert network.of_listeners(traces, days).mean == pytest.approx(before)


def test_a_quiet_fortnight_means_that_somebody_has_left(network) -> None:
    gone = np.zeros((1, DAYS), bool)
    gone[0, :7] = True
    steady = np.zeros((1, DAYS), bool)
    steady[0, 2:21:3] = True  # as many days, the last one yesterday
    known = np.array([21])
    assert network.of_listeners(steady, known).mean[0] > network.of_listeners(gone, known).mean[0] + 5


def test_it_beats_the_linear_posterior_for_listeners_and_keeps_its_word(network, train) -> None:
    fresh = simulate_shows(20, 1000, np.random.default_rng(1)).traces.reshape(-1, DAYS)
    truth, prior = fresh.sum(1), train.prior()
    for k in (10, 20, 30):
        days = np.full(len(fresh), k)
        ours, linear = network.of_listeners(fresh, days), prior.of_listeners(fresh.astype(float), days)
        square = np.mean((ours.mean - truth) ** 2)
        assert square < np.mean((linear.mean - truth) ** 2)
        assert np.mean(ours.variance) == pytest.approx(square, rel=0.15)


def test_shows_are_judged_by_their_listeners_expectations(network, train) -> None:
    fresh = simulate_shows(40, 1000, np.random.default_rng(2))
    estimate = pooled(network, train)
    nothing = stickiness_error(fresh, estimate, 500, 0, np.random.default_rng(0))
    some = stickiness_error(fresh, estimate, 500, 15, np.random.default_rng(0))
    assert some.mean < 0.6 * nothing.mean
    assert some.covered > 0.8


def test_windows_of_a_log_are_the_days_after_the_decision(small_log) -> None:
    decisions, histories = small_log.decisions, small_log.histories
    end = int(decisions.time.max()) + DAY
    rows = closed_windows(decisions, end, 5, np.random.default_rng(0))
    assert len(np.unique(decisions.user[rows])) == len(rows)
    assert np.all(decisions.time[rows] // DAY + 5 < end // DAY)
    traces = daily_traces(histories, decisions, rows, 5)
    for row, trace in zip(rows, traces, strict=True):
        user, today = decisions.user[row], decisions.time[row] // DAY
        days = histories.time[histories.offsets[user] : histories.offsets[user + 1]] // DAY
        assert trace.tolist() == [bool(np.any(days == today + d)) for d in range(1, 6)]


def test_errors_fall_with_the_days_known(one_thread, train) -> None:
    traces = train.traces[:, :20].reshape(-1, DAYS)[:, :14]
    errors = early_errors(traces, 0, QUICK)
    assert [e.days for e in errors["progressive"]] == [0, 1, 2, 3, 5, 7, 10, 14]
    for name in ("progressive", "neural"):
        rmse = [e.rmse for e in errors[name]]
        assert rmse[-1] == pytest.approx(0.0)
        assert rmse[4] < 0.8 * rmse[0]
        assert rmse[4] < errors["day_two"][4].rmse < errors["waiting"][4].rmse


@pytest.mark.parametrize("window", [0, -3])
def test_a_window_of_no_day_is_refused(small_log, window: int) -> None:
    with pytest.raises(InputError, match=f"a window of {window} days"):
        daily_traces(small_log.histories, small_log.decisions, np.arange(3), window)


@pytest.mark.parametrize("shape", [(300, 0), (0, 5)])
def test_nothing_is_learned_of_no_windows(shape: tuple[int, int]) -> None:
    traces = np.zeros(shape, bool)
    with pytest.raises(InputError, match="early reward"):
        early_errors(traces, 0, QUICK)
    with pytest.raises(InputError, match="1 row and 1 day"):
        fit_surrogate(traces, 0, QUICK)
