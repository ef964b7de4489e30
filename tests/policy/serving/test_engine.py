"""What is wrong is said in one line before anything is started, by the script as a user runs it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from data.errors import InputError
from policy.serving.deployment import Deployment
from policy.serving.engine import PORTS, EngineSettings, check_port, command, environment, free_port
from tests.policy.serving.tiny_run import build

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine") / "run"
    build(folder)
    return folder


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "scripts/serve.py", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_a_free_port_is_none_that_a_connection_could_be_given_while_a_server_starts() -> None:
    found = {free_port() for _ in range(20)}
    assert found <= set(PORTS)
    assert len(found) > 1
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", found.pop()))


def test_a_port_in_use_is_one_line_and_exit_code_2(run: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = serve("--run", str(run), "--port", str(port))

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: port {port} on 127.0.0.1 cannot be used")
    assert "--port" in done.stderr
    assert not (run / "served").exists()  # nothing was begun


def test_a_missing_run_and_a_missing_adapter_are_one_line_and_exit_code_2(run: Path, tmp_path: Path) -> None:
    port = str(free_port())
    for arguments, said in (
        (["--run", str(tmp_path / "nothing")], "no such run folder"),
        (["--run", str(run), "--adapters", "grpo"], "adapter 'grpo' is not in"),
    ):
        done = serve(*arguments, "--port", port)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert said in done.stderr


def test_a_run_is_read_as_it_is(run: Path) -> None:
    found = Deployment.load(run)

    assert list(found.versions) == ["sft", "dpo", "ppo"]
    assert found.default == "ppo"
    assert len({version.partition("@")[2] for version in found.versions.values()}) == 3
    assert Deployment.load(run, ["dpo"]).default == "dpo"
    assert Deployment.load(run, []).default == "sft"
    assert Deployment.load(run).versions == found.versions


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda run: shutil.rmtree(run / "policy"), "no trained base policy"),
        (lambda run: shutil.rmtree(run / "catalog"), "no readable catalog"),
        (lambda run: (run / "policy/sft/vocabulary.json").unlink(), "vocabulary.json cannot be read"),
        (lambda run: _other_catalog(run), "speaks catalog another"),
    ],
)
def test_a_broken_run_is_named(run: Path, tmp_path: Path, break_it, reason: str) -> None:  # type: ignore[no-untyped-def]
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    break_it(copy)

    with pytest.raises(InputError, match=reason):
        Deployment.load(copy)


def _other_catalog(run: Path) -> None:
    settings = json.loads((run / "policy/sft/policy.json").read_text())
    (run / "policy/sft/policy.json").write_text(json.dumps(settings | {"catalog": "another"}))


def test_the_command_serves_masked_propensities_and_every_adapter(run: Path) -> None:
    adapters = {"dpo": run / "policy/dpo", "ppo": run / "policy/ppo"}
    settings = EngineSettings(model=run / "policy/sft", catalog=run / "catalog", adapters=adapters, port=8123)
    line = " ".join(command(settings))

    assert "--logprobs-mode processed_logprobs" in line
    assert "--generation-config vllm" in line
    assert f"--lora-modules dpo={run}/policy/dpo ppo={run}/policy/ppo" in line
    assert "--max-lora-rank 8" in line
    assert "--max-loras 3" in line  # one stays empty: vLLM's CPU layers read the last for requests without an adapter
    assert environment(settings)["LONGPLAY_CATALOG"] == str((run / "catalog").resolve())
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in environment(settings)
    spare = replace(settings, spare_adapters=2)
    assert "--max-loras 5" in " ".join(command(spare))
    assert environment(spare)["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    keyed = replace(settings, api_key="quite-secret")
    assert environment(keyed)["VLLM_API_KEY"] == "quite-secret"
    assert "quite-secret" not in " ".join(command(keyed)) + repr(keyed)  # a process list shows commands to everybody


def test_a_port_that_is_no_port_is_refused() -> None:
    with pytest.raises(InputError, match="from 1 to 65535"):
        check_port("127.0.0.1", 70_000)
