"""What must not bring a gateway down, and what it must not hand on: a faulty answer, a long list, a wrong name."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from policy.serving.connection import Answer
from policy.serving.deployment import Deployment
from policy.serving.gateway import create_app
from policy.serving.keys import FILE, add_key
from policy.serving.live import Live
from policy.serving.messages import MAX_DEADLINE_MS
from policy.serving.popular import Popular
from policy.serving.segments import read_decision_log
from policy.serving.service import GatewaySettings
from policy.serving.slate_arguments import MAX_BLOCKED, MAX_SENT, SlateArguments
from tests.policy.serving.test_gateway_alone import client, engine, service, slate
from tests.policy.serving.tiny_run import ITEMS, build


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    run = tmp_path_factory.mktemp("faults") / "run"
    build(run)
    return Deployment.load(run)


def test_the_gateway_shows_vllm_the_key_it_wants(deployment: Deployment, tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    answers = {"ppo": (0.0, 200, slate(deployment, [1, 2, 3, 4, 5]))}
    with engine(answers, heard) as port, client(deployment, tmp_path, port, engine_key="secret") as gateway:
        assert gateway.post("/v1/recommendations", json={"user_id": "u"}).json()["fallback"] is None

    assert [asked["key"] for asked in heard] == ["Bearer secret"]


def test_a_recommendation_is_decoded_with_the_catalog_that_reads_it(deployment: Deployment, tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    answers = {"ppo": (0.0, 200, slate(deployment, [1, 2, 3, 4, 5]))}
    with engine(answers, heard) as port, client(deployment, tmp_path, port) as gateway:
        answer = gateway.post("/v1/recommendations", json={"user_id": "u"}).json()

    assert heard[0]["vllm_xargs"]["catalog"] == answer["catalog"] == deployment.catalog.version


def test_a_long_block_list_reaches_vllm_as_the_catalogs_part_of_it(deployment: Deployment, tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    answers = {"ppo": (0.0, 200, slate(deployment, [1, 2, 3, 4, 5]))}
    gone = [f"gone-{number}" for number in range(MAX_BLOCKED - 1)]
    with engine(answers, heard) as port, client(deployment, tmp_path, port) as gateway:
        assert gateway.post("/v1/blocked", json={"user_id": "u", "block": [*gone, "item-07"]}).status_code == 200
        full = gateway.post("/v1/blocked", json={"user_id": "u", "block": ["one-more"]})
        again = gateway.post("/v1/blocked", json={"user_id": "u", "block": ["item-07"]})
        answer = gateway.post("/v1/recommendations", json={"user_id": "u", "blocked": ["mine"]})

    assert (full.status_code, again.status_code) == (400, 200)
    assert "at most 10000" in full.json()["error"]["message"]
    assert answer.json()["fallback"] is None
    assert heard[0]["vllm_xargs"]["blocked"] == ["mine", "item-07"]


def test_vllm_takes_every_list_that_a_gateway_may_send() -> None:
    most = {"blocked": [f"i{number}" for number in range(MAX_SENT)]}
    assert len(SlateArguments.parse(most, 5, MAX_SENT).blocked) == 3 * MAX_BLOCKED


def test_what_vllm_refuses_is_not_the_clients_fault_and_closes_no_rung(deployment: Deployment, tmp_path: Path) -> None:
    refused = (0.0, 400, {"error": {"message": "blocked has 40000 entries"}})
    with engine({"ppo": refused, "sft": refused}) as port, client(deployment, tmp_path, port) as gateway:
        answers = [gateway.post("/v1/recommendations", json={"user_id": "u"}) for _ in range(5)]
        metrics = gateway.get("/metrics").text

    assert {(answer.status_code, answer.json()["fallback"]) for answer in answers} == {(200, "popular")}
    assert 'longplay_fallbacks_total{reason="refused",rung="ppo"} 5.0' in metrics
    assert 'longplay_breaker_open{rung="ppo"} 0.0' in metrics


@pytest.mark.parametrize(
    ("said", "plain_status"),
    [
        (b"<html>", 502),
        (b"[]", 502),
        (b"{}", 502),
        # No slate in it, so nothing to log: handed on as it is.
        ({"id": "x", "choices": []}, 200),
        ({"id": "x", "choices": [{"index": 0, "token_ids": ["a"], "logprobs": None}]}, 200),
    ],
)
def test_an_answer_that_cannot_be_read_is_vllms_fault(
    deployment: Deployment, tmp_path: Path, said: object, plain_status: int
) -> None:
    broken = {"ppo": (0.0, 200, said), "sft": (0.0, 500, b"Internal Server Error")}
    with engine(broken) as port, client(deployment, tmp_path, port) as gateway:
        answer = gateway.post("/v1/recommendations", json={"user_id": "u"})
        plain = gateway.post("/v1/completions", json={"prompt": "<slate>"})

    assert (answer.status_code, answer.json()["fallback"]) == (200, "popular")
    assert plain.status_code == plain_status


def test_a_slate_without_its_probability_is_not_served(deployment: Deployment, tmp_path: Path) -> None:
    said: Any = slate(deployment, [1, 2, 3, 4, 5])
    said["choices"][0]["logprobs"] = None
    with engine({"ppo": (0.0, 200, said)}) as port, client(deployment, tmp_path, port) as gateway:
        answer = gateway.post("/v1/completions", json={"prompt": "<slate>"})

    assert answer.status_code == 502
    assert "what cannot be logged is not served" in answer.json()["error"]["message"]


def test_a_fault_nobody_foresaw_ends_no_watching(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM lists its models in a shape that it never had; meanwhile an operator begins an experiment."""
    ours = service(deployment, tmp_path, 1)

    async def shapeless(*_: object) -> Answer:
        return Answer(200, b'{"data": [null]}')

    monkeypatch.setattr(ours.engine, "ask", shapeless)
    with TestClient(create_app(ours, Live(ours, tmp_path, None, None))) as gateway:

        def wait_for(words: str) -> bool:
            for _ in range(60):
                if words in gateway.get("/ready").text:
                    return True
                time.sleep(0.05)
            return False

        assert wait_for("run cannot be followed: TypeError")
        (tmp_path / "experiment.yaml").write_text("{name: later, arms: [{name: all, policy: dpo, share: 1}]}")
        assert wait_for("later")
        assert 'longplay_watch_errors_total{what="run"}' in gateway.get("/metrics").text


