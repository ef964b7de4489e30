"""Segments: a true difference is found, a fancied one is not quoted."""

import numpy as np
import polars as pl
import pytest

from data.errors import InputError
from eval.experiments.effect import Reading
from eval.experiments.metric import parse_metric
from eval.experiments.sample import Sample, sample_of
from eval.experiments.segments import SegmentSettings, effects_by, honest_segments
from tests.eval.experiments.made_up import experiment

METRIC = parse_metric("y")
COLUMNS = ["age", "plan", "noise"]


def moved(users: int, effect_of_young: float, seed: int = 0) -> Sample:
    rows = experiment(users, seed=seed).rows
    rng = np.random.default_rng(seed)
    rows = rows.with_columns(
        age=pl.Series(rng.integers(15, 70, users)),
        plan=pl.Series(rng.choice(["free", "premium"], users)),
        noise=pl.Series(rng.normal(size=users)),
    )
    gain = effect_of_young * (pl.col("age") < 30) * (pl.col("arm") == "treatment")
    return sample_of(rows.with_columns(y=pl.col("y") + gain), "user_id", "arm")


def test_the_segment_that_is_there_is_found_and_read_in_the_other_half() -> None:
    found = honest_segments(moved(4000, 2.0), METRIC, "treatment", COLUMNS, Reading(), SegmentSettings(depth=1))
    young, old = found.segments
    assert young.where.startswith("age <= ") and 25 <= float(young.where.split()[-1]) <= 34
    assert abs(young.effect.diff - 2.0) < 4 * young.effect.se + 0.5
    assert abs(old.effect.diff) < 4 * old.effect.se
    assert young.p_adjusted < 1e-6 < old.p_adjusted
    assert found.heterogeneity < 1e-6
    assert young.effect.users + old.effect.users == pytest.approx(2000, abs=120)  # one half


def test_honest_effects_of_the_best_looking_segment_are_not_flattered() -> None:
    """Without any effect the segment that looked best has, in the other half, an effect about zero."""
    z, low = [], []
    for seed in range(20):
        found = honest_segments(
            moved(600, 0.0, seed), METRIC, "treatment", COLUMNS, Reading(), SegmentSettings(least=50)
        )
        z += [part.effect.diff / part.effect.se for part in found.segments]
        low.append(found.heterogeneity)
    assert abs(np.mean(z)) < 4 / np.sqrt(len(z))
    assert np.std(z) == pytest.approx(1.0, abs=0.3)
    assert np.mean(np.array(low) < 0.05) <= 0.25


def test_effects_by_a_column_hold_everybody_once() -> None:
    sample = moved(1000, 1.0)
    rows = sample.rows.with_columns(plan=pl.when(pl.col("age") < 17).then(pl.lit("rare")).otherwise("plan"))
    found = effects_by(sample_of(rows, "user_id", "arm"), METRIC, "treatment", "plan", Reading(), SegmentSettings())
    assert [part.where for part in found.segments] == ["plan = free", "plan = premium", "others"]
    assert sum(part.share for part in found.segments) == pytest.approx(1.0)
    assert sum(part.effect.users for part in found.segments) == 1000


def test_what_is_no_segment_is_refused() -> None:
    sample = moved(300, 0.0)
    with pytest.raises(InputError, match="no column 'height'"):
        effects_by(sample, METRIC, "treatment", "height", Reading(), SegmentSettings())
    with pytest.raises(InputError, match="too few to look for any"):
        honest_segments(sample, METRIC, "treatment", COLUMNS, Reading(), SegmentSettings(least=500))
    with pytest.raises(InputError, match="no column to look for"):
        honest_segments(sample, METRIC, "treatment", [], Reading(), SegmentSettings())
    twice = pl.concat([sample.rows, sample.rows.with_columns(plan=pl.lit("other"))])
    with pytest.raises(InputError, match="differs within a user"):
        effects_by(sample_of(twice, "user_id", "arm"), METRIC, "treatment", "plan", Reading(), SegmentSettings())
