"""Checks whose answer is known: they pass on honest logs and fail on logs that lie in the way they look for."""

from dataclasses import replace

import numpy as np
import pytest

from data.errors import InputError
from eval.diagnostics import control_variates, overlap, placebo, propensity_calibration
from eval.rounds import LoggedRounds
from eval.sensitivity import sensitivity, tipping_point
from eval.simulated_logs import BanditLog

WORLD = BanditLog(users=600, rounds=5, user_effect=0.5)


def honest(seed: int = 0) -> tuple[LoggedRounds, np.ndarray]:
    """A log, and its actions."""
    log = WORLD.draw(np.random.default_rng(seed))
    assert log.log_p_log is not None
    p_log, _, _ = WORLD.policies
    return log, np.abs(np.exp(log.log_p_log)[:, None] - p_log).argmin(axis=1)


def test_control_variates_pass_on_an_honest_log_at_their_level() -> None:
    _, p_new, _ = WORLD.policies
    failed = 0
    for seed in range(60):
        log, action = honest(seed)
        share = (action == 4).astype(float), np.full(action.size, p_new[4])
        failed += not all(check.passed for check in control_variates(log, {"shows action 4": share}))
    assert failed <= 3


def test_wrong_propensities_are_found_by_control_variates() -> None:
    log, action = honest()
    assert log.log_p_log is not None
    lying = replace(log, log_p_log=np.log(np.exp(log.log_p_log) * np.where(action == 4, 0.6, 1.0)))
    (check,) = control_variates(lying)
    assert not check.passed
    assert check.found.value > 1.1


def test_placebo_finds_an_outcome_that_chose_the_slate() -> None:
    log, action = honest(1)
    rng = np.random.default_rng(2)
    before = {"visits last week": rng.poisson(3.0, action.size).astype(float)}
    assert placebo(log, before)[0].passed
    told = {"visits last week": before["visits last week"] + 1.0 * (action >= 3)}  # heavy users got other actions
    (check,) = placebo(log, told)
    assert not check.passed
    assert check.found.value > 0


def test_calibration_shows_what_probabilities_are_worth() -> None:
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.ones(8) * 0.5, 6000)
    action = (p.cumsum(axis=1) > rng.random(6000)[:, None]).argmax(axis=1)
    user = np.arange(6000) // 4
    blocks = [(p[:2500], action[:2500], user[:2500]), (p[2500:], action[2500:], user[2500:])]
    bins = propensity_calibration(blocks)
    assert len(bins) > 6
    assert sum(one.pairs for one in bins) == 6000 * 8
    inside = [one.observed.lo <= one.predicted <= one.observed.hi for one in bins if one.pairs > 500]
    assert sum(inside) >= len(inside) - 1
    sharper = p**2 / (p**2).sum(axis=1, keepdims=True)
    overconfident = propensity_calibration([(sharper, action, user)])
    assert overconfident[-1].observed.hi < overconfident[-1].predicted


def test_overlap_names_the_segment_that_has_none() -> None:
    log, action = honest(4)
    old = np.asarray(log.user) % 3 > 0
    never = np.where(old, np.asarray(log.log_p_new), -np.inf)
    found = overlap(replace(log, log_p_new=never), np.where(old, "over 25", "under 25"))
    assert list(found) == ["under 25", "over 25"]
    assert found["under 25"].refused is not None
    assert found["over 25"].refused is None
    assert action.size == log.reward.size


def test_sensitivity_bounds_are_the_best_of_all_corners() -> None:
    """Eight rounds: every way to put weights at one end or the other, tried."""
    rng = np.random.default_rng(5)
    p_log, p_new, r = rng.uniform(0.2, 0.9, 8), rng.uniform(0.2, 0.9, 8), rng.normal(size=8)
    rounds = LoggedRounds(np.log(p_log), np.log(p_new), r, np.arange(8))
    gamma = 1.7
    low, high = (p_new * (1 + (1 / p_log - 1) * factor) for factor in (1 / gamma, gamma))
    values = []
    for corner in range(256):
        w = np.where((corner >> np.arange(8)) & 1, high, low)
        values.append(float((w * r).sum() / w.sum() - r.mean()))
    (bound,) = sensitivity(rounds, (gamma,), draws=20)
    assert (bound.least, bound.most) == pytest.approx((min(values), max(values)))


def test_no_confounding_gives_the_estimate_and_more_gives_wider_bounds() -> None:
    log, _ = honest(6)
    bounds = sensitivity(log, (1.0, 1.2, 3.0), draws=60)
    assert bounds[0].least == pytest.approx(bounds[0].most)
    assert bounds[2].lo < bounds[1].lo < bounds[0].lo < bounds[0].hi < bounds[1].hi < bounds[2].hi
    assert bounds[0].lo > 0  # the new policy is better, and it takes a factor of up to 3 to say otherwise
    assert tipping_point(bounds) == 3.0
    with pytest.raises(InputError, match=r"gamma 0.5"):
        sensitivity(log, (0.5,))
