"""The best message by a reward model, without a language model: what a score alone would send.

Every opportunity by every allowed channel in every slot is scored, and the best is sent where it is worth more than
holding. By the reward's lower bound this is what the reward asks for; by the open probability it is the ranker that
others use: it always finds something that may be opened, so only the cap holds it back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from data.world.environment import MessageContexts, Messages
from rewards.messages import MessageReward, MessageScores
from rewards.pareto import keep
from rewards.sending import Ints, legal_moves

_FORBIDDEN = -1e6  # log rate of a move that no value makes up for


def by_lower_bound(scores: MessageScores) -> NDArray[np.float64]:
    """What the reward is sure of."""
    return scores.lower


def by_opens(scores: MessageScores) -> NDArray[np.float64]:
    """How likely it is opened."""
    return scores.heads["opens"]


@dataclass(frozen=True)
class BestMessages:
    """Sends the best move by `worth` where that is above `least`; deterministic, so its log-probabilities are 0."""

    reward: MessageReward
    worth: Callable[[MessageScores], NDArray[np.float64]] = by_lower_bound
    least: float = 0.0
    weekly_cap: int = 3
    name: str = "best_by_reward@1"

    def choose(self, contexts: MessageContexts, rng: np.random.Generator) -> tuple[Messages, NDArray[np.float64]]:
        """Decisions and log-probabilities (0)."""
        batch = len(contexts)
        column, channel, hour, allowed = legal_moves(contexts, self.weekly_cap)
        worth = self.worth(self.reward.score(contexts, column, channel, hour))
        worth = np.where(allowed, worth, -np.inf)
        rows, best = np.arange(batch), worth.argmax(axis=1)
        sends = worth[rows, best] > self.least

        def taken(values: Ints, dtype: type[np.signedinteger]) -> NDArray[np.signedinteger]:
            return np.where(sends, values[rows, best], -1).astype(dtype)

        chosen = Messages(taken(column, np.int32), taken(channel, np.int8), taken(hour, np.int8))
        return chosen, np.zeros(batch)


def keeping_reach(reward: MessageReward, contexts: MessageContexts, weekly_cap: int = 3) -> MessageReward:
    """The reward with the smallest multiplier at which its best moves here cost no more reachability than the log's.

    Where no multiplier does that, the smallest that comes nearest.
    """
    column, channel, hour, allowed = legal_moves(contexts, weekly_cap)
    nothing = np.full((len(contexts), 1), -1)
    scores = reward.score(contexts, *(np.concatenate([of, nothing], axis=1) for of in (column, channel, hour))).slate
    support = scores.support.clone()
    support[:, :-1][torch.from_numpy(~allowed)] = _FORBIDDEN
    return replace(reward, objective=keep(reward.objective, replace(scores, support=support)).objective)
