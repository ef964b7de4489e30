"""Serve a run: vLLM with the catalog plugin, behind the gateway. `make serve` runs this on runs/demo.

    python scripts/serve.py --run runs/demo --port 8000
    python scripts/serve.py --config scripts/configs/serve.yaml --adapters grpo dpo --policy grpo
    python scripts/serve.py --run runs/demo --engine_url http://127.0.0.1:8100 --state redis://127.0.0.1:6379/0

vLLM is a child process on a port of its own, reachable from this machine only, started again when it ends; the gateway
is this process. With --engine_url it is a gateway alone, one of many if you like, before a vLLM that runs elsewhere.
Both end on Ctrl-C or SIGTERM. What is served is logged under <run>/served/, which docs/serve.md describes.
"""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import uvicorn
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.errors import InputError, exit_on_input_error
from policy.serving.assemble import Plan, gateway
from policy.serving.deployment import Deployment
from policy.serving.engine import Engine, EngineSettings, check_port, free_port
from policy.serving.keys import FILE as KEYS
from policy.serving.live import engine_adapters
from policy.serving.service import GatewaySettings
from policy.serving.supervisor import Supervisor
from scripts.command_line import ScriptParser

# Adapters that can come while vLLM runs: beside the old version of each until its last request has ended.
SPARE_ADAPTERS = 3


@dataclass
class ServeArguments:
    """What to serve and where."""

    run: str = field(default="runs/demo", metadata={"help": "Run folder whose policy, catalog and log are served."})
    host: str = field(default="127.0.0.1", metadata={"help": "Address of the gateway; 0.0.0.0 for all interfaces."})
    port: int = field(default=8000, metadata={"help": "Port of the gateway."})
    engine: str = field(
        default="vllm", metadata={"help": "vllm: one of each on this machine; ray: replicas of both on Ray Serve."}
    )
    gateways: int = field(default=2, metadata={"help": "Gateway replicas, with --engine ray."})
    engines: int = field(default=1, metadata={"help": "vLLM replicas, with --engine ray."})
    engine_url: str | None = field(
        default=None, metadata={"help": "A vLLM with the plugin that runs already; none is started then."}
    )
    state: str | None = field(
        default=None, metadata={"help": "sqlite:///path or redis://host:port/db; <served>/state.sqlite by default."}
    )
    engine_port: int = field(default=0, metadata={"help": "Port of vLLM on this machine; 0 takes a free one."})
    adapters: list[str] | None = field(
        default=None, metadata={"help": "Adapters to serve; all of the run's by default."}
    )
    policy: str | None = field(
        default=None, metadata={"help": "Policy that answers by default: grpo, else ppo, dpo, sft."}
    )
    served: str | None = field(default=None, metadata={"help": "Folder of the decision log; <run>/served by default."})
    dtype: str = field(default="float32", metadata={"help": "Weights in vLLM; float32 keeps propensities exact."})
    max_requests: int = field(default=64, metadata={"help": "Requests that vLLM decodes together."})
    startup_seconds: float = field(default=300.0, metadata={"help": "Patience with vLLM's start."})
    answer_seconds: float = field(default=60.0, metadata={"help": "Patience with vLLM on the OpenAI routes."})
    deadline_seconds: float = field(
        default=5.0, metadata={"help": "A recommendation is answered within this, by popularity if need be."}
    )
    max_in_flight: int = field(default=128, metadata={"help": "Requests answered at once; more are refused with 429."})
    keep_words: bool = field(
        default=True, metadata={"help": "Keep what listeners ask for, in words, in the decision log."}
    )
    open: bool = field(
        default=False, metadata={"help": "Listen on other addresses than this machine's without API keys."}
    )


def main() -> None:
    (arguments,) = ScriptParser((ServeArguments,)).parse_args_and_config()
    serve(arguments)


