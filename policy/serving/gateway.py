"""The gateway: the routes a product calls, in front of vLLM.

POST /v1/recommendations   a slate for a listener, with its propensity; logged before it is answered
POST /v1/messages          whether to write to a listener, what, how and when; logged before it is answered
POST, GET /v1/opportunities   what domains would like to be sent; how much of whose was taken
POST /v1/feedback          events; the listener's next recommendation knows them
POST /v1/blocked           items never to show: to one listener, or to anybody
GET, PUT, DELETE /v1/experiment   who gets which arm
/v1/completions, /v1/chat/completions, /v1/models   the OpenAI routes of vLLM, decisions logged
/  the now-playing page, with /v1/listeners and /v1/items, which it asks
/mcp  the same verbs as tools for an assistant
/health  /ready  /metrics  /docs
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from data.errors import InputError
from policy.serving.decide_message import decide_message, message_policies
from policy.serving.experiments import Experiment, read_experiment
from policy.serving.guard import Guard, refusal, watched
from policy.serving.live import Live
from policy.serving.mailing import read_mailing
from policy.serving.mcp_tools import mcp_app, mcp_server
from policy.serving.message_requests import (
    MessageRequest,
    MessageResponse,
    OpportunitiesRequest,
    OpportunitiesResponse,
)
from policy.serving.messages import (
    REFUSALS,
    BlockRequest,
    BlockResponse,
    FeedbackRequest,
    FeedbackResponse,
    RecommendationRequest,
    RecommendationResponse,
)
from policy.serving.metrics import Measure
from policy.serving.openai_routes import openai_routes
from policy.serving.page import page_routes
from policy.serving.probe import probe
from policy.serving.recommend import recommend as answer
from policy.serving.reference import measure
from policy.serving.service import Refusal, Service
from policy.serving.slate_arguments import MAX_BLOCKED
from policy.serving.state import EVERYBODY, StateError
from policy.serving.take_in import submit, take_in

WATCH_SECONDS = 0.5
REFERENCE_SECONDS = 20.0


def create_app(
    service: Service, live: Live | None = None, where: Callable[[], Awaitable[str]] | None = None
) -> FastAPI:
    """The gateway's application around a service, which it closes when it shuts down. live: what follows the run.
    where: says the URL of vLLM, where that can change.
    """

    tools = mcp_server(service)
    assistants = mcp_app(tools)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(watcher) for watcher in _watchers(service, live, where)]
        try:
            async with tools.session_manager.run():
                yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await service.close()

    app = FastAPI(title="Longplay", description=__doc__ or "", lifespan=lifespan, redoc_url=None)
    metrics = service.metrics
    app.add_middleware(
        Guard,
        keys=service.keys,
        admission=service.admission,
        metrics=metrics,
        max_body_bytes=service.settings.max_body_bytes,
    )
    app.add_middleware(Measure, metrics=metrics)
    _explain_errors(app)

    @app.post("/v1/recommendations", tags=["longplay"], responses=REFUSALS)
    async def recommend(request: RecommendationRequest) -> RecommendationResponse:
        """A slate for one listener. The decision is on disk, with its propensity, before this answers."""
        return await answer(service, request)

    @app.post("/v1/messages", tags=["longplay"], responses=REFUSALS)
    async def message(request: MessageRequest) -> MessageResponse:
        """One message for one listener, or none. The decision is on disk, with its propensity, before this answers."""
        return await decide_message(service, request)

    @app.post("/v1/opportunities", tags=["longplay"], responses=REFUSALS)
    async def opportunities(request: OpportunitiesRequest, http: Request) -> OpportunitiesResponse:
        """Submit what could be sent. It is on disk, and decided among, when this answers; the same id counts once."""
        return await submit(service, request, http.scope.get("key"))

    @app.get("/v1/opportunities", tags=["longplay"], responses=REFUSALS)
    async def submitted() -> dict[str, dict[str, int]]:
        """By domain: how many opportunities were accepted, and how many rejected by which reason."""
        return await asyncio.to_thread(service.correspondence.counts)

    @app.post("/v1/feedback", tags=["longplay"], responses=REFUSALS)
    async def feedback(request: FeedbackRequest) -> FeedbackResponse:
        """Take in what happened. Events are on disk, and known to the next recommendation, when this answers."""
        return await take_in(service, request)

    @app.post("/v1/blocked", tags=["longplay"], responses=REFUSALS)
    async def blocked(request: BlockRequest) -> BlockResponse:
        """Block items, or unblock them, from the next recommendation on. Without a user: for everybody."""
        user = EVERYBODY if request.user_id is None else request.user_id
        try:
            if request.unblock:
                await service.state.unblock(user, request.unblock)
            if request.block:
                await _has_room(service, user, request.block)
                await service.state.block(user, request.block)
            return BlockResponse(blocked=sorted((await service.state.glance(user)).blocked))
        except StateError as error:
            raise Refusal(503, "the state cannot be reached, so nothing was blocked", "service_unavailable") from error

    @app.get("/v1/experiment", tags=["operation"], responses=REFUSALS)
    async def experiment() -> Experiment | None:
        """The experiment that splits the traffic now; null where there is none."""
        return service.traffic.experiment

    @app.put("/v1/experiment", tags=["operation"], responses=REFUSALS)
    async def begin(request: Experiment) -> Experiment:
        """Begin an experiment, or change its shares. All replicas follow within a second."""
        wanted = read_experiment(request.model_dump(), service.deployment.versions)
        await asyncio.to_thread(service.traffic.write, wanted)
        service.traffic.refresh(service.deployment.versions)
        return wanted

    @app.delete("/v1/experiment", tags=["operation"], status_code=204, responses=REFUSALS)
    async def end() -> Response:
        """End the experiment: everybody gets the default policy."""
        await asyncio.to_thread(service.traffic.write, None)
        service.traffic.refresh(service.deployment.versions)
        return Response(status_code=204)

    @app.get("/health", tags=["operation"])
    async def health() -> dict[str, str]:
        """The gateway is alive."""
        return {"status": "ok"}

    @app.get("/ready", tags=["operation"], responses={503: {"description": "vLLM cannot be reached."}})
    async def ready() -> JSONResponse:
        """What is served. 503 while vLLM cannot be reached: recommendations are then drawn by popularity."""
        up = await _engine_is_up(service)
        deployment = service.deployment
        body = {
            "ready": up,
            "policies": dict(deployment.versions),
            "message_policies": message_policies(service),
            "catalog": deployment.catalog.version,
            "experiment": service.traffic.experiment.name if service.traffic.experiment else None,
            "warnings": service.warnings(),
        }
        return JSONResponse(body, 200 if up else 503)

    @app.get("/metrics", tags=["operation"], response_class=Response)
    async def exposition() -> Response:
        """Prometheus metrics."""
        metrics.state_errors.inc(service.listeners.state_errors - metrics.state_errors_seen)
        metrics.state_errors_seen = service.listeners.state_errors
        metrics.coverage.set(service.watch.coverage(len(service.deployment.catalog)))
        for (policy, quantity), index in service.watch.drift().items():
            metrics.drift.labels(policy, quantity).set(index)
        for arm, nats in service.watch.entropies().items():
            metrics.entropy.labels(arm).set(nats)
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    app.include_router(openai_routes(service))
    app.include_router(page_routes(service))
    app.router.routes.extend(assistants.routes)
    return app


async def _has_room(service: Service, user: str, block: Sequence[str]) -> None:
    """Refuses with 400 what would make a list of blocked items longer than a request to vLLM can carry."""
    held = (await service.state.glance(user)).blocked
    if user != EVERYBODY:
        held -= (await service.state.glance(EVERYBODY)).blocked
    if (count := len(held.union(block))) > MAX_BLOCKED:
        whose = "everybody" if user == EVERYBODY else "this listener"
        raise Refusal(400, f"{count} items blocked for {whose}: at most {MAX_BLOCKED}; take items out of the catalog")


def _explain_errors(app: FastAPI) -> None:
    """Every error in the shape of OpenAI's, with one line that says what is wrong."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> JSONResponse:
        return JSONResponse(refusal(error.status, error.message, error.kind), error.status)

    @app.exception_handler(InputError)
    async def wrong_input(_: Request, error: InputError) -> JSONResponse:
        return JSONResponse(refusal(400, str(error)), 400)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return JSONResponse(refusal(400, "the request body is not JSON"), 400)
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        said = f"{where}: {first['msg'].removeprefix('Value error, ')}"
        return JSONResponse(refusal(400, said, param=where), 400)

    @app.exception_handler(HTTPException)
    async def not_here(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(refusal(error.status_code, str(error.detail)), error.status_code, error.headers)


def _watchers(
    service: Service, live: Live | None, where: Callable[[], Awaitable[str]] | None
) -> list[Coroutine[None, None, None]]:
    """What follows the files that an operator changes while we run, and keeps a reference for every served policy."""

    async def traffic() -> None:
        service.traffic.refresh(service.deployment.versions)

    async def mailing() -> None:
        service.mailing.refresh(read_mailing)

    async def keys() -> None:
        service.keys_error = watched(service.keys)

    async def run() -> None:
        assert live is not None
        await live.refresh()
        service.live_error = live.error

    async def engine() -> None:
        assert where is not None
        if (url := await where()) != service.engine.url:
            service.engine.url, service.engine_is_new = url, True

    watchers = [
        _again_and_again(service, "experiment", WATCH_SECONDS, traffic),
        _again_and_again(service, "messages", WATCH_SECONDS, mailing),
        _again_and_again(service, "keys", WATCH_SECONDS, keys),
        _again_and_again(service, "rungs", WATCH_SECONDS, lambda: probe(service)),
        _again_and_again(service, "reference", REFERENCE_SECONDS, lambda: measure(service, service.served)),
    ]
    if live is not None:
        watchers.append(_again_and_again(service, "run", WATCH_SECONDS, run))
    if where is not None:
        watchers.append(_again_and_again(service, "engine", WATCH_SECONDS, engine))
    return watchers


async def _again_and_again(service: Service, name: str, seconds: float, step: Callable[[], Awaitable[None]]) -> None:
    """One fault must not end the watching for good: it is told by /ready and /metrics, and the step tried again."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await step()
        except Exception as error:  # noqa: BLE001 - whatever it was, the next look may go well
            service.metrics.watch_errors.labels(name).inc()
            service.faults[name] = f"{name} cannot be followed: {type(error).__name__}: {error}"
        else:
            service.faults.pop(name, None)


async def _engine_is_up(service: Service) -> bool:
    try:
        up = (await service.ask("GET", "/health", seconds=2.0)).status_code == 200
    except Refusal:
        up = False
    service.metrics.engine_up.set(float(up))
    return up
