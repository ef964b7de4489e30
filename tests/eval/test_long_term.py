"""Long-term value from short-term outcomes: exact where its assumption holds, by enumeration or at large samples."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from data.errors import InputError
from eval.actions import ActionBlock
from eval.estimators import point_and_influence
from eval.long_term import cross_fitted, fitted_index, lope_rounds, surrogate_index
from eval.off_policy import OffPolicySettings, off_policy_value
from eval.rounds import checked_columns
from eval.simulated_logs import LongTermWorld

P_LOG, P_NEW = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.3, 0.6])
SHORT = np.array([0.0, 1.0, 2.0])  # mean short-term outcome of each action


def simulated(n: int, own_effect: float, seed: int = 0) -> tuple[ActionBlock, np.ndarray, np.ndarray, float]:
    """(log, context, s, truth): the late reward is 2 s + x, plus the action's own effect, which s does not carry."""
    rng = np.random.default_rng(seed)
    x, action = rng.normal(size=(n, 1)), rng.choice(3, size=n, p=P_LOG)
    s = rng.normal(SHORT[action], 0.5)[:, None]
    own = own_effect * np.array([1.0, 0.0, -1.0])
    reward = 2.0 * s[:, 0] + x[:, 0] + own[action] + rng.normal(size=n)
    q = np.broadcast_to(own, (n, 3))  # a model that knows the action's own effect and nothing else
    block = ActionBlock(action, np.tile(P_LOG, (n, 1)), np.tile(P_NEW, (n, 1)), reward, np.arange(n), q)
    return block, x, s, float(P_NEW @ (2.0 * SHORT + own))


def test_lope_needs_only_the_action_effect_from_its_model_and_varies_less_than_dr() -> None:
    estimates: dict[str, list[float]] = {"lope": [], "dr": []}
    errors = {"lope": 0.0, "dr": 0.0}
    for seed in range(5):
        block, x, s, truth = simulated(4000, own_effect=1.5, seed=seed)
        rounds = lope_rounds(block, x, s, LogisticRegression())
        assert float(np.mean(rounds.surrogate_weight)) == pytest.approx(1.0, abs=0.05)  # three standard errors
        columns = checked_columns(rounds)
        for name in estimates:
            value, influence = point_and_influence(name, columns)
            estimates[name].append(value - truth)
            errors[name] += float(influence.std())
    assert np.mean(estimates["lope"]) == pytest.approx(0.0, abs=0.05)
    assert errors["lope"] < errors["dr"]


def test_lope_is_answered_with_an_interval_and_refusals_like_any_other() -> None:
    block, x, s, truth = simulated(4000, own_effect=1.0)
    found = off_policy_value(lope_rounds(block, x, s, LogisticRegression()), OffPolicySettings(("lope",)))
    estimate = found.estimates["lope"]
    assert estimate.lo is not None
    assert estimate.hi is not None
    assert estimate.lo < truth < estimate.hi
    few = {name: np.asarray(column)[:150] for name, column in block.__dict__.items()}
    refused = off_policy_value(
        lope_rounds(ActionBlock(**few), x[:150], s[:150], LogisticRegression()), OffPolicySettings()
    )
    assert refused.estimates["lope"].value is None


@pytest.mark.parametrize(("own_effect", "right"), [(0.0, True), (1.5, False)])
def test_surrogate_index_is_right_just_where_surrogacy_holds(own_effect: float, right: bool) -> None:
    block, x, s, truth = simulated(6000, own_effect)
    rng = np.random.default_rng(9)
    tried = rng.choice(3, size=3000, p=P_NEW)
    experiment = (rng.normal(size=(3000, 1)), rng.normal(SHORT[tried], 0.5)[:, None])
    found = surrogate_index(LinearRegression(), (x, s, block.reward), experiment)
    assert (abs(found.value - truth) < 4 * found.se) == right


def test_the_surrogate_column_gives_the_index_without_an_experiment() -> None:
    block, x, s, truth = simulated(6000, own_effect=0.0)
    rounds = lope_rounds(block, x, s, LogisticRegression())
    index = fitted_index(LinearRegression(), x, s, np.asarray(block.reward), (x, s))
    columns = checked_columns(type(rounds)(**(rounds.__dict__ | {"index": index})))
    value, influence = point_and_influence("surrogate", columns)
    assert abs(value - truth) < 4 * influence.std() / np.sqrt(6000)


@pytest.mark.parametrize(
    ("share", "logging", "new"), [(0.0, 0.562, 1.061), (0.2, 0.585, 1.081), (0.4, 0.755, 1.29), (0.6, 0.851, 1.368)]
)
def test_the_long_term_world_is_the_published_one(share: float, logging: float, new: float) -> None:
    """Both policies' values as the authors' notebook prints them; its k-means starts anew at every share."""
    world = LongTermWorld(share)
    assert float((world.mean * world.p_log).sum(axis=1).mean()) == pytest.approx(logging, abs=0.06)
    assert world.truth == pytest.approx(new, abs=0.09)
    assert world.mean.mean() == pytest.approx(0.0, abs=1e-12)
    assert world.p_new.sum(axis=1) == pytest.approx(np.ones(1000))


@pytest.mark.parametrize(
    ("share", "ips", "experiment"), [(0.0, 0.194, 0.057), (0.5, 0.188, 0.060), (1.0, 0.180, 0.059)]
)
def test_unbiased_methods_err_there_as_much_as_was_published(share: float, ips: float, experiment: float) -> None:
    """Their mean squared errors are variances and known without a draw; the published ones are of 100 draws."""
    world = LongTermWorld(share)
    squares = world.mean**2 + 5.0**2
    of_ips = (world.p_new**2 / world.p_log * squares).sum(axis=1).mean() - world.truth**2
    of_experiment = (world.p_new * squares).sum(axis=1).mean() - world.truth**2
    assert of_ips / 500 == pytest.approx(ips, abs=0.026)  # one standard error of the published figure
    assert of_experiment / 500 == pytest.approx(experiment, abs=0.01)


def test_logs_of_the_long_term_world_have_its_policies_and_means() -> None:
    world, rng = LongTermWorld(0.5), np.random.default_rng(0)
    new, log = world.draw(rng, 40_000, new=True), world.draw(rng, 40_000)
    rows = np.arange(40_000)
    for drawn, value in ((new, world.truth), (log, float((world.mean * world.p_log).sum(axis=1).mean()))):
        assert drawn.reward.mean() == pytest.approx(value, abs=4 * 5.0 / np.sqrt(40_000))
    w = log.p_new[rows, log.action] / log.p_log[rows, log.action]
    assert w.mean() == pytest.approx(1.0, abs=4 * w.std() / np.sqrt(40_000))


def test_cross_fitting_never_shows_a_model_its_own_users_rewards() -> None:
    rng = np.random.default_rng(1)
    user = np.repeat(np.arange(30), 4)
    reward = rng.normal(size=120)
    marks = np.eye(30)[user]  # a model given the user's mark can only repeat their own rewards
    q = cross_fitted(LinearRegression(fit_intercept=False), marks, reward, user, marks[:, None, :])
    assert np.abs(q).max() < 1e-9
    with pytest.raises(InputError, match="1 for 2 folds"):
        cross_fitted(LinearRegression(), marks[:4], reward[:4], user[:4], marks[:4, None, :])