def serve(arguments: ServeArguments) -> None:
    """Start vLLM, then the gateway; return when a signal ends them. Raises InputError for what is wrong beforehand."""
    console = Console()
    run = Path(arguments.run)
    check_port(arguments.host, arguments.port)
    plan = Plan(
        run=run,
        served=Path(arguments.served) if arguments.served else run / "served",
        adapters=arguments.adapters,
        policy=arguments.policy,
        state=arguments.state,
        gateway=GatewaySettings(
            engine_url=arguments.engine_url or f"http://127.0.0.1:{arguments.engine_port or free_port()}",
            answer_seconds=arguments.answer_seconds,
            deadline_seconds=arguments.deadline_seconds,
            max_in_flight=arguments.max_in_flight,
            keep_words=arguments.keep_words,
        ),
    )
    Deployment.load(run, arguments.adapters, arguments.policy, plan.served / "catalogs")  # before anything is begun
    _check_keys(arguments, plan.served)
    if arguments.engine_port:
        check_port("127.0.0.1", arguments.engine_port)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    deployment = plan.deployment()
    if arguments.engine == "ray":
        _serve_on_ray(arguments, plan, deployment, console)
        return
    if arguments.engine != "vllm":
        raise InputError(f"--engine {arguments.engine!r} is not one of vllm, ray")
    supervisor, took = None, 0.0
    if arguments.engine_url is None:
        engine = Engine(_engine_settings(arguments, plan, deployment))
        try:
            took = engine.wait_until_ready(console)
        except BaseException:
            engine.stop()
            raise
        supervisor = Supervisor(engine)
    try:
        app = gateway(plan, deployment, supervisor)
        console.print(_greeting(arguments, deployment, took), highlight=False, soft_wrap=True)
        uvicorn.run(
            app,
            host=arguments.host,
            port=arguments.port,
            log_level="warning",
            access_log=False,
            timeout_keep_alive=60,
            timeout_graceful_shutdown=10,
        )
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if supervisor is not None:
            supervisor.stop()


def _serve_on_ray(arguments: ServeArguments, plan: Plan, deployment: Deployment, console: Console) -> None:
    try:
        from policy.serving.ray_app import deploy, shut_down
    except ModuleNotFoundError as error:
        raise InputError(f"Ray Serve is not installed ({error.name} is missing): pip install '.[ray]'") from error
    settings = None if arguments.engine_url else _engine_settings(arguments, plan, deployment)
    replicas = (arguments.gateways, arguments.engines)
    actors = deploy(plan, *replicas, settings, arguments.host, arguments.port)
    try:
        console.print(_greeting(arguments, deployment, 0.0), highlight=False, soft_wrap=True)
        while True:
            signal.pause()
    finally:
        shut_down(actors)


def _engine_settings(arguments: ServeArguments, plan: Plan, deployment: Deployment) -> EngineSettings:
    return EngineSettings(
        model=deployment.base,
        catalog=deployment.run / "catalog",
        catalog_versions=plan.served / "catalogs",
        adapters=engine_adapters(deployment),
        spare_adapters=SPARE_ADAPTERS,
        slate_size=deployment.slate_size,
        port=int(plan.gateway.engine_url.rpartition(":")[2]) if arguments.engine_url is None else 0,
        log=plan.served / "vllm.log",
        dtype=arguments.dtype,
        max_requests=arguments.max_requests,
        startup_seconds=arguments.startup_seconds,
    )


def _check_keys(arguments: ServeArguments, served: Path) -> None:
    if arguments.host not in ("127.0.0.1", "localhost", "::1") and not arguments.open and not (served / KEYS).is_file():
        make = f"python scripts/keys.py --run {arguments.run} --add NAME"
        raise InputError(f"--host {arguments.host} lets others in and there are no API keys: {make}, or --open true")


def _leave(_: int, __: FrameType | None) -> None:
    raise SystemExit(0)


def _greeting(arguments: ServeArguments, deployment: Deployment, seconds: float) -> str:
    here = f"http://{'127.0.0.1' if arguments.host == '0.0.0.0' else arguments.host}:{arguments.port}"
    policies = ", ".join(deployment.versions)
    default = deployment.default
    engine = f"vLLM is ready after {seconds:.0f} s." if seconds else f"vLLM: {arguments.engine_url or 'on Ray'}."
    return f"""{engine} Serving {arguments.run} on {here}: {policies} ({default} by default)

  curl {here}/v1/recommendations -H 'Content-Type: application/json' \\
    -d '{{"user_id": "me", "steer": "something calmer, maybe a podcast", "k": {deployment.slate_size}}}'

  from openai import OpenAI
  client = OpenAI(base_url="{here}/v1", api_key="none")
  client.chat.completions.create(model="{default}", messages=[{{"role": "user", "content": "something calm"}}])

  {here}/ is the now-playing page, {here}/mcp for assistants, {here}/docs has every route. Ctrl-C ends all."""


if __name__ == "__main__":
    exit_on_input_error(main)
