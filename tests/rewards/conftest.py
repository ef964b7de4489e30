"""Reward models trained once for all tests."""

from collections.abc import Iterator

import pytest
import torch

from tests.rewards.made_up_log import MadeUp, Trained, make_log, train


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Small matrices: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def confounded(one_thread: None) -> Trained:
    """Items have effects, and heavy listeners are shown others than light ones."""
    return train(make_log(users=500, days=42, size=0.3, seed=1))


@pytest.fixture(scope="session")
def null(one_thread: None) -> Trained:
    """No item has any effect; who is shown what still depends on who comes back."""
    return train(make_log(users=500, days=42, size=0.0, seed=2))


@pytest.fixture(scope="session")
def small_log() -> MadeUp:
    """A log for tests that train nothing."""
    return make_log(users=40, days=20, size=0.3, seed=3)
