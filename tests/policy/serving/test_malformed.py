"""Requests made up from the OpenAPI page, right and wrong ones (schemathesis): whatever comes, no 5xx."""

from __future__ import annotations

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from tests.policy.serving.conftest import RunningServer

MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


@pytest.mark.parametrize("examples", [5, pytest.param(50, marks=pytest.mark.nightly)])
def test_no_request_is_the_servers_fault(server: RunningServer, examples: int) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    calm = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    sent: dict[str, int] = {}
    for found in schema.get_all_operations():
        operation = found.ok()

        def ask(case: schemathesis.Case) -> None:
            answer = case.call(timeout=60)
            sent[f"{case.method} {case.path}"] = sent.get(f"{case.method} {case.path}", 0) + 1
            assert answer.status_code < 500, (case.as_curl_command(), answer.text)

        for mode in MODES:
            try:
                calm(given(case=operation.as_strategy(generation_mode=mode))(ask))()
            except (Unsatisfiable, pytest.skip.Exception):
                continue  # nothing about it can be wrong

    assert {"POST /v1/recommendations", "POST /v1/feedback", "POST /v1/chat/completions"} <= set(sent)
    httpx.delete(f"{server.url}/v1/experiment")
    blocked = httpx.post(f"{server.url}/v1/blocked", json={}).json()["blocked"]
    if blocked:
        httpx.post(f"{server.url}/v1/blocked", json={"unblock": blocked})
