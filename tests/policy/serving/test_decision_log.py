"""The decision log: what was acknowledged is there, whatever happens to the process that wrote it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import wait
from datetime import UTC, datetime
from pathlib import Path

import pytest

from data.errors import InputError
from data.store import read_parquet
from policy.serving.decision_log import SegmentLog
from policy.serving.segments import read_decision_log, read_event_log, seal_abandoned, sealed_segments

ROOT = Path(__file__).resolve().parents[3]


def decision(number: int) -> dict[str, object]:
    return {
        "decision_id": f"d{number}",
        "user_id": f"u{number % 3}",
        "time": datetime(2026, 1, 5, 8, 0, 0, number, tzinfo=UTC),
        "surface": "home",
        "policy": "ppo@1",
        "slate": ["a", "b"],
        "propensity": 0.1 / 3,
        "move": "explore",
        "steer": 'naïve, "quoted"\nlines',
        "arm": None,
    }


def test_rows_come_back_as_they_were_logged_in_the_decisions_schema(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, "decisions")
    wait([log.append([decision(number)]) for number in range(50)])
    log.close()

    frame = read_decision_log(tmp_path)

    assert frame["decision_id"].to_list() == [f"d{number}" for number in range(50)]
    assert frame["propensity"].to_list() == [0.1 / 3] * 50  # to the last bit
    assert frame["time"][7] == datetime(2026, 1, 5, 8, 0, 0, 7, tzinfo=UTC)
    assert frame["steer"][0] == 'naïve, "quoted"\nlines'
    assert frame["slate"][0].to_list() == ["a", "b"]


def test_an_empty_folder_is_an_empty_log(tmp_path: Path) -> None:
    assert read_decision_log(tmp_path).height == 0
    assert read_event_log(tmp_path / "nothing").height == 0


def test_a_kill_loses_no_acknowledged_row(tmp_path: Path) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from policy.serving.decision_log import SegmentLog
log = SegmentLog(Path({str(tmp_path)!r}), "decisions")
number = 0
while True:
    row = {{"decision_id": f"d{{number}}", "user_id": "u", "time": "2026-01-05T08:00:00+00:00", "surface": "home",
           "policy": "p@1", "slate": ["a"] * 200}}
    log.append([row]).result()
    print(number, flush=True)
    number += 1
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    acknowledged = [child.stdout.readline() for _ in range(20)]
    time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    acknowledged += child.stdout.readlines()
    child.wait()

    logged = set(read_decision_log(tmp_path)["decision_id"])

    assert {f"d{line.strip()}" for line in acknowledged if line.endswith("\n")} <= logged


def test_a_torn_last_line_is_left_out_and_damage_is_named(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path / "other", "decisions")
    wait([log.append([decision(1)]), log.append([decision(2)])])
    (written,) = (tmp_path / "other").glob("*.jsonl")
    whole = written.read_bytes()
    log.close()
    segment = tmp_path / written.name

    segment.write_bytes(whole[:-30])
    assert read_decision_log(tmp_path)["decision_id"].to_list() == ["d1"]

    segment.write_bytes(whole.replace(b'"user_id"', b'"user_', 1))
    with pytest.raises(InputError, match=r"decisions-.*jsonl: line 1 is not JSON"):
        read_decision_log(tmp_path)


def test_segments_rotate_and_are_read_in_order(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, "decisions", rotate_bytes=600)
    for number in range(12):
        log.append([decision(number)]).result()
    log.close()

    assert len(sealed_segments(tmp_path, "decisions")) > 3
    assert not list(tmp_path.glob("*.jsonl"))
    assert read_decision_log(tmp_path)["decision_id"].to_list() == [f"d{number}" for number in range(12)]


def test_a_full_disk_refuses_the_row_and_keeps_the_log_whole(tmp_path: Path) -> None:
    # A file size limit stands for the full disk: writes past it fail in the same place.
    program = f"""
import resource, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from policy.serving.decision_log import SegmentLog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
log = SegmentLog(Path({str(tmp_path)!r}), "decisions")
row = {{"user_id": "u", "time": "2026-01-05T08:00:00+00:00", "surface": "home", "policy": "p@1", "slate": ["a"] * 300}}
safe = 0
for number in range(12):
    try:
        log.append([row | {{"decision_id": f"d{{number}}"}}]).result()
        safe += 1
    except OSError as error:
        print("refused", number)
log.append([row | {{"decision_id": "small", "slate": ["a"]}}]).result()
print("safe", safe)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "refused" in done.stdout
    safe = int(done.stdout.split("safe ")[1])
    assert 0 < safe < 12
    assert read_decision_log(tmp_path).height == safe + 1


def test_rows_that_break_the_schema_are_refused_by_name(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, "decisions")
    log.append([decision(1) | {"propensity": 2.0}]).result()
    log.close()  # says on stderr that it cannot be sealed, and leaves the row where it is

    with pytest.raises(InputError, match="propensity"):
        read_decision_log(tmp_path)


def test_a_segment_is_sealed_when_it_is_old_even_if_nobody_writes(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, "decisions", rotate_seconds=0.05)
    log.append([decision(1)]).result()
    for _ in range(200):
        if sealed_segments(tmp_path, "decisions"):
            break
        time.sleep(0.01)
    (sealed,) = sealed_segments(tmp_path, "decisions")
    log.append([decision(2)]).result()
    log.close()

    assert read_parquet(sealed)["decision_id"].to_list() == ["d1"]
    assert read_decision_log(tmp_path)["decision_id"].to_list() == ["d1", "d2"]


def test_what_a_killed_process_left_is_sealed_by_the_next_and_what_another_writes_is_not(tmp_path: Path) -> None:
    living = SegmentLog(tmp_path, "decisions")
    living.append([decision(1)]).result()
    left = tmp_path / "decisions-20200101T000000000000-1-0.jsonl"
    row = {"decision_id": "d0", "user_id": "u", "time": "2026-01-05T08:00:00+00:00", "surface": "home"}
    left.write_text(json.dumps(row | {"policy": "p@1", "slate": ["a"]}) + '\n{"decision_id": "torn')

    sealed = seal_abandoned(tmp_path, "decisions")

    assert [path.stem for path in sealed] == [left.stem]
    assert not left.exists()
    assert len(list(tmp_path.glob("*.jsonl"))) == 1
    assert read_decision_log(tmp_path)["decision_id"].to_list() == ["d0", "d1"]
    living.close()


def test_a_client_that_goes_away_neither_takes_its_row_back_nor_stops_the_log(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, "decisions")

    async def leave() -> None:
        waiting = asyncio.ensure_future(asyncio.wrap_future(log.append([decision(1)])))
        await asyncio.sleep(0)
        waiting.cancel()

    asyncio.run(leave())
    log.append([decision(2)]).result(timeout=10)
    log.close()

    assert read_decision_log(tmp_path)["decision_id"].to_list() == ["d1", "d2"]
