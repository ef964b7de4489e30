"""Calibration curves, and heads as the reward models report them."""

import numpy as np
import pytest

from data.errors import InputError
from eval.reliability import head_quality, reliability_curve


def test_a_true_probability_lies_on_the_diagonal() -> None:
    rng = np.random.default_rng(0)
    chance = rng.uniform(size=50_000)
    curve = reliability_curve(chance, (rng.random(50_000) < chance).astype(float))
    np.testing.assert_allclose(curve.predicted, curve.observed, atol=0.03)
    assert sum(curve.rows) == 50_000
    assert max(curve.rows) - min(curve.rows) <= 2


def test_outcomes_that_have_not_matured_do_not_count_as_zero() -> None:
    predicted, observed = np.linspace(0, 1, 100), np.ones(100)
    observed[::2] = np.nan
    curve = reliability_curve(predicted, observed)
    assert sum(curve.rows) == 50
    assert set(curve.observed) == {1.0}


def test_equal_predictions_share_a_bin() -> None:
    curve = reliability_curve(np.repeat([0.2, 0.7], 50), np.repeat([0.0, 1.0], 50))
    assert curve.predicted == pytest.approx([0.2, 0.7])
    with pytest.raises(InputError, match="longer log"):
        reliability_curve(np.ones(3), np.full(3, np.nan))


def test_heads_keep_their_score_and_baselines() -> None:
    head = head_quality({"auc": 0.7, "ece": 0.01, "n": 900, "baseline": {"cox": 0.6, "rfm": 0.65}})
    assert head is not None
    assert (head.score_name, head.score, head.baselines["rfm"], head.rows) == ("auc", 0.7, 0.65, 900)
    assert head_quality({"n": 3, "note": "too few"}) is None
