"""A change taken apart: the cells sum to it, and mean what they say."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError
from eval.experiments.decompose import MIX, decompose
from eval.experiments.sample import Sample, sample_of

STEPS = ["first", "second", "third"]


def funnel(seed: int, users: int = 80, segments: int = 3, rates: tuple[float, ...] = (0.7, 0.6, 0.5)) -> Sample:
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame(
        {
            "user_id": np.arange(users) // 2,
            "arm": np.where(np.arange(users) // 2 % 2 == 0, "a", "b"),
            "segment": rng.integers(0, segments, users),
            **{step: rng.random(users) < rate for step, rate in zip(STEPS, rates)},
        }
    )
    return sample_of(frame, "user_id", "arm")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 3), st.floats(0, 1))
def test_the_cells_sum_to_the_change_exactly(seed: int, segments: int, steps: int, rate: float) -> None:
    """Also with empty segments and steps that nobody passes."""
    sample = funnel(seed, 24, segments, (rate, 1 - rate, rate))
    found = decompose(sample, "b", STEPS[:steps], "segment", draws=2)
    rows = sample.rows.with_columns(kept=pl.all_horizontal(STEPS[:steps]))
    rates = dict(rows.group_by("arm").agg(pl.col("kept").mean()).iter_rows())
    assert found.change == pytest.approx(rates["b"] - rates["a"], abs=1e-12)
    assert sum(part.value for part in found.parts) == pytest.approx(found.change, abs=1e-12)
    for what in ("segment", "step"):
        assert sum(found.by(what).values()) == pytest.approx(found.change, abs=1e-12)


def test_a_step_that_did_not_change_gets_nothing_and_one_alone_gets_all() -> None:
    flags = [True, True, False, False] * 2
    rows = pl.DataFrame(
        {
            "user_id": range(8),
            "arm": ["a"] * 4 + ["b"] * 4,
            "first": flags,
            "second": [True, False, True, True, True, True, True, True],
        }
    )
    found = decompose(sample_of(rows, "user_id", "arm"), "b", ["first", "second"], draws=2)
    assert (found.control, found.treatment) == (0.25, 0.5)
    assert found.by("step") == pytest.approx({MIX: 0.0, "first": 0.0, "second": 0.25})


def test_mix_is_who_was_there() -> None:
    """Both segments keep their rates (1 and 0); only their shares differ: all is mix."""
    rows = pl.DataFrame(
        {
            "user_id": range(8),
            "arm": ["a"] * 4 + ["b"] * 4,
            "kind": ["loyal", "new", "new", "new", "loyal", "loyal", "loyal", "new"],
        }
    ).with_columns(back=pl.col("kind") == "loyal")
    found = decompose(sample_of(rows, "user_id", "arm"), "b", ["back"], "kind", draws=2)
    assert found.by("step") == pytest.approx({MIX: 0.5, "back": 0.0})


def test_the_order_of_rows_changes_nothing() -> None:
    sample = funnel(1)
    other = sample_of(sample.rows.sample(fraction=1.0, shuffle=True, seed=3), "user_id", "arm")
    assert decompose(sample, "b", STEPS, "segment") == decompose(other, "b", STEPS, "segment")


def test_intervals_cover_the_change_of_a_step() -> None:
    """Two steps, the second rises by .1: its cell is about .5 x .1, and nominal 95% intervals hold it."""
    held = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        arm = np.arange(600) % 2
        rows = pl.DataFrame(
            {"user_id": range(600), "arm": np.where(arm == 1, "b", "a"), "first": rng.random(600) < 0.5}
        )
        rows = rows.with_columns(second=pl.Series(rng.random(600) < 0.4 + 0.1 * arm))
        part = decompose(sample_of(rows, "user_id", "arm"), "b", ["first", "second"], draws=100, seed=seed).parts[2]
        held += part.lo <= 0.05 <= part.hi
    assert held >= 34


def test_what_is_no_funnel_is_refused() -> None:
    sample = funnel(0)
    with pytest.raises(InputError, match="no column 'fourth'"):
        decompose(sample, "b", ["fourth"])
    with pytest.raises(InputError, match="must say true or false"):
        decompose(sample, "b", ["segment"])
    with pytest.raises(InputError, match="1 to 8"):
        decompose(sample, "b", [])
