import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from rewards.crossfit import _known, item_coordinates
from rewards.event_file import EventFile, crc32c
from rewards.network import Known, Network, Shape
from rewards.reactions import Channels
from rewards.sequences import Batch, batches
from rewards.slices import SliceSettings, back_test
from rewards.training import Watched, _Step, fit
from rewards.trunk import Inputs, TrunkSettings
from tests.rewards.made_up_log import SMALL, MadeUp

SETTINGS = replace(SMALL.train, epochs=3, tokens=256)


@pytest.fixture(scope="module")
def task(small_log: MadeUp) -> tuple[Callable[[float], Network], Inputs, Known, list[Batch]]:
    """A way to make the same network again, and what it is trained on."""
    log = small_log
    test = back_test(log.decisions, log.outcomes, log.end, None, SliceSettings())
    rows = np.flatnonzero(log.decisions.time < test.cut)
    channels = Channels.of(log.decisions, rows)
    content = torch.from_numpy(item_coordinates(log.catalog.embeddings, 4))
    reference = torch.arange(len(content))

    def network(dropout: float) -> Network:
        torch.manual_seed(0)
        trunk = TrunkSettings(width=16, layers=1, heads=2, window=16, dropout=dropout, item_dropout=dropout)
        shape = Shape(trunk, test.labels, test.train.bins, log.decisions.slate.shape[1], 1 + len(channels.codes))
        return Network(shape, content, reference, torch.full((len(content),), -3.0))

    inputs = replace(Inputs.of(log.histories, log.decisions), taste=torch.zeros(len(log.decisions), 1))
    known = _known(log.decisions, test.train, channels, reference, rows)
    return network, inputs, known, list(batches(log.histories, log.decisions, rows, 16, 256))


def test_what_the_ranks_learn_from_their_parts_adds_up_to_the_whole_batch(task: tuple) -> None:
    network, inputs, known, plan = task
    batch = max(plan, key=lambda one: len(one.interaction))
    step = _Step(network(0.0), SETTINGS)

    def gradient(ranks: int) -> torch.Tensor:
        total = torch.zeros(())
        step.zero_grad()
        for rank in range(ranks):
            part = batch.part(rank, ranks)
            loss, _ = step(inputs, part, known.take(part.decision), known.take(batch.decision), ranks)
            total = total + loss / ranks  # as ranks average
        total.backward()
        return torch.cat([p.grad.ravel() for p in step.parameters() if p.grad is not None])

    whole = gradient(1)
    for ranks in (2, 3, len(batch.interaction) + 1):
        torch.testing.assert_close(gradient(ranks), whole, atol=1e-5, rtol=1e-4)


def test_an_interrupted_training_ends_with_the_same_weights(task: tuple, tmp_path: Path) -> None:
    network, inputs, known, plan = task

    def trained(watched: Watched) -> Network:
        made = network(0.2)
        fit(made, inputs, known, plan, SETTINGS, 5, Accelerator(cpu=True), watched)
        return made

    straight = trained(Watched())
    steps = iter(range(len(plan) + 2))
    checkpoint = tmp_path / "half0.safetensors"
    with pytest.raises(StopIteration):
        trained(Watched(advance=lambda: next(steps), checkpoint=checkpoint))  # stops in the second epoch
    seen: list[int] = []
    resumed = trained(Watched(track=lambda step, losses: seen.append(step), checkpoint=checkpoint))
    assert min(seen) == len(plan), "the first epoch is not done again"
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_checkpoint_of_another_training_is_left_alone(task: tuple, tmp_path: Path) -> None:
    network, inputs, known, plan = task
    seen: list[int] = []
    for seed in (1, 2):
        seen.clear()
        watched = Watched(track=lambda step, losses: seen.append(step), checkpoint=tmp_path / "half0.safetensors")
        fit(network(0.0), inputs, known, plan, SETTINGS, seed, Accelerator(cpu=True), watched)
    assert min(seen) == 0


def test_losses_are_written_as_tensorboard_reads_them(tmp_path: Path) -> None:
    assert crc32c(b"123456789") == 0xE3069283, "the check value of RFC 3720"
    events = EventFile(tmp_path / "half0", "rewards")
    events.add(300, {"outcomes": 1.5})
    data = events.path.read_bytes()
    records = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        body, (crc,) = data[12 : 12 + length], struct.unpack("<I", data[12 + length : 16 + length])
        plain = crc32c(body)
        assert crc == ((plain >> 15 | plain << 17) + 0xA282EAD8) & 0xFFFFFFFF
        records.append(body)
        data = data[16 + length :]
    assert b"brain.Event:2" in records[0]
    value = b"\x0a\x08outcomes\x15" + struct.pack("<f", 1.5)
    assert records[1][9:] == b"\x10\xac\x02" + b"\x2a" + bytes([len(value) + 2]) + b"\x0a" + bytes([len(value)]) + value
