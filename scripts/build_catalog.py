"""Embed the items of a log and give each a semantic ID of its own: runs/<name>/catalog.

    python scripts/build_catalog.py --run runs/demo
    python scripts/build_catalog.py --run runs/demo --encoder tf-idf

Prints, level by level, how evenly codes are used and whether items that are alike begin alike, beside random codes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from data.artifacts import build
from data.catalog import QUALITY, listenable
from data.errors import exit_on_input_error
from data.item_vectors import VectorSettings
from data.progress import progress
from data.semantic_ids import CatalogSettings, build_catalog, quality
from data.store import LogStore
from data.text_vectors import ENCODERS, encoder_of
from scripts.command_line import ScriptParser


@dataclass
class CatalogArguments:
    """How long an ID is, and what behaviour shapes it."""

    run: str = field(default="runs/demo", metadata={"help": "run folder with logs/"})
    levels: int = field(default=3, metadata={"help": "codes of a semantic ID"})
    level_sizes: list[int] = field(
        default_factory=list, metadata={"help": "how many codes each level has, instead of --levels; else by the items"}
    )
    encoder: str = field(default="auto", metadata={"help": f"of items' words: {', '.join(ENCODERS)}"})
    train_share: float = field(default=0.6, metadata={"help": "share of the log's time whose behaviour is looked at"})
    seed: int = field(default=0, metadata={"help": "seed of the clustering"})


def stage(args: CatalogArguments) -> bool:
    """Write the catalog; True when it was made, False when it was there."""
    logs = Path(args.run) / "logs"
    # Which encoder it was is part of the config: installing one makes another catalog.
    sizes = tuple(args.level_sizes) or None
    levels = len(sizes) if sizes else args.levels
    settings = CatalogSettings(levels, sizes, VectorSettings(encoder=encoder_of(args.encoder)))

    def make(folder: Path) -> None:
        store = LogStore(logs)
        until = store.start + (store.end - store.start) * args.train_share
        items = listenable(store.items())
        about = pl.col("item_id").is_null() | pl.col("item_id").is_in(items["item_id"].implode())
        events = store.events().filter(pl.col("time") < until, about)
        with progress() as bar:
            task = bar.add_task("catalog", total=settings.levels + 3)

            def begin(step: str) -> None:
                bar.update(task, advance=1, description=f"catalog: {step}")

            catalog = build_catalog(items, events, settings, args.seed, begin=begin)
            begin("looking at it")
            levels = quality(catalog, args.seed)
            bar.update(task, completed=settings.levels + 3)
        catalog.save(folder)
        (folder / QUALITY).write_text(json.dumps(levels.to_dicts(), indent=1) + "\n")

    config = {**asdict(settings), "train_share": args.train_share}
    return build(Path(args.run) / "catalog", config=config, inputs=[logs], seed=args.seed, make=make)


def table(folder: Path) -> Table:
    """How well the IDs of a catalog folder say what is alike."""
    shown = Table("level", "codes", "used", "perplexity", "neighbours that share the prefix", "with random codes")
    for row in json.loads((folder / QUALITY).read_text()):
        use = [str(row["level"] + 1), f"{row['size']:,}", f"{row['used']:,}", f"{row['perplexity']:,.1f}"]
        shown.add_row(*use, f"{row['share']:.2%}", f"{row['random']:.2%}")
    return shown


def main() -> None:
    (args,) = ScriptParser((CatalogArguments,)).parse_args_and_config()
    stage(args)
    Console().print(table(Path(args.run) / "catalog"))


if __name__ == "__main__":
    exit_on_input_error(main)
