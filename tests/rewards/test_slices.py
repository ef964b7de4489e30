from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
import torch

from data.errors import InputError
from data.histories import STAYED
from rewards.heads import carried
from rewards.reach import days_seen
from rewards.slices import SliceSettings, _targets, back_test
from tests.rewards.made_up_log import SMALL, MadeUp, make_log, train


def _instant(log: MadeUp, share: float) -> datetime:
    first = datetime.fromtimestamp(float(log.decisions.time.min()) / 1e6, tz=log.end.tzinfo)
    return first + share * (log.end - first)


def _later_labels_changed(log: MadeUp, moment: datetime) -> MadeUp:
    late = pl.col("matured_7d") > moment
    changed = log.outcomes.with_columns(
        active_days_7=pl.when(late).then(7 - pl.col("active_days_7")).otherwise(pl.col("active_days_7")),
        returned_7d=pl.when(late).then(~pl.col("returned_7d")).otherwise(pl.col("returned_7d")),
    )
    return MadeUp(**{**vars(log), "outcomes": changed})


def test_slices_never_share_a_label(small_log: MadeUp) -> None:
    test = back_test(small_log.decisions, small_log.outcomes, small_log.end, None, SliceSettings(0.5, 0.75, 0.5))
    label = "active_days_7"
    train_rows = np.flatnonzero(~np.isnan(test.train.values[label]))
    calibration, judged = test.calibration_rows(label), test.judged_rows(label, small_log.decisions.time)
    assert len(train_rows) > 50
    assert len(calibration) > 50
    assert len(judged) > 50
    assert not set(train_rows) & set(calibration)
    assert not set(calibration) & set(judged)
    assert small_log.decisions.time[train_rows].max() + 7 * 86_400_000_000 <= test.cut
    assert small_log.decisions.time[judged].min() >= test.cut


def test_a_return_that_is_not_in_yet_is_censored_at_the_cut(small_log: MadeUp) -> None:
    test = back_test(small_log.decisions, small_log.outcomes, small_log.end, None, SliceSettings(0.5, 0.75, 0.5))
    day = 86_400_000_000
    made = small_log.decisions.time < test.cut
    # By the end of the last day that is over: on the cut's own day only those who are back early are known.
    came = small_log.decisions.time // day + test.final.return_day < test.cut // day
    np.testing.assert_array_equal(test.train.returned, made & came)
    whole = np.maximum(test.cut // day - small_log.decisions.time // day, 0)
    np.testing.assert_array_equal(test.train.return_day[~test.train.returned], whole[~test.train.returned])


def test_a_log_that_ends_at_noon_promises_no_more_returns_than_one_that_ends_at_midnight() -> None:
    """Everybody comes back with probability .25 a day, at nine in the morning."""
    rng = np.random.default_rng(0)
    day = rng.geometric(0.25, 20_000)
    start = datetime(2026, 3, 2, 9, tzinfo=UTC)
    end = datetime(2026, 3, 9, 12, tzinfo=UTC)
    made = pl.DataFrame(
        {
            "user_id": [f"u{n}" for n in range(len(day))],
            "time": [start + timedelta(days=int(n % 7)) for n in range(len(day))],
            "local_day": [(start + timedelta(days=int(n % 7))).date() for n in range(len(day))],
        },
        schema_overrides={"time": pl.Datetime("us", "UTC")},
    )
    lasted = 7 - np.arange(len(day)) % 7  # days until the log's last morning
    frame = made.with_columns(
        return_days=pl.Series(np.minimum(day, lasted)),
        return_observed=pl.Series(day <= lasted),
        returned_7d=pl.Series(day <= 7),
    )
    labels = carried(frame, 1, ("returned_7d",))
    seen = days_seen(made, None, end)
    known = _targets(frame, labels, seen, (np.zeros(len(day), np.int64), np.zeros(len(day), bool)))
    events = known.returned.sum()
    # A day 0 without a return is no day at risk here; each of the others is, of those who had not been back.
    at_risk = sum(
        np.sum(known.return_day >= j) - np.sum((known.return_day == j) & ~known.returned) for j in range(1, 8)
    )
    assert abs(events / at_risk - 0.25) < 3 * (0.25 * 0.75 / at_risk) ** 0.5


def test_labels_that_mature_later_change_nothing_that_was_learned(one_thread: None) -> None:
    log = make_log(users=80, days=30, size=0.3, seed=4)
    base = train(log)
    later = train(_later_labels_changed(log, _instant(log, SMALL.slices.calibrated)))
    torch.testing.assert_close(base.states, later.states, rtol=0, atol=0)
    slates = torch.from_numpy(log.decisions.slate.astype(np.int64))[:, None]
    torch.testing.assert_close(
        base.model.advantage(base.states, slates).mean, later.model.advantage(later.states, slates).mean, rtol=0, atol=0
    )
    np.testing.assert_array_equal(base.model.readout, later.model.readout)
    assert base.quality["heads"] != later.quality["heads"], "they do judge it"

    sooner = train(_later_labels_changed(log, _instant(log, SMALL.slices.cut)))
    torch.testing.assert_close(base.states, sooner.states, rtol=0, atol=0)
    assert not np.array_equal(base.model.readout, sooner.model.readout)


def test_bad_slices_and_missing_outcomes_name_the_fix(small_log: MadeUp) -> None:
    with pytest.raises(InputError, match="shares must grow"):
        back_test(small_log.decisions, small_log.outcomes, small_log.end, None, SliceSettings(0.8, 0.6, 0.6))
    with pytest.raises(InputError, match="have no outcomes"):
        back_test(small_log.decisions, small_log.outcomes[:-5], small_log.end, None, SliceSettings())
    with pytest.raises(InputError, match="converted_28"):
        back_test(small_log.decisions, small_log.outcomes, small_log.end, None, SliceSettings(), ["converted_28"])
    assert small_log.end - timedelta(days=1) < small_log.end


def test_who_had_left_teaches_nothing_of_reach_and_is_judged(small_log: MadeUp) -> None:
    made = small_log.decisions
    left_at = np.where(made.user % 3 == 0, np.median(made.time).astype(np.int64), STAYED)
    gone = left_at < made.time
    reached = pl.Series(left_at > made.time + 7 * 86_400_000_000)
    outcomes = small_log.outcomes.with_columns(
        reachable_28=reached, matured_28d=pl.col("matured_7d"), matured_at=pl.col("matured_7d")
    ).with_columns(pl.when(pl.col("matured_7d") <= small_log.end).then(pl.col("reachable_28")))
    test = back_test(made, outcomes, small_log.end, None, SliceSettings(), ["reachable_28"], left_at)
    assert gone.any()
    for known in (test.train, test.advantage):
        assert np.isnan(known.values["reachable_28"][gone]).all()
        assert not known.left[gone].any()
        assert (known.left_day[gone] == 0).all()
    assert not gone[test.calibration_rows("reachable_28")].any()
    assert gone[test.judged_rows("reachable_28", made.time)].any()
