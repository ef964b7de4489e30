"""Train a message reward on a run's log: runs/<name>/rewards/messages.

    python scripts/train_message_rewards.py --run runs/mine
    python scripts/train_message_rewards.py --config scripts/configs/train_message_rewards.yaml

What a message adds to holding, from the logged send probabilities. Decisions before the cut teach, with outcomes as
known then; on later ones opens and opt-outs are judged. The domains' value signals are read from --opportunities, a
Parquet file of user_id, item_id, time and value; without one the reward knows nothing of them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from data.artifacts import build
from data.catalog import Catalog
from data.errors import InputError, exit_on_input_error
from data.message_log import read_message_log
from data.store import LogStore
from rewards.message_features import MessageCatalog
from rewards.message_training import MessageRewardSettings, message_quality, train_message_reward
from rewards.messages import FORMAT, NAME
from scripts.command_line import ScriptParser
from scripts.opened import signals_file, value_signals


@dataclass
class MessageRewardArguments:
    """Which run, how much of its log, and which rules that log kept."""

    run: str = field(default="runs/demo", metadata={"help": "run folder with logs/ and catalog/"})
    opportunities: str | None = field(
        default=None, metadata={"help": "Parquet file of value signals; default <run>/logs/opportunities.parquet"}
    )
    cut: float = field(default=0.8, metadata={"help": "share of the log's time that teaches"})
    weekly_cap: int = field(default=3, metadata={"help": "sends a channel and week that the log's policy kept to"})
    members: int = field(default=16, metadata={"help": "draws of the effects, per half of the users"})
    seed: int = field(default=0, metadata={"help": "seed of the halves, the trees and the draws"})


def stage(args: MessageRewardArguments) -> bool:
    """Train the reward; True when it was trained, False when an unchanged one was there."""
    folder = Path(args.run)
    for need, script in (("logs", "simulate.py"), ("catalog", "build_catalog.py")):
        if not (folder / need).is_dir():
            raise InputError(f"{folder} has no {need}/: run scripts/{script} first, or give another --run")
    if not 0.0 < args.cut <= 1.0:
        raise InputError(f"--cut {args.cut}: give the share of the log that teaches, above 0 and at most 1")
    settings = MessageRewardSettings(members=args.members, weekly_cap=args.weekly_cap)
    store, file = LogStore(folder / "logs"), signals_file(folder, args.opportunities)

    def make(temporary: Path) -> None:
        index = Catalog.load(folder / "catalog").index_of
        catalog = MessageCatalog.of(store.items(), index)
        cut = store.start + timedelta(seconds=(store.end - store.start).total_seconds() * args.cut)
        values = value_signals(file)
        log = read_message_log(store, index, values, cut)
        reward, quality = train_message_reward(log, catalog, settings, args.seed)
        if args.cut < 1.0:
            whole = read_message_log(store, index, values)
            later = whole.take(whole.contexts.time > np.int64(cut.timestamp() * 1e6))
            if (later.column >= 0).any():
                quality["later"] = message_quality(reward, later)
        reward.save(temporary)
        (temporary / "quality.json").write_text(json.dumps(quality, indent=1) + "\n")

    return build(
        folder / "rewards" / NAME,
        config=asdict(settings) | {"model_format": FORMAT, "cut": args.cut},
        inputs=[folder / "logs", folder / "catalog", *([file] if file is not None else [])],
        seed=args.seed,
        make=make,
    )


def table_of(quality: dict[str, Any]) -> Table:
    """What is foretold of later messages beside what came of them."""
    table = Table("later messages", "by", "sends", "foretold", "observed", "AUC", "ECE")
    for name, groups in quality.get("later", {}).items():
        for group, found in groups.items():
            cells = [f"{found['n']:,}", f"{found['predicted']:.2%}", f"{found['observed']:.2%}"]
            table.add_row(
                name, group, *cells, "" if found["auc"] is None else f"{found['auc']:.3f}", f"{found['ece']:.4f}"
            )
    return table


def main() -> None:
    (args,) = ScriptParser((MessageRewardArguments,)).parse_args_and_config()
    stage(args)
    quality = json.loads((Path(args.run) / "rewards" / NAME / "quality.json").read_text())
    Console().print(table_of(quality))


if __name__ == "__main__":
    exit_on_input_error(main)
