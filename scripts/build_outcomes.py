"""Label every decision of a log with what became of the listener: runs/<name>/outcomes.

python scripts/build_outcomes.py --run runs/demo
python scripts/build_outcomes.py --run runs/big --engine ray
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trl import TrlParser

from data.artifacts import build
from data.errors import exit_on_input_error
from data.outcomes import OutcomeSettings, write_outcomes
from data.store import LogStore


@dataclass
class OutcomesArguments:
    """What counts as a session."""

    run: str = field(default="runs/demo", metadata={"help": "run folder with logs/"})
    gap_minutes: float = field(default=30.0, metadata={"help": "silence that ends a session, minutes"})
    engine: str = field(default="local", metadata={"help": "local, or ray: spread over the cluster of RAY_ADDRESS"})


def stage(args: OutcomesArguments) -> bool:
    """Write the outcomes; True when they were made, False when they were there."""
    logs = Path(args.run) / "logs"
    settings = OutcomeSettings(gap_minutes=args.gap_minutes)
    return build(
        Path(args.run) / "outcomes",
        config={"gap_minutes": args.gap_minutes},
        inputs=[logs],
        seed=0,
        make=lambda folder: write_outcomes(LogStore(logs), folder, settings, args.engine),
    )


def main() -> None:
    (args,) = TrlParser((OutcomesArguments,)).parse_args_and_config()
    stage(args)


if __name__ == "__main__":
    exit_on_input_error(main)
