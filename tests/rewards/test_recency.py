import numpy as np

from data.histories import Decisions, Histories
from data.schema import ACTION_CODE
from rewards.recency import COLUMNS, DAY, HOUR, gap_hours, lasting, recency_features


def _log() -> tuple[Histories, Decisions]:
    t0 = 1_700_000_000_000_000 // DAY * DAY
    # User 0: three interactions on day 0, one on day 9. User 1: none. User 2: one on day 9.
    time = np.array([t0, t0 + HOUR, t0 + 2 * HOUR, t0 + 9 * DAY, t0 + 9 * DAY])
    action = np.array([ACTION_CODE[a] for a in ("complete", "complete", "skip", "save", "play")], np.int8)
    histories = Histories(
        ["a", "b", "c"],
        np.array([0, 4, 4, 5]),
        np.zeros(5, np.int32),
        action,
        time,
        np.zeros(5, np.int8),
        np.zeros(5, np.int16),
    )
    when = np.array([t0 + 9 * DAY + 6 * HOUR, t0 + 10 * DAY, t0 + 40 * DAY])
    decisions = Decisions(
        ["x", "y", "z"],
        np.array([0, 1, 2], np.int32),
        np.array([4, 4, 5]),
        when,
        np.array([150, 10, 10], np.int16),
        np.zeros(3, np.int8),
        np.zeros((3, 1), np.int32),
        np.full(3, np.nan),
        [None] * 3,
        np.full((3, 1), -1, np.int8),
        np.zeros((3, 1), np.float32),
    )
    return histories, decisions


def test_counts_by_hand() -> None:
    histories, decisions = _log()
    table = dict(zip(COLUMNS, recency_features(histories, decisions).T, strict=True))
    np.testing.assert_allclose(gap_hours(histories, decisions), [6, np.nan, 31 * 24])
    np.testing.assert_allclose(np.expm1(table["log_interactions"]), [4, 0, 1], atol=1e-5)
    np.testing.assert_allclose(np.expm1(table["log_interactions_7d"]), [1, 0, 0], atol=1e-5)
    np.testing.assert_allclose(np.expm1(table["log_interactions_28d"]), [4, 0, 0], atol=1e-5)
    np.testing.assert_allclose(table["active_days_28d"], [2, 0, 0])
    np.testing.assert_allclose(table["share_complete_28d"], [0.5, 0, 0])
    np.testing.assert_allclose(table["weekend"], [1, 0, 0])


def test_a_day_is_the_calendars_whoever_else_is_at_hand() -> None:
    """A model that serves reads one history alone, and has learned from all of them together."""
    histories, decisions = _log()
    shift = 22 * HOUR  # the first two interactions before midnight, the third at it
    late = Histories(**{**vars(histories), "time": histories.time + shift})
    alone = Histories(
        ["a"], np.array([0, 4]), *(getattr(late, name)[:4] for name in ("item", "action", "time", "surface")),
        late.hour_of_week[:4],
    )  # fmt: skip
    early = late.time.copy()
    early[4] -= 30 * DAY + 15 * HOUR
    beside = Histories(**{**vars(late), "time": early})
    when = Decisions(**{**vars(decisions), "time": decisions.time + shift})
    for log in (late, beside):
        table = dict(zip(COLUMNS, recency_features(log, when.take(np.array([0]))).T, strict=True))
        own = dict(zip(COLUMNS, recency_features(alone, when.take(np.array([0]))).T, strict=True))
        np.testing.assert_allclose(table["active_days_28d"], own["active_days_28d"])
        assert own["active_days_28d"] == 3, "an evening, the night after it, and nine days later"


def test_only_the_past_counts() -> None:
    histories, decisions = _log()
    earlier = Decisions(**{**vars(decisions), "start": np.array([3, 4, 4]), "time": decisions.time - 8 * DAY})
    table = dict(zip(COLUMNS, recency_features(histories, earlier).T, strict=True))
    np.testing.assert_allclose(np.expm1(table["log_interactions_28d"]), [3, 0, 0], atol=1e-5)
    np.testing.assert_allclose(table["share_save_28d"], [0, 0, 0])


def test_who_does_the_same_for_longer_than_a_month_looks_the_same() -> None:
    days = 90
    t0 = 1_700_000_000_000_000 // DAY * DAY
    daily = Histories(
        ["a"],
        np.array([0, days]),
        np.zeros(days, np.int32),
        np.full(days, ACTION_CODE["complete"], np.int8),
        t0 + np.arange(days) * DAY,
        np.zeros(days, np.int8),
        np.zeros(days, np.int16),
    )
    _, one = _log()
    start = np.array([40, 60, 90])
    later = Decisions(
        **{**vars(one), "user": np.zeros(3, np.int32), "start": start, "time": t0 + start * DAY - DAY + HOUR}
        | {"hour_of_week": np.zeros(3, np.int16)}
    )
    plain = recency_features(daily, later)
    assert np.ptp(plain, axis=0).max() > 0.5
    np.testing.assert_allclose(np.ptp(lasting(plain, 28), axis=0), 0.0, atol=0.02)
    np.testing.assert_allclose(np.expm1(lasting(plain, 28)[:, COLUMNS.index("log_interactions")]), 1.0, atol=0.05)
