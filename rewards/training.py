"""The gradient part of the training: one network on one half of the users, under accelerate.

One step is one batch of windows, each read once and scored at all of its decisions, so an epoch costs interactions,
not decisions times history.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from rewards.network import Known, Network
from rewards.sequences import Batch
from rewards.trunk import Inputs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainSettings:
    """How long and how fast. `tokens` is the padded interactions of one step, fewer where an epoch of a small log would
    otherwise have under `least_steps`."""

    epochs: int = 4
    tokens: int = 4096
    least_steps: int = 48
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    warmup_share: float = 0.1
    clip: float = 1.0
    reaction_weight: float = 1.0
    exposure_weight: float = 0.6


def fit(
    network: Network,
    inputs: Inputs,
    known: Known,
    plan: Sequence[Batch],
    settings: TrainSettings,
    seed: int,
    accelerator: Accelerator,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Train in place. Returns the mean of each loss part over the last epoch.

    Under several ranks each takes its own share of every epoch's batches and gradients are averaged. `advance` is
    called once per step, for a progress bar. The same seed and number of ranks give the same bytes.
    """
    ranks, rank = accelerator.num_processes, accelerator.process_index
    steps_per_epoch = len(plan) // ranks if len(plan) >= ranks else 1
    total = max(settings.epochs * steps_per_epoch, 1)
    decay = [p for name, p in network.named_parameters() if p.dim() > 1 and not name.endswith("free.weight")]
    free = [p for name, p in network.named_parameters() if name.endswith("free.weight")]
    rest = [p for p in network.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decay, "weight_decay": settings.weight_decay},
            {"params": free, "weight_decay": settings.weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
    )
    warmup = max(int(total * settings.warmup_share), 1)

    def pace(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.02 + 0.98 * 0.5 * (1 + float(np.cos(np.pi * (step - warmup) / max(total - warmup, 1))))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, pace)
    step_module = _Step(network, settings)
    prepared, optimizer = accelerator.prepare(step_module, optimizer)
    order = np.random.default_rng(seed)
    torch.manual_seed(seed)  # dropout; the same on every rank, whose batches differ
    prepared.train()
    sums: dict[str, float] = {}
    for _ in range(settings.epochs):
        sums = {}
        shuffled = order.permutation(len(plan))
        for step in range(steps_per_epoch):
            batch = plan[int(shuffled[(step * ranks + rank) % len(plan)])]
            loss, parts = prepared(inputs, batch, known.take(batch.decision))
            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(prepared.parameters(), settings.clip)
            optimizer.step()
            schedule.step()
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + float(value) / steps_per_epoch
            advance()
    network.eval()
    log.info("trained: %s", ", ".join(f"{name} {value:.4f}" for name, value in sums.items()))
    return sums


class _Step(torch.nn.Module):
    """Forward and loss in one module, so that a distributed wrapper sees every parameter used in one call."""

    def __init__(self, network: Network, settings: TrainSettings) -> None:
        super().__init__()
        self.network = network
        self.settings = settings

    def forward(self, inputs: Inputs, batch: Batch, known: Known) -> tuple[Tensor, dict[str, Tensor]]:
        parts = self.network.losses(self.network(inputs, batch), known)
        weights = {"outcomes": 1.0, "reactions": self.settings.reaction_weight, "anyway": 0.2}
        weights["exposure"] = self.settings.exposure_weight
        # Parameters of a read-out that this batch has no label for still take part, or ranks would wait for each other.
        idle = sum(p.sum() for p in self.network.parameters()) * 0.0
        loss = sum((weights[name] * value for name, value in parts.items()), idle)
        assert isinstance(loss, Tensor)
        return loss, {name: value.detach() for name, value in parts.items()}


@torch.no_grad()
def states(network: Network, inputs: Inputs, plan: Sequence[Batch], rows: int) -> Tensor:
    """States (rows, W) of the decisions that `plan` covers; the others stay zero."""
    network.eval()
    result = torch.zeros(rows, network.shape.trunk.width)
    for batch in plan:
        result[torch.from_numpy(batch.decision)] = network(inputs, batch)
    return result
