"""Small logs whose truth is known, to try estimators and intervals on: what they should say is a number, not a hope."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.cluster import KMeans

from eval.actions import ActionBlock
from eval.intervals import Floats
from eval.rounds import LoggedRounds


@dataclass(frozen=True)
class BanditLog:
    """Rounds of users over A actions, whose new policy is worth `truth`.

    shift: how far apart the policies are; p(action a) is softmax of -shift (logging) and +shift (new) times a / A over
    actions. user_effect: standard deviation of what a user adds to all their rewards. model: the outcome model is this
    multiple of the truth.
    """

    users: int = 200
    rounds: int = 25
    actions: int = 5
    shift: float = 0.5
    user_effect: float = 0.0
    model: float = 0.7
    noise: float = 0.5

    @property
    def policies(self) -> tuple[Floats, Floats, Floats]:
        """p_log, p_new and the actions' mean rewards, (A,) each."""
        steps = np.linspace(-1.0, 1.0, self.actions)
        p_log, p_new = softmax(-self.shift * steps), softmax(self.shift * steps)
        return p_log, p_new, 0.5 + 0.4 * steps

    @property
    def truth(self) -> float:
        """The new policy's value."""
        _, p_new, value = self.policies
        return float(p_new @ value)

    def draw(self, rng: np.random.Generator) -> LoggedRounds:
        """One log."""
        p_log, p_new, value = self.policies
        n = self.users * self.rounds
        action = rng.choice(self.actions, size=n, p=p_log)
        effect = np.repeat(rng.normal(size=self.users), self.rounds) * self.user_effect
        reward = value[action] + effect + rng.normal(size=n) * self.noise
        return LoggedRounds(
            log_p_log=np.log(p_log[action]),
            log_p_new=np.log(p_new[action]),
            reward=reward,
            user=np.repeat(np.arange(self.users), self.rounds),
            q=self.model * value[action],
            v=np.full(n, self.model * self.truth),
        )


@dataclass(frozen=True)
class LongTermLog:
    """Rounds of the setting of Saito et al. (2024, section 5): x, the action, short-term outcomes s, a late reward."""

    x: Floats
    s: Floats
    action: NDArray[np.int64]
    reward: Floats
    p_log: Floats  # (n, A)
    p_new: Floats


# What a user of each of the three groups makes of the three short-term outcomes, as the authors publish it.
GROUP_WEIGHTS = ((0.1, 0.5, -0.35), (0.0, 0.05, -0.05), (-0.3, 0.55, -0.5))


class LongTermWorld:
    """Where a late reward comes about by short-term outcomes, by the action itself, or by both.

    E[r | x, a] = (1 - share) g(x, f(x, a)) + share h(x, a), standardised: f the expected short-term outcomes, bilinear
    in context and action, g linear in them with weights of the user's group and, as the authors do it, of mean 0 and
    variance 1 over users for each action, h bilinear. `share` is the part that no short-term outcome can foretell.
    Logging is a softmax of that mean, the new policy takes its `top` best actions.

    Drawn in the order of the authors' code and by their generator, so that seed 12345 is the world of the paper, but
    for the start of its k-means. Since every action's g is scaled by itself, what an outcome is worth depends a little
    on the action that it came from: surrogacy does not hold to the letter even at share 0.
    """

    def __init__(self, share: float, seed: int = 12345, actions: int = 30, users: int = 1000, dim: int = 5):
        rng, short = np.random.RandomState(seed), len(GROUP_WEIGHTS[0])
        self.features = rng.normal(size=(actions, dim))
        self.x = rng.normal(size=(users, dim))
        group = KMeans(len(GROUP_WEIGHTS), n_init=10, random_state=seed).fit_predict(self.x)
        self.short = self._bilinear(rng, short)  # (users, A, short): expected outcomes
        by_outcome = np.einsum("uas,us->ua", self.short, np.array(GROUP_WEIGHTS)[group])
        by_outcome = (by_outcome - by_outcome.mean(axis=0)) / by_outcome.std(axis=0)
        self.mean = _standardised((1.0 - share) * by_outcome + share * self._bilinear(rng, 1)[:, :, 0])
        self.p_log = softmax(self.mean, axis=1)
        self.p_new = self._top(top=3, explore=0.1)

    @property
    def truth(self) -> float:
        """The new policy's long-term value."""
        return float((self.mean * self.p_new).sum(axis=1).mean())

    def draw(self, rng: np.random.Generator, rounds: int, new: bool = False) -> LongTermLog:
        """A log by the logging policy, or by the new one."""
        user = rng.integers(0, len(self.x), rounds)
        p = (self.p_new if new else self.p_log)[user]
        action = np.minimum((p.cumsum(axis=1) < rng.random((rounds, 1))).sum(axis=1), p.shape[1] - 1)
        s = rng.normal(self.short[user, action], 0.5)
        reward = rng.normal(self.mean[user, action], 5.0)
        return LongTermLog(self.x[user], s, action, reward, self.p_log[user], self.p_new[user])

    def block(self, log: LongTermLog, q: Floats) -> ActionBlock:
        """A log with an outcome model q (n, A), as the estimators take it; every round is somebody else's."""
        return ActionBlock(log.action, log.p_log, log.p_new, log.reward, np.arange(len(log.x)), q)

    def _bilinear(self, rng: np.random.RandomState, count: int) -> Floats:
        """`count` functions of context and action (users, A, count), standardised together: both, and their product."""
        dim = self.x.shape[1]
        of_x, of_action = rng.normal(size=(dim, count)), rng.normal(size=(dim, count))
        of_both = rng.normal(size=(dim, dim, count))
        added = (self.x @ of_x)[:, None] + (self.features @ of_action)[None]
        return _standardised(added + np.einsum("ud,dek,ae->uak", self.x, of_both, self.features))

    def _top(self, top: int, explore: float) -> Floats:
        best = np.argsort(np.argsort(-self.mean, axis=1), axis=1) < top
        p: Floats = (1.0 - explore) / top * best + explore / self.mean.shape[1]
        return p


def _standardised(values: Floats) -> Floats:
    scaled: Floats = (values - values.mean()) / values.std()
    return scaled
