"""The baselines: each finds what it is known to find, so that beating it means something."""

import os
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from lifelines import KaplanMeierFitter

from data.errors import InputError
from data.histories import Decisions, Histories
from rewards.baselines import BASELINES, Task
from rewards.bg_nbd import BgNbd, customers, fit_bg_nbd
from rewards.heads import LABELS
from rewards.recency import COLUMNS, DAY, recency_features
from rewards.return_curves import Returns, fit_customers, kaplan_meier, return_curves
from rewards.segments import SEGMENTS, segments
from rewards.survival import last_day_known
from tests.rewards.made_up_log import MadeUp

SHARED = Path(os.environ.get("LONGPLAY_DATA", Path(__file__).parents[3] / "shared" / "data"))


def made_up_features(rows: int, rng: np.random.Generator) -> np.ndarray:
    features = rng.standard_normal((rows, len(COLUMNS))).astype(np.float32)
    for name in ("log_gap_hours", "log_tenure_days", "active_rate_28d", "active_share"):
        features[:, COLUMNS.index(name)] = np.abs(features[:, COLUMNS.index(name)])
    return features


def test_kaplan_meier_is_that_of_lifelines() -> None:
    rng = np.random.default_rng(0)
    day, returned = rng.integers(0, 20, 300), rng.random(300) < 0.6
    theirs = KaplanMeierFitter().fit(day, returned).survival_function_at_times(np.arange(15)).to_numpy()
    assert kaplan_meier(day, returned, 15) == pytest.approx(1.0 - theirs)


def test_segments_in_words() -> None:
    features = np.zeros((4, len(COLUMNS)), np.float32)
    tenure, gap, rate = (COLUMNS.index(c) for c in ("log_tenure_days", "log_gap_hours", "active_rate_28d"))
    features[:, tenure] = np.log1p([2, 100, 100, 100])
    features[:, gap] = np.log1p([1, 24 * 10, 24, 24])
    features[:, rate] = [0.9, 0.9, 0.9, 0.1]
    assert [SEGMENTS[code] for code in segments(features)] == ["new", "lapsing", "heavy", "light"]


def test_curves_find_who_comes_back_sooner() -> None:
    rng = np.random.default_rng(1)
    features = made_up_features(4000, rng)
    pull = features[:, COLUMNS.index("log_interactions_7d")]
    day = rng.geometric(-np.expm1(-0.1 * np.exp(0.8 * pull))) - 1  # proportional hazards, in whole days
    lost = rng.integers(5, 40, 4000)
    returns = Returns(features, np.minimum(day, lost), day <= lost, np.arange(4000, dtype=np.int32), np.arange(3000))
    curves = return_curves(returns, 15, 0)
    assert set(curves) == {"by_segment", "cox", "bg_nbd"}
    for curve in curves.values():
        assert curve.shape == (4000, 15)
        assert np.all(np.diff(curve, axis=1) >= -1e-12)
        assert np.all((curve >= 0) & (curve <= 1))
    late = slice(3000, None)
    for t in (1, 7, 14):
        assert curves["cox"][late, t].mean() == pytest.approx(np.mean(day[late] <= t), abs=0.03)
        assert curves["by_segment"][late, t].mean() == pytest.approx(np.mean(day[late] <= t), abs=0.03)
    assert np.corrcoef(curves["cox"][late, 7], pull[late])[0, 1] > 0.9


def test_the_tables_baselines_learn_and_say_when_they_do_not_apply() -> None:
    rng = np.random.default_rng(2)
    features = made_up_features(3000, rng)
    chance = 1 / (1 + np.exp(-1.5 * features[:, COLUMNS.index("log_interactions_28d")]))
    share = (rng.random(3000) < chance).astype(np.float64)
    share[2000:] = np.nan
    rows = np.arange(2000, 3000)
    closed = np.arange(3000) < 500
    task = Task(LABELS["converted_28"], features, share, np.zeros(0), closed, rows, {}, 0)
    found = {name: baseline(task) for name, baseline in BASELINES.items()}
    assert {name for name, guess in found.items() if guess is None} == {"day_two", "cox", "bg_nbd"}
    truth = chance[rows]
    error = {name: np.mean((guess - truth) ** 2) for name, guess in found.items() if guess is not None}
    assert error["recency_frequency"] < error["rfm_boosting"] < error["delayed_only"] < np.var(truth)
    assert error["by_segment"] == pytest.approx(np.var(truth), rel=0.1)
    again = BASELINES["rfm_boosting"](task)
    np.testing.assert_array_equal(again, found["rfm_boosting"])


def test_bg_nbd_finds_the_customers_it_was_drawn_from() -> None:
    rng = np.random.default_rng(3)
    n, truth = 8000, BgNbd(0.9, 5.0, 0.8, 2.5)
    rate, leaves = rng.gamma(truth.r, 1 / truth.alpha, n), rng.beta(truth.a, truth.b, n)
    age = rng.uniform(20, 40, n)
    x, last, later = np.zeros(n), np.zeros(n), np.zeros(n, bool)
    for i in range(n):
        t = 0.0
        while True:
            t += rng.exponential(1 / rate[i])
            if t > age[i]:
                later[i] = t <= age[i] + 10
                break
            x[i], last[i] = x[i] + 1, t
            if rng.random() < leaves[i]:
                break
    model = fit_bg_nbd(x, last, age)
    assert model.r / model.alpha == pytest.approx(truth.r / truth.alpha, rel=0.1)
    assert model.a / (model.a + model.b) == pytest.approx(truth.a / (truth.a + truth.b), rel=0.1)
    chance = model.buys_within(x, last, age, 10.0)
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 1.0)):
        of = (chance >= low) & (chance < high)
        assert chance[of].mean() == pytest.approx(later[of].mean(), abs=0.04)
    with pytest.raises(InputError, match="bought twice"):
        fit_bg_nbd(np.zeros(5), np.zeros(5), np.ones(5))


