"""A run folder opened for learning: its log as arrays, its catalog, and the time up to which one may learn."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import polars as pl

from data.catalog import Catalog
from data.errors import InputError
from data.histories import Decisions, Histories, load
from data.message_log import MessageLog, message_items, read_message_log
from data.store import LogStore, read_parquet
from data.world.message_record import OPPORTUNITIES, SIGNALS
from policy.presets import Preset
from policy.presets import preset as preset_of
from policy.slate_reward import SlateReward
from rewards.model import RewardModel

TRAIN_SHARE = 0.6


@dataclass
class ModelArguments:
    """Which run, which model: the flags every script that has to do with a policy shares."""

    run: str = field(default="runs/demo", metadata={"help": "run folder with logs/ and catalog/"})
    preset: str = field(default="nano", metadata={"help": "nano (from scratch) or smollm2 (pretrained, LoRA)"})
    base_model: str | None = field(default=None, metadata={"help": "a Hugging Face causal LM instead of a preset"})
    set: list[str] = field(default_factory=list, metadata={"help": "preset fields to change, e.g. sft_slates=500"})

    def resolved(self) -> Preset:
        """The preset by name, or by a Hugging Face model's, with the changes asked for; raises InputError."""
        return preset_of(self.base_model or self.preset, self.set)


@dataclass(frozen=True)
class Opened:
    """What every later stage reads. cut: us since 1970; training sees what came before, evaluation what came after."""

    folder: Path
    store: LogStore
    catalog: Catalog
    histories: Histories
    decisions: Decisions
    cut: int

    @property
    def inputs(self) -> list[Path]:
        """The artifacts that everything trained here depends on."""
        return [self.folder / "logs", self.folder / "catalog"]

    @cached_property
    def decides_on_messages(self) -> bool:
        """Whether the log has decisions about messages."""
        sent = message_items(self.store.items())["item_id"]
        if sent.is_empty():
            return False
        decided = self.store.decisions()
        return bool(decided.select(pl.col("slate").list.first().is_in(sent.implode()).any()).item())

    def message_log(self) -> MessageLog:
        """The log's decisions about messages, with its own value signals if it has any; raises InputError for none."""
        return read_message_log(self.store, self.catalog.index_of, value_signals(signals_file(self.folder)))

    def slate_reward(self, name: str) -> SlateReward:
        """The reward model `name` (midterm, click) with every decision's history read; raises InputError if missing."""
        model = RewardModel.load(self.folder / "rewards" / name)
        return SlateReward(model, model.objective(), model.encode(self.histories, self.decisions))


@lru_cache(maxsize=1)
def open_run(folder: Path, train_share: float = TRAIN_SHARE) -> Opened:
    """Open a run whose log and catalog are made. Raises InputError when they are not."""
    for stage, script in (("logs", "simulate.py or ingest.py"), ("catalog", "build_catalog.py")):
        if not (folder / stage).is_dir():
            raise InputError(f"{folder} has no {stage}/: run scripts/{script} first, or give another --run")
    store = LogStore(folder / "logs")
    catalog = Catalog.load(folder / "catalog")
    histories, decisions = load(store, catalog.index_of)
    start, end = store.start.timestamp(), store.end.timestamp()
    return Opened(folder, store, catalog, histories, decisions, int((start + (end - start) * train_share) * 1e6))


def signals_file(run: Path, named: str | None = None) -> Path | None:
    """The file of the domains' value signals: the one that is named, else the log's own, if it has one.

    Raises InputError for one that is named and not there.
    """
    if named is not None:
        if not Path(named).is_file():
            raise InputError(f"--opportunities {named}: no such file")
        return Path(named)
    there = run / "logs" / SIGNALS
    return there if there.is_file() else None


def value_signals(file: Path | None) -> pl.DataFrame | None:
    """The value signals in a file. Raises InputError where a column is missing."""
    if file is None:
        return None
    frame = read_parquet(file)
    for column in OPPORTUNITIES:
        if column not in frame.columns:
            raise InputError(f"{file}: no column {column!r}: value signals need {', '.join(OPPORTUNITIES)}")
    return frame
