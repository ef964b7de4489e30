"""One real server for the whole session: scripts/serve.py as a user starts it, vLLM included, on a tiny run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from data.catalog import Catalog
from policy.serving.engine import free_port
from tests.policy.serving.tiny_run import build

ROOT = Path(__file__).resolve().parents[3]
START_SECONDS = 280.0


@dataclass(frozen=True)
class RunningServer:
    """url: the gateway. engine_url: its vLLM, as somebody would use it without the gateway."""

    url: str
    engine_url: str
    run: Path
    catalog: Catalog
    process: subprocess.Popen[str]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    pytest.importorskip("vllm", reason="vLLM is not installed (extra serve-cpu or serve)")
    run = tmp_path_factory.mktemp("served") / "run"
    catalog = build(run, adapters=("dpo", "messages", "ppo"))
    port, engine_port = free_port(), free_port()
    line = [sys.executable, "scripts/serve.py", "--run", str(run), "--port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        # Two busy cores: no answer of the model may be given up, or the tests would look at popularity's.
        [*line, "--engine_port", str(engine_port), "--deadline_seconds", "60"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(process, url)
        yield RunningServer(url, f"http://127.0.0.1:{engine_port}", run, catalog, process)
    finally:
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 0, said
    with pytest.raises(httpx.ConnectError):  # nothing is left behind
        httpx.get(f"http://127.0.0.1:{engine_port}/health")


def _wait(process: subprocess.Popen[str], url: str) -> None:
    began = time.monotonic()
    while time.monotonic() - began < START_SECONDS:
        if process.poll() is not None:
            assert process.stdout is not None
            pytest.fail(f"serve.py ended with {process.returncode}: {process.stdout.read()}")
        try:
            if httpx.get(f"{url}/ready").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail(f"no server after {START_SECONDS} s")
