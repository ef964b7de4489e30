"""Serve a run: vLLM with the catalog plugin, behind the gateway. `make serve` runs this on runs/demo.

    python scripts/serve.py --run runs/demo --port 8000
    python scripts/serve.py --config scripts/configs/serve.yaml --adapters ppo dpo --policy ppo

vLLM is a child process on a port of its own, reachable from this machine only; the gateway is this process. Both end
on Ctrl-C or SIGTERM. What is served is logged under <run>/served/, which docs/serve.md describes.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import uvicorn
from rich.console import Console
from trl import TrlParser

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.errors import InputError, exit_on_input_error
from data.store import LogStore
from policy.serving.decision_log import read_event_log
from policy.serving.deployment import Deployment
from policy.serving.engine import Engine, EngineSettings, check_port, free_port
from policy.serving.gateway import create_app
from policy.serving.listeners import Listeners
from policy.serving.service import GatewaySettings, Service


@dataclass
class ServeArguments:
    """What to serve and where."""

    run: str = field(default="runs/demo", metadata={"help": "Run folder whose policy, catalog and log are served."})
    host: str = field(default="127.0.0.1", metadata={"help": "Address of the gateway; 0.0.0.0 for all interfaces."})
    port: int = field(default=8000, metadata={"help": "Port of the gateway."})
    engine_port: int = field(default=0, metadata={"help": "Port of vLLM on this machine; 0 takes a free one."})
    adapters: list[str] | None = field(
        default=None, metadata={"help": "Adapters to serve; all of the run's by default."}
    )
    policy: str | None = field(
        default=None, metadata={"help": "Policy that answers by default: ppo, else dpo, else sft."}
    )
    served: str | None = field(default=None, metadata={"help": "Folder of the decision log; <run>/served by default."})
    dtype: str = field(default="float32", metadata={"help": "Weights in vLLM; float32 keeps propensities exact."})
    max_requests: int = field(default=64, metadata={"help": "Requests that vLLM decodes together."})
    startup_seconds: float = field(default=300.0, metadata={"help": "Patience with vLLM's start."})
    answer_seconds: float = field(default=60.0, metadata={"help": "Patience with one answer of vLLM."})


def main() -> None:
    (arguments,) = TrlParser((ServeArguments,)).parse_args_and_config()
    serve(arguments)


def serve(arguments: ServeArguments) -> None:
    """Start vLLM, then the gateway; return when a signal ends them. Raises InputError for what is wrong beforehand."""
    console = Console()
    run = Path(arguments.run)
    check_port(arguments.host, arguments.port)
    deployment = Deployment.load(run, arguments.adapters, arguments.policy)
    served = Path(arguments.served) if arguments.served else run / "served"
    store = LogStore(run / "logs") if (run / "logs").is_dir() else None
    engine_settings = EngineSettings(
        model=deployment.base,
        catalog=run / "catalog",
        adapters=deployment.adapters,
        slate_size=deployment.slate_size,
        port=arguments.engine_port or free_port(),
        log=served / "vllm.log",
        dtype=arguments.dtype,
        max_requests=arguments.max_requests,
        startup_seconds=arguments.startup_seconds,
    )
    if arguments.engine_port:
        check_port(engine_settings.host, arguments.engine_port)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    engine = Engine(engine_settings)
    try:
        took = engine.wait_until_ready(console)
        feedback = read_event_log(served / "events")
        listeners = Listeners(
            deployment.index.row_of, store, deployment.prompt.history_length, feedback if feedback.height else None
        )
        settings = GatewaySettings(engine_settings.url, answer_seconds=arguments.answer_seconds)
        app = create_app(Service(deployment, listeners, served, settings))
        console.print(_greeting(arguments, deployment, took), highlight=False, soft_wrap=True)
        config = uvicorn.Config(
            app,
            host=arguments.host,
            port=arguments.port,
            log_level="warning",
            access_log=False,
            timeout_keep_alive=60,
            timeout_graceful_shutdown=10,
        )
        server = uvicorn.Server(config)
        threading.Thread(target=_watch, args=(engine, server), name="engine-watch", daemon=True).start()
        server.run()
        if not engine.running:
            raise InputError(f"vLLM ended: {engine.last_words()} (all of it: {engine_settings.log}); start again")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        engine.stop()


def _watch(engine: Engine, server: uvicorn.Server) -> None:
    """A gateway without its model server is no use: end when vLLM does."""
    while engine.running:
        time.sleep(0.5)
    server.should_exit = True


def _leave(_: int, __: FrameType | None) -> None:
    raise SystemExit(0)


def _greeting(arguments: ServeArguments, deployment: Deployment, seconds: float) -> str:
    here = f"http://{'127.0.0.1' if arguments.host == '0.0.0.0' else arguments.host}:{arguments.port}"
    policies = ", ".join(deployment.versions)
    default = deployment.default
    return f"""vLLM is ready after {seconds:.0f} s. Serving {arguments.run} on {here}: {policies} ({default} by default)

  curl {here}/v1/recommendations -H 'Content-Type: application/json' \\
    -d '{{"user_id": "me", "steer": "something calmer, maybe a podcast", "k": {deployment.slate_size}}}'

  from openai import OpenAI
  client = OpenAI(base_url="{here}/v1", api_key="none")
  client.chat.completions.create(model="{default}", messages=[{{"role": "user", "content": "something calm"}}])

  {here}/docs has every route. Ctrl-C ends both servers."""


if __name__ == "__main__":
    exit_on_input_error(main)
