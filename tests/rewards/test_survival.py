"""Measures of a return curve: the same numbers as scikit-survival's, and unmoved by how long rows were followed."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from data.histories import Decisions, Histories
from data.outcomes import outcomes
from data.schema import polars_schema
from rewards.quality import Forecasts, head_quality
from rewards.recency import DAY as MICROSECONDS
from rewards.recency import recency_features
from rewards.return_curves import Returns, kaplan_meier, return_curves
from rewards.slices import SliceSettings, back_test
from rewards.survival import Followed, auc_at, brier_at, d_calibration, integrated_brier, last_day_known

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


HAZARD = 0.25  # of coming on a day, at noon, whatever was before
MONDAY = datetime(2026, 1, 5, tzinfo=UTC)


def truth(days: int) -> np.ndarray:
    """Probability (days,) of having returned by the end of each day; nobody comes twice on a day."""
    return 1.0 - (1.0 - HAZARD) ** np.arange(days)


def came_at_noon(users: int, days: int, seed: int) -> tuple[Histories, Decisions, pl.DataFrame]:
    """A log of whole days that ends at midnight, every visit a decision, with the outcomes that it tells."""
    user, day = np.nonzero(np.random.default_rng(seed).random((users, days)) < HAZARD)
    rows, zeros = len(user), np.zeros(len(user), np.int8)
    ids = [f"d{row}" for row in range(rows)]
    columns = {
        "decision_id": ids,
        "user_id": [f"u{u:04d}" for u in user],
        "time": [MONDAY + timedelta(days=d, hours=12) for d in day.tolist()],
        "surface": ["home"] * rows,
    }
    more = {"policy": ["p@1"] * rows, "slate": [["i"]] * rows, "action": ["play"] * rows, "item_id": ["i"] * rows}
    events, made = (
        pl.DataFrame({name: (columns | more).get(name, [None] * rows) for name in schema}, schema=schema)
        for schema in (polars_schema("events"), polars_schema("decisions"))
    )
    # A second after the decision that they belong to, so that none is known when it is made.
    events = events.with_columns(pl.col("time") + pl.duration(seconds=1))
    end = MONDAY + timedelta(days=days)
    table = outcomes(events, made, None, end, labels=("returned_1d", "returned_7d"))
    time = made["time"].to_physical().to_numpy()
    hour = (day % 7 * 24 + 12).astype(np.int16)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=users))]).astype(np.int64)
    histories = Histories([], offsets, zeros, zeros, time + 1_000_000, zeros, hour)
    start, slate, no = np.arange(rows), zeros[:, None], np.full((rows, 1), -1, np.int8)
    decisions = Decisions(ids, user.astype(np.int32), start, time, hour, zeros, slate, zeros, [None] * rows, no, no)
    return histories, decisions, table


def test_what_the_log_has_not_seen_to_its_end_is_not_known() -> None:
    # The last day that ended is known, the one that has begun is not: as labels they are one number, as days they are
    # not.
    assert last_day_known(np.array([0, 3, 3]), np.array([False, False, True])).tolist() == [-1, 2, 3]
    days, back = np.array([-1, -1, 0, 1, 2]), np.array([False, False, True, False, True])
    assert kaplan_meier(days, back, 4) == pytest.approx(kaplan_meier(days[2:], back[2:], 4))


def test_outcomes_of_a_known_hazard_give_the_true_curve_and_its_score() -> None:
    histories, decisions, table = came_at_noon(users=4000, days=14, seed=0)
    returned = table["return_observed"].to_numpy()
    day = last_day_known(table["return_days"].to_numpy(), returned)
    known = np.flatnonzero(day >= 0)
    features = recency_features(histories, decisions)
    cox = return_curves(Returns(features, day, returned, decisions.user, known), 8, 0)["cox"]
    found, true = kaplan_meier(day, returned, 8), truth(8)
    followed = Followed.of(day, returned)
    for t in (1, 2, 7):
        closed = int((decisions.time < table["time"].max().timestamp() * 1e6 - t * MICROSECONDS).sum())
        # Of rows whose windows have closed alone, which know less than all rows: so an upper bound.
        error = np.sqrt(true[t] * (1 - true[t]) / closed)
        assert found[t] == pytest.approx(true[t], abs=3 * error)
        assert cox[:, t].mean() == pytest.approx(true[t], abs=4 * error)
        # A squared error is (1 - p)^2 or p^2.
        score = brier_at(followed, np.full(len(day), true[t]), t)
        assert score == pytest.approx(true[t] * (1 - true[t]), abs=3 * abs(2 * true[t] - 1) * error + 2e-4)
    one = np.unique(decisions.user, return_index=True)[1]
    shares, p = d_calibration(np.tile(1.0 - truth(15), (len(one), 1)), day[one], returned[one])
    assert p > 0.01, shares


def test_the_quality_report_reads_the_labels_of_the_back_test_so() -> None:
    histories, decisions, table = came_at_noon(users=1500, days=42, seed=1)
    end = MONDAY + timedelta(days=42)
    test = back_test(decisions, table, end, None, SliceSettings(), ("returned_1d", "returned_7d"))
    true = truth(test.final.bins)
    said = {f"returned_{w}d": np.full(len(decisions), true[w]) for w in (1, 7)}
    forecasts = Forecasts(said, np.tile(true, (len(decisions), 1)), decisions.user % 2)
    entry = head_quality(forecasts, said, histories, decisions, test, 0, True)["return"]
    days = np.arange(1, entry["days"] + 1)
    wanted = np.trapezoid(true[days] * (1 - true[days]), days) / (days[-1] - days[0])
    assert entry["brier"] == pytest.approx(wanted, abs=0.004)
    assert entry["baseline_brier"]["by_segment"] == pytest.approx(wanted, abs=0.004)
    assert entry["d_calibration"]["p"] > 0.01
    assert entry["c_index"] == pytest.approx(0.5), "one curve for all tells nobody apart"
