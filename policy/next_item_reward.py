"""A reward that needs no reward model: how near a slate is to what the listener took next.

A hit is all that ranking metrics count, but hardly any drawn item is one: under a reward for exact matches most groups
of GRPO have no gradient. So an item that is like the one taken is worth something too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.catalog import Catalog


@dataclass(frozen=True)
class NextItemReward:
    """answers: (D,) catalog row of what was taken after each decision. vectors: (N, E) unit embeddings of the items.

    near: what an item of likeness 1 would be worth that is not the answer, which is worth 1.
    """

    answers: Tensor
    vectors: Tensor
    near: float = 0.5

    @classmethod
    def of(cls, answers: NDArray[np.int32], catalog: Catalog) -> NextItemReward:
        return cls(torch.from_numpy(answers.astype(np.int64)), torch.from_numpy(catalog.embeddings))

    @torch.no_grad()
    def __call__(self, rows: Tensor, slates: Tensor) -> Tensor:
        """Rewards (M, N) of slates (M, N, K) for the decisions in `rows` (M,): 1 for the answer, near x cosine (not
        below 0) for others, nothing for a place left empty (-1), averaged over places with the discounts of DCG
        (1 / log2(1 + place)).
        """
        answer = self.answers[rows]
        alike = (self.vectors[slates] @ self.vectors[answer][:, None, :, None]).squeeze(-1)  # (M, N, K)
        worth = torch.where(slates == answer[:, None, None], 1.0, self.near * alike.clamp(min=0))
        worth = worth.masked_fill(slates < 0, 0.0)
        discount = 1 / torch.log2(torch.arange(slates.shape[-1]) + 2.0)
        return (worth * discount).sum(-1) / discount.sum()
