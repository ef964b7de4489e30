"""Label every decision of a log with what became of the listener: runs/<name>/outcomes.

python scripts/build_outcomes.py --run runs/demo
python scripts/build_outcomes.py --run runs/big --engine ray
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from data.artifacts import build
from data.errors import exit_on_input_error
from data.outcomes import OutcomeSettings, write_outcomes
from data.store import LogStore
from scripts.command_line import ScriptParser

DEFAULTS = OutcomeSettings()


@dataclass
class OutcomesArguments:
    """What counts as a visit, a day and a discovery. (What ends a session is said when a log is brought in.)"""

    run: str = field(default="runs/demo", metadata={"help": "run folder with logs/"})
    clock: str = field(default="local", metadata={"help": "whose days: local (of the user's time zone) or utc"})
    active: list[str] = field(
        default_factory=lambda: list(DEFAULTS.active), metadata={"help": "actions that make a session a visit"}
    )
    taken: list[str] = field(
        default_factory=lambda: list(DEFAULTS.taken), metadata={"help": "reactions by which something is discovered"}
    )
    message_surfaces: list[str] = field(
        default_factory=lambda: list(DEFAULTS.message_surfaces),
        metadata={"help": "surfaces whose decisions are made in no session"},
    )
    carried_share: float = field(
        default=DEFAULTS.carried_share,
        metadata={"help": "a window must close for decisions in this first share of the log"},
    )
    engine: str = field(default="local", metadata={"help": "local, or ray: spread over the cluster of RAY_ADDRESS"})


def stage(args: OutcomesArguments) -> bool:
    """Write the outcomes; True when they were made, False when they were there."""
    logs = Path(args.run) / "logs"
    settings = OutcomeSettings(
        gap_minutes=LogStore(logs).gap_minutes,  # sessions were told when the log was brought in
        clock=args.clock,
        active=tuple(args.active),
        taken=tuple(args.taken),
        message_surfaces=tuple(args.message_surfaces),
        carried_share=args.carried_share,
    )
    return build(
        Path(args.run) / "outcomes",
        config=asdict(settings),
        inputs=[logs],
        seed=0,
        make=lambda folder: write_outcomes(LogStore(logs), folder, settings, args.engine),
    )


def main() -> None:
    (args,) = ScriptParser((OutcomesArguments,)).parse_args_and_config()
    stage(args)


if __name__ == "__main__":
    exit_on_input_error(main)
