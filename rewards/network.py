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

from data.histories import Decisions, Histories
from rewards.heads import Heads, Label
from rewards.recency import COLUMNS
from rewards.sequences import Batch
from rewards.taste import TasteModel, taste_width, tastes
from rewards.trunk import Inputs, ItemTower, Trunk, TrunkSettings

IN_ALL_RATE = 5.0


@dataclass(frozen=True)
class Shape:
    """All that fixes the network's parameters' shapes."""

    trunk: TrunkSettings
    labels: tuple[Label, ...]
    bins: int
    slate_size: int
    classes: int  # kinds of reaction, with none at all as class 0
    rank: int = 16  # of the interaction between state and item
    directions: int = 0  # of content that a taste is about (`rewards.taste`)

    @property
    def state(self) -> int:
        """Width of a state: the trunk's, then the taste."""
        return self.trunk.width + taste_width(self.directions)

    @property
    def item(self) -> int:
        """Width of an item's vector: the tower's, then the content that a taste is about."""
        return self.trunk.width + self.directions


class Reactions(nn.Module):
    """Log-odds of each kind of reaction: to an item at a position, or at a position whatever the item.

    Where the listener meets the item, two products add up: of what the state and the item were learned to be, and of
    the listener's taste (liked, lately) with the item's content, direction by direction.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.classes, self.rank, self.directions = shape.classes, shape.rank, shape.directions
        self.state = nn.Linear(shape.state, shape.classes)
        self.item = nn.Linear(shape.item, shape.classes)
        self.item_key = nn.Linear(shape.item, shape.rank)
        self.state_query = nn.Linear(shape.state, shape.rank * shape.classes)
        self.taste = nn.Parameter(torch.zeros(shape.classes, 2, shape.directions))
        self.taste_in_all = nn.Parameter(torch.zeros(shape.classes, 2, 1))
        self.position = nn.Parameter(torch.zeros(shape.slate_size, shape.classes))
        self.marginal = nn.Linear(shape.state, shape.classes)
        self.marginal_position = nn.Parameter(torch.zeros(shape.slate_size, shape.classes))

    def _query(self, state: Tensor) -> Tensor:
        """What meets the item's key and content: (R, classes, rank + directions)."""
        query = self.state_query(state).view(-1, self.classes, self.rank) / self.rank**0.5
        met = state[:, state.shape[1] - 2 * self.directions :].view(len(state), 1, 2, self.directions)
        # What all directions have in common is most of it and may move faster than what sets them apart.
        return torch.cat([query, (met * (self.taste + IN_ALL_RATE * self.taste_in_all)).sum(2)], dim=2)

    def _key(self, item: Tensor) -> Tensor:
        """The item's key and content: (.., rank + directions)."""
        return torch.cat([self.item_key(item), item[..., item.shape[-1] - self.directions :]], dim=-1)

    def to_items(self, state: Tensor, item: Tensor) -> Tensor:
        """State (R, W) and vectors (R, K, W) of one slate each -> logits (R, K, classes). Add `position` to them."""
        pairs = torch.einsum("rcd,rkd->rkc", self._query(state), self._key(item))
        logits: Tensor = self.state(state).unsqueeze(1) + self.item(item) + pairs
        return logits

    def to_catalog(self, state: Tensor, item: Tensor) -> Tensor:
        """State (R, W) and vectors (N, W) of items for everybody -> odds (classes, R, N), up to a factor per (R, N).

        At the average position. Classes come first, so that every step runs along the long axis.
        """
        logits: Tensor = self._query(state).transpose(0, 1) @ self._key(item).T
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
        self.register_buffer("reference", reference)
        self.register_buffer("log_share", log_share)
        self.query = nn.Linear(shape.state, shape.rank)
        self.key = nn.Linear(shape.item, shape.rank)
        self.bias = nn.Parameter(torch.zeros(len(reference)))
        self.rank = shape.rank

    def forward(self, state: Tensor, item: Tensor) -> Tensor:
        """State (R, W), vectors of the reference items (M, W) -> log rates (R, M), normalised over the reference."""
        logits = self.query(state) @ self.key(item).T / self.rank**0.5 + self.bias + self.log_share
        return F.log_softmax(logits, dim=1)


