"""One network per half of the users: the trunk and everything that is learned by gradient on top of it.

Four read-outs of the same state. What comes later (`Heads`). What the listener does with an item shown at a position
(`Reactions`), and what they do there whatever is shown (its marginal). And what they would have been shown anyway
(`Exposure`): the logging policy's marginal rate of every item given the history, which is what an advantage is
centred on.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.heads import Heads, Label
from rewards.recency import COLUMNS
from rewards.sequences import Batch
from rewards.trunk import Inputs, ItemTower, Trunk, TrunkSettings


@dataclass(frozen=True)
class Shape:
    """All that fixes the network's parameters' shapes."""

    trunk: TrunkSettings
    labels: tuple[Label, ...]
    bins: int
    slate_size: int
    classes: int  # kinds of reaction, with none at all as class 0
    rank: int = 16  # of the interaction between state and item


class Reactions(nn.Module):
    """Log-odds of each kind of reaction: to an item at a position, or at a position whatever the item."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.trunk.width
        self.classes, self.rank = shape.classes, shape.rank
        self.state = nn.Linear(width, shape.classes)
        self.item = nn.Linear(width, shape.classes)
        self.item_key = nn.Linear(width, shape.rank)
        self.state_query = nn.Linear(width, shape.rank * shape.classes)
        self.position = nn.Parameter(torch.zeros(shape.slate_size, shape.classes))
        self.marginal = nn.Linear(width, shape.classes)
        self.marginal_position = nn.Parameter(torch.zeros(shape.slate_size, shape.classes))

    def to_items(self, state: Tensor, item: Tensor) -> Tensor:
        """State (R, W) and vectors (R, K, W) of one slate each -> logits (R, K, classes). Add `position` to them."""
        query = self.state_query(state).view(-1, self.classes, self.rank)  # (R, C, rank)
        pairs = torch.einsum("rcd,rkd->rkc", query, self.item_key(item))
        logits: Tensor = self.state(state).unsqueeze(1) + self.item(item) + pairs / self.rank**0.5
        return logits

    def to_catalog(self, state: Tensor, item: Tensor) -> Tensor:
        """State (R, W) and vectors (N, W) of items for everybody -> odds (classes, R, N), up to a factor per (R, N).

        At the average position. Classes come first, so that every step runs along the long axis.
        """
        query = self.state_query(state).view(-1, self.classes, self.rank).transpose(0, 1)  # (C, R, rank)
        logits: Tensor = query @ self.item_key(item).T / self.rank**0.5
        logits += (self.state(state) + self.position.mean(0)).T.unsqueeze(2)
        logits += self.item(item).T.unsqueeze(1)
        return logits.clamp_(-30.0, 30.0).exp_()

    def anyway(self, state: Tensor) -> Tensor:
        """State (R, W) -> logits (R, K, classes) of the reaction at each position, whatever is shown there."""
        logits: Tensor = self.marginal(state).unsqueeze(1) + self.marginal_position
        return logits


class Exposure(nn.Module):
    """Marginal rate at which the logging policy fills a slate position with each reference item, given the state.

    The reference items are those the log shows most often; the others have no rate of their own.
    """

    reference: Tensor
    log_share: Tensor

    def __init__(self, shape: Shape, reference: Tensor, log_share: Tensor) -> None:
        super().__init__()
        width = shape.trunk.width
        self.register_buffer("reference", reference)
        self.register_buffer("log_share", log_share)
        self.query = nn.Linear(width, shape.rank)
        self.key = nn.Linear(width, shape.rank)
        self.bias = nn.Parameter(torch.zeros(len(reference)))
        self.rank = shape.rank

    def forward(self, state: Tensor, item: Tensor) -> Tensor:
        """State (R, W), vectors of the reference items (M, W) -> log rates (R, M), normalised over the reference."""
        logits = self.query(state) @ self.key(item).T / self.rank**0.5 + self.bias + self.log_share
        return F.log_softmax(logits, dim=1)


class Network(nn.Module):
    """Trunk and read-outs. The item vectors of the read-outs come from a tower of their own."""

    def __init__(self, shape: Shape, content: Tensor, reference: Tensor, log_share: Tensor) -> None:
        super().__init__()
        self.shape = shape
        self.trunk = Trunk(shape.trunk, content, len(COLUMNS))
        self.tower = ItemTower(content, shape.trunk.width, shape.trunk.item_dropout)
        self.heads = Heads(shape.trunk.width, shape.labels, shape.bins)
        self.reactions = Reactions(shape)
        self.exposure = Exposure(shape, reference, log_share)

    def forward(self, inputs: Inputs, batch: Batch) -> Tensor:
        """States (R, W) of the batch's decisions."""
        state: Tensor = self.trunk(inputs, batch)
        return state

    def losses(self, state: Tensor, known: "Known") -> dict[str, Tensor]:
        """Mean negative log-likelihoods of one batch, by part."""
        heads = self.heads.log_likelihood(state, known.values, known.return_day, known.returned)
        parts = {"outcomes": -torch.stack(heads).sum() if heads else state.sum() * 0.0}
        shown = known.slate >= 0
        if self.shape.classes > 1 and bool(shown.any()):
            item = self.tower(known.slate.clamp_min(0))
            logits = self.reactions.to_items(state, item) + self.reactions.position
            parts["reactions"] = F.cross_entropy(logits[shown], known.reaction[shown])
            parts["anyway"] = F.cross_entropy(self.reactions.anyway(state)[shown], known.reaction[shown])
        if bool((known.reference >= 0).any()):
            rates = self.exposure(state, self.tower(self.exposure.reference))  # (R, M)
            at = known.reference
            picked = rates.gather(1, at.clamp_min(0))[at >= 0]
            parts["exposure"] = -picked.mean()
        return parts


@dataclass(frozen=True)
class Known:
    """What is known about R decisions at the training cut. NaN, -1 and False stand for what is not."""

    values: Tensor  # (R, labels) float32
    return_day: Tensor  # (R,) int64
    returned: Tensor  # (R,) bool
    slate: Tensor  # (R, K) int64 catalog rows
    reaction: Tensor  # (R, K) int64 class of the reaction
    reference: Tensor  # (R, K) int64 place of each slate item among the reference items

    def take(self, rows: np.ndarray) -> "Known":
        """The rows of a batch."""
        at = torch.from_numpy(rows)
        return Known(
            self.values[at],
            self.return_day[at],
            self.returned[at],
            self.slate[at],
            self.reaction[at],
            self.reference[at],
        )
