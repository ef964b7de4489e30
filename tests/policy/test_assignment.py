"""Salted-hash assignment: even, lasting, independent between experiments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from data.errors import InputError
from policy.assignment import arm_of, place

USERS = [f"u{i:05d}" for i in range(4000)]


def test_arms_get_their_shares_and_salts_are_independent() -> None:
    shares = {"control": 0.5, "a": 0.3, "b": 0.2}
    first = [arm_of("spring", user, shares) for user in USERS]
    second = [arm_of("summer", user, shares) for user in USERS]
    assert chisquare([first.count(a) for a in shares], [4000 * s for s in shares.values()]).pvalue > 0.001
    together = [first[i] == second[i] for i in range(4000)]
    assert np.mean(together) == pytest.approx(0.25 + 0.09 + 0.04, abs=0.03)
    assert kstest([place("spring", user) for user in USERS], "uniform").pvalue > 0.001


def test_a_user_keeps_the_arm_for_ever() -> None:
    """Written down: a change of the hash would move everybody in every running experiment."""
    assert place("spring", "u00001") == pytest.approx(FROZEN, abs=0)
    assert arm_of("spring", "u00001", {"control": 0.5, "treatment": 0.5}) == (
        "control" if FROZEN < 0.5 else "treatment"
    )


FROZEN = 0.3706825465848953


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20), st.text(max_size=10), st.floats(0.01, 0.98))
def test_growing_the_last_arm_moves_nobody_into_the_first(user: str, salt: str, share: float) -> None:
    before = arm_of(salt, user, {"control": share, "treatment": 1 - share})
    after = arm_of(salt, user, {"control": share / 2, "treatment": 1 - share / 2})
    assert (before, after) != ("treatment", "control")


def test_shares_that_do_not_sum_are_refused() -> None:
    with pytest.raises(InputError, match="must sum to 1"):
        arm_of("spring", "u1", {"control": 0.5, "treatment": 0.4})
