"""A made-up log whose truth is known, and reward models trained on it once for all tests.

Those who came often are shown other items than those who did not, and they come back more whatever they are shown.
Each item adds a known number of active days; it is also completed more the more it adds. A model that compares what
became of those who were shown an item with those who were not finds the heavy listeners' items good.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import torch

from data.catalog import Catalog
from data.histories import Decisions, Histories
from data.outcomes import outcome_schema
from data.schema import ACTION_CODE
from rewards.advantage import AdvantageSettings
from rewards.crossfit import RewardSettings, train_rewards
from rewards.model import RewardModel
from rewards.training import TrainSettings
from rewards.trunk import TrunkSettings

START = datetime(2026, 1, 5, tzinfo=UTC)
DAY = 86_400_000_000
ITEMS, SLATE = 24, 3


@dataclass(frozen=True)
class MadeUp:
    """A log with its truth: effect (N,) of an item on active_days_7; heavy (U,) who comes often whatever is shown."""

    histories: Histories
    decisions: Decisions
    outcomes: pl.DataFrame
    catalog: Catalog
    end: datetime
    effect: np.ndarray
    heavy: np.ndarray


def make_log(users: int, days: int, size: float, seed: int, favoured: float = 1.5) -> MadeUp:
    """`size`: standard deviation of the items' effects. `favoured`: logits even items gain with heavy listeners."""
    rng = np.random.default_rng(seed)
    heavy = rng.random(users) < 0.5
    effect = size * rng.standard_normal(ITEMS)
    effect -= effect[::2].mean() * (np.arange(ITEMS) % 2 == 0) + effect[1::2].mean() * (np.arange(ITEMS) % 2 == 1)
    appeal = np.exp(0.5 * rng.standard_normal(ITEMS))
    came = rng.random((users, days)) < np.where(heavy, 0.7, 0.3)[:, None]
    user, day = np.nonzero(came)
    rows = len(user)
    even = np.arange(ITEMS) % 2 == 0
    # The policy goes by what it has seen: the share of the last seven days on which the listener came.
    upto = np.concatenate([np.zeros((users, 1)), np.cumsum(came, axis=1)], axis=1)
    week = np.maximum(day - 7, 0)
    rate = np.where(day > 0, (upto[user, day] - upto[user, week]) / np.maximum(day - week, 1), 0.5)
    scores = np.log(appeal) + favoured * (rate[:, None] - 0.5) * 1.5 * np.where(even, 1, -1)
    noisy = scores + rng.gumbel(size=scores.shape)
    slate = np.argsort(-noisy, axis=1)[:, :SLATE].astype(np.int32)
    picked = np.take_along_axis(scores, slate, 1)
    left = np.exp(scores).sum(1, keepdims=True) - np.concatenate(
        [np.zeros((rows, 1)), np.cumsum(np.exp(picked), 1)[:, :-1]], 1
    )
    log_propensity = (picked - np.log(left)).sum(1)

    standing = effect / max(size, 1e-9)
    completed = rng.random(slate.shape) < 1 / (1 + np.exp(-0.8 * standing[slate]))
    reaction = np.where(completed, ACTION_CODE["complete"], ACTION_CODE["skip"]).astype(np.int8)
    time = (int(START.timestamp()) * 1_000_000 + day * DAY + rng.integers(8, 20, rows) * (DAY // 24)).astype(np.int64)
    hour = ((time - int(START.timestamp()) * 1_000_000) // (DAY // 24) % 168).astype(np.int16)

    played = np.repeat(np.arange(rows), SLATE)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=users) * SLATE)]).astype(np.int64)
    histories = Histories(
        user_ids=[f"u{u}" for u in range(users)],
        offsets=offsets,
        item=slate.ravel(),
        action=reaction.ravel(),
        time=time[played] + np.tile(np.arange(SLATE), rows) * 1_000_000,
        surface=np.zeros(rows * SLATE, np.int8),
        hour_of_week=hour[played],
    )
    decisions = Decisions(
        decision_id=[f"d{row}" for row in range(rows)],
        user=user.astype(np.int32),
        start=np.arange(rows, dtype=np.int64) * SLATE,
        time=time,
        hour_of_week=hour,
        surface=np.zeros(rows, np.int8),
        slate=slate,
        log_propensity=log_propensity,
        steer=[None] * rows,
        reaction=reaction,
        seconds=np.full(slate.shape, 100.0, np.float32),
    )
    share = np.where(heavy[user], 4.5, 2.0) + effect[slate].sum(1) + 0.9 * rng.standard_normal(rows)
    active = np.clip(np.round(share), 0, 7).astype(int)
    gap = np.minimum(rng.geometric(np.where(heavy[user], 0.7, 0.3)), 60)
    end = START + timedelta(days=days + 7)
    return MadeUp(histories, decisions, _outcomes(decisions, day, active, gap, end), _catalog(rng), end, effect, heavy)


