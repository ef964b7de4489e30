"""A policy as a next-item ranker: its best new items exactly, alone or with what counting knows added as a prior."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.histories import Decisions, Histories, contexts
from eval.ranking import TransitionCount, hits, last_items, seen_before
from policy.beam import best_items
from policy.checkpoint import Speaker
from policy.item_prior import ItemPrior

AT_ONCE = 128
WEIGHTS = (0.0, 0.1, 0.25, 0.5, 1.0)
BACKINGS = (5.0,)


@dataclass(frozen=True)
class CountPrior:
    """Transition counts as a prior over the next item: weight x log p(item | last item), see `TransitionCount`."""

    counted: TransitionCount
    weight: float
    backing: float

    def log_weights(self, last: NDArray[np.int32]) -> Tensor:
        """(N, n_items) for questions whose latest item was `last` (N,)."""
        return self.weight * torch.from_numpy(self.counted.log_probs(last, self.backing))


def rank_by_policy(
    spoken: Speaker, histories: Histories, targets: Decisions, k: int, prior: CountPrior | None = None
) -> NDArray[np.int32]:
    """The k likeliest items that are new to the user, for each target: (N, k), exact; with a prior as in decoding."""
    known = contexts(histories, targets, spoken.settings.history_length)
    rows, items = seen_before(histories, targets)
    last, device, found = last_items(histories, targets), spoken.legal.device, []
    for start in range(0, len(known), AT_ONCE):
        some = np.arange(start, min(start + AT_ONCE, len(known)))
        ids, mask = spoken.prompt.encode(known.take(some), None)
        begin, end = np.searchsorted(rows, [start, start + len(some)])
        new = torch.ones(len(some), spoken.grammar.trie.items, dtype=torch.bool)
        new[torch.from_numpy(rows[begin:end] - start), torch.from_numpy(items[begin:end].astype(np.int64))] = False
        said = None if prior is None else ItemPrior.of(spoken.grammar.trie, prior.log_weights(last[some]), new)
        found.append(best_items(spoken.legal, ids.to(device), mask.to(device), k, new.to(device), said).cpu())
    return torch.cat(found).numpy().astype(np.int32)


def with_prior(scores: Iterable[Tensor], prior: CountPrior, last: NDArray[np.int32]) -> Iterator[Tensor]:
    """Scores (b, n_items) of any ranker, as log-probabilities, plus the prior."""
    start = 0
    for block in scores:
        yield block.log_softmax(1) + prior.log_weights(last[start : start + len(block)])
        start += len(block)


def choose_prior(
    rank: Callable[[CountPrior], NDArray[np.int32]], counted: TransitionCount, validation: Decisions
) -> CountPrior:
    """The weight and backing with which `rank` puts the answers of `validation` best (NDCG@10).

    `rank` gives ten items for each of the validation's questions under a prior; `counted` must not have seen the
    answers.
    """
    best: tuple[float, CountPrior] | None = None
    for backing in BACKINGS:
        for weight in WEIGHTS:
            prior = CountPrior(counted, weight, backing)
            ndcg = float(hits(rank(prior), validation.slate[:, 0], (10,))["ndcg@10"].mean())
            if best is None or ndcg > best[0]:
                best = (ndcg, prior)
    assert best is not None
    return best[1]
