"""The vLLM server as a child process: its command line, its start, its end.

The same command works with the CPU build and the CUDA build. `vllm serve` is not used: under the CPU build the command
looks for a package of another name and fails, while the module it would call works.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom

import httpx
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from data.errors import InputError
from policy.serving.catalogs import DEFAULT, NAMED, POLICY, SLATE, VERSIONS

# Ranks that vLLM's LoRA layers can be built for.
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
ROOT = Path(__file__).resolve().parents[2]
PORTS = range(20_000, 32_768)  # below those that Linux gives to outgoing connections
_STOP_SECONDS = 8.0
# Below this many bytes of weights a decoding step is too short to be worth splitting between threads.
_ONE_THREAD_BYTES = 200 * 1024 * 1024
# Named as a class, because the CPU build takes "mp" for "uni": a process more that imports everything again at a start,
# and waits for its orders by spinning on a core that the model needs. On one GPU it is what vLLM takes by itself.
_ONE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True)
class EngineSettings:
    """What to serve and where.

    model: folder of the base policy. adapters: name -> folder of a LoRA adapter over it. catalog: its folder; catalogs:
    others by name; catalog_versions: where versions of it appear while it runs. spare_adapters: how many more adapters
    can be loaded while it runs. constrained: with the catalog plugin; without it, a plain vLLM to compare with.
    slate_size: K when a request names none. log: file for vLLM's own output. startup_seconds: patience before
    giving up. kv_cache_gib: memory for attention caches on a CPU. max_requests: requests decoded together.
    api_key: what vLLM wants to see on its /v1 routes, by which adapters are loaded too; needed where `host` is not this
    machine's alone.
    """

    model: Path
    catalog: Path
    adapters: Mapping[str, Path] = field(default_factory=dict)
    catalogs: Mapping[str, Path] = field(default_factory=dict)
    catalog_versions: Path | None = None
    spare_adapters: int = 0
    constrained: bool = True
    slate_size: int = 5
    host: str = "127.0.0.1"
    port: int = 8100
    log: Path = Path("vllm.log")
    dtype: str = "float32"
    kv_cache_gib: int = 1
    max_requests: int = 64
    startup_seconds: float = 300.0
    extra: tuple[str, ...] = ()
    api_key: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


class Engine:
    """A running vLLM server. Stopped by pid, never by name; it also ends when this process dies."""

    def __init__(self, settings: EngineSettings) -> None:
        """Start the child. Raises InputError when vLLM is not installed or a folder is missing."""
        self.settings = settings
        _check(settings)
        settings.log.parent.mkdir(parents=True, exist_ok=True)
        with settings.log.open("wb") as log:
            self._child = subprocess.Popen(
                command(settings),
                env=environment(settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us alone; we end the child when the gateway is done
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - one system call, of a library that is loaded already
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    def wait_until_ready(self, console: Console | None = None) -> float:
        """Wait for the server to answer; seconds it took.

        Raises InputError, with the last telling line of vLLM's log, when it ends or takes too long.
        """
        began = time.monotonic()
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as progress, httpx.Client(timeout=2.0) as client:
            task = progress.add_task(f"vLLM loads {self.settings.model} (about a minute)", total=None)
            while time.monotonic() - began < self.settings.startup_seconds:
                if not self.running:
                    raise InputError(f"vLLM ended while starting: {self.last_words()} (all of it: {self.settings.log})")
                try:
                    if client.get(f"{self.settings.url}/health").status_code == httpx.codes.OK:
                        self._warm_up()
                        return time.monotonic() - began
                except httpx.TransportError:
                    pass
                progress.advance(task)
                time.sleep(0.25)
        self.stop()
        raise InputError(
            f"vLLM did not answer on {self.settings.url} within {self.settings.startup_seconds:.0f} s "
            f"({self.last_words()}); see {self.settings.log}"
        )

    def _warm_up(self) -> None:
        """Ask every policy once: the first answer of each loads its weights, which no listener should wait for."""
        for name in (self.settings.model.name, *self.settings.adapters):
            asked = {"model": name, "prompt": "<slate>"}
            headers = bearer(self.settings.api_key)
            answer = httpx.post(f"{self.settings.url}/v1/completions", json=asked, headers=headers, timeout=120.0)
            if answer.status_code != httpx.codes.OK:
                self.stop()
                raise InputError(f"vLLM cannot answer as {name!r}: {answer.text[:300]} ({self.settings.log})")

    def stop(self) -> None:
        """End the child and everything it started; returns when they are gone."""
        if self.running:
            self._child.terminate()
            try:
                self._child.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        # Its engine process is in the same session; normally it has left already.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)

    def last_words(self) -> str:
        """The last line of vLLM's log that names an error, or its last line."""
        try:
            lines = [line.strip() for line in self.settings.log.read_text(errors="replace").splitlines()]
        except OSError:
            return "no output"
        spoken = [line for line in lines if line]
        errors = [line for line in spoken if "Error" in line and "See root cause" not in line]
        return (errors or spoken or ["no output"])[0 if errors else -1][-300:]


