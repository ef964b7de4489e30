"""The planner against every plan there is, the linear program, and its own bound."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError
from policy.messaging import planner
from policy.messaging.planner import BestMoves, Chunk, best_moves, best_of_matrix, plan, relaxed


def drawn(users: int, seed: int, whole: bool = False) -> BestMoves:
    """Values of two or three options by each channel, a part of them illegal; `whole`: of which many are alike."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0.3, 1.0, (users, 8)) + rng.normal(0.0, 0.7, (users, 1))
    values = np.round(values) if whole else values
    values[rng.random(values.shape) < 0.3] = -np.inf
    return best_of_matrix(values, np.array([0, 0, 0, 1, 1, 1, 2, 2]))


def best_worth(value: np.ndarray, budgets: tuple[int, ...]) -> float:
    """The most that any plan is worth, by trying all."""
    most = 0.0
    for taken in itertools.product(range(-1, value.shape[1]), repeat=len(value)):
        sends = [taken.count(c) for c in range(value.shape[1])]
        if all(sent <= budget for sent, budget in zip(sends, budgets, strict=True)):
            most = max(most, sum(value[u, c] for u, c in enumerate(taken) if c >= 0))
    return most


@given(seed=st.integers(0, 10_000), budgets=st.tuples(*[st.integers(0, 3)] * 3), whole=st.booleans())
@settings(max_examples=20, deadline=None)
def test_no_plan_of_five_users_is_worth_more(seed: int, budgets: tuple[int, ...], whole: bool) -> None:
    best = drawn(5, seed, whole)
    made = plan(best, budgets)
    most = best_worth(best.value, budgets)
    assert (made.sends <= budgets).all()
    assert made.bound >= most - 1e-9
    assert made.value >= most - 1e-9


@pytest.mark.parametrize("whole", [False, True])
def test_a_plan_from_a_samples_prices_is_as_good_as_the_program(monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    best, budgets = drawn(1500, 1, whole), (120, 260, 300)
    worth, _, taken = relaxed(np.where(best.value > 0, best.value, -np.inf), np.array(budgets))
    assert np.bincount(taken[taken >= 0], minlength=3).tolist() <= list(budgets)
    monkeypatch.setattr(planner, "SAMPLE", 200)
    made = plan(best, budgets)
    assert (made.sends <= budgets).all()
    assert made.bound == pytest.approx(worth, rel=1e-6 if whole else 1e-9)
    assert made.value <= worth + 1e-6
    assert made.gap < 1e-3
    assert (made.prices > 0).all()
    again = plan(best, budgets)
    assert np.array_equal(made.option, again.option)


def test_without_limits_everybody_gets_their_best_and_what_costs_is_held() -> None:
    best = drawn(400, 2)
    made = plan(best, (None, None, None))
    most = best.value.max(axis=1)
    assert (made.channel == np.where(most > 0, best.value.argmax(axis=1), -1)).all()
    assert made.value == pytest.approx(np.maximum(most, 0).sum())
    assert made.gap == pytest.approx(0.0, abs=1e-9)
    nothing = plan(best, (0, 0, 0))
    assert (nothing.option == -1).all()
    assert nothing.value == nothing.gap == 0.0
    assert plan(BestMoves(np.empty((0, 3)), np.empty((0, 3), np.int32)), (1, 1, 1)).value == 0.0


def test_options_in_columns_give_what_a_matrix_gives_in_any_order() -> None:
    rng = np.random.default_rng(3)
    values = np.round(rng.normal(size=(50, 6)), 1)
    values[rng.random(values.shape) < 0.2] = np.nan
    channel = np.array([0, 1, 2, 0, 1, 2])
    want = best_of_matrix(values, channel)
    rows = rng.permutation(values.size)
    user, option = np.divmod(rows, 6)
    whole = Chunk(user, option, channel[option], values.ravel()[rows])
    parts = [Chunk(user[s::3], option[s::3], whole.channel[s::3], whole.value[s::3]) for s in range(3)]
    found = best_moves(50, parts)
    assert np.array_equal(found.value, want.value)
    assert np.array_equal(found.option, want.option)


def test_what_the_planner_cannot_use_is_refused() -> None:
    one = np.array([0])
    with pytest.raises(InputError, match="user outside"):
        best_moves(1, [Chunk(one + 1, one, one, np.array([1.0]))])
    with pytest.raises(InputError, match="channel outside"):
        best_moves(1, [Chunk(one, one, one - 1, np.array([1.0]))])
    with pytest.raises(InputError, match="inf"):
        best_moves(1, [Chunk(one, one, one, np.array([np.inf]))])
    for budgets in ((1, 1), (1, -1, 1)):
        with pytest.raises(InputError, match="0 or more"):
            plan(drawn(3, 0), budgets)
