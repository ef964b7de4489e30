"""SASRec: the neural ranker that every generative one is measured against (Kang & McAuley, ICDM 2018).

A causal transformer over a user's items, one embedding per item, the next item by dot product. As the field has learned
since, it is trained with the softmax over the whole catalog instead of one sampled negative (Klenitskiy & Vasilev,
RecSys 2023), and it is asked for items that are new to the user where the log never repeats one. It stops where
validation stops improving. What the test asks is never looked at here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.errors import InputError
from data.histories import Contexts, Decisions, Histories, contexts
from eval.ranking import best_unseen, hits

Rows = NDArray[np.int32]
_ASKED_AT_ONCE = 512


@dataclass(frozen=True)
class SASRecSettings:
    """hidden, layers, heads: its size. length: items of a history that are read. batch: users per step.

    epochs: at most; every: epochs between looks at validation; patience: looks without a better NDCG@10 before it ends.
    """

    hidden: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.4
    length: int = 50
    learning_rate: float = 2e-3
    batch: int = 64
    epochs: int = 60
    every: int = 3
    patience: int = 3


class SASRec(nn.Module):
    """`items` item embeddings, used both to read and to score; row `items` is padding."""

    def __init__(self, items: int, settings: SASRecSettings) -> None:
        super().__init__()
        width = settings.hidden
        self.items, self.length = items, settings.length
        self.item = nn.Embedding(items + 1, width, padding_idx=items)
        self.place = nn.Embedding(settings.length, width)
        for table in (self.item, self.place):
            nn.init.normal_(table.weight, std=0.02)
        self.scale = 0.3 * math.sqrt(width)
        self.drop = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, settings.heads, 4 * width, settings.dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(settings.layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, history: Tensor) -> Tensor:
        """States (B, T, H) after each item of histories (B, T), padded on the right with `items`."""
        size = history.shape[1]
        hidden = self.drop(self.scale * self.item(history) + self.place.weight[:size])
        causal = nn.Transformer.generate_square_subsequent_mask(size, device=history.device)
        for block in self.blocks:
            hidden = block(hidden, src_mask=causal, is_causal=True)
        normed: Tensor = self.norm(hidden)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores (..., items) of what comes next."""
        return hidden @ self.item.weight[: self.items].T

    @torch.no_grad()
    def scores(self, known: Contexts) -> Iterator[Tensor]:
        """Scores (b, items) of the item after each context, in blocks of rows in order."""
        for start in range(0, len(known), _ASKED_AT_ONCE):
            items = known.item[start : start + _ASKED_AT_ONCE, -self.length :]
            order = np.argsort(items < 0, axis=1, kind="stable")  # padding goes to the right
            history = torch.from_numpy(np.take_along_axis(items, order, 1).astype(np.int64))
            last = (history >= 0).sum(1) - 1
            hidden = self(history.masked_fill(history < 0, self.items))
            yield self.logits(hidden[torch.arange(len(hidden)), last])

    def rank(self, histories: Histories, targets: Decisions, k: int) -> Rows:
        """The k best items that are new to the user, for each of the targets: (N, k)."""
        self.eval()
        return best_unseen(self.scores(contexts(histories, targets, self.length)), histories, targets, k)


def fit_sasrec(
    histories: Histories,
    items: int,
    cut: int,
    validation: Decisions,
    settings: SASRecSettings,
    seed: int,
    progress: Callable[[int, float], object] = lambda epoch, ndcg: None,
) -> SASRec:
    """Train on interactions before `cut` (us since epoch), keep the weights that rank `validation` best (NDCG@10).

    `progress` is told after every epoch: which one, and the best NDCG@10 so far. The same seed gives the same weights.
    Raises InputError when no user has two interactions before the cut.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = SASRec(items, settings)
    past = [
        histories.item[begin:end][histories.time[begin:end] < cut][-settings.length - 1 :].astype(np.int64)
        for begin, end in zip(histories.offsets[:-1].tolist(), histories.offsets[1:].tolist(), strict=True)
    ]
    past = [sequence for sequence in past if len(sequence) > 1]
    if not past:
        raise InputError("SASRec: no user has two interactions before the cut; move it later or use a longer log")
    lengths = np.array([len(sequence) for sequence in past])
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.0, betas=(0.9, 0.98))
    best, stale = -1.0, 0
    kept = {name: weight.clone() for name, weight in model.state_dict().items()}
    for epoch in range(1, settings.epochs + 1):
        model.train()
        order = np.argsort(lengths + rng.uniform(0, 2, len(past)))  # like lengths together, never the same batches
        batches = np.split(order, np.arange(settings.batch, len(order), settings.batch))
        for number in rng.permutation(len(batches)).tolist():
            rows = [torch.from_numpy(past[row]) for row in batches[number].tolist()]
            padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=items)
            asked = padded[:, 1:] != items
            logits = model.logits(model(padded[:, :-1])[asked])
            loss = nn.functional.cross_entropy(logits, padded[:, 1:][asked])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if epoch % settings.every == 0 or epoch == settings.epochs:
            ranked = model.rank(histories, validation, 10)
            ndcg = float(hits(ranked, validation.slate[:, 0], (10,))["ndcg@10"].mean())
            stale += 1
            if ndcg > best:
                best, stale = ndcg, 0
                kept = {name: weight.clone() for name, weight in model.state_dict().items()}
        progress(epoch, best)
        if stale >= settings.patience:
            break
    model.load_state_dict(kept)
    model.eval()
    return model
