"""What the server knows about a listener is what training knew, and grows with feedback."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data import histories
from data.histories import Contexts
from data.ingest import StoreSettings, write_store
from data.schema import ACTION_CODE
from data.store import LogStore
from policy.serving.listeners import Listener, Listeners
from policy.serving.slate_arguments import CatalogIndex
from policy.serving.state import SqliteState, StateError
from tests.policy.serving.tiny_run import tiny_catalog, tiny_log

CATALOG = tiny_catalog()
INDEX = CatalogIndex(CATALOG)
LATER = datetime(2026, 2, 1, 12, 30, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> LogStore:
    write_store(tiny_log(CATALOG), tmp_path / "logs", StoreSettings(buckets=4))
    return LogStore(tmp_path / "logs")


@pytest.fixture
def state(tmp_path: Path) -> SqliteState:
    return SqliteState(tmp_path / "state.sqlite")


def event(user: str, item: str, action: str, at: datetime) -> dict[str, object]:
    return {"user_id": user, "time": at.isoformat(), "surface": "home", "action": action, "item_id": item}


def look(listeners: Listeners, user: str) -> Listener:
    return asyncio.run(listeners.look(user))


def context(listeners: Listeners, user: str, surface: str, at: datetime, *said: Any, **more: Any) -> Contexts:
    return look(listeners, user).context(INDEX.row_of, 4, surface, at, *said, **more)


def test_contexts_equal_those_that_training_reads(store: LogStore, state: SqliteState) -> None:
    past, decisions = histories.load(store, CATALOG.index_of)
    trained = histories.contexts(past, decisions, 4)
    listeners = Listeners(store, state)

    for row in range(len(decisions)):
        user = past.user_ids[decisions.user[row]]
        at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(decisions.time[row]))
        served = context(listeners, user, "home", at)
        for name in ("time", "hour_of_week", "surface", "gap_hours", "item", "action"):
            expected = getattr(trained, name)[row : row + 1]
            np.testing.assert_array_equal(getattr(served, name), expected, err_msg=f"{name} of {user} at {at}")


def test_the_hour_is_the_listeners_own(state: SqliteState) -> None:
    listeners = Listeners(None, state)
    sunday_night = datetime(2026, 2, 1, 20, 0, tzinfo=UTC)

    assert context(listeners, "new", "home", sunday_night).hour_of_week.tolist() == [6 * 24 + 20]
    assert context(listeners, "new", "home", sunday_night, zone="Asia/Tokyo").hour_of_week.tolist() == [5]


def test_a_stranger_has_no_history(store: LogStore, state: SqliteState) -> None:
    known = context(Listeners(store, state), "stranger", "push", LATER, "something calm")

    assert (known.item == -1).all()
    assert np.isnan(known.gap_hours).all()
    assert known.steer == ["something calm"]


def test_feedback_is_known_from_the_next_request_on_and_not_before_its_time(
    store: LogStore, state: SqliteState
) -> None:
    listeners = Listeners(store, state)
    before = context(listeners, "u5", "home", LATER)

    asyncio.run(state.add([event("u5", "item-42", "like", LATER - timedelta(minutes=6))]))
    after = context(listeners, "u5", "home", LATER)

    assert after.item[0].tolist() == [*before.item[0, 1:].tolist(), 42]
    assert after.action[0, -1] == ACTION_CODE["like"]
    assert after.gap_hours[0] == np.float32(0.1)
    earlier = context(listeners, "u5", "home", LATER - timedelta(minutes=7))
    assert earlier.item.tolist() == before.item.tolist()


def test_one_items_actions_count_as_its_strongest(store: LogStore, state: SqliteState) -> None:
    listeners = Listeners(store, state)
    for minute, action in enumerate(("play", "save", "complete")):
        asyncio.run(state.add([event("new", "item-07", action, LATER - timedelta(minutes=9 - minute))]))

    known = context(listeners, "new", "home", LATER)

    assert known.item[0].tolist() == [-1, -1, -1, 7]
    assert known.action[0, -1] == ACTION_CODE["save"]


def test_events_that_were_replayed_into_the_log_count_once(store: LogStore, state: SqliteState) -> None:
    listeners = Listeners(store, state)
    before = context(listeners, "u5", "home", LATER)
    logged = store.events().filter(user_id="u5")
    again = [
        {**row, "time": row["time"].isoformat(), "session_id": None} for row in logged.tail(3).iter_rows(named=True)
    ]

    asyncio.run(state.add(again))

    after = context(Listeners(store, state), "u5", "home", LATER)
    assert (after.item.tolist(), after.action.tolist()) == (before.item.tolist(), before.action.tolist())


def test_an_item_that_left_the_catalog_is_not_said(state: SqliteState) -> None:
    for minute, item in enumerate(("item-01", "gone", "item-02")):
        asyncio.run(state.add([event("u", item, "like", LATER - timedelta(minutes=9 - minute))]))

    assert context(Listeners(None, state), "u", "home", LATER).item[0].tolist() == [-1, -1, 1, 2]


def test_another_gateway_and_a_restarted_one_know_it_too(store: LogStore, tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    one, other = Listeners(store, SqliteState(path)), Listeners(store, SqliteState(path))
    before = context(other, "u0", "home", LATER)
    asyncio.run(SqliteState(path).add([event("u0", "item-11", "like", LATER - timedelta(hours=1))]))

    assert before.item[0, -1] != 11
    for listeners in (one, other, Listeners(store, SqliteState(path))):
        assert context(listeners, "u0", "home", LATER).item[0, -1] == 11


def test_without_the_state_a_listener_is_as_last_seen_or_as_the_log_has_them(
    store: LogStore, state: SqliteState
) -> None:
    class Lost(SqliteState):
        lost = False

        async def glance(self, user_id: str) -> Any:
            if self.lost:
                raise StateError("gone")
            return await super().glance(user_id)

    fragile = Lost(store.folder / "state.sqlite")
    listeners = Listeners(store, fragile)
    asyncio.run(fragile.add([event("u5", "item-42", "like", LATER - timedelta(minutes=6))]))
    asyncio.run(fragile.block("u5", ["item-01"]))
    seen = look(listeners, "u5")
    fragile.lost = True

    assert look(listeners, "u5") == Listener(seen.past, frozenset({"item-01"}))
    assert look(listeners, "u4").past.item == look(Listeners(store, state), "u4").past.item
    assert listeners.state_errors == 2
