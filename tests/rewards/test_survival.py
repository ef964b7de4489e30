"""Measures of a return curve: the same numbers as scikit-survival's, and unmoved by how long rows were followed."""

import numpy as np
import pytest

from rewards.survival import Followed, auc_at, brier_at, d_calibration, integrated_brier

DAY = np.array([0.5, 0.9, 1.4, 2.2, 2.7, 3.1, 3.6, 4.4, 5.3, 6.2, 6.9, 7.7, 8.8, 9.4, 10.5, 11.6])
RETURNED = np.array([1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 0], bool)
RISK = np.array([1.2, -0.3, 0.8, 1.5, -0.6, 0.1, 0.9, -1.1, -0.2, 0.4, -1.4, 0.3, -0.9, -0.5, 0.2, -1.8])
TIMES = [1.0, 3.0, 5.0, 8.0]


def test_the_numbers_of_scikit_survival() -> None:
    # brier_score, integrated_brier_score and cumulative_dynamic_auc of scikit-survival 0.28.0 on these sixteen rows.
    followed = Followed.of(DAY, RETURNED)
    curve = -np.expm1(-np.outer(np.exp(0.8 * RISK) / 8, TIMES))
    found = [brier_at(followed, curve[:, j], time) for j, time in enumerate(TIMES)]
    assert found == pytest.approx([0.1040719591, 0.1604504886, 0.2048729562, 0.172067749], abs=1e-9)
    assert integrated_brier(followed, curve, TIMES) == pytest.approx(0.1707509929, abs=1e-9)
    aucs = [auc_at(followed, RISK, time) for time in TIMES]
    assert aucs == pytest.approx([0.6785714286, 0.7037037037, 0.6839622642, 0.8235103627], abs=1e-9)


def test_whole_days_by_hand() -> None:
    # One back on day 1, one lost on day 1 (so not back by then), two followed to day 2, one of them back.
    followed = Followed.of(np.array([1, 1, 2, 2]), np.array([True, False, True, False]))
    # Followed up to day 1: all. Up to day 2: of the three not back on day 1, one was lost, so 2/3.
    assert followed.chance(np.array([0.0, 1.0, 2.0])) == pytest.approx([1.0, 1.0, 2 / 3])
    said = np.full(4, 0.5)
    assert brier_at(followed, said, 1.0) == pytest.approx(0.25)
    # Known on day 2: the return of day 1 (weight 1), two rows of weight 3/2; the lost one counts for nothing.
    assert brier_at(followed, np.array([1.0, 0.0, 0.0, 0.0]), 2.0) == pytest.approx((0 + 1.5 * 1 + 0) / 4)


@pytest.fixture(scope="module")
def censored():
    rng = np.random.default_rng(0)
    n, J = 60_000, 29
    hazard = 1 / (1 + np.exp(-rng.normal(-2.2, 1.0, n)))
    day = rng.geometric(hazard) - 1
    lost = rng.integers(3, 40, n)
    returned = day <= lost
    curve = 1.0 - (1.0 - hazard[:, None]) ** np.arange(1, J + 1)
    return curve, day, np.where(returned, day, lost), returned


def test_censoring_does_not_move_the_scores(censored) -> None:
    curve, true_day, day, returned = censored
    everyone = Followed.of(true_day, np.ones(len(day), bool))
    some = Followed.of(day, returned)
    for time in (1, 7, 14, 28):
        assert brier_at(some, curve[:, time], time) == pytest.approx(
            brier_at(everyone, curve[:, time], time), abs=0.005
        )
        whole, weighted = auc_at(everyone, curve[:, 7], time), auc_at(some, curve[:, 7], time)
        assert weighted == pytest.approx(whole, abs=0.01)
    # Leaving out those not yet back by day 28 is no cure: it sees far too many returns.
    known = returned | (day >= 28)
    naive = np.mean((curve[known, 28] - (day[known] <= 28)) ** 2)
    assert abs(naive - brier_at(everyone, curve[:, 28], 28)) > 0.005


def test_a_true_curve_is_d_calibrated_and_a_gloomy_one_is_not(censored) -> None:
    curve, _, day, returned = censored
    rows = slice(0, 4000)
    shares, p = d_calibration(1.0 - curve[rows], day[rows], returned[rows])
    assert shares.sum() == pytest.approx(1.0)
    assert p > 0.01
    assert np.abs(shares - 0.1).max() < 0.02
    gloomy, gloom = d_calibration((1.0 - curve[rows]) ** 0.7, day[rows], returned[rows])
    assert gloom < 1e-6
    assert gloomy[-1] > 0.11


def test_the_p_value_is_uniform_where_the_curve_is_true() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(200):
        hazard = rng.uniform(0.02, 0.06, 400)
        day, lost = rng.geometric(hazard) - 1, rng.integers(5, 80, 400)
        curve = (1.0 - hazard[:, None]) ** np.arange(1, 121)
        found.append(d_calibration(curve, np.minimum(day, lost), day <= lost)[1])
    # Spreading the censored out makes the shares steadier than chi-squared thinks: no more false alarms than named.
    assert np.mean(np.array(found) < 0.05) <= 0.08
    assert np.median(found) > 0.4
