"""The gateway when its model server is gone, or answers what no catalog plugin would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from fastapi.testclient import TestClient

from policy.serving.decision_log import read_decision_log
from policy.serving.deployment import Deployment
from policy.serving.engine import free_port
from policy.serving.gateway import create_app
from policy.serving.listeners import Listeners
from policy.serving.service import GatewaySettings, Service
from tests.policy.serving.tiny_run import build


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    run = tmp_path_factory.mktemp("alone") / "run"
    build(run)
    return Deployment.load(run)


def client(deployment: Deployment, served: Path, port: int) -> TestClient:
    listeners = Listeners(deployment.index.row_of, None, 12)
    service = Service(deployment, listeners, served, GatewaySettings(f"http://127.0.0.1:{port}"))
    return TestClient(create_app(service))


@pytest.fixture
def free_text_server() -> Iterator[int]:
    """A server that answers with words, as vLLM without the plugin does."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            choice = {"index": 0, "text": "Sure!", "token_ids": [5, 6], "logprobs": {"token_logprobs": [-1.0, -1.0]}}
            body = json.dumps({"id": "x", "choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


def test_without_vllm_the_gateway_is_alive_but_not_ready(deployment: Deployment, tmp_path: Path) -> None:
    with client(deployment, tmp_path, free_port()) as gateway:
        assert gateway.get("/health").status_code == 200
        assert gateway.get("/ready").status_code == 503
        answer = gateway.post("/v1/recommendations", json={"user_id": "u"})
        stream = gateway.post("/v1/completions", json={"prompt": "<slate>", "stream": True})

    assert answer.status_code == stream.status_code == 503
    assert answer.json()["error"]["message"] == "the model server cannot be reached"
    assert read_decision_log(tmp_path / "decisions").height == 0


def test_an_answer_that_is_no_slate_is_never_served_as_one(
    deployment: Deployment, tmp_path: Path, free_text_server: int
) -> None:
    with client(deployment, tmp_path, free_text_server) as gateway:
        answer = gateway.post("/v1/recommendations", json={"user_id": "u"})
        unparsed = gateway.get("/metrics").text

    assert answer.status_code == 502
    assert "no whole slate" in answer.json()["error"]["message"]
    assert 'longplay_unparsed_total{route="/v1/recommendations"} 1.0' in unparsed
    assert read_decision_log(tmp_path / "decisions").height == 0
