"""What policies of contact are worth on a log in which chance decided who got what: a trial with two arms or more.

A policy is a chance of each arm for each person. Its value comes from `eval.off_policy` on the logged probabilities,
with outcome models of the arms fitted without the people they are asked about, so that a policy learned here can be
judged here. The effect of an arm is its AIPW contrast with the control arm (Robins, Rotnitzky & Zhao 1994).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError
from eval.intervals import Floats, Interval, mean_interval, ratio_interval
from eval.off_policy import OffPolicySettings, OffPolicyValue, off_policy_value
from eval.rounds import LoggedRounds
from rewards.uplift import trees

ESTIMATORS = ("ips", "snips", "dr", "sndr")
FOLDS = 5
FEWEST = 200  # of each arm


@dataclass(frozen=True)
class ArmTrial:
    """n people: features (n, F), the arm of each, a place in `arms`, and the probability (arms,) it was drawn with."""

    features: Floats
    arm: NDArray[np.int64]
    arms: tuple[str, ...]
    chance: Floats
    control: str

    def __post_init__(self) -> None:
        if self.control not in self.arms:
            raise InputError(f"trial: no arm {self.control!r}: the log has {', '.join(self.arms)}")
        for place, name in enumerate(self.arms):
            size = int((self.arm == place).sum())
            if size < FEWEST:
                raise InputError(f"trial: {size} people in arm {name!r}; at least {FEWEST} of each are needed")
        if not np.all((self.chance > 0) & (self.chance < 1)) or abs(float(self.chance.sum()) - 1.0) > 1e-6:
            raise InputError(f"trial: arms were drawn with {self.chance}: give probabilities in (0, 1) that sum to 1")

    @property
    def zero(self) -> int:
        """Place of the control arm."""
        return self.arms.index(self.control)


@dataclass(frozen=True)
class ArmModels:
    """Of one outcome: what each arm would bring each person, (n, arms), and the effect over control, by models that
    have not seen that person. score: AIPW scores (n, arms), whose means are the arms' values."""

    outcome: Floats
    expected: Floats
    effect: Floats
    score: Floats


def crossfit(trial: ArmTrial, outcome: Floats, seed: int = 0) -> ArmModels:
    """Models of an outcome (n,) across FOLDS folds; effects by regression of the AIPW contrasts (Kennedy 2023)."""
    n, arms = len(trial.arm), len(trial.arms)
    fold = np.random.default_rng(seed).permutation(n) % FOLDS
    expected, effect = np.empty((n, arms)), np.zeros((n, arms))
    for k in range(FOLDS):
        for a in range(arms):
            rows = (fold != k) & (trial.arm == a)
            expected[fold == k, a] = trees(trial.features[rows], outcome[rows], None, seed)(trial.features[fold == k])
    taken = np.eye(arms)[trial.arm]
    score = expected + taken * (outcome[:, None] - expected) / trial.chance
    for k in range(FOLDS):
        teach, ask = fold != k, fold == k
        for a in range(arms):
            if a != trial.zero:
                contrast = score[teach, a] - score[teach, trial.zero]
                effect[ask, a] = trees(trial.features[teach], contrast, None, seed)(trial.features[ask])
    return ArmModels(outcome, expected, effect, score)


def arm_means(trial: ArmTrial, outcome: Floats) -> dict[str, Interval]:
    """Arm -> mean outcome of those drawn into it."""
    return {
        name: ratio_interval(outcome * (trial.arm == a), (trial.arm == a).astype(np.float64))
        for a, name in enumerate(trial.arms)
    }


def average_effects(trial: ArmTrial, models: ArmModels) -> dict[str, Interval]:
    """Arm -> its average effect over control."""
    return {
        name: mean_interval(models.score[:, a] - models.score[:, trial.zero])
        for a, name in enumerate(trial.arms)
        if a != trial.zero
    }


def policies(trial: ArmTrial, models: ArmModels, budgets: tuple[float, ...]) -> dict[str, Floats]:
    """Name -> chance of each arm (n, arms): nobody, everybody by arm, and by budget the learned policy and, to tell
    targeting from treating, the same number of the same messages to people at random."""
    n, arms = models.expected.shape
    found = {"nobody": np.tile(np.eye(arms)[trial.zero], (n, 1))}
    for a, name in enumerate(trial.arms):
        if a != trial.zero:
            found[f"all {name}"] = np.tile(np.eye(arms)[a], (n, 1))
    rows = np.arange(n)
    worth = models.effect.copy()
    worth[:, trial.zero] = -np.inf
    best = worth.argmax(axis=1)
    order = np.argsort(-worth[rows, best], kind="stable")
    for budget in budgets:
        if not 0.0 < budget <= 1.0:
            raise InputError(f"budget {budget}: give the share of people to contact, above 0 and at most 1")
        chosen = np.full(n, trial.zero)
        first = order[: int(np.floor(budget * n))]
        first = first[worth[first, best[first]] > 0]
        chosen[first] = best[first]
        learned = np.eye(arms)[chosen]
        found[f"learned, {budget:.0%}"] = learned
        found[f"random, {budget:.0%}"] = np.tile(learned.mean(axis=0), (n, 1))
    return found


def policy_value(
    trial: ArmTrial, models: ArmModels, chance: Floats, settings: OffPolicySettings | None = None
) -> OffPolicyValue:
    """The value of a policy, chance (n, arms), by every estimator of ESTIMATORS, or why the log cannot say."""
    if chance.shape != models.expected.shape or not np.allclose(chance.sum(axis=1), 1.0):
        raise InputError(f"policy: chances of shape {chance.shape}; give one a person and arm that sum to 1")
    rows = np.arange(len(trial.arm))
    with np.errstate(divide="ignore"):
        log_new = np.log(chance[rows, trial.arm])
    rounds = LoggedRounds(
        log_p_log=np.log(trial.chance[trial.arm]),
        log_p_new=log_new,
        reward=models.outcome,
        user=rows,
        q=models.expected[rows, trial.arm],
        v=(chance * models.expected).sum(axis=1),
        off_support=np.zeros(len(rows)),
    )
    return off_policy_value(rounds, settings or OffPolicySettings(estimators=ESTIMATORS))


def targeting(models: ArmModels, chance: Mapping[str, Floats], one: str, other: str) -> Interval:
    """Value of policy `one` less that of `other`, paired person by person (the difference of their DR values)."""
    return mean_interval(((chance[one] - chance[other]) * models.score).sum(axis=1))
