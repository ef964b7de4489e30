"""Scoring slates with the reward model: histories cached, beside reading them again for every slate."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from data.histories import Decisions, Histories
from rewards.advantage import AdvantageSettings, Effects
from rewards.heads import resolve
from rewards.model import RewardModel
from rewards.network import Network, Shape
from rewards.objective import LoggingMoments
from rewards.reactions import Channels
from rewards.trunk import TrunkSettings
from scripts.benches.measure import Measure, seconds


def bench_rewards(listeners: int = 64, past: int = 200, slates: int = 80, items: int = 2000) -> Iterable[Measure]:
    """Scoring candidate slates of five with the reward model at its usual size, on one thread.

    Ours reads every listener's history once and keeps the state; so does a training step of DPO or PPO, and a server.
    The peer reads it again for every candidate, all listeners in one batch. Both must give the same scores. The model
    is untrained: a number takes as long to work out whether it is right or not.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model, histories, decisions = _untrained(listeners, past, items)
        generator = torch.Generator().manual_seed(0)
        shown = torch.randint(items, (listeners, slates, 5), generator=generator)
        states = model.encode(histories, decisions)
        score = partial(model.advantage, states, shown)

        def again() -> Tensor:
            return model.advantage(model.encode(histories, decisions), shown[:, :1]).mean[:, 0]

        torch.testing.assert_close(again(), score().mean[:, 0], atol=1e-4, rtol=1e-3)
        ours = seconds(score, 5) / (listeners * slates)
        peer = seconds(again, 3) / listeners
        yield Measure("rewards: score 5,000 slates, histories cached", "s", 5000 * ours, None, 1.0)
        yield Measure("rewards: score 5,000 slates, cached or not", "s", 5000 * ours, 5000 * peer, 10.0)
    finally:
        torch.set_num_threads(threads)


def _untrained(listeners: int, past: int, items: int) -> tuple[RewardModel, Histories, Decisions]:
    rng = np.random.default_rng(0)
    hours = np.cumsum(rng.exponential(7.0, (listeners, past)), axis=1)
    time = (1_700_000_000 + hours * 3600).astype(np.int64) * 1_000_000
    item = rng.integers(0, items, (listeners, past)).astype(np.int32)
    histories = Histories(
        user_ids=[f"u{u}" for u in range(listeners)],
        offsets=np.arange(listeners + 1, dtype=np.int64) * past,
        item=item.ravel(),
        action=np.zeros(listeners * past, np.int8),
        time=time.ravel(),
        surface=np.zeros(listeners * past, np.int8),
        hour_of_week=((time.ravel() // 3_600_000_000) % 168).astype(np.int16),
    )
    decisions = Decisions(
        decision_id=[f"d{u}" for u in range(listeners)],
        user=np.arange(listeners, dtype=np.int32),
        start=np.arange(1, listeners + 1, dtype=np.int64) * past,
        time=time[:, -1] + 3_600_000_000,
        hour_of_week=np.zeros(listeners, np.int16),
        surface=np.zeros(listeners, np.int8),
        slate=item[:, :5],
        log_propensity=np.full(listeners, np.nan),
        steer=[None] * listeners,
        reaction=np.full((listeners, 5), -1, np.int8),
        seconds=np.zeros((listeners, 5), np.float32),
    )
    labels = tuple(resolve(name, 5) for name in ("returned_1d", "returned_7d", "active_days_28", "habit_28", "plays"))
    channels = Channels(tuple(range(4)))
    shape = Shape(TrunkSettings(), labels, bins=8, slate_size=5, classes=1 + len(channels.codes), directions=16)
    content = torch.from_numpy(rng.standard_normal((items, shape.trunk.content)).astype(np.float32))
    reference = torch.arange(AdvantageSettings().reference)
    share = torch.full((len(reference),), -float(np.log(len(reference))))
    drawn = partial(torch.randn, generator=torch.Generator().manual_seed(1))
    members, C, L = 1 + AdvantageSettings().members, len(channels.codes), len(labels)
    torch.manual_seed(0)
    networks = tuple(Network(shape, content, reference, share).eval() for _ in range(2))
    effects = tuple(Effects(drawn((members, C, L)), drawn((members, items, L)), torch.ones(5)) for _ in range(2))
    moments = LoggingMoments(tuple(label.name for label in labels), np.eye(L))
    return RewardModel(shape, channels, networks, effects, None, moments, 0.0, content), histories, decisions
