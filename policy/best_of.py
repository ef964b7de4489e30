"""Best of N: draw slates from a policy and serve the one that the reward likes best. A baseline that trains nothing.

What tuning brings that drawing more does not is the question it answers (Stiennon et al. 2020; Gao, Schulman & Hilton
2023, who give its divergence from the policy drawn from: log N - (N - 1) / N nats). It asks the reward at every visit,
and draws N times as much.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from data.errors import InputError
from data.histories import MICROSECONDS_PER_HOUR, Contexts, Decisions, Histories
from policy.agent import prompts
from policy.checkpoint import Speaker
from policy.moves import MOVES
from rewards.model import RewardModel

MINUTE = MICROSECONDS_PER_HOUR // 60


class BestOfPolicy:
    """Of `draws` slates drawn from `spoken` the one with the best lower bound; follows `SlatePolicy`.

    Its propensity is not known: the probability that a slate is drawn and is the best of those drawn with it depends on
    the reward of all the others that might have been. So the log-probabilities it returns are nan, and its decisions
    are logged without a propensity.
    """

    def __init__(self, name: str, spoken: Speaker, reward: RewardModel, draws: int = 16) -> None:
        if draws < 1:
            raise InputError(f"best of {draws}: draw 1 slate or more")
        self.name = name
        self.spoken = spoken
        self.reward = reward
        self.draws = draws
        self.last_moves: list[str] = []

    @torch.no_grad()
    def choose(self, contexts: Contexts, rng: np.random.Generator) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Slates (B, K) of catalog rows, one per context, and nan (B,)."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        objective, states = self.reward.objective(), self.reward.encode(*told(contexts))
        slates, moves, start = [], [], 0
        for ids, mask, heard in prompts(self.spoken, contexts):
            drawn = self.spoken.legal.draw(ids, mask, samples=self.draws, generator=generator, prior=heard).tokens
            move, items = self.spoken.grammar.decode(drawn.flatten(0, 1))
            items = items.view(len(ids), self.draws, -1).cpu()
            worth = objective.lower_bound(self.reward.advantage(states[start : start + len(ids)], items))
            best = worth.argmax(1, keepdim=True)  # (b, 1)
            slates.append(items.gather(1, best[..., None].expand(-1, -1, items.shape[2])).squeeze(1))
            moves.append(move.view(len(ids), self.draws).cpu().gather(1, best).squeeze(1))
            start += len(ids)
        self.last_moves = [MOVES[move] for move in torch.cat(moves).tolist()]
        return torch.cat(slates).numpy().astype(np.int32), np.full(len(contexts), math.nan)


def told(contexts: Contexts) -> tuple[Histories, Decisions]:
    """What a context tells, as a log of one decision a listener (B), for a reward to read.

    A context says when its last interaction was and nothing of when the others were, so they are laid a minute apart
    before it, and what came before them is forgotten. A reward that is asked so knows less than when it trains policies
    on a log; what it thinks of slates beside each other hardly changes (docs/train.md has by how much).
    """
    known = contexts.item >= 0
    count = known.sum(1)
    offsets = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    user = np.repeat(np.arange(len(contexts)), count)
    gap = np.nan_to_num(contexts.gap_hours.astype(np.float64)) * MICROSECONDS_PER_HOUR
    last = contexts.time - np.maximum(gap, 1.0).astype(np.int64)
    behind = offsets[1:][user] - 1 - np.arange(len(user))  # interactions that came later
    time = last[user] - behind * MINUTE
    said = contexts.hour_of_week[user].astype(np.int64)
    ago = (contexts.time[user] - time) // MICROSECONDS_PER_HOUR
    hour = (np.maximum(said, 0) - ago) % 168  # a reward knows no unknown hour
    histories = Histories(
        user_ids=[str(row) for row in range(len(contexts))],
        offsets=offsets,
        item=contexts.item[known],
        action=contexts.action[known],
        time=time,
        surface=contexts.surface[user],
        hour_of_week=hour.astype(np.int16),
    )
    rows, nothing = len(contexts), np.full((len(contexts), 1), -1)
    decisions = Decisions(
        decision_id=[str(row) for row in range(rows)],
        user=np.arange(rows, dtype=np.int32),
        start=offsets[1:],
        time=contexts.time,
        hour_of_week=np.maximum(contexts.hour_of_week, 0),
        surface=contexts.surface,
        slate=nothing.astype(np.int32),
        log_propensity=np.full(rows, math.nan),
        steer=list(contexts.steer),
        reaction=nothing.astype(np.int8),
        seconds=np.zeros((rows, 1), np.float32),
    )
    return histories, decisions
