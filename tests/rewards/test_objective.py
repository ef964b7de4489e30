from dataclasses import replace

import numpy as np
import pytest
import torch

from data.errors import InputError
from rewards.objective import LoggingMoments, SlateScores, default_weights
from rewards.pareto import keep, levels_of, sweep

LABELS = ("returned_7d", "active_days_28", "habit_28")


def _logged(n: int = 4000) -> tuple[LoggingMoments, SlateScores]:
    rng = np.random.default_rng(0)
    mix = np.array([[0.02, 0.0, 0.0], [0.2, 0.3, 0.0], [0.03, 0.02, 0.05]])
    mean = torch.from_numpy(rng.standard_normal((n, 3)) @ mix.T).float()[:, None]
    moments = LoggingMoments(LABELS, np.cov(mean[:, 0].numpy().T))
    return moments, SlateScores(mean, torch.full_like(mean, 0.01), torch.ones(n, 1))


def test_the_reward_has_unit_variance_under_logging_whatever_the_weights() -> None:
    moments, scores = _logged()
    for weights in (None, {"returned_7d": 1.0}, {"active_days_28": 3.0, "habit_28": -1.0}):
        objective = moments.objective(weights, kappa=0.0)
        assert abs(float(objective.lower_bound(scores).std()) - 1.0) < 0.01


def test_spread_and_lack_of_support_only_take_away() -> None:
    moments, scores = _logged(50)
    objective = moments.objective(kappa=1.0, penalty=0.5)
    sure = SlateScores(scores.mean, torch.zeros_like(scores.spread), scores.support)
    torch.testing.assert_close(objective.lower_bound(sure), objective.value(sure))
    assert bool((objective.lower_bound(scores) < objective.value(scores)).all())
    rare = SlateScores(scores.mean, scores.spread, torch.full((50, 1), -2.0))
    torch.testing.assert_close(objective.lower_bound(rare), objective.lower_bound(scores) - 1.0)


def test_a_constraint_gains_weight_while_it_is_broken() -> None:
    moments, scores = _logged()
    objective = moments.objective({"active_days_28": 1.0}, constraints=("habit_28", "reachable_28"))
    assert [c.label for c in objective.constraints] == ["habit_28"], "a label the log lacks is left out"
    worse = SlateScores(scores.mean - 0.2, scores.spread, scores.support)
    once = objective.updated(worse)
    assert once.constraints[0].multiplier > 0
    assert once.updated(worse).constraints[0].multiplier > once.constraints[0].multiplier
    better = SlateScores(scores.mean + 5.0, scores.spread, scores.support)
    assert once.updated(better).constraints[0].multiplier == 0.0
    gain = torch.zeros(1, 1, 3)
    gain[..., 2] = 0.1
    bonus = SlateScores(gain, torch.zeros(1, 1, 3), torch.ones(1, 1))
    assert float(once.lower_bound(bonus)) > float(objective.lower_bound(bonus))


def test_weights_follow_what_the_log_carries() -> None:
    assert default_weights(("returned_7d", "active_days_28", "plays")) == {"active_days_28": 1.0, "returned_7d": 0.5}
    assert default_weights(("returned_1d", "returned_7d", "plays")) == {"returned_7d": 1.0, "returned_1d": 0.5}
    assert default_weights(("plays",)) == {"plays": 1.0}


def test_a_weight_on_a_label_that_is_not_there_names_it() -> None:
    with pytest.raises(InputError, match="converted_28"):
        _logged(10)[0].objective({"converted_28": 1.0})


