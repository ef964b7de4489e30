"""Stages side by side: what waits for what, who gets which threads, and what becomes of the others when one fails."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from data.errors import InputError
from scripts.road import Stage
from scripts.road import travel as travel_here

ROOT = Path(__file__).resolve().parents[2]


def command(folder: Path, workers: int, way: str) -> list[str]:
    return [sys.executable, "-m", "tests.scripts.toy_road", str(folder), str(workers), way]


def travel(folder: Path, workers: int, way: str = "well") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, workers, way), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def gone(process: int, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("workers", [1, 2])
def test_every_stage_is_made_after_what_it_needs(tmp_path: Path, workers: int) -> None:
    done = travel(tmp_path, workers)
    assert done.returncode == 0, done.stderr[-2000:]
    names = ["first", "long", "short", "old", "last"]
    assert json.loads(done.stdout.splitlines()[-1]) == [[name, name != "old"] for name in names]
    noted = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in names}
    for before, after in (("first", "long"), ("first", "short"), ("short", "old"), ("long", "last"), ("old", "last")):
        assert noted[before]["ended"] <= noted[after]["began"]
    beside = noted["short"]["began"] < noted["long"]["ended"]
    threads = {name: one["threads"] for name, one in noted.items()}
    if workers == 1:
        assert not beside
        assert set(threads.values()) == {4}
        assert len({one["process"] for one in noted.values()}) == 1
    else:
        assert beside
        # What nothing can run beside has all threads, whatever the others took.
        assert threads == {"first": 4, "long": 2, "short": 2, "old": 2, "last": 4}
        assert "unchanged" in done.stderr


@pytest.mark.parametrize(
    ("way", "code", "says"),
    [
        ("input", 2, ["nothing to learn from: give a longer log"]),
        ("error", 1, ["fails ended with exit code 1", "fails.log", "the last words of a stage", "ZeroDivisionError"]),
        ("killed", 1, ["fails was killed by signal 9"]),
    ],
)
def test_a_stage_that_fails_stops_the_others_and_says_why(tmp_path: Path, way: str, code: int, says: list[str]) -> None:
    done = travel(tmp_path, 2, way)
    assert done.returncode == code
    for words in says:
        assert words in done.stderr
    if code == 2:
        assert "Traceback" not in done.stderr
    assert gone(int((tmp_path / "begun").read_text()))


def test_a_list_in_which_a_stage_comes_before_what_it_needs_is_refused(tmp_path: Path) -> None:
    stages = [Stage("egg", bool, ("hen",)), Stage("hen", bool)]
    with pytest.raises(ValueError, match="egg needs hen, which comes after it"):
        travel_here(stages, 2, tmp_path)
    with pytest.raises(InputError, match="--workers -1: give 1 or more"):
        travel_here(stages[1:], -1, tmp_path)


def test_stages_end_with_the_process_that_wanted_them(tmp_path: Path) -> None:
    road = subprocess.Popen(
        command(tmp_path, 2, "waits"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    begun, deadline = tmp_path / "begun", time.monotonic() + 60
    while not (begun.exists() and begun.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    stage = int(begun.read_text())
    assert stage != road.pid
    assert psutil.pid_exists(stage)
    os.kill(road.pid, 9)
    road.wait(30)
    assert gone(stage)
