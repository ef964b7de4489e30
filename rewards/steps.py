"""The steps of a training as Parquet, streamed through `datasets`: the loop holds a few of them, however long the log.

A row is one step: a batch of windows, the interactions and decisions that it reads, and what is known of those. Rows
are written in random order, since a plan goes by length, and every epoch reads the files in another order and shuffles
once more within a buffer. The same seed gives the same order on every rank and after an interruption.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import Tensor

from rewards.network import Known
from rewards.sequences import Batch
from rewards.trunk import Inputs

STEPS_A_FILE = 16
BUFFER = 64  # steps that are shuffled among each other
PER_INTERACTION = ("item", "action", "gap", "surface", "hour", "days")  # of Inputs; the others are per decision
WINDOWS = "windows"


@dataclass(frozen=True)
class Step:
    """One step by itself: rows of `batch` are those of these `inputs` and of `known`, not of the log's."""

    inputs: Inputs
    batch: Batch
    known: Known


@dataclass(frozen=True)
class Steps:
    """Steps on disk. sizes: decisions of each, in the order of the plan, which tells one training from another."""

    files: tuple[str, ...]
    sizes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.sizes)

    def epoch(self, seed: int, epoch: int) -> Iterator[Step]:
        """Every step once, in the order of this seed and epoch."""
        shapes = _shapes(pq.read_schema(self.files[0]))
        rows = Dataset.from_parquet(list(self.files), streaming=True)
        # More than one input at a time is read by threads, which take five seconds to be let go.
        rows = rows.shuffle(seed=seed, buffer_size=BUFFER, max_buffer_input_shards=1).with_format("arrow")
        rows.set_epoch(epoch)
        for row in rows:
            yield _step(row, shapes)


def write_steps(folder: Path, inputs: Inputs, known: Known, plan: Sequence[Batch], seed: int) -> Steps:
    """Writes the steps of a plan into an empty folder, a file at a time."""
    folder.mkdir(parents=True)
    order = np.random.default_rng(seed).permutation(len(plan)).tolist()
    files = []
    for start in range(0, len(order), STEPS_A_FILE):
        rows = [_row(inputs, known, plan[at]) for at in order[start : start + STEPS_A_FILE]]
        shapes = {name: ",".join(str(size) for size in values.shape[1:]) for name, values in rows[0].items()}
        columns = {name: _lists([row[name] for row in rows]) for name in rows[0]}
        files.append(str(folder / f"steps{start // STEPS_A_FILE:06d}.parquet"))
        # A row group a step: what is read at a time.
        pq.write_table(
            pa.table(columns).replace_schema_metadata(shapes), files[-1], row_group_size=1, compression="zstd"
        )
    return Steps(tuple(files), tuple(len(batch.decision) for batch in plan))


@contextmanager
def streamed(
    folder: Path | None, inputs: Inputs, known: Known, plan: Sequence[Batch], seed: int, accelerator: Accelerator
) -> Iterator[Steps]:
    """The steps of a plan for as long as the context lasts; in a folder that all ranks see, or in one of their own."""
    with TemporaryDirectory() as own:
        place = Path(own) / "steps" if folder is None else folder
        mine = folder is None or accelerator.is_main_process
        if mine:
            shutil.rmtree(place, ignore_errors=True)  # of a run that was killed
            steps = write_steps(place, inputs, known, plan, seed)
        accelerator.wait_for_everyone()
        if not mine:
            files = sorted(str(file) for file in place.glob("*.parquet"))
            steps = Steps(tuple(files), tuple(len(batch.decision) for batch in plan))
        yield steps
        accelerator.wait_for_everyone()
        if mine:
            shutil.rmtree(place)


def _row(inputs: Inputs, known: Known, batch: Batch) -> dict[str, np.ndarray]:
    """One step's arrays by column, with rows of its own."""
    read, place = np.unique(batch.interaction, return_inverse=True)
    none = int(len(read) > 0 and read[0] < 0)  # -1 stands for the start and for padding
    read = read[none:]
    row = {
        WINDOWS: np.full(1, len(batch.interaction)),
        "batch.interaction": (place.reshape(batch.interaction.shape) - none).ravel(),
        "batch.window": batch.window,
        "batch.position": batch.position,
    }
    at = {True: torch.from_numpy(read), False: torch.from_numpy(batch.decision)}
    row |= {f"inputs.{name}": value[at[name in PER_INTERACTION]].numpy() for name, value in vars(inputs).items()}
    return row | {f"known.{name}": value.numpy() for name, value in vars(known.take(batch.decision)).items()}


def _lists(arrays: Sequence[np.ndarray]) -> pa.Array:
    """Arrays of one dtype as a list each, the last axes flattened."""
    offsets = np.cumsum([0, *(array.size for array in arrays)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(np.concatenate([array.ravel() for array in arrays])))


def _shapes(schema: pa.Schema) -> dict[str, tuple[int, ...]]:
    """All axes but the first of every column."""
    told = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    return {name: tuple(int(size) for size in told[name].split(",") if size) for name in schema.names}


def _step(row: pa.Table, shapes: dict[str, tuple[int, ...]]) -> Step:
    def array(name: str) -> np.ndarray:
        flat = row.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False)
        shape = shapes[name]
        # A copy: Arrow's memory may not be written to, and goes with the row.
        return np.array(flat.reshape(-1, *shape) if prod(shape) else np.zeros((decisions, *shape), flat.dtype))

    def tensors(kind: type[Any]) -> dict[str, Tensor]:
        prefix = kind.__name__.lower()
        return {field.name: torch.from_numpy(array(f"{prefix}.{field.name}")) for field in fields(kind)}

    window, position = array("batch.window"), array("batch.position")
    decisions = len(window)
    interaction = array("batch.interaction").reshape(int(array(WINDOWS)[0]), -1)
    batch = Batch(interaction, np.arange(decisions), window, position)
    return Step(Inputs(**tensors(Inputs)), batch, Known(**tensors(Known)))