def _outcomes(
    decisions: Decisions, day: np.ndarray, active: np.ndarray, gap: np.ndarray, end: datetime
) -> pl.DataFrame:
    plays = (decisions.reaction >= 0).sum(1)
    completes = (decisions.reaction == ACTION_CODE["complete"]).sum(1)
    columns: dict[str, object] = {
        "decision_id": decisions.decision_id,
        "user_id": [f"u{u}" for u in decisions.user.tolist()],
        "time": decisions.time,
        "local_day": [date(2026, 1, 5) + timedelta(days=int(d)) for d in day],
        "return_days": gap,
        "return_observed": [True] * len(gap),
        "return_time": decisions.time + gap * DAY,
        "returned_1d": gap <= 1,
        "returned_7d": gap <= 7,
        "active_days_7": active,
        "plays": plays,
        "completes": completes,
    }
    for window in (0, 1, 7, 14, 28, 60):
        columns[f"matured_{window}d"] = decisions.time + max(window, 0.05) * DAY
    columns["matured_at"] = columns["matured_7d"]
    schema = outcome_schema()
    series = []
    for name, dtype in schema.items():
        values = columns.get(name, [None] * len(gap))
        if isinstance(dtype, pl.Datetime) and isinstance(values, np.ndarray):
            series.append(pl.Series(name, values.astype(np.int64)).cast(dtype))
        else:
            series.append(pl.Series(name, values).cast(dtype))
    table = pl.DataFrame(series)
    closed = {"returned_1d": "matured_1d", "returned_7d": "matured_7d", "active_days_7": "matured_7d"}
    return table.with_columns(pl.when(pl.col(at) <= end).then(pl.col(label)) for label, at in closed.items())


def _catalog(rng: np.random.Generator) -> Catalog:
    embeddings = rng.standard_normal((ITEMS, 6)).astype(np.float32)
    embeddings[:, 0] = np.where(np.arange(ITEMS) % 2 == 0, 2.0, -2.0)  # what decides who is shown it is in its content
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    items = pl.DataFrame({"item_id": [f"i{i}" for i in range(ITEMS)]})
    codes = np.arange(ITEMS, dtype=np.int32)[:, None]
    return Catalog(items, embeddings, codes, (ITEMS,), (embeddings,))


SMALL = RewardSettings(
    taste=16,
    trunk=TrunkSettings(width=32, layers=1, heads=2, window=64),
    train=TrainSettings(epochs=5),
    advantage=AdvantageSettings(members=8, directions=4),
    baselines=False,
)


@dataclass(frozen=True)
class Trained:
    """A log, the model trained on it, its quality report, and the states of all its decisions."""

    log: MadeUp
    model: RewardModel
    quality: dict[str, object]
    states: torch.Tensor


def train(log: MadeUp, settings: RewardSettings = SMALL, seed: int = 0) -> Trained:
    """Train on a made-up log."""
    model, quality = train_rewards(log.histories, log.decisions, log.outcomes, log.end, log.catalog, settings, seed)
    return Trained(log, model, quality, model.encode(log.histories, log.decisions))
