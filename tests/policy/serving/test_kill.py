"""Gateways as real processes, killed for good: nothing that was answered is lost, and the others know all of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from policy.serving.engine import free_port
from policy.serving.replay import replay
from policy.serving.segments import read_decision_log, seal_abandoned
from tests.policy.serving.conftest import ROOT
from tests.policy.serving.tiny_run import build

SECONDS = 120.0


@pytest.fixture
def gateways(tmp_path: Path) -> Iterator[list[tuple[subprocess.Popen[str], str]]]:
    """Two gateways of one run, without a model server: popularity answers."""
    build(tmp_path / "run", decisions=True)
    engine = f"http://127.0.0.1:{free_port()}"
    started = []
    for _ in range(2):
        port = free_port()
        line = [sys.executable, "scripts/serve.py", "--run", str(tmp_path / "run"), "--port", str(port)]
        process = subprocess.Popen([*line, "--engine_url", engine], cwd=ROOT, stdout=subprocess.DEVNULL, text=True)
        started.append((process, f"http://127.0.0.1:{port}"))
    try:
        for process, url in started:
            began = time.monotonic()
            while time.monotonic() - began < SECONDS:
                assert process.poll() is None
                try:
                    httpx.get(f"{url}/health")
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
        yield started
    finally:
        for process, _ in started:
            process.kill()
            process.wait(30)


def test_a_killed_gateway_loses_no_answered_decision_and_the_other_goes_on(
    gateways: list[tuple[subprocess.Popen[str], str]], tmp_path: Path
) -> None:
    (victim, url), (_, other) = gateways
    event = {"user_id": "u1", "surface": "home", "action": "like", "item_id": "item-42"}
    assert httpx.post(f"{url}/v1/feedback", json={"events": [event]}).status_code == 200
    heard = httpx.get(f"{other}/v1/listeners/u1?count=1", timeout=30).json()["heard"]
    assert heard[0]["item"]["item_id"] == "item-42"  # at once, by another replica

    def ask(number: int) -> str | None:
        try:
            answer = httpx.post(f"{url}/v1/recommendations", json={"user_id": f"u{number % 6}"}, timeout=30)
        except httpx.TransportError:
            return None
        found: str = answer.json()["decision_id"]
        return found

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, number) for number in range(300)]
        while sum(future.done() for future in asked) < 100:
            time.sleep(0.005)
        os.kill(victim.pid, signal.SIGKILL)
        answered = {future.result() for future in asked} - {None}

    served = tmp_path / "run" / "served"
    assert 100 <= len(answered) < 300
    assert answered <= set(read_decision_log(served / "decisions")["decision_id"])
    assert httpx.post(f"{other}/v1/recommendations", json={"user_id": "u"}, timeout=30).status_code == 200
    assert seal_abandoned(served / "decisions", "decisions")  # the victim's; the other still writes its own
    added = replay(tmp_path / "run", served)
    assert added.decisions >= len(answered)
    assert added.events == 1
