"""What must not bring a gateway down, and what it must not hand on: a faulty answer, a long list, a wrong name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policy.serving.deployment import Deployment
from tests.policy.serving.test_gateway_alone import client, engine, slate
from tests.policy.serving.tiny_run import build


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
