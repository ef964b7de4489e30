"""Best of N: what a context tells is what a reward is asked with, and the better slate of those drawn is served."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.errors import InputError
from data.histories import contexts, load
from data.store import LogStore
from policy.best_of import BestOfPolicy, told
from policy.checkpoint import load_speaker
from tests.policy.serving.tiny_run import SLATE, build


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("best")
    catalog = build(folder)
    return load_speaker(folder / "policy" / "sft", catalog), *load(LogStore(folder / "logs"), catalog.index_of)


class LikesEven:
    """A reward anybody can check: the share of items of even number."""

    def encode(self, histories, decisions) -> torch.Tensor:
        return torch.zeros(len(decisions), 1)

    def advantage(self, states: torch.Tensor, slates: torch.Tensor) -> torch.Tensor:
        assert len(states) == len(slates)
        return (slates % 2 == 0).float().mean(-1)

    def objective(self) -> SimpleNamespace:
        return SimpleNamespace(lower_bound=lambda scores: scores)


def test_a_log_made_of_contexts_tells_the_same_contexts(run) -> None:
    _, histories, decisions = run
    known = contexts(histories, decisions, 12)
    again = contexts(*told(known), 12)
    for name in ("time", "hour_of_week", "surface", "item", "action"):
        np.testing.assert_array_equal(getattr(again, name), getattr(known, name), err_msg=name)
    np.testing.assert_allclose(again.gap_hours, known.gap_hours, atol=1e-3)
    made, _ = told(known)
    assert all((np.diff(made.time[a:b]) > 0).all() for a, b in zip(made.offsets, made.offsets[1:]))


def test_more_draws_serve_better_slates_and_their_propensity_is_not_known(run) -> None:
    spoken, histories, decisions = run
    known = contexts(histories, decisions, 12)
    worth = []
    for draws in (1, 4, 16):
        policy = BestOfPolicy("best", spoken, LikesEven(), draws)
        slates, log_probs = policy.choose(known, np.random.default_rng(0))
        assert slates.shape == (len(known), SLATE)
        assert all(len(set(slate)) == SLATE for slate in slates.tolist())
        assert np.isnan(log_probs).all()
        assert len(policy.last_moves) == len(known)
        worth.append(float((slates % 2 == 0).mean()))
    assert worth[0] + 0.1 < worth[1] < worth[2]
    same = BestOfPolicy("best", spoken, LikesEven(), 16).choose(known, np.random.default_rng(0))[0]
    np.testing.assert_array_equal(same, slates)
    with pytest.raises(InputError, match="best of 0"):
        BestOfPolicy("best", spoken, LikesEven(), 0)
