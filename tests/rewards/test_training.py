import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate import Accelerator
from accelerate.launchers import debug_launcher
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file

from rewards.crossfit import _known, item_coordinates
from rewards.event_file import EventFile, crc32c
from rewards.network import Known, Network, Shape
from rewards.reactions import Channels
from rewards.sequences import Batch, batches
from rewards.slices import SliceSettings, back_test
from rewards.steps import BUFFER, streamed, write_steps
from rewards.training import PARTS, Watched, _Step, fit, states
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


@pytest.fixture(scope="module")
def short_steps(task: tuple, small_log: MadeUp) -> list[Batch]:
    """The same decisions in more and smaller steps."""
    rows = np.sort(np.concatenate([batch.decision for batch in task[3]]))
    return list(batches(small_log.histories, small_log.decisions, rows, 16, 48))


def test_a_step_from_parquet_is_the_batch_it_was_written_from(
    task: tuple, short_steps: list[Batch], tmp_path: Path
) -> None:
    network, inputs, known, _ = task
    steps = write_steps(tmp_path / "steps", inputs, known, short_steps, 0)
    made = network(0.0)

    @torch.no_grad()
    def losses(inputs: Inputs, batch: Batch, known: Known) -> tuple[int, dict[str, float]]:
        parts = made.losses(made(inputs, batch), known)
        return len(batch.decision), {name: float(value) for name, value in parts.items()}

    expected = [losses(inputs, batch, known.take(batch.decision)) for batch in short_steps]
    found = [losses(step.inputs, step.batch, step.known) for step in steps.epoch(0, 0)]
    assert len(steps.files) > 1
    assert sorted(map(str, found)) == sorted(map(str, expected))


def test_epochs_differ_in_order_and_a_seed_repeats_them(task: tuple, short_steps: list[Batch], tmp_path: Path) -> None:
    _, inputs, known, _ = task
    steps = write_steps(tmp_path / "steps", inputs, known, short_steps, 0)

    def order(seed: int, epoch: int) -> list[int]:
        return [int(step.known.slate.sum()) for step in steps.epoch(seed, epoch)]

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert sorted(order(0, 0)) == sorted(order(1, 1))


def test_what_is_held_does_not_grow_with_the_log(task: tuple, short_steps: list[Batch], tmp_path: Path) -> None:
    _, inputs, known, _ = task

    def held(times: int) -> int:
        steps = write_steps(tmp_path / str(times), inputs, known, short_steps * times, 0)
        assert len(steps) > 2 * BUFFER
        return max(pa.total_allocated_bytes() for _ in steps.epoch(0, 0))

    fewest = 1 + 2 * BUFFER // len(short_steps)
    assert held(2 * fewest) < 1.2 * held(fewest)


@pytest.mark.nightly
def test_two_ranks_have_the_losses_of_one_and_foretell_the_same(task: tuple, tmp_path: Path) -> None:
    """A real group of two processes, which share the steps on disk and every batch's windows."""
    network, inputs, known, plan = task

    def train(kept: Path) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)  # a fork believes that it is alone
        accelerator = Accelerator(cpu=True)
        made = network(0.0)
        seen: list[list[float]] = []
        watched = Watched(track=lambda step, losses: seen.append([losses[name] for name in PARTS]))
        with streamed(tmp_path / "steps", inputs, known, plan, 0, accelerator) as steps:
            fit(made, steps, SETTINGS, 0, accelerator, watched)
        if accelerator.is_main_process:
            foretold = made.heads.means(states(made, inputs, plan, len(known.slate)))
            ranks = torch.tensor(accelerator.num_processes)
            save_file({"losses": torch.tensor(seen), "foretold": foretold, "ranks": ranks}, kept)

    debug_launcher(train, (tmp_path / "two",), num_processes=2)
    train(tmp_path / "one")
    one, two = load_file(tmp_path / "one"), load_file(tmp_path / "two")
    assert (int(one.pop("ranks")), int(two.pop("ranks"))) == (1, 2)
    assert len(one["losses"]) == SETTINGS.epochs * len(plan)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-4, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}")
    assert not (tmp_path / "steps").exists(), "nothing is left behind"


def test_an_interrupted_training_ends_with_the_same_weights(task: tuple, tmp_path: Path) -> None:
    network, inputs, known, plan = task
    steps_on_disk = write_steps(tmp_path / "steps", inputs, known, plan, 5)

    def trained(watched: Watched) -> Network:
        made = network(0.2)
        fit(made, steps_on_disk, SETTINGS, 5, Accelerator(cpu=True), watched)
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
    steps = write_steps(tmp_path / "steps", inputs, known, plan, 0)
    seen: list[int] = []
    for seed in (1, 2):
        seen.clear()
        watched = Watched(track=lambda step, losses: seen.append(step), checkpoint=tmp_path / "half0.safetensors")
        fit(network(0.0), steps, SETTINGS, seed, Accelerator(cpu=True), watched)
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
