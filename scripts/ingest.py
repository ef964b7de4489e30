"""Bring a log of your own: read, validate, sessionize, and write it to runs/<name>/logs.

    python scripts/ingest.py --run runs/globo --logs clicks.parquet --reader globo
    python scripts/ingest.py --run runs/mine --logs folder_of_tables --reader longplay

What a row was rejected for is counted and kept in logs/rejected.parquet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from trl import TrlParser

from data.artifacts import build
from data.errors import InputError, exit_on_input_error
from data.readers import READERS
from data.store import LogStore, write_store


@dataclass
class IngestArguments:
    """Where the log is and how to read it."""

    run: str = field(default="runs/mine", metadata={"help": "run folder; the log goes to its logs/"})
    logs: str = field(default="", metadata={"help": "file or folder of the log"})
    reader: str = field(default="longplay", metadata={"help": f"how to read it: {', '.join(READERS)}"})
    slate_size: int = field(
        default=5, metadata={"help": "items of a session that stand for its slate, without decisions"}
    )


def stage(args: IngestArguments) -> bool:
    """Write the log store; True when it was made, False when it was there."""
    source = Path(args.logs)
    if args.reader not in READERS:
        raise InputError(f"unknown reader {args.reader!r}: choose one of {', '.join(READERS)}")
    if not args.logs or not source.exists():
        raise InputError(f"no log at {args.logs!r}: give its path with --logs")

    def make(folder: Path) -> None:
        write_store(READERS[args.reader](source), folder, slate_size=args.slate_size, source=str(source))

    folder = Path(args.run) / "logs"
    made = build(
        folder, config={"reader": args.reader, "slate_size": args.slate_size}, inputs=[source], seed=0, make=make
    )
    for reason, count in LogStore(folder).rejected.items():
        Console(stderr=True).print(f"rejected: {count:,} x {reason}", markup=False)
    return made


def main() -> None:
    (args,) = TrlParser((IngestArguments,)).parse_args_and_config()
    stage(args)


if __name__ == "__main__":
    exit_on_input_error(main)
