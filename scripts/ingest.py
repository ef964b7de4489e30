"""Bring a log of your own: read, validate, sessionize, and write it to runs/<name>/logs.

    python scripts/ingest.py --run runs/globo --logs clicks.parquet --reader globo
    python scripts/ingest.py --run runs/mine --logs folder_of_tables --reader longplay
    python scripts/ingest.py --run runs/mine --logs next_weeks_tables --append true

With --append the log is added to the one that is there; a source that is in it already adds nothing. What a row was
rejected for is counted and kept in logs/rejected/.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from data.artifacts import build, extend, holds, manifest, run_lock
from data.errors import InputError, exit_on_input_error
from data.ingest import StoreSettings, append, write_store
from data.readers import READERS
from data.sessions import GAP_MINUTES
from data.sources import may_have_grown
from data.store import LogStore
from scripts.command_line import ScriptParser


@dataclass
class IngestArguments:
    """Where the log is and how to read it."""

    run: str = field(default="runs/mine", metadata={"help": "run folder; the log goes to its logs/"})
    logs: str = field(default="", metadata={"help": "file or folder of the log"})
    reader: str = field(default="longplay", metadata={"help": f"how to read it: {', '.join(READERS)}"})
    slate_size: int = field(
        default=5, metadata={"help": "items of a session that stand for its slate, without decisions"}
    )
    buckets: int = field(
        default=0,
        metadata={"help": "files to spread users over; 0: one per 400,000 events. Say more where more is to come"},
    )
    gap_minutes: float = field(
        default=GAP_MINUTES, metadata={"help": "silence that ends a session, where the log has no session ids"}
    )
    append: bool = field(default=False, metadata={"help": "add to the log that is there instead of making a new one"})


def stage(args: IngestArguments) -> bool:
    """Write the log store; True when it was made, False when it was there."""
    source = Path(args.logs)
    if args.reader not in READERS:
        raise InputError(f"unknown reader {args.reader!r}: choose one of {', '.join(READERS)}")
    if args.buckets < 0:
        raise InputError(f"--buckets {args.buckets}: give a number of files, or 0 for as many as the log needs")
    if not 0 < args.gap_minutes < 1e6:
        raise InputError(f"--gap_minutes {args.gap_minutes}: give the minutes of silence that end a session")
    if not args.logs or not source.exists():
        raise InputError(f"no log at {args.logs!r}: give its path with --logs")

    read, folder = READERS[args.reader], Path(args.run) / "logs"
    # A store keeps the number of buckets that it was made with, unless another one is asked for.
    before = manifest(folder)["config"].get("buckets", 0) if folder.is_dir() else 0
    buckets = args.buckets or before
    config = {
        "reader": args.reader,
        "slate_size": args.slate_size,
        "buckets": buckets,
        "gap_minutes": args.gap_minutes,
    }
    if args.append and folder.is_dir():
        again = may_have_grown(source)
        made = extend(
            folder,
            source=source,
            make=lambda place: append(read(source), place, source=str(source), again=again),
            again=again,
        )
    else:
        settings = StoreSettings(buckets or None, gap_minutes=args.gap_minutes, slate_size=args.slate_size)
        made = not holds(folder, config, source) and build(
            folder,
            config=config,
            inputs=[source],
            seed=0,
            make=lambda place: write_store(read(source), place, settings, source=str(source)),
        )
    for reason, count in LogStore(folder).rejected.items():
        Console(stderr=True).print(f"rejected: {count:,} x {reason}", markup=False)
    return made


def main() -> None:
    (args,) = ScriptParser((IngestArguments,)).parse_args_and_config()
    with run_lock(Path(args.run)):
        stage(args)


if __name__ == "__main__":
    exit_on_input_error(main)
