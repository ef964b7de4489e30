"""The loop closes: served decisions and events are in the run's log, once, whatever is killed in between."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from data.artifacts import build
from data.errors import InputError
from data.ingest import StoreSettings, write_store
from data.store import LogStore
from policy.serving.decision_log import SegmentLog
from policy.serving.replay import RECORD, Replayed, replay
from tests.policy.serving.tiny_run import tiny_catalog, tiny_log

ROOT = Path(__file__).resolve().parents[3]
WHEN = datetime(2026, 2, 1, 9, tzinfo=UTC)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    catalog = tiny_catalog()
    catalog.save(tmp_path / "catalog")
    logs = tiny_log(catalog, decisions=True)
    settings = StoreSettings(buckets=4)
    build(tmp_path / "logs", config={}, inputs=[], seed=0, make=lambda place: write_store(logs, place, settings))
    return tmp_path


def serve(run: Path, first: int, count: int) -> None:
    """Log `count` decisions and an event for each, as a gateway does, then end."""
    decisions = SegmentLog(run / "served" / "decisions", "decisions")
    events = SegmentLog(run / "served" / "events", "events")
    for number in range(first, first + count):
        who = {"user_id": f"u{number % 6}", "time": WHEN + timedelta(minutes=number), "surface": "home"}
        slate = {"slate": ["item-01", "item-02"], "propensity": 0.25, "move": "explore", "policy": "ppo@1"}
        decisions.append([{"decision_id": f"d{number}", **who, **slate, "arm": "ppo", "steer": "calm"}])
        events.append([{**who, "action": "play", "item_id": "item-01", "decision_id": f"d{number}", "seconds": 30.0}])
    decisions.close()
    events.close()


def test_served_rows_are_in_the_log_once(run: Path) -> None:
    before = LogStore(run / "logs")
    serve(run, 0, 10)
    assert replay(run, run / "served") == Replayed(10, 10)
    serve(run, 10, 5)
    assert replay(run, run / "served") == Replayed(5, 5)
    assert replay(run, run / "served") == Replayed()

    after = LogStore(run / "logs")
    served = after.decisions().filter(policy="ppo@1").sort("time")
    assert served["decision_id"].to_list() == [f"d{number}" for number in range(15)]
    assert served["propensity"].to_list() == [0.25] * 15
    assert set(served["steer"]) == {"calm"}
    assert after.events_in_all == before.events_in_all + 15
    assert after.decisions().height == before.decisions().height + 15


def test_a_replay_that_was_killed_before_it_kept_its_record_adds_nothing_twice(run: Path) -> None:
    serve(run, 0, 10)
    replay(run, run / "served")
    (run / "served" / RECORD).unlink()
    serve(run, 10, 2)

    again = replay(run, run / "served")

    assert (again.decisions, again.events) == (2, 2)
    assert dict(again.rejected) == {"decisions: already in the store": 10, "events: already in the store": 10}
    assert LogStore(run / "logs").decisions().filter(policy="ppo@1").height == 12


def test_one_command_closes_the_loop(run: Path) -> None:
    serve(run, 0, 3)
    line = [sys.executable, "scripts/replay.py", "--run", str(run)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)

    assert "3 decisions, 3 events" in done.stdout.replace("\n", " ")


def test_a_run_without_messages_keeps_its_decisions_to_hold(run: Path) -> None:
    no_messages = LogStore(run / "logs").items().filter(pl.col("kind") != "message")
    no_messages.write_parquet(run / "logs" / "items.parquet")
    serve(run, 0, 2)
    held = SegmentLog(run / "served" / "decisions", "decisions")
    row = {"decision_id": "m-1", "user_id": "u1", "time": WHEN, "surface": "other", "policy": "hold@1"}
    held.append([{**row, "slate": ["hold"], "propensity": 1.0, "arm": "holdout"}])
    held.close()

    assert replay(run, run / "served") == Replayed(3, 2)
    after = LogStore(run / "logs")
    assert after.decisions().filter(policy="hold@1")["slate"].to_list() == [["hold"]]
    assert after.items().filter(item_id="hold")["kind"].to_list() == ["message"]


def test_without_a_log_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no log store here"):
        replay(tmp_path, tmp_path / "served")
