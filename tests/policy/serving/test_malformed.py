"""Requests made up from the OpenAPI page, right and wrong ones (schemathesis): whatever comes, no 5xx."""

from __future__ import annotations

import httpx
import pytest

from scripts.benches.malformed import ask_askew
from tests.policy.serving.conftest import RunningServer


@pytest.mark.parametrize("examples", [5, pytest.param(50, marks=pytest.mark.nightly)])
def test_no_request_is_the_servers_fault(server: RunningServer, examples: int) -> None:
    sent = ask_askew(server.url, examples)

    assert sent.faults == []
    assert {"POST /v1/recommendations", "POST /v1/feedback", "POST /v1/chat/completions"} <= set(sent.requests)
    httpx.delete(f"{server.url}/v1/experiment")
    blocked = httpx.post(f"{server.url}/v1/blocked", json={}).json()["blocked"]
    if blocked:
        httpx.post(f"{server.url}/v1/blocked", json={"unblock": blocked})
