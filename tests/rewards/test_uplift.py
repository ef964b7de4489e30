"""Uplift: by hand, and in trials whose effects are known."""

import numpy as np
import pytest

from data.errors import InputError
from rewards.uplift import Trial, area, estimate, gain_curve, qini


def test_a_gain_curve_by_hand() -> None:
    score = np.array([4.0, 3.0, 2.0, 1.0])
    treated = np.array([True, False, True, False])
    outcome = np.array([1.0, 0.0, 1.0, 1.0])
    share, gain = gain_curve(score, treated, outcome, np.full(4, 0.5))
    # One treated: nobody to compare with. Two: 1 - 0. Three: 1 - 0. All: 1 - 1/2.
    assert share.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert gain == pytest.approx([0.0, 0.0, 0.5, 0.75, 0.5])
    assert area(share, gain) == pytest.approx(0.25 * (0.0 + 0.25 + 0.625 + 0.625))
    assert qini(share, gain) == pytest.approx(0.375 - 0.25)


def test_people_of_one_score_have_no_order() -> None:
    rng = np.random.default_rng(0)
    treated, outcome = rng.random(500) < 0.5, (rng.random(500) < 0.3).astype(float)
    share, gain = gain_curve(np.zeros(500), treated, outcome, np.full(500, 0.5))
    assert share.tolist() == [0.0, 1.0]
    assert qini(share, gain) == pytest.approx(0.0)


def made_up_trial(rng: np.random.Generator, n: int, effect: float, confounded: bool) -> tuple[Trial, np.ndarray]:
    """Who comes anyway (first feature) and who is moved (second) are different people."""
    x = rng.standard_normal((n, 4))
    tau = effect * (x[:, 1] > 0)
    e = 1 / (1 + np.exp(-0.8 * x[:, 0])) if confounded else np.full(n, 0.5)
    treated = rng.random(n) < e
    chance = 0.3 + 0.25 * np.tanh(x[:, 0]) + tau * treated
    return Trial(x, treated, (rng.random(n) < chance).astype(float), e), tau


@pytest.fixture(scope="module")
def moved():
    trial, tau = made_up_trial(np.random.default_rng(1), 8000, 0.2, confounded=False)
    return estimate(trial, 0, folds=3, draws=60), tau


def test_what_ranks_by_effect_beats_what_ranks_by_outcome(moved) -> None:
    report, tau = moved
    assert report.effect[1] < tau.mean() < report.effect[2]
    for name in ("t_learner", "r_learner", "dr_learner"):
        found = report.learners[name]
        assert found.over_outcome[1] > 0, name
        # Half of the people gain .2: the best curve lies .025 above that of chance.
        assert found.qini[0] == pytest.approx(0.025, abs=0.012)
        assert found.qini[1] <= found.qini[0] <= found.qini[2]
    assert report.overlap.known and report.overlap.auc == pytest.approx(0.5, abs=0.03)


def test_without_an_effect_nobody_is_found_to_be_moved() -> None:
    trial, _ = made_up_trial(np.random.default_rng(2), 4000, 0.0, confounded=False)
    report = estimate(trial, 0, folds=3, draws=60)
    assert report.effect[1] < 0 < report.effect[2]
    for name, found in report.learners.items():
        assert found.qini[1] < 0 < found.qini[2], name


def test_propensities_that_are_not_known_are_estimated_and_their_overlap_is_said() -> None:
    trial, tau = made_up_trial(np.random.default_rng(3), 8000, 0.2, confounded=True)
    naive = trial.outcome[trial.treated].mean() - trial.outcome[~trial.treated].mean()
    assert naive > tau.mean() + 0.05  # those who come anyway are treated more
    blind = Trial(trial.features, trial.treated, trial.outcome)
    report = estimate(blind, 0, folds=3, draws=40)
    assert report.effect[1] < tau.mean() < report.effect[2]
    overlap = report.overlap
    assert not overlap.known
    assert overlap.auc > 0.65
    assert overlap.imbalance[1] < 0.1 < 0.5 < overlap.imbalance[0]
    assert overlap.ess[0] < blind.treated.sum()


def test_ten_decisions_of_a_person_are_not_ten_people() -> None:
    """Everybody four times over: the same effect and, but for chance, intervals as wide as for everybody once."""
    trial, _ = made_up_trial(np.random.default_rng(4), 2000, 0.2, confounded=False)
    rows = np.tile(np.arange(2000), 4)
    assert trial.propensity is not None
    x, t, y, e = trial.features[rows], trial.treated[rows], trial.outcome[rows], trial.propensity[rows]
    once = estimate(trial, 0, folds=3, draws=60)
    grouped = estimate(Trial(x, t, y, e, np.array([f"u{i}" for i in rows])), 0, folds=3, draws=60)
    split = estimate(Trial(x, t, y, e), 0, folds=3, draws=60)
    width = once.effect[2] - once.effect[1]
    assert grouped.effect[2] - grouped.effect[1] == pytest.approx(width, rel=0.1)
    assert split.effect[2] - split.effect[1] < 0.6 * width  # what taking every row for a person would claim
    # Nobody is ranked by a model that has seen them: a model of rows knows people by heart and ranks them by luck.
    for name in ("t_learner", "dr_learner"):
        assert grouped.learners[name].qini[0] < split.learners[name].qini[0], name
    with pytest.raises(InputError, match="100 treated"):
        estimate(Trial(x, t, y, e, np.where(t, rows % 100, rows)), 0)


def test_a_trial_that_cannot_say_is_refused() -> None:
    x = np.zeros((500, 1))
    half = np.arange(500) % 2 == 0
    with pytest.raises(InputError, match="200"):
        estimate(Trial(x, np.arange(500) < 20, np.zeros(500)), 0)
    for none in (np.zeros((500, 0)), np.zeros((0, 0)), np.zeros(500)):
        with pytest.raises(InputError, match="uplift: features of shape"):
            estimate(Trial(none, half, np.zeros(500)), 0)
    with pytest.raises(InputError, match="not in"):
        estimate(Trial(x, half, np.zeros(500), np.ones(500)), 0)
    with pytest.raises(InputError, match="not known yet"):
        estimate(Trial(x, half, np.full(500, np.nan)), 0)