def bearer(key: str | None) -> dict[str, str]:
    """The header that shows an API key; none without one."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def command(settings: EngineSettings) -> list[str]:
    """The command line that starts the server."""
    line = [
        sys.executable,
        *("-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(settings.model)),
        *("--served-model-name", settings.model.name),
        *("--host", settings.host, "--port", str(settings.port)),
        *("--dtype", settings.dtype),
        # The log-probabilities returned are those of the masked distribution that was sampled: the propensity.
        *("--logprobs-mode", "processed_logprobs"),
        # A checkpoint's generation_config can bring top_k, top_p or penalties that nobody asked for.
        *("--generation-config", "vllm"),
        *("--max-num-seqs", str(settings.max_requests)),
        "--disable-uvicorn-access-log",
    ]
    if settings.constrained:
        line += ["--logits-processors", "policy.serving.plugin:CatalogLogitsProcessor"]
    if not torch.cuda.is_available():
        line += ["--enforce-eager", "--distributed-executor-backend", _ONE_PROCESS]
    if settings.adapters or settings.spare_adapters:
        ranks = [_rank(folder) for folder in settings.adapters.values()] or [1]
        slots = len(settings.adapters) + settings.spare_adapters + 1
        # One slot more than there are adapters: it stays empty. vLLM's CPU layers give a request without an adapter,
        # when it shares a batch with others, the weights of the last slot (index -1); empty ones change nothing.
        line += ["--enable-lora", "--max-loras", str(slots)]
        line += ["--max-lora-rank", str(min(rank for rank in LORA_RANKS if rank >= max(ranks)))]
        if settings.adapters:
            line += ["--lora-modules", *(f"{name}={folder}" for name, folder in settings.adapters.items())]
    return [*line, *settings.extra]


def environment(settings: EngineSettings) -> dict[str, str]:
    """The child's environment: ours, plus what the plugin reads, plus what the CPU build wants."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    # Without a GPU the first requests would wait 20 s for a compiler to save microseconds.
    eager = {} if torch.cuda.is_available() else {"TORCHDYNAMO_DISABLE": "1"}
    # Threads of a small model mostly wait for each other, and take the cores that the servers' own processes need:
    # on two busy cores two threads answered more than 10 times slower than one.
    small = sum(file.stat().st_size for file in settings.model.glob("*.safetensors")) < _ONE_THREAD_BYTES
    threads = {"OMP_NUM_THREADS": "1"} if small else {}
    named = ",".join(f"{name}={folder.resolve()}" for name, folder in settings.catalogs.items())
    versions = {VERSIONS: str(settings.catalog_versions.resolve())} if settings.catalog_versions else {}
    # Adapters are loaded and unloaded over HTTP, by name and path: only this machine, or who has the key, may do that.
    runtime = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"} if settings.spare_adapters else {}
    # Not on the command line, which every user of the machine can read.
    key = {"VLLM_API_KEY": settings.api_key} if settings.api_key else {}
    return {
        **eager,
        **threads,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(settings.kv_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        **os.environ,
        **versions,
        **runtime,
        **key,
        DEFAULT: str(settings.catalog.resolve()),
        NAMED: named,
        SLATE: str(settings.slate_size),
        POLICY: str(settings.model.resolve()),
        "PYTHONPATH": path,
    }


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on, and that no outgoing connection is given while a server makes itself ready.

    (Who asks too early for a port of those that connections are given can even be connected to itself, and the server
    finds it taken.) Raises InputError when none is found.
    """
    for port in SystemRandom().sample(PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise InputError(
        f"no free port between {PORTS[0]} and {PORTS[-1]} on {host}: end some servers, or choose with --port"
    )


def check_port(host: str, port: int) -> None:
    """Raises InputError when the port cannot be listened on."""
    if not 0 < port < 65536:
        raise InputError(f"--port {port} is not a port: choose one from 1 to 65535")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = error.strerror
            raise InputError(f"port {port} on {host} cannot be used ({reason}): choose another with --port") from error


def _check(settings: EngineSettings) -> None:
    if importlib.util.find_spec("vllm") is None:
        raise InputError("vLLM is not installed: run `make setup`, or pip install '.[serve-cpu]' (GPU: serve)")
    if not (settings.model / "config.json").is_file():
        raise InputError(f"{settings.model} holds no policy to serve: train one first (make demo)")
    for name, folder in settings.adapters.items():
        if not (folder / "adapter_config.json").is_file():
            raise InputError(
                f"adapter {name!r}: {folder} holds no LoRA adapter; train it, or leave it out of --adapters"
            )


def _rank(folder: Path) -> int:
    rank = int(json.loads((folder / "adapter_config.json").read_text())["r"])
    if rank > LORA_RANKS[-1]:
        raise InputError(f"{folder}: rank {rank} is more than vLLM serves ({LORA_RANKS[-1]}): retrain with less")
    return rank


def _end_with_parent() -> None:
    if sys.platform == "linux":
        _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
