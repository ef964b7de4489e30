"""The gateway when its model server is gone, slow, or answers what no catalog plugin would: the ladder holds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from fastapi.testclient import TestClient

from policy.serving.deployment import Deployment
from policy.serving.engine import free_port
from policy.serving.experiments import place
from policy.serving.gateway import create_app
from policy.serving.keys import FILE, add_key, revoke_key
from policy.serving.segments import read_decision_log, read_event_log
from policy.serving.service import GatewaySettings, Service
from policy.serving.state import open_state
from tests.policy.serving.tiny_run import ITEMS, SLATE, build

WORDS = {"index": 0, "text": "Sure!", "token_ids": [5, 6], "logprobs": {"token_logprobs": [-1.0, -1.0]}}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    run = tmp_path_factory.mktemp("alone") / "run"
    build(run)
    return Deployment.load(run)


def service(deployment: Deployment, served: Path, port: int, **settings: Any) -> Service:
    state = open_state(f"sqlite:///{served / 'state.sqlite'}")
    return Service(deployment, None, state, served, GatewaySettings(f"http://127.0.0.1:{port}", seed=1, **settings))


def client(deployment: Deployment, served: Path, port: int, **settings: Any) -> TestClient:
    return TestClient(create_app(service(deployment, served, port, **settings)))


@contextmanager
def engine(
    answers: Mapping[str, tuple[float, int, object]], heard: list[dict[str, Any]] | None = None
) -> Iterator[int]:
    """A stand-in for vLLM gone wrong. answers: model -> (seconds, status, body); bytes are sent as they are.

    Yields its port; what it was asked is added to `heard`, with the key it was shown.
    """

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if heard is not None:
                heard.append({**asked, "key": self.headers["Authorization"]})
            seconds, status, said = answers[asked["model"]]
            time.sleep(seconds)
            body = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(BrokenPipeError):  # the gateway did not wait
                self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


def slate(deployment: Deployment, rows: list[int]) -> dict[str, object]:
    """What vLLM with the plugin answers for these catalog rows, each token with probability one half."""
    codes = deployment.grammar.vocabulary.code_tokens[rows].flatten().tolist()
    tokens = [deployment.grammar.vocabulary.first, *codes]
    logprobs = {"token_logprobs": [-0.6931471805599453] * len(tokens)}
    return {"id": "x", "choices": [{"index": 0, "text": "", "token_ids": tokens, "logprobs": logprobs}]}


def test_without_vllm_recommendations_are_drawn_by_popularity_and_logged(
    deployment: Deployment, tmp_path: Path
) -> None:
    with client(deployment, tmp_path, free_port()) as gateway:
        assert gateway.get("/health").status_code == 200
        assert gateway.get("/ready").status_code == 503
        asked = {"user_id": "u", "kinds": ["track"], "blocked": ["item-00"], "k": 4}
        answers = [gateway.post("/v1/recommendations", json=asked) for _ in range(8)]
        stream = gateway.post("/v1/completions", json={"prompt": "<slate>", "stream": True})
        metrics = gateway.get("/metrics").text

    assert stream.status_code == 503  # a language model was asked for, and there is none
    logged = {row["decision_id"]: row for row in read_decision_log(tmp_path / "decisions").to_dicts()}
    for answer in answers:
        body = answer.json()
        assert (answer.status_code, body["fallback"], body["arm"], body["move"]) == (200, "popular", "ppo", None)
        assert body["policy"].startswith("popular@")
        shown = [item["item_id"] for item in body["items"]]
        assert len(set(shown)) == 4
        assert all(int(item[-2:]) % 3 == 0 and item != "item-00" for item in shown)
        # Nothing was ever played here: of 19 eligible tracks, four one after the other, all alike.
        assert body["propensity"] == pytest.approx(1 / (19 * 18 * 17 * 16))
        assert (logged[body["decision_id"]]["slate"], logged[body["decision_id"]]["propensity"]) == (
            shown,
            body["propensity"],
        )
        assert logged[body["decision_id"]]["policy"] == body["policy"]
    # After three failures in a row the rungs are left alone.
    assert 'longplay_fallbacks_total{reason="error",rung="ppo"} 3.0' in metrics
    assert 'longplay_fallbacks_total{reason="breaker",rung="sft"} 5.0' in metrics
    assert 'longplay_breaker_open{rung="ppo"} 1.0' in metrics


def test_an_adapter_that_fails_is_answered_for_by_the_base(deployment: Deployment, tmp_path: Path) -> None:
    base = slate(deployment, [3, 1, 4, 15, 9])
    with (
        engine({"ppo": (0, 404, {"error": {"message": "no such model"}}), "sft": (0, 200, base)}) as port,
        client(deployment, tmp_path, port) as gateway,
    ):
        answer = gateway.post("/v1/recommendations", json={"user_id": "u"}).json()

    assert answer["fallback"] == "sft"
    assert answer["policy"] == deployment.versions["sft"]
    assert [item["item_id"] for item in answer["items"]] == ["item-03", "item-01", "item-04", "item-15", "item-09"]
    assert answer["propensity"] == pytest.approx(0.5**16)
    assert read_decision_log(tmp_path / "decisions")["policy"].to_list() == [deployment.versions["sft"]]


def test_a_slow_model_is_not_waited_for_longer_than_the_deadline(deployment: Deployment, tmp_path: Path) -> None:
    late = (30.0, 200, slate(deployment, [1, 2, 3, 4, 5]))
    with engine({"ppo": late, "sft": late}) as port, client(deployment, tmp_path, port) as gateway:
        answer = gateway.post("/v1/recommendations", json={"user_id": "u", "deadline_ms": 300})
        metrics = gateway.get("/metrics").text

    assert answer.json()["fallback"] == "popular"
    assert 'longplay_fallbacks_total{reason="timeout",rung="ppo"} 1.0' in metrics
    assert 'longplay_fallbacks_total{reason="timeout",rung="sft"} 1.0' in metrics


def test_an_answer_that_is_no_slate_is_never_served_as_one(deployment: Deployment, tmp_path: Path) -> None:
    words = (0.0, 200, {"id": "x", "choices": [WORDS]})
    with engine({"ppo": words, "sft": words}) as port, client(deployment, tmp_path, port) as gateway:
        answer = gateway.post("/v1/recommendations", json={"user_id": "u"}).json()
        metrics = gateway.get("/metrics").text

    assert answer["fallback"] == "popular"
    assert len(answer["items"]) == SLATE
    assert 'longplay_unparsed_total{route="/v1/recommendations"} 2.0' in metrics


def test_too_many_at_once_are_refused_with_the_time_to_come_back(deployment: Deployment, tmp_path: Path) -> None:
    slow = (1.0, 200, slate(deployment, [1, 2, 3, 4, 5]))
    with (
        engine({"ppo": slow, "sft": slow}) as port,
        client(deployment, tmp_path, port, max_in_flight=4) as gateway,
        ThreadPoolExecutor(12) as pool,
    ):
        answers = list(pool.map(lambda n: gateway.post("/v1/recommendations", json={"user_id": f"u{n}"}), range(12)))
        later = gateway.post("/v1/recommendations", json={"user_id": "u"})
        feedback = {"events": [{"user_id": "u", "surface": "home", "action": "play", "item_id": "item-01"}]}
        assert gateway.post("/v1/feedback", json=feedback).status_code == 200

    shed = [answer for answer in answers if answer.status_code == 429]
    assert len(shed) == 8
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in shed)
    assert all("overloaded" in answer.json()["error"]["message"] for answer in shed)
    assert later.status_code == 200  # and it recovers
    assert read_decision_log(tmp_path / "decisions").height == 5


def test_traffic_changes_without_a_restart_and_exposure_is_logged(deployment: Deployment, tmp_path: Path) -> None:
    arms = [
        {"name": "control", "policy": "sft", "share": 0.5},
        {"name": "mid", "policy": "ppo", "weights": {"midterm": 1.0}, "share": 0.5},
    ]
    users = [f"u{number}" for number in range(40)]
    with client(deployment, tmp_path, free_port()) as gateway:

        def arm_of(user: str, **more: object) -> str | None:
            arm: str | None = gateway.post("/v1/recommendations", json={"user_id": user, **more}).json()["arm"]
            return arm

        before = {arm_of(user) for user in users[:3]}
        begun = gateway.put("/v1/experiment", json={"name": "e1", "arms": arms, "overrides": {"u3": "mid"}})
        during = {user: arm_of(user) for user in users}
        again = {user: arm_of(user) for user in users}
        own = arm_of("u0", policy="dpo"), arm_of("u0", weights={"clicks": 1.0})
        wrong = gateway.put("/v1/experiment", json={"name": "e1", "arms": [arms[0]]})
        lost = gateway.put("/v1/experiment", json={"name": "e1", "arms": [{**arms[0], "policy": "x", "share": 1}]})
        assert gateway.delete("/v1/experiment").status_code == 204
        after = arm_of("u0")

    assert before == {"ppo"}
    assert begun.status_code == 200
    for user in users:
        expected = "e1:mid:override" if user == "u3" else "e1:control" if place("e1", user) < 0.5 else "e1:mid"
        assert during[user] == again[user] == expected
    assert own == (None, None)
    assert (wrong.status_code, lost.status_code) == (400, 400)
    assert "add up to 0.5" in wrong.json()["error"]["message"]
    assert "unknown policy 'x'" in lost.json()["error"]["message"]
    assert after == "ppo"
    arms_logged = read_decision_log(tmp_path / "decisions")["arm"].to_list()
    assert arms_logged.count("e1:mid:override") == 2


def test_an_operators_file_is_followed_and_a_wrong_one_is_not(deployment: Deployment, tmp_path: Path) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text("{name: e2, arms: [{name: all, policy: dpo, share: 1}]}")
    with client(deployment, tmp_path, free_port()) as gateway:
        assert gateway.post("/v1/recommendations", json={"user_id": "u"}).json()["arm"] == "e2:all"
        file.write_text("{name: e2, arms: [{name: all, policy: dpo, share: 0.1}]}")
        for _ in range(100):
            if warnings := gateway.get("/ready").json()["warnings"]:
                break
            time.sleep(0.05)
        assert "the shares add up to 0.1" in warnings[0]
        assert gateway.post("/v1/recommendations", json={"user_id": "u"}).json()["arm"] == "e2:all"


def test_with_keys_only_who_has_one_may_ask_and_only_so_often(deployment: Deployment, tmp_path: Path) -> None:
    web = add_key(tmp_path / FILE, "web", per_second=0.01, burst=3)
    boss = add_key(tmp_path / FILE, "boss", admin=True)
    assert web not in (tmp_path / FILE).read_text()
    with client(deployment, tmp_path, free_port()) as gateway:

        def ask(key: str | None, path: str = "/v1/recommendations", body: object = None) -> Any:
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            return gateway.post(path, json=body or {"user_id": "u"}, headers=headers)

        assert gateway.get("/health").status_code == 200
        for wrong in (None, "", "lp-", web[:-1], web[:-1] + "?", f"lp-{web.split('-')[1]}-"):
            assert ask(wrong).status_code == 401, wrong
        assert gateway.get("/metrics").status_code == 401
        block = {"block": ["item-01"]}
        assert ask(web, "/v1/blocked", block).status_code == 403
        assert ask(boss, "/v1/blocked", block).json() == {"blocked": ["item-01"]}
        assert [ask(web).status_code for _ in range(3)] == [200, 200, 429]  # the refused admin request counted
        assert int(ask(web).headers["retry-after"]) > 10
        assert ask(boss).status_code == 200
        revoke_key(tmp_path / FILE, "boss")
        revoke_key(tmp_path / FILE, "web")
        for _ in range(100):
            if ask(boss).status_code == 401:
                break
            time.sleep(0.05)
        assert ask(boss).status_code == 401


def test_what_is_too_long_is_not_read(deployment: Deployment, tmp_path: Path) -> None:
    with client(deployment, tmp_path, free_port(), max_body_bytes=1000) as gateway:
        long = gateway.post("/v1/recommendations", json={"user_id": "u", "steer": "x" * 1000})
        chunks = gateway.post("/v1/recommendations", content=(b"x" * 100 for _ in range(20)))

    assert (long.status_code, chunks.status_code) == (413, 413)


def test_a_takedown_holds_for_everybody_on_every_rung(deployment: Deployment, tmp_path: Path) -> None:
    gone = [f"item-{row:02d}" for row in range(ITEMS - SLATE)]
    with client(deployment, tmp_path, free_port()) as gateway:
        assert gateway.post("/v1/blocked", json={"block": gone}).status_code == 200
        answer = gateway.post("/v1/recommendations", json={"user_id": "anybody"}).json()
        short = gateway.post("/v1/recommendations", json={"user_id": "anybody", "blocked": ["item-59"]})
        gateway.post("/v1/blocked", json={"unblock": gone})
        assert gateway.post("/v1/recommendations", json={"user_id": "u", "k": 20}).status_code == 200

    assert {item["item_id"] for item in answer["items"]} == {f"item-{row}" for row in range(55, 60)}
    assert short.status_code == 400


def test_feedback_is_logged_and_known_as_it_was_sent(deployment: Deployment, tmp_path: Path) -> None:
    event = {"user_id": "u", "surface": "home", "action": "like", "item_id": "item-33", "seconds": 1.5}
    with client(deployment, tmp_path, free_port()) as gateway:
        assert gateway.post("/v1/feedback", json={"events": [event]}).json() == {"accepted": 1}

        took = []
        for _ in range(9):
            began = time.perf_counter()
            gateway.post("/v1/feedback", json={"events": [event]})
            took.append(time.perf_counter() - began)

    row = read_event_log(tmp_path / "events").to_dicts()[0]
    assert {name: row[name] for name in event} == event
    assert sorted(took)[4] < 0.1  # on disk and in the state, from where the next request reads it


def test_words_stay_out_of_the_log_when_they_should(deployment: Deployment, tmp_path: Path) -> None:
    with client(deployment, tmp_path, free_port(), keep_words=False) as gateway:
        gateway.post("/v1/recommendations", json={"user_id": "u", "steer": "something private"})

    assert read_decision_log(tmp_path / "decisions")["steer"].to_list() == [None]


def test_no_request_names_a_path(deployment: Deployment, tmp_path: Path) -> None:
    with client(deployment, tmp_path, free_port()) as gateway:
        for name in ("../sft", "/etc/passwd", "policy/ppo", "ppo@1"):
            assert gateway.post("/v1/recommendations", json={"user_id": "u", "policy": name}).status_code == 400
        for route in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/tokenize", "/v1/../policy"):
            assert gateway.post(route, json={"lora_name": "x", "lora_path": "/tmp"}).status_code in (404, 405)
        xargs = {"prompt": "<slate>", "vllm_xargs": {"catalog": "../catalog"}}
        assert gateway.post("/v1/completions", json=xargs).status_code == 400
