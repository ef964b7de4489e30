"""The gradient part of the training: one network on one half of the users, under accelerate.

One step is one batch of windows, each read once and scored at all of its decisions, so an epoch costs interactions,
not decisions times history. Under several ranks a step is the same batch, its windows shared out among them, and the
gradients add up to those of the whole: but for dropout, more ranks give the same losses and the same weights. Steps are
streamed from Parquet (`rewards.steps`).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rewards.network import Known, Network
from rewards.sequences import Batch
from rewards.steps import Steps
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


PARTS = ("outcomes", "reactions", "anyway", "exposure")


@dataclass(frozen=True)
class Watched:
    """What is done along the way. advance: after every step, for a progress bar. track: with the step and its losses
    by part. checkpoint: a file that every finished epoch is kept in, and that training goes on from; about: what is
    learned from, in a word that changes with it, or another log's training would be gone on with."""

    advance: Callable[[], None] = lambda: None
    track: Callable[[int, dict[str, float]], None] = lambda step, losses: None
    checkpoint: Path | None = None
    about: str = ""


UNWATCHED = Watched()


def fit(
    network: Network,
    steps: Steps,
    settings: TrainSettings,
    seed: int,
    accelerator: Accelerator,
    watched: Watched = UNWATCHED,
) -> dict[str, float]:
    """Train in place. Returns the mean of each loss part over the last epoch.

    The same seed and number of ranks give the same bytes, whether training was interrupted between or not.
    """
    ranks, rank = accelerator.num_processes, accelerator.process_index
    total = max(settings.epochs * len(steps), 1)
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
    torch.manual_seed(seed)  # dropout; the same on every rank, whose windows differ
    key = f"{asdict(settings)} {asdict(network.shape)} seed {seed} ranks {ranks} steps {steps.sizes} {watched.about}"
    done = _resume(watched.checkpoint, key, network, optimizer, schedule)
    prepared.train()
    sums = dict.fromkeys(PARTS, 0.0)
    for epoch in range(settings.epochs):
        if epoch < done:
            for _ in range(len(steps)):
                watched.advance()
            continue
        sums = dict.fromkeys(PARTS, 0.0)
        for number, step in enumerate(steps.epoch(seed, epoch)):
            batch = step.batch.part(rank, ranks)
            loss, parts = prepared(step.inputs, batch, step.known.take(batch.decision), step.known, ranks)
            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(prepared.parameters(), settings.clip)
            optimizer.step()
            schedule.step()
            losses = accelerator.reduce(torch.stack([parts.get(name, loss.new_zeros(())) for name in PARTS]), "sum")
            for name, value in zip(PARTS, losses.tolist(), strict=True):
                sums[name] += value / len(steps)
            watched.track(epoch * len(steps) + number, dict(zip(PARTS, losses.tolist(), strict=True)))
            watched.advance()
        if watched.checkpoint is not None and accelerator.is_main_process:
            _keep(watched.checkpoint, key, epoch + 1, network, optimizer)
    network.eval()
    log.info("trained: %s", ", ".join(f"{name} {value:.4f}" for name, value in sums.items()))
    return sums


class _Step(torch.nn.Module):
    """Forward and loss in one module, so that a distributed wrapper sees every parameter used in one call."""

    def __init__(self, network: Network, settings: TrainSettings) -> None:
        super().__init__()
        self.network = network
        self.settings = settings

    def forward(
        self, inputs: Inputs, batch: Batch, known: Known, whole: Known, ranks: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        parts = self.network.losses(self.network(inputs, batch), known, whole)
        weights = {"outcomes": 1.0, "reactions": self.settings.reaction_weight, "anyway": 0.2}
        weights["exposure"] = self.settings.exposure_weight
        # Parameters of a read-out that this batch has no label for still take part, or ranks would wait for each other.
        idle = sum(p.sum() for p in self.network.parameters()) * 0.0
        # Ranks average their gradients, which are to add up.
        loss = ranks * sum((weights[name] * value for name, value in parts.items()), idle)
        assert isinstance(loss, Tensor)
        return loss, {name: value.detach() for name, value in parts.items()}


def _keep(path: Path, key: str, epochs: int, network: Network, optimizer: torch.optim.Optimizer) -> None:
    """Weights, moments and the state of the draws after so many epochs, written whole or not at all."""
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= {
        f"optimizer.{index}.{name}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    tensors["draws"] = torch.get_rng_state()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.making")
    whole = {name: value.clone().contiguous() for name, value in tensors.items()}
    save_file(whole, temporary, {"key": key, "epochs": str(epochs)})
    temporary.rename(path)


def _resume(
    path: Path | None,
    key: str,
    network: Network,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
) -> int:
    """Epochs that are done already, with everything put where they left it; 0 where `path` is of another training."""
    if path is None or not path.is_file():
        return 0
    with safe_open(path, "pt") as file:
        facts = file.metadata()
        if facts["key"] != key:
            return 0
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a safetensors file is no mapping)
    network.load_state_dict(
        {name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")}
    )
    whole = optimizer.state_dict()
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, _, moment = rest.partition(".")
            whole["state"].setdefault(int(index), {})[moment] = value
    step = int(whole["state"][0]["step"])
    # The pace is a function of the step, which each group is at.
    schedule.last_epoch = step
    for group, base, pace in zip(whole["param_groups"], schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = base * pace(step)
    optimizer.load_state_dict(whole)
    torch.set_rng_state(tensors["draws"])
    return int(facts["epochs"])


@torch.no_grad()
def states(network: Network, inputs: Inputs, plan: Sequence[Batch], rows: int) -> Tensor:
    """States (rows, S) of the decisions that `plan` covers; the others stay zero."""
    network.eval()
    result = torch.zeros(rows, network.shape.state)
    for batch in plan:
        result[torch.from_numpy(batch.decision)] = network(inputs, batch)
    return result
