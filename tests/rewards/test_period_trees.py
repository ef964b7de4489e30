import numpy as np
import polars as pl
import pytest

from rewards.heads import Targets, resolve
from rewards.period_trees import ACTIVE, KNOWN, LEAVING, RETURN, carried_on, fit_period_trees, known_of, passed, visited
from rewards.recency import COLUMNS

DAY = 86_400_000_000
LABELS = tuple(resolve(name, 3) for name in ("returned_1d", "returned_7d", "active_days_7"))


def _seen(
    frame: pl.DataFrame,
    moment: int,
    gap: np.ndarray,
    back: np.ndarray,
    left: tuple[np.ndarray, np.ndarray] | None = None,
    gone: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """What happened in each period; nobody leaves unless they are said to."""
    nobody = np.zeros(len(gap), bool)
    known = Targets((), {}, gap, back, *(left or (np.zeros(len(gap), np.int64), nobody)))
    return passed(frame, moment, known, nobody if gone is None else gone)


def _daily(users: int, days: int, rate: np.ndarray, seed: int) -> tuple[pl.DataFrame, np.ndarray, np.ndarray, int]:
    """Users (U,) who come each of `days` days with a chance (days,) that changes, one decision a day they come, and
    what is known of their returns at the end."""
    rng = np.random.default_rng(seed)
    came = rng.random((users, days)) < rate
    user, day = np.nonzero(came)
    after = np.concatenate([user[1:] == user[:-1], [False]])
    gap = np.where(after, np.concatenate([day[1:], [0]]) - day, days - day)
    upto = np.concatenate([np.zeros((users, 1)), np.cumsum(came, axis=1)], axis=1)
    closed = day + 7 < days
    active = np.where(closed, upto[user, np.minimum(day + 8, days)] - upto[user, day + 1], np.nan)
    frame = pl.DataFrame(
        {
            "user_id": [f"u{u}" for u in user],
            "local_day": pl.Series(day.astype(np.int32)).cast(pl.Date),
            "time": (day + 0.5) * DAY,
            "matured_1d": (day + 2.0) * DAY,
            "active_days_7": active,
        }
    )
    frame = frame.with_columns(pl.col("active_days_7").fill_nan(None))
    return frame, np.maximum(gap, 0).astype(np.int64), after, days * DAY


def test_only_periods_that_are_over_count_whoever_was_back_early() -> None:
    frame, gap, back, end = _daily(300, 20, np.full(20, 0.3), 0)
    seen = _seen(frame, end, gap, back)
    day = frame["local_day"].cast(pl.Int32).to_numpy()
    for column in range(1, 8):
        known = ~np.isnan(seen[ACTIVE][:, column - 1])
        np.testing.assert_array_equal(known, day + column < 20)
        at_risk = ~np.isnan(seen[RETURN][:, column])
        assert (day[at_risk] + column < 20).all()
        assert seen[RETURN][at_risk, column].mean() == pytest.approx(0.3, abs=0.05), "the hazard, at every day"
    weekly = ~np.isnan(seen[RETURN][:, 8])
    assert (day[weekly] + 14 < 20).all(), "a week in which somebody is back counts when it is over, not before"


def test_recent_open_windows_mend_what_closed_ones_say_of_yesterday() -> None:
    # People come half as often from the twelfth day on; closed windows are of before.
    rate = np.where(np.arange(20) < 12, 0.6, 0.3)
    frame, gap, back, end = _daily(2000, 20, rate, 1)
    day = frame["local_day"].cast(pl.Int32).to_numpy()
    features = np.zeros((len(day), KNOWN))
    features[:, COLUMNS.index("weekend")] = day  # any column that is told as it is: trees may know how late it is
    trees = fit_period_trees(LABELS, features, _seen(frame, end, gap, back), day, day.astype(np.int64), seed=0)
    share = trees.shares(LABELS, features)
    late = day >= 17  # a window of a week is closed for none of them
    assert share["returned_1d"][late].mean() == pytest.approx(1 - 0.7 * 0.99, abs=0.06)
    assert share["active_days_7"][late].mean() < 0.45
    curve = trees.return_curve(features, 8)
    assert (np.diff(curve, axis=1) >= 0).all()
    assert curve.max() <= 1.0
    np.testing.assert_allclose(share["returned_7d"], curve[:, 7])


def test_days_are_not_read_off_decisions_where_people_come_without_one() -> None:
    frame, gap, back, end = _daily(300, 20, np.full(20, 0.3), 2)
    more = frame.with_columns(pl.col("active_days_7") + 1)
    assert set(_seen(frame, end, gap, back)) == {"return", "active", "habit", "leaving"}
    assert set(_seen(more, end, gap, back)) == {"return", "leaving"}


def test_reach_is_not_having_left_and_a_visit() -> None:
    """People come a tenth of the days and leave at a daily rate that doubles late in the log."""
    rng = np.random.default_rng(5)
    users, days = 3000, 50
    daily = np.where(np.arange(days) < 30, 0.004, 0.008)
    leaves = np.array([np.append(np.flatnonzero(rng.random(days) < daily), days)[0] for _ in range(users)])
    frame, gap, back, end = _daily(users, days, np.full(days, 0.1), 6)
    user = frame["user_id"].str.slice(1).cast(pl.Int64).to_numpy()
    day = frame["local_day"].cast(pl.Int32).to_numpy().astype(np.int64)
    gone = leaves[user] < day
    after, left = np.maximum(leaves[user] - day, 0), leaves[user] < days
    seen = _seen(frame, end, gap, back, (np.where(left, after, days - day), left), gone)
    assert np.isnan(seen[LEAVING][gone]).all(), "nobody leaves twice"
    labels = tuple(resolve(name, 3) for name in ("returned_1d", "returned_28d", "reachable_28"))
    features = np.zeros((len(day), KNOWN))
    trees = fit_period_trees(labels, features, seen, user, day, seed=0)
    share = trees.shares(labels, features[:1])
    visit = 1 - 0.9**28
    assert share["reachable_28"][0] == pytest.approx((1 - 0.008) ** 29 * visit, abs=0.02), "today's rate, not a mean"
    assert fit_period_trees(labels, features, seen, user, day, 0).by_family.keys() == {"return", "leaving"}
    assert LEAVING in fit_period_trees(labels, features, seen, user % 3, day, 0).by_family, "of three people, too"
    never = fit_period_trees(labels, features, _seen(frame, end, gap, back), user, day, seed=0)
    stays = never.shares(labels, features[:1])
    np.testing.assert_allclose(stays["reachable_28"], visited(never.return_curve(features[:1], 29), 28))
    assert stays["reachable_28"][0] == pytest.approx(visit, abs=0.02), "nobody left"


def test_a_level_is_carried_on_as_far_as_levels_last() -> None:
    assert carried_on([0.0, 0.5, 0.4]) == 0.4, "of three weeks no pace can be told"
    rng = np.random.default_rng(0)
    noise = rng.normal(0.0, 0.3, 27)
    assert abs(carried_on([*noise, 0.9])) < 0.2, "one week that stands out among weeks that forget"
    drift = np.cumsum(rng.normal(0.0, 0.3, 27))
    assert carried_on(drift.tolist()) == pytest.approx(drift[-1], abs=0.15), "weeks that remember"


def test_a_day_is_foretold_by_its_own_weekday() -> None:
    """Everybody comes on workdays, and one time in ten at a weekend; day 0 of the log is a Monday."""
    days = 63
    rate = np.where(np.arange(days) % 7 < 5, 0.7, 0.1)
    frame, gap, back, end = _daily(400, days, rate, 9)
    day = frame["local_day"].cast(pl.Int32).to_numpy().astype(np.int64)
    features = known_of(np.zeros((len(day), len(COLUMNS))), (day % 7) * 24)
    trees = fit_period_trees(LABELS, features, _seen(frame, end, gap, back), day, day, seed=0)
    curve = trees.return_curve(known_of(np.zeros((7, len(COLUMNS))), np.arange(7) * 24), 8)
    hazard = 1 - (1 - curve[:, 1:]) / (1 - curve[:, :-1])
    for weekday in range(7):
        falls = (weekday + np.arange(1, 8)) % 7
        assert ((hazard[weekday] > 0.4) == (falls < 5)).all()
        np.testing.assert_allclose(hazard[weekday][:2], np.where(falls[:2] < 5, 0.7, 0.1), atol=0.08)


@pytest.mark.parametrize("told", [True, False])
def test_who_leaves_is_learned_where_others_leave_alike(told: bool) -> None:
    rng = np.random.default_rng(7)
    users, days = 1500, 40
    prone = rng.random(users) < 0.5
    frame, gap, back, end = _daily(users, days, np.full(days, 0.3), 8)
    leaves = np.where(prone, rng.geometric(0.02, users), rng.geometric(0.002, users)) - 1
    user = frame["user_id"].str.slice(1).cast(pl.Int64).to_numpy()
    day = frame["local_day"].cast(pl.Int32).to_numpy().astype(np.int64)
    after, left = np.maximum(leaves[user] - day, 0), leaves[user] < days
    seen = _seen(frame, end, gap, back, (np.where(left, after, days - day), left), leaves[user] < day)
    features = rng.random((users, KNOWN))[user]  # each user's own, so trees can learn who it was
    if told:
        features[:, COLUMNS.index("weekend")] = prone[user]
    labels = tuple(resolve(name, 3) for name in ("returned_28d", "reachable_28"))
    teaches = user < users // 2
    trees = fit_period_trees(
        labels, features, {f: np.where(teaches[:, None], seen[f], np.nan) for f in seen}, user, day, seed=0
    )
    share = trees.shares(labels, features[~teaches])["reachable_28"]
    of_prone, of_others = share[prone[user][~teaches]], share[~prone[user][~teaches]]
    if told:
        assert of_others.mean() - of_prone.mean() > 0.25
    else:
        assert share.std() < 0.03, "nothing but who it was could be learned"


@pytest.mark.parametrize(("longest", "told_up_to"), [(40.0, 28.0), (400.0, 200.0)])
def test_tenure_is_told_up_to_a_month_or_to_half_of_what_was_learned_from(longest: float, told_up_to: float) -> None:
    frame, gap, back, end = _daily(300, 20, np.full(20, 0.3), 3)
    features = np.zeros((frame.height, KNOWN))
    tenure = COLUMNS.index("log_tenure_days")
    features[:, tenure] = np.log1p(np.linspace(0.0, longest, frame.height))
    unknown = frame["local_day"].cast(pl.Int32).to_numpy() >= 18  # made after what is known now
    features[unknown, tenure] = np.log1p(9_999.0)
    features[np.flatnonzero(~unknown)[-1], tenure] = np.log1p(longest)
    day = frame["local_day"].cast(pl.Int32).to_numpy().astype(np.int64)
    trees = fit_period_trees(LABELS, features, _seen(frame, end - 2 * DAY, gap, back), day, day, seed=0)
    assert trees.most_tenure == pytest.approx(told_up_to)
    later = np.zeros((2, KNOWN))
    later[:, tenure] = np.log1p([told_up_to, 50 * told_up_to])
    np.testing.assert_allclose(*trees.return_curve(later, 8), err_msg="longer than that says nothing")
