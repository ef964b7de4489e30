"""A causal transformer over a listener's interactions, read once, giving the state at every decision.

An interaction is what was played (content, plus a small learned part for items seen often), how it went, how long
after the one before, where and at what hour of the week. Attention is rotary in time, not in rank: two skips an hour
apart and two skips a month apart are different things. A decision adds what is known at that moment: the gap since the
last interaction, the hour of the week, the surface, the words in which the listener said what they want, and the counts
of `rewards.recency`.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.histories import Decisions, Histories
from data.schema import ACTIONS, SURFACES
from rewards.recency import DAY, HOUR, gap_hours, recency_features
from rewards.sequences import Batch

GAP_BUCKETS = 24
HOURS_OF_WEEK = 168
WORDS, LONGEST_SAYING = 512, 8  # hash buckets of words (0: none), and how many words of a saying are read


@dataclass(frozen=True)
class TrunkSettings:
    """Sizes of the transformer. `window` is in interactions; `content` is the kept width of item embeddings."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    dropout: float = 0.1
    item_dropout: float = 0.3  # chance to see an item by its content alone, so that unseen items score sensibly
    content: int = 32
    window: int = 256
    shortest_period_days: float = 0.04
    longest_period_days: float = 120.0


def gap_bucket(hours: np.ndarray) -> np.ndarray:
    """Logarithmic bucket 1..GAP_BUCKETS-1 of a gap in hours; 0 where there is none (NaN)."""
    clean = np.nan_to_num(np.maximum(hours, 0.0), nan=0.0)
    bucket = 1 + np.clip(np.log2(1.0 + clean * 8.0) * 1.6, 0, GAP_BUCKETS - 2).astype(np.int64)
    return np.where(np.isnan(hours), 0, bucket)


def said_words(steer: Sequence[str | None]) -> np.ndarray:
    """Hash buckets (D, LONGEST_SAYING) of the words of each saying, any language; 0 where there are no more."""
    table = np.zeros((len(steer), LONGEST_SAYING), np.int64)
    known: dict[str, list[int]] = {}
    for row, text in enumerate(steer):
        if text:
            if text not in known:
                words = text.lower().replace(",", " ").split()[:LONGEST_SAYING]
                known[text] = [1 + zlib.crc32(word.encode()) % (WORDS - 1) for word in words]
            table[row, : len(known[text])] = known[text]
    return table


@dataclass(frozen=True)
class Inputs:
    """Histories and decisions as tensors: per interaction (E,) and per decision (D,)."""

    item: Tensor  # (E,) int64, row of the catalog
    action: Tensor  # (E,) int64
    gap: Tensor  # (E,) int64 bucket
    surface: Tensor  # (E,) int64
    hour: Tensor  # (E,) int64
    days: Tensor  # (E,) float32, days since the first interaction in the log
    decision_gap: Tensor  # (D,) int64 bucket
    decision_surface: Tensor  # (D,) int64
    decision_hour: Tensor  # (D,) int64
    said: Tensor  # (D, LONGEST_SAYING) int64 hash buckets of words
    recency: Tensor  # (D, len(recency.COLUMNS)) float32
    taste: Tensor  # (D, T) float32, as a network sees it (`Network.tastes`); (D, 0) as long as none was asked

    @staticmethod
    def of(histories: Histories, decisions: Decisions) -> "Inputs":
        """The tensors that `Trunk.forward` indexes by batch."""
        time = histories.time
        gap = np.full(len(time), np.nan)
        gap[1:] = (time[1:] - time[:-1]) / HOUR
        gap[histories.offsets[:-1][np.diff(histories.offsets) > 0]] = np.nan
        origin = time.min() if len(time) else 0

        def whole(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values).astype(np.int64))

        return Inputs(
            item=whole(histories.item),
            action=whole(histories.action),
            gap=whole(gap_bucket(gap)),
            surface=whole(histories.surface),
            hour=whole(histories.hour_of_week),
            days=torch.from_numpy(((time - origin) / DAY).astype(np.float32)),
            decision_gap=whole(gap_bucket(gap_hours(histories, decisions))),
            decision_surface=whole(decisions.surface),
            decision_hour=whole(decisions.hour_of_week),
            said=whole(said_words(decisions.steer)),
            recency=torch.from_numpy(recency_features(histories, decisions)),
            taste=torch.zeros(len(decisions), 0),
        )