class Network(nn.Module):
    """Trunk and read-outs. The item vectors of the read-outs come from a tower of their own.

    A state is the trunk's, then the listener's taste; an item is the tower's vector, then its content.
    """

    taste_expected: Tensor
    taste_usual: Tensor
    taste_precision: Tensor
    taste_scale: Tensor

    def __init__(self, shape: Shape, content: Tensor, reference: Tensor, log_share: Tensor) -> None:
        super().__init__()
        self.shape = shape
        self.trunk = Trunk(shape.trunk, content, len(COLUMNS))
        self._tower = ItemTower(content, shape.trunk.width, shape.trunk.item_dropout)
        self.heads = Heads(shape.state, shape.labels, shape.bins)
        self.reactions = Reactions(shape)
        self.exposure = Exposure(shape, reference, log_share)

        for name, size in (("expected", len(content)), ("usual", shape.directions), ("scale", 2)):
            self.register_buffer(f"taste_{name}", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("taste_precision", torch.ones(1 + shape.directions, dtype=torch.float64))

    def forward(self, inputs: Inputs, batch: Batch) -> Tensor:
        """States (R, S) of the batch's decisions."""
        trunk: Tensor = self.trunk(inputs, batch)
        return torch.cat([trunk, inputs.taste[torch.from_numpy(batch.decision)]], dim=1)

    def tower(self, items: Tensor) -> Tensor:
        """Vectors (.., shape.item) of items (..) int64, for the read-outs."""
        return torch.cat([self._tower(items), self._content[items]], dim=-1)

    @property
    def _content(self) -> Tensor:
        return self.trunk.item.content[:, : self.shape.directions]

    def learn_tastes(self, model: TasteModel) -> None:
        """Keep what is usual, so that `tastes` can be asked."""
        for name, values in vars(model).items():
            getattr(self, f"taste_{name}").copy_(torch.from_numpy(values))

    def tastes(self, histories: Histories, decisions: Decisions) -> Tensor:
        """Tastes (D, taste_width) before each decision."""
        usual = [getattr(self, f"taste_{name}").numpy() for name in ("expected", "usual", "precision", "scale")]
        return torch.from_numpy(tastes(histories, decisions, self._content.numpy(), TasteModel(*usual)))

    def losses(self, state: Tensor, known: "Known", whole: "Known | None" = None) -> dict[str, Tensor]:
        """Mean negative log-likelihoods of one batch, by part.

        whole: what is known of the batch that these rows are a part of. Each mean is then over the whole batch as far
        as these rows go, so that the losses of all parts add up to those of the batch.
        """
        whole = known if whole is None else whole
        heads = self.heads.log_likelihood(state, *known.of_heads)
        parts = {"outcomes": state.sum() * 0.0}
        if heads:
            ours, all_of_them = (
                torch.stack([rows.sum() for rows in self.heads.rows_known(*k.of_heads)]) for k in (known, whole)
            )
            parts["outcomes"] = -(torch.stack(heads) * (ours / all_of_them.clamp_min(1))).sum()
        shown, shown_in_all = known.slate >= 0, int((whole.slate >= 0).sum())
        share = float(shown.sum()) / max(shown_in_all, 1)
        if self.shape.classes > 1 and bool(shown.any()):
            item = self.tower(known.slate.clamp_min(0))
            logits = self.reactions.to_items(state, item) + self.reactions.position
            parts["reactions"] = share * F.cross_entropy(logits[shown], known.reaction[shown])
            parts["anyway"] = share * F.cross_entropy(self.reactions.anyway(state)[shown], known.reaction[shown])
        if bool((known.reference >= 0).any()):
            rates = self.exposure(state, self.tower(self.exposure.reference))  # (R, M)
            at = known.reference
            picked = rates.gather(1, at.clamp_min(0))[at >= 0]
            parts["exposure"] = -picked.sum() / int((whole.reference >= 0).sum())
        return parts


@dataclass(frozen=True)
class Known:
    """What is known about R decisions at the training cut. NaN, -1 and False stand for what is not."""

    values: Tensor  # (R, labels) float32
    return_day: Tensor  # (R,) int64
    returned: Tensor  # (R,) bool
    left_day: Tensor  # (R,) int64, as `rewards.reach` has it
    left: Tensor  # (R,) bool
    slate: Tensor  # (R, K) int64 catalog rows
    reaction: Tensor  # (R, K) int64 class of the reaction
    reference: Tensor  # (R, K) int64 place of each slate item among the reference items

    @property
    def of_heads(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What `Heads.log_likelihood` is given beside the state."""
        return self.values, self.return_day, self.returned, self.left_day, self.left

    def take(self, rows: np.ndarray) -> "Known":
        """The rows of a batch."""
        at = torch.from_numpy(rows)
        return Known(
            self.values[at],
            self.return_day[at],
            self.returned[at],
            self.left_day[at],
            self.left[at],
            self.slate[at],
            self.reaction[at],
            self.reference[at],
        )
