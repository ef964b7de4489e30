"""The long-term value of a policy from what is seen soon.

Two ways, for two situations. A short experiment of the new policy has short-term outcomes s and no long-term reward
yet: `surrogate_index` foretells it from a log where both are known (Athey, Chetty, Imbens & Kang 2019). No experiment,
only a log of another policy, with both: `lope_rounds` weighs by how much likelier s is under the new policy, which is
known far better than how much likelier the action is (LOPE; Saito, Abdollahpouri, Anderton, Carterette & Lalmas 2024).
Both give columns for `off_policy_value`, so intervals by user and refusals are those of every other estimator.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from data.errors import InputError
from eval.actions import ActionBlock, action_rounds
from eval.intervals import Floats, Interval, mean_interval
from eval.rounds import LoggedRounds


class Regressor(Protocol):
    """A scikit-learn regressor, or anything that fits and predicts like one."""

    def fit(self, x: Floats, y: Floats) -> object: ...

    def predict(self, x: Floats) -> Floats: ...


class Classifier(Protocol):
    """A scikit-learn classifier of the action taken."""

    classes_: NDArray[np.integer]

    def fit(self, x: Floats, y: NDArray[np.integer]) -> object: ...

    def predict_proba(self, x: Floats) -> Floats: ...


def surrogate_index(
    model: Regressor,
    logged: tuple[Floats, Floats, Floats],
    experiment: tuple[Floats, Floats],
    user: NDArray[np.generic] | None = None,
) -> Interval:
    """Mean foretold long-term reward in an experiment whose own is not known yet.

    logged: context x (n, d), short-term outcomes s (n, k) and long-term reward (n,) of a log. experiment: x and s of
    the new policy's users; user: their ids, for the interval. The interval is over the experiment's users, with g as
    fitted; it does not know whether surrogacy holds. Raises InputError where columns do not fit together.
    """
    index = fitted_index(model, *logged, experiment)
    return mean_interval(index, user)


def fitted_index(model: Regressor, x: Floats, s: Floats, reward: Floats, at: tuple[Floats, Floats]) -> Floats:
    """g(x, s) fitted on a log and read at other rows: the column `index` of LoggedRounds."""
    if not len(x) == len(s) == len(reward):
        raise InputError(f"surrogate: {len(x)} contexts, {len(s)} short-term outcomes and {len(reward)} rewards")
    model.fit(np.concatenate([x, s], axis=1), reward)
    predicted: Floats = np.asarray(model.predict(np.concatenate(at, axis=1)), dtype=np.float64)
    return predicted


def lope_rounds(
    block: ActionBlock,
    x: Floats,
    s: Floats,
    classifier: Classifier,
    also: tuple[Floats, NDArray[np.integer]] | None = None,
) -> LoggedRounds:
    """Columns of a log with the surrogate weight w(x, s) = E[w(x, a) | x, s], for the estimator `lope`.

    block: every action's probability under both policies and its modelled long-term reward q(x, a). x (n, d), s (n, k):
    context and short-term outcomes. classifier: of the logged action given (x, s); its probabilities average the
    weights (Saito et al. 2024). also: (x, s) side by side and actions of another log of the same policy, which
    help the classifier and need no long-term reward. Raises InputError as `action_rounds`.
    """
    if block.p_log.ndim != 2:
        raise InputError("p_log: give it of every action (B, A); the weight of s is a mean over actions")
    seen, taken = np.concatenate([x, s], axis=1), np.asarray(block.action)
    learned = seen if also is None else np.concatenate([seen, also[0]])
    classifier.fit(learned, taken if also is None else np.concatenate([taken, also[1]]))
    posterior = np.zeros(block.p_new.shape)
    posterior[:, classifier.classes_] = classifier.predict_proba(seen)
    rounds = action_rounds(block, posterior)
    columns = {**rounds.__dict__, "surrogate_weight": rounds.embedding_weight, "embedding_weight": None}
    return LoggedRounds(**columns)


def cross_fitted(
    model: Regressor,
    x: Floats,
    reward: Floats,
    user: NDArray[np.generic],
    at: NDArray[np.floating],
    folds: int = 2,
    seed: int = 0,
) -> Floats:
    """Predictions (n, A) at features `at` (n, A, d), each round's by a model that saw none of its user's rounds.

    For q of DR-like estimators: a model that has seen a round's own reward takes part of the noise for effect.
    """
    users, codes = np.unique(user, return_inverse=True)
    if len(users) < folds:
        raise InputError(f"users: {len(users)} for {folds} folds; a model needs users that it has not seen")
    fold = np.random.default_rng(seed).permutation(len(users))[codes] % folds
    found = np.empty(at.shape[:2])
    for held in range(folds):
        mine = fold == held
        fitted = clone(model)
        fitted.fit(x[~mine], reward[~mine])
        found[mine] = np.asarray(fitted.predict(at[mine].reshape(-1, at.shape[2]))).reshape(-1, at.shape[1])
    return found
