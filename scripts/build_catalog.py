"""Embed the items of a log and give each a semantic ID of its own: runs/<name>/catalog.

python scripts/build_catalog.py --run runs/demo
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import polars as pl
from trl import TrlParser

from data.artifacts import build
from data.catalog import Catalog, listenable
from data.errors import exit_on_input_error
from data.semantic_ids import CatalogSettings, build_catalog
from data.store import LogStore


@dataclass
class CatalogArguments:
    """How long an ID is, and what behaviour shapes it."""

    run: str = field(default="runs/demo", metadata={"help": "run folder with logs/"})
    levels: int = field(default=3, metadata={"help": "codes of a semantic ID"})
    train_share: float = field(default=0.6, metadata={"help": "share of the log's time whose behaviour is looked at"})
    seed: int = field(default=0, metadata={"help": "seed of the clustering"})


def stage(args: CatalogArguments) -> bool:
    """Write the catalog; True when it was made, False when it was there."""
    logs = Path(args.run) / "logs"
    settings = CatalogSettings(levels=args.levels)

    def make(folder: Path) -> None:
        store = LogStore(logs)
        until = store.start + (store.end - store.start) * args.train_share
        items = listenable(store.items())
        events = store.events().filter(
            pl.col("time") < until, pl.col("item_id").is_null() | pl.col("item_id").is_in(items["item_id"].implode())
        )
        catalog: Catalog = build_catalog(items, events, settings, args.seed)
        catalog.save(folder)

    config = {**asdict(settings), "train_share": args.train_share}
    return build(Path(args.run) / "catalog", config=config, inputs=[logs], seed=args.seed, make=make)


def main() -> None:
    (args,) = TrlParser((CatalogArguments,)).parse_args_and_config()
    stage(args)


if __name__ == "__main__":
    exit_on_input_error(main)
