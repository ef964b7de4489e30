"""The quality report: everything it promises is there, for every segment and beside every baseline."""

import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from rewards.baselines import BASELINES
from rewards.quality import paired
from rewards.segments import SEGMENTS
from rewards.training import TrainSettings
from tests.rewards.made_up_log import SMALL, START, make_log, train


@pytest.fixture(scope="module")
def heads(one_thread):
    log = make_log(users=100, days=35, size=0.3, seed=6)
    late = pl.col("time") > START + timedelta(days=18)
    log = replace(log, outcomes=log.outcomes.with_columns(completes=pl.when(late).then(1).otherwise("completes")))
    return train(log, replace(SMALL, train=TrainSettings(epochs=1), baselines=True)).quality["heads"]


def test_every_baseline_stands_beside_every_head_it_applies_to(heads) -> None:
    assert set(heads["returned_7d"]["baseline"]) == set(BASELINES)
    assert set(heads["returned_1d"]["baseline"]) == set(BASELINES) - {"day_two"}
    assert set(heads["active_days_7"]["baseline"]) == set(BASELINES) - {"cox", "bg_nbd"}
    assert set(heads["return"]["baseline"]) == {"by_segment", "cox", "bg_nbd"}
    for name in ("returned_7d", "active_days_7", "return"):
        for other, difference in heads[name]["paired"].items():
            assert difference["lo"] <= difference["brier_diff"] <= difference["hi"], other
    json.dumps(heads)  # what training writes beside the model


def test_what_no_longer_varies_is_not_judged(heads) -> None:
    assert "nothing to judge" in heads["completes"]["note"]
    assert "ece" not in heads["completes"]


def test_segments_add_up(heads) -> None:
    for name in ("returned_7d", "active_days_7"):
        parts = heads[name]["segments"]
        assert tuple(parts) == SEGMENTS
        assert sum(part["n"] for part in parts.values()) == heads[name]["n"]
        judged = [part for part in parts.values() if "brier" in part]
        weighted = sum(part["n"] * part["brier"] for part in judged) / sum(part["n"] for part in judged)
        assert weighted == pytest.approx(heads[name]["brier"], abs=0.02)


def test_the_return_curve_is_better_than_nothing_and_d_calibration_is_said(confounded) -> None:
    entry = confounded.quality["heads"]["return"]
    assert 0.0 < entry["brier"] < 0.25
    assert entry["auc_at"]["7"] > 0.7
    assert sum(entry["d_calibration"]["shares"]) == pytest.approx(1.0)
    assert 0.0 <= entry["d_calibration"]["p"] <= 1.0


def test_retention_is_read_off_one_calibrated_curve(confounded) -> None:
    states = confounded.states[:200]
    curve, horizons = confounded.model.return_curve(states), confounded.model.outcomes(states)
    assert np.all(np.diff(curve, axis=1) >= 0)
    for days in (1, 7):
        np.testing.assert_allclose(curve[:, days], horizons[f"returned_{days}d"], atol=2e-3)


def test_a_difference_carried_by_one_user_is_no_difference() -> None:
    rng = np.random.default_rng(0)
    user = np.concatenate([np.zeros(500, int), np.arange(1, 101)])
    one = np.where(user == 0, -1.0, 0.01 * rng.standard_normal(600))
    everyone = -0.05 + 0.01 * rng.standard_normal(600)
    found = paired({"one": one, "everyone": everyone}, user, 0)
    assert found["one"]["brier_diff"] < -0.8
    assert found["one"]["hi"] > -0.05
    assert found["everyone"]["hi"] < -0.04
