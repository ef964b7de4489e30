"""A policy as a next-item ranker: every item scored exactly, alone or with what counting knows added as a prior."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.histories import Contexts, Decisions, Histories, contexts
from eval.ranking import TransitionCount, best_unseen, hits, last_items
from policy.beam import item_log_probs
from policy.checkpoint import Speaker
from policy.item_prior import ItemPrior
from policy.moves import MOVES

STATES = 16_384  # prefixes read at once
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
BACKINGS = (1.0, 5.0, 25.0)


@dataclass(frozen=True)
class CountPrior:
    """Transition counts as a prior over the next item: weight x log p(item | last item), see `TransitionCount`."""

    counted: TransitionCount
    weight: float
    backing: float

    def log_weights(self, last: NDArray[np.int32]) -> Tensor:
        """(N, n_items) for questions whose latest item was `last` (N,)."""
        return self.weight * torch.from_numpy(self.counted.log_probs(last, self.backing))


def policy_scores(
    spoken: Speaker, known: Contexts, prior: CountPrior | None = None, last: NDArray[np.int32] | None = None
) -> Iterator[Tensor]:
    """Log-probabilities (b, n_items) of the next item under the policy, in blocks of rows in order.

    With `prior`, it is added to the policy's logits as in decoding; `last` (N,) is then each row's latest item.
    """
    trie = spoken.grammar.trie
    at_once = max(1, STATES // (len(MOVES) * sum(trie.nodes_at[:-1])))
    device = spoken.legal.device
    for start in range(0, len(known), at_once):
        rows = np.arange(start, min(start + at_once, len(known)))
        ids, mask = spoken.prompt.encode(known.take(rows), None)
        said = None
        if prior is not None and last is not None:
            said = ItemPrior.of(trie, prior.log_weights(last[rows]))
        yield item_log_probs(spoken.legal, ids.to(device), mask.to(device), prior=said).cpu()


def rank_by_policy(
    spoken: Speaker, histories: Histories, targets: Decisions, k: int, prior: CountPrior | None = None
) -> NDArray[np.int32]:
    """The k likeliest items that are new to the user, for each target: (N, k), exact."""
    known = contexts(histories, targets, spoken.settings.history_length)
    scores = policy_scores(spoken, known, prior, last_items(histories, targets))
    return best_unseen(scores, histories, targets, k)


def with_prior(scores: Iterable[Tensor], prior: CountPrior, last: NDArray[np.int32]) -> Iterator[Tensor]:
    """Scores (b, n_items) of any ranker, as log-probabilities, plus the prior."""
    start = 0
    for block in scores:
        yield block.log_softmax(1) + prior.log_weights(last[start : start + len(block)])
        start += len(block)


def choose_prior(
    scores: Sequence[Tensor], counted: TransitionCount, histories: Histories, validation: Decisions
) -> CountPrior:
    """The weight and backing whose prior, added to these log-probabilities, ranks `validation` best (NDCG@10).

    scores: blocks as `policy_scores` gives them for `validation`, whose answers `counted` must not have seen.
    """
    last, answers = last_items(histories, validation), validation.slate[:, 0]
    best: tuple[float, CountPrior] | None = None
    for backing in BACKINGS:
        for weight in WEIGHTS:
            if weight == 0 and backing != BACKINGS[0]:
                continue
            prior = CountPrior(counted, weight, backing)
            ranked = best_unseen(with_prior(scores, prior, last), histories, validation, 10)
            ndcg = float(hits(ranked, answers, (10,))["ndcg@10"].mean())
            if best is None or ndcg > best[0]:
                best = (ndcg, prior)
    assert best is not None
    return best[1]
