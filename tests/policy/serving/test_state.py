"""The state, in both places where it can be kept: what went in is there, for every replica, up to what is kept."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from threading import Timer
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import InputError
from policy.serving.engine import free_port
from policy.serving.state import EVERYBODY, KEPT_EVENTS, KEPT_SENDS, Mail, Spending, State, StateError, open_state

T = TypeVar("T")
REDIS = shutil.which("redis-server")


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis on a port of its own, ended with the module."""
    if REDIS is None:
        pytest.skip("no redis-server on this machine; install it (Debian: redis-server) to test state in Redis")
    port = free_port()
    folder = tmp_path_factory.mktemp("redis")
    line = [REDIS, "--port", str(port), "--dir", str(folder), "--save", "", "--bind", "127.0.0.1"]
    server = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    url = f"redis://127.0.0.1:{port}/0"
    try:
        for _ in range(200):
            try:
                use(url, lambda state: state.glance("anybody"))
                break
            except StateError:
                time.sleep(0.05)
        yield url
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the state is; empty at the start of each test (users are named for the test's folder)."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.sqlite'}"
    found: str = request.getfixturevalue("redis_url")
    return found


def use(url: str, what: Callable[[State], Awaitable[T]]) -> T:
    """Do one thing with a state that is opened for it, as another process would."""

    async def once() -> T:
        state = open_state(url)
        try:
            return await what(state)
        finally:
            await state.close()

    return asyncio.run(once())


def row(user: str, number: int) -> dict[str, object]:
    return {"user_id": user, "time": f"2026-01-01T00:00:{number % 60:02d}+00:00", "action": "play", "value": number}


def test_what_one_added_another_reads_in_order(url: str, tmp_path: Path) -> None:
    ann, bob = f"ann {tmp_path}", f"bob {tmp_path}"
    use(url, lambda state: state.add([row(ann, 1), row(bob, 2), row(ann, 3)]))
    use(url, lambda state: state.add([row(ann, 4)]))

    assert use(url, lambda state: state.recent(ann)) == [row(ann, 1), row(ann, 3), row(ann, 4)]
    assert use(url, lambda state: state.glance(ann)).revision == 3
    assert use(url, lambda state: state.recent(bob)) == [row(bob, 2)]
    assert use(url, lambda state: state.glance("nobody")).revision == 0
    assert use(url, lambda state: state.recent("nobody")) == []


def test_the_latest_are_kept_and_the_revision_counts_all(url: str, tmp_path: Path) -> None:
    user = f"many {tmp_path}"
    use(url, lambda state: state.add([row(user, number) for number in range(KEPT_EVENTS)]))
    use(url, lambda state: state.add([row(user, KEPT_EVENTS + number) for number in range(7)]))

    kept = use(url, lambda state: state.recent(user))

    assert [event["value"] for event in kept] == list(range(7, KEPT_EVENTS + 7))
    assert use(url, lambda state: state.glance(user)).revision == KEPT_EVENTS + 7


def test_blocked_items_are_the_listeners_own_and_everybodys(url: str, tmp_path: Path) -> None:
    user = f"blocker {tmp_path}"
    use(url, lambda state: state.block(user, ["a", "b"]))
    use(url, lambda state: state.block(EVERYBODY, ["c"]))
    use(url, lambda state: state.unblock(user, ["b", "never there"]))

    assert use(url, lambda state: state.glance(user)).blocked == {"a", "c"}
    assert use(url, lambda state: state.glance("another")).blocked == {"c"}
    use(url, lambda state: state.unblock(EVERYBODY, ["c"]))
    assert use(url, lambda state: state.glance("another")).blocked == frozenset()


@given(batches=st.lists(st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 99)), max_size=6), max_size=6))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_listeners_events_come_back_in_the_order_they_came_in(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[str, int]]]
) -> None:
    url = f"sqlite:///{tmp_path_factory.mktemp('state') / 'state.sqlite'}"
    for batch in batches:
        use(url, lambda state, batch=batch: state.add([row(*each) for each in batch]))  # type: ignore[misc]
    for user in "xyz":
        came = [number for batch in batches for who, number in batch if who == user]
        assert [event["value"] for event in use(url, lambda state, user=user: state.recent(user))] == came  # type: ignore[misc]