class ItemTower(nn.Module):
    """What an item is to the model: projected content plus a free part that starts at zero and is often hidden."""

    content: Tensor

    def __init__(self, content: Tensor, width: int, hide: float) -> None:
        super().__init__()
        self.register_buffer("content", content, persistent=False)
        self.project = nn.Linear(content.shape[1], width)
        self.free = nn.Embedding(content.shape[0], width)
        nn.init.zeros_(self.free.weight)
        self.hide = hide

    def forward(self, items: Tensor) -> Tensor:
        """Items (...,) int64 -> (..., width)."""
        free = self.free(items)
        if self.training and self.hide > 0:
            keep = torch.rand(items.shape, device=items.device) >= self.hide
            free = free * keep.unsqueeze(-1) / (1.0 - self.hide)
        vector: Tensor = self.project(self.content[items]) + free
        return vector


class Block(nn.Module):
    """Pre-norm attention and feed-forward, with rotary angles given from outside."""

    def __init__(self, settings: TrunkSettings) -> None:
        super().__init__()
        self.heads = settings.heads
        self.before_attention = nn.LayerNorm(settings.width)
        self.qkv = nn.Linear(settings.width, 3 * settings.width)
        self.out = nn.Linear(settings.width, settings.width)
        self.before_feed = nn.LayerNorm(settings.width)
        self.feed = nn.Sequential(
            nn.Linear(settings.width, 3 * settings.width), nn.GELU(), nn.Linear(3 * settings.width, settings.width)
        )
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x (B, T, W), cos and sin (B, 1, T, W / heads / 2) -> (B, T, W)."""
        B, T, W = x.shape
        q, k, v = self.qkv(self.before_attention(x)).view(B, T, 3, self.heads, W // self.heads).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        attended = F.scaled_dot_product_attention(_rotate(q, cos, sin), _rotate(k, cos, sin), v, is_causal=True)
        x = x + self.dropout(self.out(attended.transpose(1, 2).reshape(B, T, W)))
        result: Tensor = x + self.dropout(self.feed(self.before_feed(x)))
        return result


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x.chunk(2, dim=-1)
    return torch.cat([even * cos - odd * sin, even * sin + odd * cos], dim=-1)


class Trunk(nn.Module):
    """`forward(inputs, batch)` gives the states (R, width) of the decisions in the batch, in the batch's order."""

    frequencies: Tensor
    recency_mean: Tensor
    recency_scale: Tensor
    recency_low: Tensor
    recency_high: Tensor

    def __init__(self, settings: TrunkSettings, content: Tensor, recency_columns: int) -> None:
        super().__init__()
        width = settings.width
        assert width % (2 * settings.heads) == 0, "rotary attention needs an even head width"
        self.item = ItemTower(content, width, settings.item_dropout)
        self.action = nn.Embedding(len(ACTIONS) + 1, width)
        self.gap = nn.Embedding(GAP_BUCKETS, width)
        self.surface = nn.Embedding(len(SURFACES) + 1, width)
        self.hour = nn.Embedding(HOURS_OF_WEEK, width)
        self.begin = nn.Parameter(torch.zeros(width))
        for table in (self.action, self.gap, self.surface, self.hour):
            nn.init.normal_(table.weight, std=0.2)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(width)
        self.decision_gap = nn.Embedding(GAP_BUCKETS, width)
        self.decision_surface = nn.Embedding(len(SURFACES) + 1, width)
        self.decision_hour = nn.Embedding(HOURS_OF_WEEK, width)
        for table in (self.decision_gap, self.decision_surface, self.decision_hour):
            nn.init.normal_(table.weight, std=0.2)
        self.word = nn.Embedding(WORDS, width, padding_idx=0)
        self.recency = nn.Linear(recency_columns, width)
        self.mix = nn.Sequential(
            nn.Linear(2 * width, 2 * width),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(2 * width, width),
            nn.LayerNorm(width),
        )
        pairs = width // settings.heads // 2
        periods = torch.logspace(
            math.log10(settings.shortest_period_days), math.log10(settings.longest_period_days), pairs
        )
        self.register_buffer("frequencies", 2 * math.pi / periods, persistent=False)
        self.register_buffer("recency_mean", torch.zeros(recency_columns))
        self.register_buffer("recency_scale", torch.ones(recency_columns))
        self.register_buffer("recency_low", torch.full((recency_columns,), -torch.inf))
        self.register_buffer("recency_high", torch.full((recency_columns,), torch.inf))

    def standardize(self, recency: Tensor) -> None:
        """Set centre, scale and range of the recency columns from training rows (R, columns).

        Later values are kept within that range, as a tree would: counts grow with the age of a log, and a linear layer
        has no idea what lies beyond the largest it has seen.
        """
        self.recency_mean.copy_(recency.mean(0))
        self.recency_scale.copy_(recency.std(0).clamp_min(1e-3))
        self.recency_low.copy_(recency.quantile(0.01, dim=0))
        self.recency_high.copy_(recency.quantile(0.99, dim=0))

    def counts(self, recency: Tensor) -> Tensor:
        """Recency columns (R, columns), within the training range and standardised."""
        within = recency.clamp(self.recency_low, self.recency_high)
        return (within - self.recency_mean) / self.recency_scale

    def forward(self, inputs: Inputs, batch: Batch) -> Tensor:
        """States (R, width) of the batch's decisions."""
        index = torch.from_numpy(batch.interaction)  # (B, T)
        present = (index >= 0).unsqueeze(-1)
        safe = index.clamp_min(0)
        if len(inputs.item):
            # Catalog row -1 and action -1 stand for what the vocabularies do not know.
            x = self.item(inputs.item[safe].clamp_min(0)) + self.action(inputs.action[safe] + 1)
            x = x + self.gap(inputs.gap[safe]) + self.surface(inputs.surface[safe] + 1) + self.hour(inputs.hour[safe])
            x = torch.where(present, x, torch.zeros_like(x))
            days = torch.where(index >= 0, inputs.days[safe], torch.zeros(()))
        else:
            x = self.begin.new_zeros((*index.shape, self.begin.shape[0]))
            days = torch.zeros(index.shape)
        x = torch.cat([x[:, :1] + self.begin, x[:, 1:]], dim=1)  # (B, T, W)
        days = torch.cat([days[:, 1:2] if days.shape[1] > 1 else days[:, :1], days[:, 1:]], dim=1)
        angles = days.unsqueeze(-1) * self.frequencies  # (B, T, W / heads / 2)
        cos, sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)
        for block in self.blocks:
            x = block(x, cos, sin)
        at = self.norm(x[torch.from_numpy(batch.window), torch.from_numpy(batch.position)])  # (R, W)

        rows = torch.from_numpy(batch.decision)
        now = self.decision_gap(inputs.decision_gap[rows]) + self.decision_surface(inputs.decision_surface[rows] + 1)
        now = now + self.decision_hour(inputs.decision_hour[rows])
        now = now + self.recency(self.counts(inputs.recency[rows]))
        said = inputs.said[rows]
        now = now + self.word(said).sum(1) / (said > 0).sum(1, keepdim=True).clamp_min(1).sqrt()
        state: Tensor = self.mix(torch.cat([at, now], dim=-1))
        return state
