"""A road of toy stages, travelled by test_road.py in a process of its own: python toy_road.py FOLDER WORKERS WAY."""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

import torch

from data.errors import InputError, exit_on_input_error
from data.progress import track
from scripts.road import Stage, travel

FOLDER, WORKERS, WAY = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]


def note(name: str, seconds: float, folder: str) -> bool:
    """Writes down when it began and ended, and on how many threads."""
    began = time.time()
    for _ in track(range(10), f"noting {name}"):
        time.sleep(seconds / 10)
    found = {"began": began, "ended": time.time(), "threads": torch.get_num_threads(), "process": os.getpid()}
    (Path(folder) / f"{name}.json").write_text(json.dumps(found))
    return name != "old"


def fail(how: str, folder: str) -> bool:
    while not (Path(folder) / "begun").exists():  # not before the other one runs
        time.sleep(0.01)
    print("the last words of a stage")
    if how == "input":
        raise InputError("nothing to learn from: give a longer log")
    if how == "killed":
        os.kill(os.getpid(), 9)
    raise ZeroDivisionError


def begin_and_wait(folder: str) -> bool:
    (Path(folder) / "begun").write_text(str(os.getpid()))
    time.sleep(60)
    return True


def stages() -> list[Stage]:
    folder = str(FOLDER)
    if WAY == "waits":
        return [Stage("waits", partial(begin_and_wait, folder)), Stage("beside", partial(note, "beside", 0.1, folder))]
    if WAY != "well":
        return [Stage("fails", partial(fail, WAY, folder)), Stage("waits", partial(begin_and_wait, folder))]
    return [
        Stage("first", partial(note, "first", 0.1, folder)),
        Stage("long", partial(note, "long", 1.5, folder), ("first",)),
        Stage("short", partial(note, "short", 0.5, folder), ("first", "of_another_road")),
        Stage("old", partial(note, "old", 0.1, folder), ("short",)),
        Stage("last", partial(note, "last", 0.1, folder), ("long", "old")),
    ]


def main() -> None:
    torch.set_num_threads(4)
    taken = travel(stages(), WORKERS, FOLDER)
    print(json.dumps([[one.name, one.made] for one in taken]))


if __name__ == "__main__":
    exit_on_input_error(main)
