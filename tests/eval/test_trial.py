"""Policies of contact on a trial: right where effects are known, the published averages where they are published."""

import numpy as np
import pytest

from data.errors import InputError
from data.readers import hillstrom
from eval.trial import (
    ArmModels,
    ArmTrial,
    arm_means,
    average_effects,
    crossfit,
    policies,
    policy_value,
    targeting,
)
from scripts.trial_policies import TrialArguments, trial_of
from tests.data.readers.round_trip import real_log

CHANCE = np.array([0.5, 0.3, 0.2])
# Hillstrom 2008, as published with the data: of the customers of each arm, visits, conversions and dollars.
PUBLISHED = {
    "open": {"mens_email": 0.183, "womens_email": 0.151, "no_email": 0.106},
    "convert": {"mens_email": 0.0125, "womens_email": 0.0088, "no_email": 0.0057},
    "value": {"mens_email": 1.42, "womens_email": 1.08, "no_email": 0.65},
}


def made_up(people: int = 8000, seed: int = 0) -> tuple[ArmTrial, np.ndarray, np.ndarray]:
    """A trial, its outcome, and the true chance of it under each arm: arm b helps half and hurts half."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((people, 3))
    likes = x[:, 0] > 0
    chance = np.stack([np.full(people, 0.2), np.full(people, 0.25), np.where(likes, 0.45, 0.05)], axis=1)
    chance += 0.1 * (x[:, 1:2] > 0)
    arm = rng.choice(3, people, p=CHANCE)
    outcome = (rng.random(people) < chance[np.arange(people), arm]).astype(np.float64)
    return ArmTrial(x, arm, ("none", "a", "b"), CHANCE, "none"), outcome, chance


def test_values_effects_and_the_learned_policy_are_what_they_truly_are() -> None:
    trial, outcome, chance = made_up()
    models = crossfit(trial, outcome)
    for a, name in enumerate(trial.arms):
        mean = arm_means(trial, outcome)[name]
        assert mean.lo - 0.005 < chance[:, a].mean() < mean.hi + 0.005
        if name != "none":
            effect = average_effects(trial, models)[name]
            true = (chance[:, a] - chance[:, 0]).mean()
            assert effect.lo - 0.005 < true < effect.hi + 0.005
    made = policies(trial, models, (0.4,))
    assert set(made) == {"nobody", "all a", "all b", "learned, 40%", "random, 40%"}
    assert made["learned, 40%"][:, 0].mean() == pytest.approx(0.6)
    for name, of in made.items():
        value = policy_value(trial, models, of)
        truth = float((of * chance).sum(axis=1).mean())
        for estimator in ("ips", "snips", "dr", "sndr"):
            found = value.estimates[estimator]
            assert found.refused is None, name
            assert found.value == pytest.approx(truth, abs=0.03), (name, estimator)
    gain = targeting(models, made, "learned, 40%", "random, 40%")
    true_gain = float(((made["learned, 40%"] - made["random, 40%"]) * chance).sum(axis=1).mean())
    assert true_gain > 0.05, "it finds those whom arm b helps"
    assert gain.lo < true_gain < gain.hi
    assert gain.lo > 0


def test_a_budget_is_not_spent_on_people_whom_nothing_helps() -> None:
    trial, outcome, _ = made_up()
    models = crossfit(trial, outcome)
    harmful = ArmModels(models.outcome, models.expected, np.minimum(models.effect, 0.0), models.score)
    learned = policies(trial, harmful, (0.5,))["learned, 50%"]
    assert learned[:, trial.zero].all()


def test_what_is_no_trial_is_refused() -> None:
    trial, outcome, _ = made_up(2000)
    with pytest.raises(InputError, match="no arm 'nothing'"):
        ArmTrial(trial.features, trial.arm, trial.arms, CHANCE, "nothing")
    with pytest.raises(InputError, match="sum to 1"):
        ArmTrial(trial.features, trial.arm, trial.arms, CHANCE / 2, "none")
    with pytest.raises(InputError, match="people in arm 'b'"):
        ArmTrial(trial.features, np.where(trial.arm == 2, 0, trial.arm), trial.arms, CHANCE, "none")
    models = ArmModels(outcome, *(np.zeros((2000, 3)) for _ in range(3)))
    with pytest.raises(InputError, match="budget 2"):
        policies(trial, models, (2.0,))
    with pytest.raises(InputError, match="sum to 1"):
        policy_value(trial, models, np.ones((2000, 3)))


def test_the_published_averages_of_the_e_mail_trial() -> None:
    logs = hillstrom.read(real_log("hillstrom_email_rct"))
    trial, outcomes = trial_of(logs, TrialArguments(logs="hillstrom"))
    np.testing.assert_allclose(trial.chance, 1 / 3)
    for name, published in PUBLISHED.items():
        outcome = outcomes[name]
        means = np.array([outcome[trial.arm == a].mean() for a in range(3)])
        expected = np.tile(means, (len(outcome), 1))  # the arms' means as models: values then need no fitting
        score = expected + np.eye(3)[trial.arm] * (outcome[:, None] - expected) / trial.chance
        models = ArmModels(outcome, expected, np.zeros_like(expected), score)
        effects = average_effects(trial, models)
        for a, arm in enumerate(trial.arms):
            policy = np.tile(np.eye(3)[a], (len(outcome), 1))
            value = policy_value(trial, models, policy).estimates["dr"]
            assert value.lo is not None
            assert value.hi is not None
            assert value.lo < published[arm] < value.hi, (name, arm)
            assert arm_means(trial, outcome)[arm].value == pytest.approx(published[arm], rel=0.02)
            if arm != "no_email":
                assert effects[arm].lo < published[arm] - published["no_email"] < effects[arm].hi
                assert effects[arm].lo > 0
