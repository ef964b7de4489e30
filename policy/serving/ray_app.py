"""The same gateway and the same vLLM as replicas on Ray Serve: more of both than one machine has.

Each vLLM replica is an actor that keeps one vLLM child; each gateway replica talks to one of them, and to the next
where its own has gone: Ray starts an actor that ended again, perhaps on another machine, and gateways follow it there.
Gateways are stateless: the run, the served folder and the state must be reachable from every machine (a shared file
system, and Redis where there is more than one machine). Arms hold across replicas because they are a hash of the
listener.

A vLLM that other machines must reach listens on its node's network address and wants a key, which is made anew at every
deployment and known to its gateways alone. On a cluster of one node it listens on the loopback address, key and all.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError

from data.errors import InputError
from policy.serving.assemble import Plan, gateway
from policy.serving.engine import Engine, EngineSettings, free_port
from policy.serving.supervisor import Supervisor

# Patience with an actor that is asked where its vLLM listens; one that Ray is starting again does not answer at all.
_WHERE_SECONDS = 1.0


class EngineReplica:
    """One vLLM child, started where Ray puts this actor, and started again when it ends."""

    def __init__(self, settings: EngineSettings) -> None:
        alone = len(cast("Callable[[], list[object]]", ray.nodes)()) == 1
        host = "127.0.0.1" if alone else cast("Callable[[], str]", ray.util.get_node_ip_address)()
        local = replace(
            settings, host=host, port=free_port(host), log=settings.log.with_name(f"vllm-{os.getpid()}.log")
        )
        engine = Engine(local)
        engine.wait_until_ready()
        self._supervisor = Supervisor(engine)
        self._url = local.url

    def url(self) -> str:
        return self._url

    def stop(self) -> None:
        self._supervisor.stop()


def deploy(plan: Plan, gateways: int, engines: int, settings: EngineSettings | None, host: str, port: int) -> list[Any]:
    """Start `engines` vLLM replicas (none with settings None: plan.gateway.engine_url then names one that runs already)
    and `gateways` replicas of the gateway behind Ray's proxy on host:port; the engine actors, to be stopped at the end.

    Raises InputError when a number is not positive, and when Ray or a vLLM replica does not start.
    """
    if gateways < 1 or engines < 1:
        raise InputError(f"{gateways} gateways and {engines} engines: at least one of each is needed")
    _begin()
    replica = ray.remote(num_cpus=1, max_restarts=-1)(EngineReplica)
    actors: list[Any] = []
    if settings is not None:
        key = secrets.token_urlsafe(32)
        plan = replace(plan, gateway=replace(plan.gateway, engine_key=key))
        actors = [replica.remote(replace(settings, api_key=key)) for _ in range(engines)]
    try:
        urls = ray.get([actor.url.remote() for actor in actors]) or [plan.gateway.engine_url]
    except RayError as error:
        shut_down(actors)
        raise InputError(f"a vLLM replica did not start: {str(error).strip().splitlines()[-1]}") from error

    def application() -> FastAPI:
        # Built where it runs: a replica opens its own logs and connections.
        mine = serve.get_replica_context().rank.rank % len(urls)
        ours = replace(plan, gateway=replace(plan.gateway, engine_url=urls[mine]))
        where = follower([*actors[mine:], *actors[:mine]]) if actors else None
        return gateway(ours, ours.deployment(), where=where)

    class Gateway:
        pass

    replicas = serve.deployment(num_replicas=gateways, ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=1000)
    serve.start(http_options={"host": host, "port": port})
    serve.run(replicas(serve.ingress(application)(Gateway)).bind(), name="longplay", route_prefix="/")
    return actors


def _begin() -> None:
    """Start Ray, or find it running. Its node has thirty seconds to start, which cannot be set: on a machine that is
    busy with other things they run out, and a further try may succeed. Raises InputError where none does.
    """
    for tries_left in (2, 1, 0):
        try:
            ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=False)
            return
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            cast("Callable[[], None]", ray.shutdown)()
            if not tries_left:
                raise InputError(
                    "Ray did not start within its thirty seconds, three times: the machine is busy"
                ) from error


def follower(actors: Sequence[Any]) -> Callable[[], Awaitable[str]]:
    """What says where a gateway's vLLM listens now: the first of `actors` that answers."""

    async def where() -> str:
        for actor in actors:
            with suppress(RayError, TimeoutError):
                return cast("str", await asyncio.wait_for(actor.url.remote(), _WHERE_SECONDS))
        raise ConnectionError("no vLLM replica answers")

    return where


def shut_down(actors: list[Any]) -> None:
    """End the gateways, then the engines, then Ray."""
    cast("Callable[[], None]", serve.shutdown)()
    for actor in actors:
        with suppress(RayError):  # one that is gone has nothing to stop
            ray.get(actor.stop.remote(), timeout=30)
    cast("Callable[[], None]", ray.shutdown)()
