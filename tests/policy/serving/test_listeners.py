"""What the server knows about a listener is what training knew, and grows with feedback."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from data import histories
from data.ingest import StoreSettings, write_store
from data.schema import ACTION_CODE, validate
from data.store import LogStore
from policy.serving.listeners import Listeners
from policy.serving.slate_arguments import CatalogIndex
from tests.policy.serving.tiny_run import tiny_catalog, tiny_log

CATALOG = tiny_catalog()
INDEX = CatalogIndex(CATALOG)
LATER = datetime(2026, 2, 1, 12, 30, tzinfo=UTC)


def store(folder: Path) -> LogStore:
    write_store(tiny_log(CATALOG), folder, StoreSettings(buckets=4))
    return LogStore(folder)


def feedback(user: str, item: str, action: str, at: datetime) -> pl.DataFrame:
    rows = pl.DataFrame({"user_id": [user], "time": [at], "surface": ["home"], "action": [action], "item_id": [item]})
    return validate(rows, "events", "test")


def test_contexts_equal_those_that_training_reads(tmp_path: Path) -> None:
    logs = store(tmp_path)
    past, decisions = histories.load(logs, CATALOG.index_of)
    trained = histories.contexts(past, decisions, 4)
    listeners = Listeners(INDEX.row_of, logs, 4)

    for row in range(len(decisions)):
        user = past.user_ids[decisions.user[row]]
        at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(decisions.time[row]))
        served = listeners.context(user, "home", at)
        for name in ("time", "hour_of_week", "surface", "gap_hours", "item", "action"):
            expected = getattr(trained, name)[row : row + 1]
            np.testing.assert_array_equal(getattr(served, name), expected, err_msg=f"{name} of {user} at {at}")


def test_the_hour_is_the_listeners_own() -> None:
    listeners = Listeners(INDEX.row_of, None, 4)
    sunday_night = datetime(2026, 2, 1, 20, 0, tzinfo=UTC)

    assert listeners.context("new", "home", sunday_night).hour_of_week.tolist() == [6 * 24 + 20]
    assert listeners.context("new", "home", sunday_night, zone="Asia/Tokyo").hour_of_week.tolist() == [5]


def test_a_stranger_has_no_history(tmp_path: Path) -> None:
    context = Listeners(INDEX.row_of, store(tmp_path), 4).context("stranger", "push", LATER, "something calm")

    assert (context.item == -1).all()
    assert np.isnan(context.gap_hours).all()
    assert context.steer == ["something calm"]


def test_feedback_is_known_from_the_next_request_on_and_not_before_its_time(tmp_path: Path) -> None:
    listeners = Listeners(INDEX.row_of, store(tmp_path), 4)
    before = listeners.context("u5", "home", LATER)

    listeners.add(feedback("u5", "item-42", "like", LATER - timedelta(minutes=6)))
    after = listeners.context("u5", "home", LATER)

    assert after.item[0].tolist() == [*before.item[0, 1:].tolist(), 42]
    assert after.action[0, -1] == ACTION_CODE["like"]
    assert after.gap_hours[0] == np.float32(0.1)
    assert listeners.context("u5", "home", LATER - timedelta(minutes=7)).item.tolist() == before.item.tolist()


def test_one_items_actions_count_as_its_strongest(tmp_path: Path) -> None:
    listeners = Listeners(INDEX.row_of, store(tmp_path), 4)
    for minute, action in enumerate(("play", "save", "complete")):
        listeners.add(feedback("new", "item-07", action, LATER - timedelta(minutes=9 - minute)))

    context = listeners.context("new", "home", LATER)

    assert context.item[0].tolist() == [-1, -1, -1, 7]
    assert context.action[0, -1] == ACTION_CODE["save"]


def test_a_restarted_server_remembers_feedback(tmp_path: Path) -> None:
    rows = pl.concat([feedback("u0", "item-11", "like", LATER), feedback("new", "item-12", "skip", LATER)])
    listeners = Listeners(INDEX.row_of, store(tmp_path), 4, feedback=rows)

    assert listeners.context("u0", "home", LATER + timedelta(hours=1)).item[0, -1] == 11
    assert listeners.context("new", "home", LATER + timedelta(hours=1)).item[0, -1] == 12
