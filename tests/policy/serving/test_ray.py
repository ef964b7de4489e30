"""Two gateway replicas on a local Ray Serve: both answer, both log, and a listener's arm is the same in both."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from policy.serving.assemble import Plan
from policy.serving.engine import free_port
from policy.serving.segments import read_decision_log
from policy.serving.service import GatewaySettings
from tests.policy.serving.tiny_run import build

ARMS = [{"name": name, "policy": name, "share": 0.5} for name in ("sft", "ppo")]


@pytest.mark.nightly
def test_arms_hold_across_replicas(tmp_path: Path) -> None:
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed (extra ray)")
    from policy.serving.ray_app import deploy, shut_down

    build(tmp_path / "run")
    served, port = tmp_path / "run" / "served", free_port()
    plan = Plan(tmp_path / "run", served, gateway=GatewaySettings(f"http://127.0.0.1:{free_port()}"))
    actors = deploy(plan, gateways=2, engines=1, settings=None, host="127.0.0.1", port=port)
    url = f"http://127.0.0.1:{port}"
    try:
        experiment = {"name": "e", "arms": ARMS}
        assert httpx.put(f"{url}/v1/experiment", json=experiment, timeout=60).status_code == 200
        time.sleep(2)  # the other replica looks twice a second

        def arm(number: int) -> tuple[str, str]:
            user = f"u{number % 10}"
            answer = httpx.post(f"{url}/v1/recommendations", json={"user_id": user}, timeout=60)
            return user, answer.json()["arm"]

        with ThreadPoolExecutor(8) as pool:
            seen = list(pool.map(arm, range(120)))
    finally:
        shut_down(actors)

    assert len(set(seen)) == 10  # one arm a listener, whoever answered
    assert {name for _, name in seen} == {"e:sft", "e:ppo"}
    assert read_decision_log(served / "decisions").height == 120
    writers = {path.name.split("-")[2] for path in (served / "decisions").iterdir()}
    assert len(writers) == 2