def test_a_new_file_that_another_process_is_about_to_write_is_waited_for(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'state.sqlite'}"
    other = sqlite3.connect(tmp_path / "state.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")  # SQLite keeps no timeout against this lock when it changes to write-ahead mode
    Timer(0.3, other.rollback).start()

    use(url, lambda state: state.add([row("u", 1)]))

    assert use(url, lambda state: state.glance("u")).revision == 1


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'state.sqlite'}"
    program = f"""
import asyncio, sys
from policy.serving.state import open_state
async def main():
    state = open_state({url!r})
    for number in range(60):
        await state.add([{{"user_id": "u", "value": f"{{sys.argv[1]}}-{{number}}"}}])
asyncio.run(main())
"""
    writers = [subprocess.Popen([sys.executable, "-c", program, name]) for name in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]

    values = [str(event["value"]) for event in use(url, lambda state: state.recent("u"))]

    assert use(url, lambda state: state.glance("u")).revision == 120
    for name in "ab":
        assert [value for value in values if value.startswith(name)] == [f"{name}-{number}" for number in range(60)]


def test_a_redis_that_is_gone_is_a_state_error_soon() -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    with pytest.raises(StateError):
        use(url, lambda state: state.glance("u"))
    with pytest.raises(StateError):
        use(url, lambda state: state.add([row("u", 1)]))


@pytest.mark.parametrize("url", ["", "sqlite://", "sqlite:///", "postgres://x", "/tmp/state"])
def test_an_address_without_a_state_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="give sqlite:///"):
        open_state(url)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.sqlite").write_text("not a database, but long enough to look like one" * 40)
    with pytest.raises(InputError, match=r"state.sqlite: cannot keep state here"):
        open_state(f"sqlite:///{tmp_path / 'state.sqlite'}")


def test_of_two_who_decide_at_once_one_sends(url: str, tmp_path: Path) -> None:
    ann, day = f"ann {tmp_path}", f"2026-01-05 {tmp_path}"
    push = Spending(day, "push")

    async def rush(state: State) -> list[bool]:
        return list(await asyncio.gather(*(state.send(ann, {"decision_id": str(n)}, 0, push) for n in range(4))))

    assert sum(use(url, rush)) == 1
    for _ in range(KEPT_SENDS + 3):
        count = use(url, lambda state: state.mail(ann, day)).count
        assert use(url, lambda state, count=count: state.send(ann, {"decision_id": "later"}, count, push))
    mail = use(url, lambda state: state.mail(ann, day))
    assert len(mail.sends) == KEPT_SENDS
    assert mail.spent == {"push": mail.count}
    assert use(url, lambda state: state.mail(f"bob {tmp_path}", "2026-01-06")) == Mail()


def test_a_budget_is_never_overdrawn(url: str, tmp_path: Path) -> None:
    async def rush(state: State) -> list[bool]:
        spending = Spending(str(tmp_path), "email", 3)
        return list(await asyncio.gather(*(state.send(f"u{n} {tmp_path}", {}, 0, spending) for n in range(8))))

    assert sum(use(url, rush)) == 3
    assert not use(url, lambda state: state.send(f"v {tmp_path}", {}, 0, Spending(f"{tmp_path}/b", "push", 0)))


def test_no_later_events_push_out_an_opt_out(url: str, tmp_path: Path) -> None:
    ann = f"ann {tmp_path}"
    left = {**row(ann, 0), "action": "opt_out", "surface": "email"}
    use(url, lambda state: state.add([left]))
    use(url, lambda state: state.add([row(ann, number) for number in range(KEPT_EVENTS)]))

    assert left not in use(url, lambda state: state.recent(ann))
    assert use(url, lambda state: state.mail(ann, "2026-01-05")).lasting == [left]
