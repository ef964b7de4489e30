"""Close the loop: add what was served to the run's own log, so that the next policy learns from it and is judged on it.

    python scripts/replay.py --run runs/demo
    python scripts/replay.py --run runs/demo --served elsewhere/served

Takes the segments of <run>/served that are sealed (a running gateway seals one a minute, a stopped one all) and were
not replayed before, and appends them to <run>/logs as a further part. Run it as often as you like, beside a running
server.
`python scripts/run.py --run runs/demo` then makes anew what depends on the log.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.artifacts import run_lock
from data.errors import exit_on_input_error
from policy.serving.replay import Replayed, replay
from scripts.command_line import ScriptParser


@dataclass
class ReplayArguments:
    """Which run, and where it was served into."""

    run: str = field(default="runs/demo", metadata={"help": "run folder; its logs/ grows"})
    served: str | None = field(default=None, metadata={"help": "folder of the served logs; <run>/served by default"})


def main() -> None:
    (args,) = ScriptParser((ReplayArguments,)).parse_args_and_config()
    run = Path(args.run)
    with run_lock(run):
        added = replay(run, Path(args.served) if args.served else run / "served")
    Console(soft_wrap=True).print(_words(added, run), highlight=False)


def _words(added: Replayed, run: Path) -> str:
    if added == Replayed():
        return f"Nothing new was served since the last replay: {run / 'logs'} is as it was."
    lines = [f"Added to {run / 'logs'}: {added.decisions:,} decisions, {added.events:,} events."]
    lines += [f"Left out: {count:,} x {reason}" for reason, count in added.rejected]
    return "\n".join(lines)


if __name__ == "__main__":
    exit_on_input_error(main)
