"""API keys of a served run: make one, list them, revoke one. A running server follows within a second.

    python scripts/keys.py --run runs/demo --add web --per_second 50 --burst 100
    python scripts/keys.py --run runs/demo --add operator --admin true
    python scripts/keys.py --run runs/demo                     # lists them
    python scripts/keys.py --run runs/demo --revoke web

A key is shown once, when it is made: only its hash is kept, in <run>/served/keys.json.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.errors import InputError, exit_on_input_error
from policy.serving.keys import FILE, add_key, revoke_key
from scripts.command_line import ScriptParser


@dataclass
class KeyArguments:
    """Which key of which run."""

    run: str = field(default="runs/demo", metadata={"help": "run folder"})
    served: str | None = field(default=None, metadata={"help": "folder of the served logs; <run>/served by default"})
    add: str | None = field(default=None, metadata={"help": "name of a key to make"})
    revoke: str | None = field(default=None, metadata={"help": "name of a key to take back"})
    per_second: float = field(default=50.0, metadata={"help": "requests a second, in the long run"})
    burst: int = field(default=100, metadata={"help": "requests at once"})
    admin: bool = field(default=False, metadata={"help": "may change experiments and blocked items"})


def main() -> None:
    (args,) = ScriptParser((KeyArguments,)).parse_args_and_config()
    if not Path(args.run).is_dir():
        raise InputError(f"{args.run}: no such run folder: name one with --run")
    file = (Path(args.served) if args.served else Path(args.run) / "served") / FILE
    if args.add is not None:
        print(add_key(file, args.add, args.per_second, args.burst, args.admin))
    elif args.revoke is not None:
        revoke_key(file, args.revoke)
    elif not file.is_file():
        print("no keys: whoever reaches the server may ask")
    else:
        for key in json.loads(file.read_text()):
            print(f"{key['name']}\t{key['per_second']:g}/s\tburst {key['burst']}{'	admin' if key['admin'] else ''}")


if __name__ == "__main__":
    exit_on_input_error(main)