def test_a_vllm_that_was_started_again_is_given_what_it_has_forgotten(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by us, so it has the adapters that it began with: none. A request finds out; the next ones are served."""
    ours = service(deployment, tmp_path, 1)
    has: dict[str, str] = {}

    async def vllm(method: str, path: str, body: bytes | None = None) -> Answer:
        if method == "GET":
            return Answer(
                200, json.dumps({"data": [{"id": name, "root": root} for name, root in has.items()]}).encode()
            )
        asked = json.loads(body or b"")
        if path == "/v1/load_lora_adapter":
            has[asked["lora_name"]] = asked["lora_path"]
            return Answer(200, b"loaded")
        if asked["model"] not in {"sft", *has}:
            return Answer(404, b'{"error": {"message": "there is no such model"}}')
        return Answer(200, json.dumps(slate(deployment, [1, 2, 3, 4, 5])).encode())

    monkeypatch.setattr(ours.engine, "ask", vllm)
    with TestClient(create_app(ours, Live(ours, tmp_path, None, None))) as gateway:

        def served() -> bool:
            for _ in range(60):
                if gateway.post("/v1/recommendations", json={"user_id": "u"}).json()["fallback"] is None:
                    return True
                time.sleep(0.1)
            return False

        assert served()
        assert len(has) == 2
        has.clear()
        assert gateway.post("/v1/recommendations", json={"user_id": "u"}).json()["fallback"] == "sft"
        assert served()


def test_an_arm_whose_adapter_has_left_is_answered_for_by_the_base(deployment: Deployment, tmp_path: Path) -> None:
    arms = [{"name": "all", "policy": "dpo", "share": 1.0}]
    answers = {"sft": (0.0, 200, slate(deployment, [1, 2, 3, 4, 5]))}
    with engine(answers) as port:
        ours = service(deployment, tmp_path, port)
        with TestClient(create_app(ours)) as gateway:
            assert gateway.put("/v1/experiment", json={"name": "e", "arms": arms}).status_code == 200
            kept = {name: version for name, version in deployment.versions.items() if name != "dpo"}
            ours.deployment = replace(ours.deployment, versions=kept)
            answer = gateway.post("/v1/recommendations", json={"user_id": "u"}).json()

    assert (answer["arm"], answer["fallback"], answer["policy"]) == ("e:all", "sft", deployment.versions["sft"])


def test_a_request_keeps_the_popularity_of_the_catalog_it_began_with(deployment: Deployment, tmp_path: Path) -> None:
    late = (0.5, 500, b"")
    with engine({"ppo": late, "sft": late}) as port, ThreadPoolExecutor(1) as pool:
        ours = service(deployment, tmp_path, port)
        with TestClient(create_app(ours)) as gateway:
            asked = {"user_id": "u", "blocked": ["item-00"]}
            begun = pool.submit(gateway.post, "/v1/recommendations", json=asked)
            time.sleep(0.2)
            old, grown = ours.deployment, Popular(np.ones(ITEMS + 1))
            ours.deployment = replace(old, popular=grown)
            answer = begun.result()

    assert answer.status_code == 200
    assert answer.json()["policy"] == old.popular.version != grown.version


@pytest.mark.parametrize("user", ["\\ud800", "x" * 257])
@pytest.mark.parametrize("route", ["completions", "chat/completions"])
def test_a_user_whom_no_log_can_hold_is_refused(deployment: Deployment, tmp_path: Path, user: str, route: str) -> None:
    with client(deployment, tmp_path, 1) as gateway:
        answer = gateway.post(f"/v1/{route}", content=f'{{"prompt": "<slate>", "user": "{user}"}}')
        number = gateway.post(f"/v1/{route}", json={"prompt": "<slate>", "user": {"id": 7}})

    assert (answer.status_code, number.status_code) == (400, 400)
    assert answer.json()["error"]["message"].startswith("user: ")


def test_an_adapter_stays_as_long_as_any_request_may_take() -> None:
    assert GatewaySettings("http://x").longest_seconds == 60
    assert GatewaySettings("http://x", answer_seconds=90).longest_seconds == 90
    assert GatewaySettings("http://x", answer_seconds=1, deadline_seconds=1).longest_seconds == MAX_DEADLINE_MS / 1000


def test_a_page_from_elsewhere_cannot_ask_through_the_browser(deployment: Deployment, tmp_path: Path) -> None:
    """Without keys, on the loopback address: DNS rebinding shows in Host, a request across origins in Origin."""
    here = TestClient(create_app(service(deployment, tmp_path, 1)), base_url="http://127.0.0.1:8000")
    with here as gateway:

        def ask(host: str, origin: str | None = None) -> list[int]:
            headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
            blocked = gateway.post("/v1/blocked", json={"block": ["item-01"]}, headers=headers)
            return [blocked.status_code, gateway.get("/v1/experiment", headers=headers).status_code]

        for host in ("127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000"):
            assert ask(host) == ask(host, "http://localhost:3000") == [200, 200], host
        for host in (
            "evil.example",
            "evil.example:8000",
            "127.0.0.1.evil.example",
            "localhost@evil.example",
            "",
            "[::1",
        ):
            assert ask(host) == [403, 403], host
        for origin in ("http://evil.example", "null", "http://localhost.evil.example", ""):
            assert ask("localhost:8000", origin) == [403, 403], origin
        assert gateway.post("/mcp", json={}, headers={"Host": "evil.example"}).status_code == 403

        key = {"Authorization": f"Bearer {add_key(tmp_path / FILE, 'web', admin=True)}"}
        for _ in range(60):
            if (status := gateway.get("/v1/experiment", headers=key | {"Host": "music.example"}).status_code) == 200:
                break
            time.sleep(0.05)
        assert status == 200  # the key says who asks


def test_a_disk_that_does_not_answer_is_not_waited_for(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, sync = Event(), os.fsync

    def stuck(descriptor: int) -> None:
        assert release.wait(20)
        sync(descriptor)

    with client(deployment, tmp_path, 1) as gateway:
        monkeypatch.setattr(os, "fsync", stuck)
        try:
            answer = gateway.post("/v1/recommendations", json={"user_id": "u", "deadline_ms": 100})
        finally:
            release.set()

    assert answer.status_code == 503
    assert "did not take it in time" in answer.json()["error"]["message"]


def test_nobody_waits_for_a_log_whose_writer_has_ended(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise MemoryError

    with client(deployment, tmp_path, 1) as gateway:
        monkeypatch.setattr(os, "fsync", broken)
        monkeypatch.setattr(threading, "excepthook", lambda _: None)
        answers = [gateway.post("/v1/recommendations", json={"user_id": "u"}) for _ in range(2)]
        monkeypatch.undo()

    assert [answer.status_code for answer in answers] == [503, 503]
    assert "writer of the decisions log has ended" in answers[0].json()["error"]["message"]
    assert "log is closed" in answers[1].json()["error"]["message"]


def test_the_page_and_an_assistant_find_the_same_items(deployment: Deployment, tmp_path: Path) -> None:
    ours = service(deployment, tmp_path, 1)
    with TestClient(create_app(ours)) as gateway:
        found = [item["item_id"] for item in gateway.get("/v1/items", params={"q": "quiet 17"}).json()]
        told = gateway.post(
            "/mcp",
            json={
                "jsonrpc": "2.0",
                "id": 1,
                "method": "tools/call",
                "params": {"name": "search_catalog", "arguments": {"words": "quiet 17"}},
            },
            headers={"Accept": "application/json, text/event-stream"},
        )

    assert found == ["item-17"]
    assert '"item-17"' in told.text.replace("\\", "")
    assert ours.deployment.search is ours.deployment.search  # one index, however often it is asked


def test_the_log_says_what_could_be_shown_where_something_was_left_out(deployment: Deployment, tmp_path: Path) -> None:
    with client(deployment, tmp_path, 1) as gateway:
        gateway.post("/v1/blocked", json={"user_id": "u", "block": ["item-03"]})
        for asked in ({"user_id": "v"}, {"user_id": "u", "kinds": ["track"], "seen": ["item-00"]}):
            assert gateway.post("/v1/recommendations", json=asked).status_code == 200

    logged = read_decision_log(tmp_path / "decisions")
    whole, part = logged["candidates"].to_list()
    assert whole is None
    assert part == [f"item-{row:02d}" for row in range(6, ITEMS, 3)]
    assert set(logged["slate"][1]) <= set(part)


def test_a_rung_that_holds_again_is_found_out_without_a_listener(deployment: Deployment, tmp_path: Path) -> None:
    good, broken = (0.0, 200, slate(deployment, [1, 2, 3, 4, 5])), (0.0, 500, b"Internal Server Error")
    answers: dict[str, Any] = {"ppo": broken, "sft": broken}
    with engine(answers) as port, client(deployment, tmp_path, port) as gateway:
        for _ in range(4):
            assert gateway.post("/v1/recommendations", json={"user_id": "u"}).json()["fallback"] == "popular"
        assert 'longplay_breaker_open{rung="ppo"} 1.0' in gateway.get("/metrics").text
        answers |= {"ppo": good, "sft": good}
        closed = wait_until(lambda: 'longplay_breaker_open{rung="ppo"} 0.0' in gateway.get("/metrics").text)
        answer = gateway.post("/v1/recommendations", json={"user_id": "u"}).json()

    assert closed
    assert answer["fallback"] is None
    assert read_decision_log(tmp_path / "decisions").height == 5  # what the probes drew is nobody's


def wait_until(holds: Callable[[], bool]) -> bool:
    """Whether it does within a few seconds."""
    for _ in range(100):
        if holds():
            return True
        time.sleep(0.05)
    return False
