"""What a policy shows, on cases whose answer is known."""

import numpy as np
import polars as pl
import pytest

from eval.exposure import effective_number, gini, of_slates


def test_even_exposure_uses_the_whole_catalog() -> None:
    slates = np.arange(20, dtype=np.int32).reshape(4, 5)
    even = of_slates(slates, items=20, log_probability=np.full(4, -3.0))
    assert even.coverage() == 1.0
    assert even.effective_items() == pytest.approx(20.0)
    assert even.gini() == pytest.approx(0.0)
    assert even.top_share(0.1) == pytest.approx(0.1)
    assert even.entropy == pytest.approx(3.0)


def test_one_item_for_everybody_is_as_uneven_as_can_be() -> None:
    alone = of_slates(np.full((9, 1), 3, dtype=np.int32), items=50)
    assert alone.coverage() == pytest.approx(0.02)
    assert alone.effective_items() == pytest.approx(1.0)
    assert alone.gini() == pytest.approx(0.98)
    assert alone.entropy is None


def test_creators_add_up_over_their_items() -> None:
    items = pl.DataFrame({"creator": ["a", "b", "a", None]})
    exposure = of_slates(np.array([[0, 1], [0, 2]], dtype=np.int32), items=4)
    assert sorted(exposure.of_creators(items).tolist()) == [0, 1, 3]
    assert exposure.summary(items)["creator_coverage"] == pytest.approx(2 / 3)


def test_nothing_shown_is_zero_not_an_error() -> None:
    assert effective_number(np.zeros(4, dtype=np.int64)) == 0.0
    assert gini(np.zeros(4, dtype=np.int64)) == 0.0
