"""The gateway: the routes a product calls, in front of vLLM.

POST /v1/recommendations   a slate for a listener, with its propensity; logged before it is answered
POST /v1/feedback          events; the listener's next recommendation knows them
/v1/completions, /v1/chat/completions, /v1/models   the OpenAI routes of vLLM, decisions logged
/health  /ready  /metrics  /docs
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from data.errors import InputError
from data.histories import Contexts
from policy.serving.decision_log import rows_to_frame
from policy.serving.deployment import known_items
from policy.serving.messages import (
    FeedbackRequest,
    FeedbackResponse,
    Item,
    RecommendationRequest,
    RecommendationResponse,
)
from policy.serving.metrics import Measure
from policy.serving.openai_routes import openai_routes
from policy.serving.service import Refusal, Service
from policy.serving.slate_arguments import SlateArguments

# Every sampling field is said: a server's or a checkpoint's defaults must never shape a logged distribution.
AS_TRAINED: dict[str, object] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


def create_app(service: Service) -> FastAPI:
    """The gateway's application around a service, which it closes when it shuts down."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    app = FastAPI(title="Longplay", description=__doc__ or "", lifespan=lifespan)
    metrics = service.metrics

    app.add_middleware(Measure, metrics=metrics)

    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> JSONResponse:
        return _error(error.status, error.message, error.kind)

    @app.exception_handler(InputError)
    async def wrong_input(_: Request, error: InputError) -> JSONResponse:
        return _error(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return _error(400, "the request body is not JSON")
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        return _error(400, f"{where}: {first['msg'].removeprefix('Value error, ')}", param=where)

    @app.exception_handler(HTTPException)
    async def not_here(_: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, str(error.detail))

    @app.post("/v1/recommendations", tags=["longplay"])
    async def recommend(request: RecommendationRequest) -> RecommendationResponse:
        """A slate for one listener. The decision is on disk, with its propensity, before this answers."""
        return await _recommend(service, request)

    @app.post("/v1/feedback", tags=["longplay"])
    async def feedback(request: FeedbackRequest) -> FeedbackResponse:
        """Take in what happened. Events are on disk, and known to the next recommendation, when this answers."""
        return await _feedback(service, request)

    @app.get("/health", tags=["operation"])
    async def health() -> dict[str, str]:
        """The gateway is alive."""
        return {"status": "ok"}

    @app.get("/ready", tags=["operation"])
    async def ready() -> JSONResponse:
        """The gateway can answer: vLLM is reachable. 503 otherwise."""
        up = await _engine_is_up(service)
        versions = dict(service.deployment.versions)
        body = {"ready": up, "policies": versions, "catalog": service.deployment.catalog.version}
        return JSONResponse(body, 200 if up else 503)

    @app.get("/metrics", tags=["operation"])
    async def exposition() -> Response:
        """Prometheus metrics."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    app.include_router(openai_routes(service))
    return app


async def _recommend(service: Service, request: RecommendationRequest) -> RecommendationResponse:
    deployment = service.deployment
    version = service.policy_version(request.policy)
    name = version.partition("@")[0]
    given = {"slate_size": request.k, "kinds": request.kinds, "blocked": request.blocked, "end": 0}
    arguments = SlateArguments.parse(
        {key: value for key, value in given.items() if value is not None}, deployment.slate_size
    )
    arguments.eligible(deployment.index)
    steer = (request.steer or "").strip() or None
    situation = request.context
    when = situation.time if situation and situation.time else datetime.now(UTC)
    zone = situation.time_zone if situation else None
    with service.metrics.stage("context"):
        context = await _context(service, request.user_id, request.surface, when, steer, zone)
        ids, _ = deployment.prompt.encode(context, request.weights)
    with service.metrics.stage("engine"):
        answer = await service.ask(
            "POST",
            "/v1/completions",
            json.dumps(
                {
                    **AS_TRAINED,
                    "model": name,
                    "prompt": ids[0].tolist(),
                    "logprobs": 0,
                    "return_token_ids": True,
                    "vllm_xargs": arguments.xargs(),
                }
            ).encode(),
        )
    if answer.status_code != 200:
        raise Refusal(502 if answer.status_code >= 500 else 400, _reason(answer.json()))
    choice = answer.json()["choices"][0]
    slate = deployment.parse(choice["token_ids"], arguments.slate_size)
    if slate is None:
        service.metrics.unparsed.labels("/v1/recommendations").inc()
        raise Refusal(502, "the model server answered with no whole slate; is it run with the catalog plugin?")
    length = deployment.length(arguments.slate_size)
    propensity = math.exp(math.fsum(choice["logprobs"]["token_logprobs"][:length]))
    arm = None if request.policy else _arm(name, request.weights)
    row = service.decision(
        slate,
        propensity,
        user_id=request.user_id,
        surface=request.surface,
        policy=version,
        arm=arm,
        steer=steer,
        time=when,
    )
    await service.log_decisions("/v1/recommendations", [row])
    return RecommendationResponse(
        decision_id=str(row["decision_id"]),
        move=slate.move,
        items=[Item.model_validate(item) for item in deployment.items(slate)],
        propensity=propensity,
        policy=version,
        arm=arm,
    )


async def _context(
    service: Service, user_id: str, surface: str, when: datetime, steer: str | None, zone: str | None
) -> Contexts:
    listeners = service.listeners
    if listeners.remembered(user_id):
        return listeners.context(user_id, surface, when, steer, zone)
    return await asyncio.to_thread(listeners.context, user_id, surface, when, steer, zone)


async def _feedback(service: Service, request: FeedbackRequest) -> FeedbackResponse:
    now = datetime.now(UTC)
    rows = [event.model_dump() | {"time": (event.time or now).isoformat()} for event in request.events]
    frame = rows_to_frame(rows, "events", "events")
    unknown = known_items(frame["item_id"], service.deployment.index)
    if unknown is not None:
        raise Refusal(400, f"events: item {unknown!r} is not in the catalog")
    await service.log_events(frame.to_dicts())
    service.listeners.add(frame)
    for action in frame["action"].to_list():
        service.metrics.feedback.labels(action).inc()
    return FeedbackResponse(accepted=frame.height)


async def _engine_is_up(service: Service) -> bool:
    try:
        up = (await service.ask("GET", "/health")).status_code == 200
    except Refusal:
        up = False
    service.metrics.engine_up.set(float(up))
    return up


def _arm(name: str, weights: dict[str, float] | None) -> str:
    """An arm is an adapter and the trade-off it was asked for."""
    if not weights:
        return name
    return f"{name}[{','.join(f'{objective}={weights[objective]:g}' for objective in sorted(weights))}]"


def _reason(body: dict[str, object]) -> str:
    error = body.get("error")
    return str(error["message"]) if isinstance(error, dict) and "message" in error else str(body)


def _error(status: int, message: str, kind: str = "invalid_request_error", param: str | None = None) -> JSONResponse:
    """The OpenAI shape, so that one client reads all errors of this server."""
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": status}}, status)