def visits_of_customers(truth: BgNbd, users: int, days: int, rng: np.random.Generator) -> tuple[Returns, np.ndarray]:
    """What a log of `days` days that ends at midnight knows of customers who join in its first half, each visit a
    decision; and whether each visit was followed by another within 28 days, had the log gone on."""
    rate, leaves = rng.gamma(truth.r, 1 / truth.alpha, users), rng.beta(truth.a, truth.b, users)
    user, time, again = [], [], []
    for i in range(users):
        t, stays = rng.uniform(0, days / 2), True
        while t < days:
            user.append(i)
            time.append(t)
            gap = rng.exponential(1 / rate[i]) if stays else np.inf
            again.append(gap <= 28)
            t += gap
            stays = rng.random() >= leaves[i]
    who, when = np.array(user, np.int32), (np.array(time) * DAY).astype(np.int64)
    rows, zeros = len(who), np.zeros(len(who), np.int8)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(who, minlength=users))]).astype(np.int64)
    week = (when // (DAY // 24) % 168).astype(np.int16)
    made = Decisions([""] * rows, who, np.arange(rows), when, week, zeros, zeros[:, None], zeros, [], zeros, zeros)
    features = recency_features(Histories([], offsets, zeros, zeros, when, zeros, week), made)
    returned = np.concatenate([who[1:] == who[:-1], [False]])
    seen = days - when // DAY  # all of the last day, of which nothing is known after it
    day = np.where(returned, np.roll(when, -1) // DAY - when // DAY, seen)
    return Returns(features, last_day_known(day, returned), returned, who, np.arange(rows)), np.array(again)


def test_bg_nbd_hears_the_silence_after_the_last_visit() -> None:
    truth = BgNbd(0.8, 10.0, 0.8, 2.5)
    returns, again = visits_of_customers(truth, 3000, 120, np.random.default_rng(4))
    model = fit_customers(returns)
    assert model.a / (model.a + model.b) == pytest.approx(truth.a / (truth.a + truth.b), abs=0.04)
    assert model.r / model.alpha == pytest.approx(truth.r / truth.alpha, rel=0.1)
    curve = return_curves(returns, 29, 0)["bg_nbd"][:, 28]
    repeats = np.arange(len(again)) - np.searchsorted(returns.user, returns.user)
    for of in (repeats == 0, repeats == 1, repeats == 2, repeats > 4):
        assert curve[of].mean() == pytest.approx(again[of].mean(), abs=0.04)


def test_bg_nbd_at_the_published_estimates() -> None:
    # Fader, Hardie & Lee (2005): r .243, alpha 4.414, a .793, b 2.426 on CDNOW. lifetimes 0.11.3 with its own estimates
    # gives a customer with 2 repeat purchases, the last in week 30.43 of 38.86, .7266 of being alive.
    published = BgNbd(0.243, 4.414, 0.793, 2.426)
    alive = published.alive(np.array([2.0, 0.0]), np.array([30.43, 0.0]), np.array([38.86, 38.86]))
    assert alive == pytest.approx([0.7266, 1.0], abs=2e-4)


@pytest.mark.skipif(not (SHARED / "cdnow_music_cd_purchases").is_dir(), reason="no CDNOW log in $LONGPLAY_DATA")
def test_bg_nbd_on_the_whole_cdnow_cohort_is_that_of_lifetimes() -> None:
    end = date(1997, 9, 30)
    orders = pl.read_parquet(SHARED / "cdnow_music_cd_purchases" / "transactions.parquet").filter(pl.col("date") <= end)
    people = orders.group_by("customer_id").agg(
        x=pl.col("date").n_unique() - 1,
        last=(pl.col("date").max() - pl.col("date").min()).dt.total_days() / 7,
        age=(pl.lit(end) - pl.col("date").min()).dt.total_days() / 7,
    )
    model = fit_bg_nbd(*(people[name].to_numpy() for name in ("x", "last", "age")))
    # lifetimes 0.11.3 on the same 23,570 customers.
    assert (model.r, model.alpha) == pytest.approx((0.2516, 4.789), rel=2e-3)
    assert (model.a, model.b) == pytest.approx((0.7234, 2.1611), rel=3e-3)


def test_days_of_use_are_purchases(small_log: MadeUp) -> None:
    histories, decisions = small_log.histories, small_log.decisions
    x, last, age = customers(recency_features(histories, decisions))
    for row in range(0, len(decisions), 7):
        past = histories.time[histories.offsets[decisions.user[row]] : decisions.start[row]]
        if not len(past):
            assert (x[row], age[row]) == (0.0, 0.0)
            continue
        assert x[row] == len(np.unique(past // DAY)) - 1
        assert age[row] == pytest.approx((decisions.time[row] - past[0]) / DAY, abs=1e-3)
        if x[row]:
            assert last[row] == pytest.approx((past[-1] - past[0]) / DAY, abs=1e-3)
