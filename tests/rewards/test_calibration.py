import numpy as np
from lifelines.utils import concordance_index

from rewards.calibration import (
    Platt,
    auc,
    brier,
    c_index,
    calibration_error,
    chance_error,
    fit_platt,
    fit_readout,
    read_out,
)


def _overconfident(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logit = rng.standard_normal(n)
    outcome = (rng.random(n) < 1 / (1 + np.exp(-logit + 0.5))).astype(float)
    return 1 / (1 + np.exp(-2.5 * logit)), outcome


def test_calibration_error_falls_on_rows_it_was_not_fitted_on() -> None:
    share, outcome = _overconfident(0, 5000)
    platt = fit_platt(share, outcome)
    later, truth = _overconfident(1, 5000)
    assert calibration_error(later, truth) > 0.1
    assert calibration_error(platt(later), truth) < 0.4 * calibration_error(later, truth)
    assert brier(platt(later), truth) < brier(later, truth)
    assert abs(platt.slope - 0.4) < 0.05, "2.5 times too sure"


def test_calibration_keeps_the_order_and_little_data_changes_nothing() -> None:
    share = np.linspace(0.01, 0.99, 20)
    assert fit_platt(share, 1.0 - share) == Platt()
    many = np.tile(share, 50)
    assert np.all(np.diff(fit_platt(many, 1.0 - many)(share)) > 0)


def test_c_index_agrees_with_lifelines() -> None:
    rng = np.random.default_rng(0)
    risk = np.round(rng.standard_normal(300), 1)
    time = rng.geometric(0.1, 300)
    observed = rng.random(300) < 0.6
    assert abs(c_index(risk, time, observed) - concordance_index(time, -risk, observed)) < 1e-9


def test_a_perfect_forecast_has_no_error() -> None:
    share = np.repeat([0.0, 1.0], 50)
    assert calibration_error(share, share) == 0.0
    assert brier(share, share) == 0.0


def test_a_readout_takes_from_the_features_what_the_prediction_missed() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6000, 3))
    truth = 1 / (1 + np.exp(-(x[:, 0] + 0.8 * x[:, 1] - 0.4)))
    outcome = (rng.random(6000) < truth).astype(float)
    share = 1 / (1 + np.exp(-x[:, 0]))
    found = fit_readout(share[:4000], x[:4000], outcome[:4000])
    assert brier(read_out(found, share[4000:], x[4000:]), outcome[4000:]) < brier(share[4000:], outcome[4000:]) - 0.01
    assert np.abs(read_out(found, share, x) - truth).mean() < 0.04
    few = fit_readout(share[:500], x[:500], outcome[:500])
    assert np.all(few[2:] == 0), "few rows fit slope and shift only"


def test_a_readout_of_predictions_that_are_far_off_is_found_all_the_same() -> None:
    """All but certain of what seldom comes, as at the end of a short log: a whole Newton step overshoots there."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 30)) @ rng.normal(size=(30, 60)) / 30**0.5
    truth = 1 / (1 + np.exp(1.0 - x[:, 0]))
    outcome = (rng.random(20_000) < truth).astype(float)
    share = 1 - np.exp(-9.0 + x[:, 1])
    found = read_out(fit_readout(share[:10_000], x[:10_000], outcome[:10_000]), share[10_000:], x[10_000:])
    assert calibration_error(found, outcome[10_000:]) < 0.03
    assert auc(found, outcome[10_000:]) > auc(truth[10_000:], outcome[10_000:]) - 0.01


def test_a_right_forecast_of_few_users_has_an_error_that_chance_explains() -> None:
    rng = np.random.default_rng(0)
    users, each = 400, 12
    user = np.repeat(np.arange(users), each)
    explained, wrong = 0, 0
    for seed in range(40):
        chance = rng.beta(2.0, 2.0, users)
        # Windows of one user overlap: what happens in one mostly happens in the next.
        same = rng.random((users, each)) < 0.8
        outcome = np.where(same, (rng.random(users) < chance)[:, None], rng.random((users, each)) < chance[:, None])
        share, happened = np.repeat(chance, each), outcome.ravel().astype(np.float64)
        limit = chance_error(share, happened, user, seed)
        explained += calibration_error(share, happened) <= limit
        wrong += calibration_error(share**2, happened) > chance_error(share**2, happened, user, seed)
    assert explained >= 35, "38 of 40 are expected"
    assert wrong >= 38
    assert chance_error(share, happened, np.arange(len(user)), 0) < limit / 1.5, "rows are not as many as users"