def _candidates(n: int = 200, slates: int = 30) -> tuple[LoggingMoments, SlateScores]:
    """Candidates whose active days and habit pull apart, and return goes its own way."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((n, slates, 3))
    x[..., 2] = -0.7 * x[..., 1] + 0.7 * x[..., 2]
    mean = torch.from_numpy(x * np.array([0.02, 0.3, 0.05])).float()
    moments = LoggingMoments(LABELS, np.cov(mean.reshape(-1, 3).numpy().T))
    return moments, SlateScores(mean, torch.full_like(mean, 0.001), torch.ones(n, slates))


def test_ten_times_the_weights_ask_for_the_same() -> None:
    moments, scores = _candidates()
    once = moments.objective({"active_days_28": 1.0, "habit_28": 0.5}).lower_bound(scores)
    tenfold = moments.objective({"active_days_28": 10.0, "habit_28": 5.0}).lower_bound(scores)
    torch.testing.assert_close(once, tenfold)


def test_the_front_goes_from_one_end_to_the_other() -> None:
    moments, scores = _candidates()
    front = sweep(moments, ("active_days_28", "habit_28"), scores, kappa=0.0)
    days = [point.gain["active_days_28"] for point in front.points]
    habit = [point.gain["habit_28"] for point in front.points]
    # Chosen and valued by the same scores, more weight can only bring more of what is weighted.
    assert np.all(np.diff(days) <= 1e-6)
    assert np.all(np.diff(habit) >= -1e-6)
    assert not any(point.dominated for point in front.points)
    best = scores.mean[..., 1].max(1).values.mean()
    assert days[0] == pytest.approx(float(best), abs=1e-5)
    assert front.json()["traded"] == ["active_days_28", "habit_28"]
    told = " ".join(front.sentences())
    assert "All weight on active days 28" in told and "costs" in told


def _two(gains: torch.Tensor) -> tuple[LoggingMoments, SlateScores]:
    """Candidates (B, N, 2) of active days and habit in standard deviations under logging, all of them sure."""
    moments = LoggingMoments(("active_days_28", "habit_28"), np.eye(2))
    return moments, SlateScores(gains, torch.zeros_like(gains), torch.zeros(gains.shape[:2]))


def test_what_comes_free_is_judged_by_what_each_state_loses() -> None:
    level = 3.0 * torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    lost = torch.tensor([[[0.0, 0.0], [-0.15, 1.0]]]).repeat(200, 1, 1)
    lost[..., 0] += level
    moments, scores = _two(lost)
    front = sweep(moments, ("active_days_28", "habit_28"), scores, kappa=0.0)
    # Every state loses .15, which is less than the error of a level over states so different.
    assert front.points[-1].error["active_days_28"] > 0.15
    assert "cost no" not in " ".join(front.sentences())
    assert set(front.json()["points"][0]) == {"weights", "gain", "error", "dominated"}
    # Half lose, half gain as much: that is within its error.
    sign = torch.tensor([1.0, -1.0]).repeat(100)
    even = lost.clone()
    even[:, 1, 0] = level[:, 0] + 0.15 * sign
    valued = SlateScores(even, scores.spread, scores.support)
    assert "cost no" in " ".join(sweep(moments, ("active_days_28", "habit_28"), scores, valued, kappa=0.0).sentences())


def test_scores_that_chose_a_slate_flatter_it() -> None:
    moments, scores = _candidates()
    noise = torch.randn(scores.mean.shape, generator=torch.Generator().manual_seed(0)) * 0.3
    noisy = SlateScores(scores.mean + noise, scores.spread, scores.support)
    traded = ("active_days_28", "habit_28")
    flattered, honest = sweep(moments, traded, noisy), sweep(moments, traded, noisy, scores)
    assert flattered.points[0].gain["active_days_28"] > honest.points[0].gain["active_days_28"] + 0.1


def test_a_promise_is_kept_at_the_least_price() -> None:
    moments, scores = _candidates()
    objective = moments.objective({"active_days_28": 1.0}, kappa=0.0, constraints=("habit_28",))
    assert levels_of(objective, scores)["habit_28"] < -0.5
    kept = keep(objective, scores)
    assert kept.broken == ()
    assert 0.0 <= kept.levels["habit_28"] < 0.3
    assert kept.price > 0
    assert "held at" in kept.sentences()[0]
    # A promise nobody can keep is said to be broken; one that needs nothing is free.
    most = objective.constraints[0]
    impossible = keep(replace(objective, constraints=(replace(most, floor=50.0),)), scores)
    assert impossible.broken == ("habit_28",)
    easy = keep(replace(objective, constraints=(replace(most, floor=-50.0),)), scores)
    assert easy.objective.constraints[0].multiplier == 0.0
    assert easy.price == pytest.approx(0.0)
    assert "free" in easy.sentences()[0]


@pytest.mark.parametrize("loss", [0.3, 0.05, 0.01, 0.001])
@pytest.mark.parametrize("weight", [1.0, 10.0])
def test_what_can_be_kept_is_kept_however_dear(loss: float, weight: float) -> None:
    moments, scores = _two(torch.tensor([[[3.0, -loss], [0.0, 0.0]]]).repeat(20, 1, 1))
    kept = keep(moments.objective({"active_days_28": weight}, kappa=0.0, constraints=("habit_28",)), scores)
    assert kept.broken == ()
    assert kept.levels["habit_28"] == 0.0
    # As much of habit as is lost must be worth the three of active days that are given up for it.
    assert kept.objective.constraints[0].multiplier == pytest.approx(3.0 * weight / loss, rel=1e-4)
    assert kept.price == pytest.approx(3.0)


def test_what_cannot_be_kept_says_what_is_on_offer() -> None:
    moments, scores = _two(torch.tensor([[[3.0, -0.5], [0.0, -0.2]]]).repeat(20, 1, 1))
    objective = moments.objective({"active_days_28": 1.0}, kappa=0.0, constraints=("habit_28",))
    kept = keep(objective, scores)
    assert kept.broken == ("habit_28",)
    assert kept.levels["habit_28"] == pytest.approx(-0.2), "as near as it comes"
    assert kept.sentences()[0] == "habit 28 cannot be kept at +0.00: the best on offer is -0.20."
    assert kept.objective.constraints[0].multiplier == pytest.approx(10.0, rel=1e-4)
    # On offer, but only by a slate of which nobody is sure.
    spread = torch.zeros_like(scores.mean)
    spread[:, 1, 1] = 1.0
    moments, scores = _two(torch.tensor([[[3.0, -0.5], [0.0, 0.1]]]).repeat(20, 1, 1))
    unsure = keep(replace(objective, kappa=1.0), SlateScores(scores.mean, spread, scores.support))
    assert unsure.broken == ("habit_28",)
    assert "not kept at +0.00 by any price: it comes to -0.50" in unsure.sentences()[0]


def test_several_promises_are_kept_together() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((300, 40, 3))
    x[..., 1:] -= 0.5 * x[..., :1]
    mean = torch.from_numpy(x).float()
    scores = SlateScores(mean, torch.zeros_like(mean), torch.zeros(mean.shape[:2]))
    moments = LoggingMoments(LABELS, np.eye(3))
    objective = moments.objective({"returned_7d": 1.0}, kappa=0.0, constraints=("active_days_28", "habit_28"))
    kept = keep(objective, scores)
    assert kept.broken == ()
    assert all(0.0 <= level < 0.05 for level in kept.levels.values())
    for place in (0, 1):
        given = list(kept.objective.constraints)
        given[place] = replace(given[place], multiplier=0.99 * given[place].multiplier)
        cheaper = levels_of(replace(kept.objective, constraints=tuple(given)), scores)
        assert cheaper[given[place].label] < 0.0, "less would not do"
