"""Slates that a reward loves and the world hates: found where they are, and fewer under the lower bound."""

import pytest
import torch
from torch import Tensor

from data.errors import InputError
from rewards.red_team import SearchSettings, red_team
from tests.rewards.made_up_log import ITEMS, Trained

QUICK = SearchSettings(starts=1, tries=16, sweeps=2)


def made_up(items: int, hole: Tensor):
    """A truth, and a reward that is right about everything but a few items, about which it is not sure."""
    quality = torch.linspace(-1, 1, items)
    believed, spread = quality.clone(), torch.full((items,), 0.1)
    believed[hole], spread[hole] = 3.0, 3.0

    def summed(values: Tensor):
        return lambda rows, slates: values[slates].sum(-1)

    return summed(quality), summed(believed), summed(believed - spread)


def test_a_hole_in_the_reward_is_found_and_the_lower_bound_closes_it() -> None:
    truth, mean, bound = made_up(60, torch.tensor([0, 1, 2, 3]))
    generator = torch.Generator().manual_seed(0)
    logged = torch.rand((200, 60), generator=generator).argsort(-1)[:, :4]
    before = red_team(mean, truth, torch.arange(200), logged, 60, 0)
    after = red_team(bound, truth, torch.arange(200), logged, 60, 0)
    assert before["climber"].hated > 0.9
    assert before["climber"].reward_sd > 2
    assert before["climber"].truth_sd < -2
    assert after["climber"].hated < 0.05
    assert after["climber"].truth_sd > 2
    # Even who knows the truth finds nothing bad that the bound loves.
    assert before["hunter"].hated > 0.9 and before["hunter"].fooled > 0.9
    assert after["hunter"].hated > 0.9 and after["hunter"].fooled < 0.05


def test_no_item_is_shown_twice_and_the_same_seed_finds_the_same() -> None:
    truth, mean, _ = made_up(30, torch.tensor([0]))
    logged = torch.arange(200).reshape(40, 5) % 30
    found = red_team(mean, truth, torch.arange(40), logged, 30, 1, QUICK)["climber"]
    assert all(len(set(slate)) == 5 for slate in found.slates.tolist())
    again = red_team(mean, truth, torch.arange(40), logged, 30, 1, QUICK)["climber"]
    assert torch.equal(found.slates, again.slates)
    with pytest.raises(InputError, match="nothing to choose"):
        red_team(mean, truth, torch.arange(40), logged, 5, 1)
    with pytest.raises(InputError, match="worth the same"):
        red_team(mean, lambda rows, slates: torch.zeros(slates.shape[:2]), torch.arange(40), logged, 30, 1)


def test_a_trained_reward_climbs_towards_what_is_good(confounded: Trained) -> None:
    model, effect = confounded.model, torch.from_numpy(confounded.log.effect).float()
    logged = torch.from_numpy(confounded.log.decisions.slate[:300:3].astype("int64"))
    states = confounded.states[:300:3]

    def truth(rows: Tensor, slates: Tensor) -> Tensor:
        return effect[slates].sum(-1)

    def scored(kappa: float, penalty: float):
        objective = model.objective(kappa=kappa, penalty=penalty)
        return lambda rows, slates: objective.lower_bound(model.advantage(states[rows], slates))

    mean = red_team(scored(0.0, 0.0), truth, torch.arange(100), logged, ITEMS, 0, QUICK)["climber"]
    bound = red_team(scored(1.0, 0.5), truth, torch.arange(100), logged, ITEMS, 0, QUICK)["climber"]
    for found in (mean, bound):
        assert found.truth_sd > 1.0
        assert found.hated < 0.05
