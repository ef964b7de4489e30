"""Two gateway replicas and a vLLM replica on a local Ray Serve: both gateways answer by the model, both log, a
listener's arm is the same in both, and a vLLM replica that is killed comes back without anybody's help.
"""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from data.errors import InputError
from policy.serving.assemble import Plan
from policy.serving.deployment import Deployment
from policy.serving.engine import EngineSettings, free_port
from policy.serving.live import engine_adapters
from policy.serving.segments import read_decision_log
from policy.serving.service import GatewaySettings
from tests.policy.serving.tiny_run import build

ARMS = [{"name": name, "policy": name, "share": 0.5} for name in ("sft", "ppo")]
SECONDS = 240.0


def engine_settings(plan: Plan, deployment: Deployment) -> EngineSettings:
    return EngineSettings(
        deployment.base,
        plan.run / "catalog",
        adapters=engine_adapters(deployment),
        catalog_versions=plan.served / "catalogs",
        spare_adapters=2,
        log=plan.served / "vllm.log",
    )


@pytest.mark.nightly
def test_arms_hold_across_replicas_and_a_killed_vllm_replica_comes_back(tmp_path: Path) -> None:
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed (extra ray)")
    pytest.importorskip("vllm", reason="vLLM is not installed (extra serve-cpu or serve)")
    from policy.serving.ray_app import deploy, shut_down

    build(tmp_path / "run")
    served, port = tmp_path / "run" / "served", free_port()
    plan = Plan(tmp_path / "run", served, gateway=GatewaySettings("http://127.0.0.1:1", deadline_seconds=60))
    deployment = plan.deployment()
    actors = deploy(plan, 2, 1, engine_settings(plan, deployment), "127.0.0.1", port)
    url = f"http://127.0.0.1:{port}"

    def ask(number: int) -> dict[str, Any]:
        answer = httpx.post(f"{url}/v1/recommendations", json={"user_id": f"u{number % 10}"}, timeout=90)
        said: dict[str, Any] = answer.json()
        return {"user": number % 10, **said}

    try:
        experiment = {"name": "e", "arms": ARMS}
        assert httpx.put(f"{url}/v1/experiment", json=experiment, timeout=60).status_code == 200
        time.sleep(2)  # the other replica looks twice a second
        with ThreadPoolExecutor(8) as pool:
            seen = list(pool.map(ask, range(120)))

        (log,) = served.glob("vllm-*.log")
        os.kill(int(log.stem.rpartition("-")[2]), signal.SIGKILL)
        time.sleep(1)
        meanwhile = ask(0)
        began = time.monotonic()
        while (after := ask(0))["fallback"] is not None and time.monotonic() - began < SECONDS:
            time.sleep(1)
    finally:
        shut_down(actors)

    assert len({(answer["user"], answer["arm"]) for answer in seen}) == 10  # one arm a listener, whoever answered
    assert {answer["arm"] for answer in seen} == {"e:sft", "e:ppo"}
    assert {answer["fallback"] for answer in seen} == {None}
    assert {answer["policy"] for answer in seen} == {deployment.versions["sft"], deployment.versions["ppo"]}
    assert (meanwhile["fallback"], after["fallback"], after["arm"]) == ("popular", None, meanwhile["arm"])
    assert {answer["decision_id"] for answer in seen} < set(read_decision_log(served / "decisions")["decision_id"])
    writers = {path.name.split("-")[2] for path in (served / "decisions").iterdir()}
    assert len(writers) == 2


@pytest.mark.nightly
def test_a_vllm_replica_that_cannot_start_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed (extra ray)")
    from policy.serving.ray_app import deploy

    build(tmp_path / "run")
    plan = Plan(tmp_path / "run", tmp_path / "run" / "served")
    nowhere = EngineSettings(tmp_path / "no-policy", tmp_path / "run" / "catalog", log=tmp_path / "vllm.log")
    with pytest.raises(InputError, match=r"did not start: .*no-policy holds no policy to serve"):
        deploy(plan, 1, 1, nowhere, "127.0.0.1", free_port())
