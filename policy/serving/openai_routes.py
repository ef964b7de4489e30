"""The OpenAI routes: vLLM's answers, passed through, each slate in them logged as a decision first.

Added to a request: the sampling fields it leaves open (temperature 1, nothing cut), log-probabilities and token ids,
which are taken out of the answer again where the client did not ask for them. Added to an answer: `longplay` in each
choice, with decision_id, move, items, propensity and policy.

Logged is every choice that is a whole slate, before the part of the response that completes it is sent. The user is the
request's `user` ("anonymous" without one), the surface is the header `X-Longplay-Surface` ("other" without one). Not
logged is a choice that never completed (client gone, stream broken, context full): `longplay_unparsed_total` counts it.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from data.errors import InputError
from data.schema import SURFACES
from policy.serving.connection import Stream
from policy.serving.deployment import Deployment
from policy.serving.messages import REFUSALS
from policy.serving.service import Refusal, Service, decoded
from policy.serving.slate_arguments import MAX_SLATE, MAX_STEER, SlateArguments

MAX_CHOICES = 128
GREEDY = 1e-5  # vLLM takes a lower temperature as greedy
_LEFT_OPEN = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


@dataclass
class Choice:
    """What a choice has said so far. token_ids and log_probs are aligned."""

    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    logged: bool = False


@dataclass(frozen=True)
class Asked:
    """A checked request: what goes to vLLM, and what the client will not expect back."""

    route: str
    deployment: Deployment
    body: bytes
    chat: bool
    stream: bool
    wants_log_probs: bool
    wants_token_ids: bool
    slate_size: int
    greedy: bool
    user_id: str
    surface: str
    steer: str | None
    policy: str
    candidates: list[str] | None


_MESSAGES: dict[str, object] = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"enum": ["system", "user", "assistant"]}, "content": {"type": "string"}},
    },
}


def _documented(name: str, kind: Mapping[str, object]) -> dict[str, object]:
    """The request body as the OpenAPI page shows it: the fields that matter here; vLLM takes OpenAI's others too."""
    properties = {
        name: kind,
        "model": {"type": "string", "description": "A policy by name; the default one without it."},
        "user": {"type": "string", "description": "The listener that the decision is logged for."},
        "n": {"type": "integer", "minimum": 1, "maximum": MAX_CHOICES},
        "stream": {"type": "boolean"},
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "vllm_xargs": {
            "type": "object",
            "properties": {
                "slate_size": {"type": "integer", "minimum": 1, "maximum": MAX_SLATE},
                "kinds": {"type": "array", "items": {"type": "string"}},
                "blocked": {"type": "array", "items": {"type": "string"}},
                "seen": {"type": "array", "items": {"type": "string"}},
                "steer": {"type": "string", "maxLength": MAX_STEER, "description": "A chat's: its last user message."},
            },
            "additionalProperties": False,
        },
    }
    schema = {"type": "object", "required": [name], "properties": properties}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def openai_routes(service: Service) -> APIRouter:
    """Router with /v1/completions, /v1/chat/completions and /v1/models."""
    router = APIRouter(tags=["openai"])

    @router.get("/v1/models", responses=REFUSALS)
    async def models() -> dict[str, object]:
        """The base policy and the adapters by name, with their versions."""
        same = {"object": "model", "created": 0, "owned_by": "longplay"}
        versions = service.deployment.versions
        listed = [{"id": name, "root": version, **same} for name, version in versions.items()]
        return {"object": "list", "data": listed}

    @router.post("/v1/completions", responses=REFUSALS, openapi_extra=_documented("prompt", {"type": "string"}))
    async def completions(request: Request) -> Response:
        """OpenAI completions: a slate for a prompt in the policy's own words."""
        return await _answer(service, await _read(service, request, chat=False))

    @router.post("/v1/chat/completions", responses=REFUSALS, openapi_extra=_documented("messages", _MESSAGES))
    async def chat(request: Request) -> Response:
        """OpenAI chat: a slate for what the last user message asks for."""
        return await _answer(service, await _read(service, request, chat=True))

    return router


async def _read(service: Service, request: Request, chat: bool) -> Asked:
    raw = await request.body()
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "the request body is not JSON") from error
    if not isinstance(body, dict):
        raise Refusal(400, "the request body must be a JSON object")
    if body.get("use_beam_search"):
        raise Refusal(400, "use_beam_search is not supported: a slate is sampled; ask for n slates instead")
    if body.get("echo"):
        raise Refusal(400, "echo is not supported: an answer is a slate and nothing else")
    given = body.get("vllm_xargs") or {}
    if not isinstance(given, dict):
        raise Refusal(400, "vllm_xargs must be an object")
    deployment = service.deployment
    user_id = _user(body.get("user"))
    try:
        arguments = SlateArguments.parse(given, deployment.slate_size)
        if chat and not arguments.steer:
            arguments = replace(arguments, steer=(_last_words(body) or "")[:MAX_STEER])
        arguments = arguments.without(await service.listeners.blocked(user_id), deployment.index)
        if arguments.catalog not in ("", deployment.catalog.version):
            raise Refusal(400, f"vllm_xargs: catalog: this gateway has {deployment.catalog.version} and no other")
        candidates = deployment.index.listed(arguments.eligible(deployment.index))
    except InputError as error:
        raise Refusal(400, f"vllm_xargs: {error}") from error
    surface = request.headers.get("x-longplay-surface", "other")
    if surface not in SURFACES:
        raise Refusal(400, f"X-Longplay-Surface: unknown surface {surface!r}, choose from {', '.join(SURFACES)}")
    prompts = body.get("prompt")
    many = len(prompts) if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int) else 1
    count = body.get("n") or 1
    if not isinstance(count, int) or count < 1 or count * many > MAX_CHOICES:
        raise Refusal(400, f"n: {count!r} times {many} prompts is not from 1 to {MAX_CHOICES} slates")

    sent = {name: value for name, value in body.items() if name != "request_id"}  # ours must be unique
    for name, value in _LEFT_OPEN.items():
        if sent.get(name) is None:
            sent[name] = value
    model = sent.get("model")
    if model is None:
        model = deployment.default
    sent["model"] = deployment.engine_name(model) if isinstance(model, str) else model
    sent["vllm_xargs"] = {**arguments.xargs(), "catalog": deployment.catalog.version}
    wants_log_probs = bool(body.get("logprobs")) if chat else body.get("logprobs") is not None
    if not wants_log_probs:
        sent["logprobs"] = True if chat else 0
        sent.pop("top_logprobs", None)
    if chat and sent.get("top_logprobs") is None:
        sent["top_logprobs"] = 0  # null would be taken as no log-probabilities at all, whatever logprobs says
    sent["return_token_ids"] = True
    temperature = sent["temperature"]
    return Asked(
        deployment=deployment,
        route="/v1/chat/completions" if chat else "/v1/completions",
        body=_encoded(sent),
        chat=chat,
        stream=bool(body.get("stream")),
        wants_log_probs=wants_log_probs,
        wants_token_ids=bool(body.get("return_token_ids")),
        slate_size=arguments.slate_size,
        greedy=isinstance(temperature, int | float) and temperature < GREEDY,
        user_id=user_id,
        surface=surface,
        steer=arguments.steer or None,
        policy=deployment.versions.get(str(model), str(model)),
        candidates=candidates,
    )


async def _answer(service: Service, asked: Asked) -> Response:
    if asked.stream:
        response = await service.stream(asked.route, asked.body)
        if response.status_code != 200:
            return await _refused(response)
        return StreamingResponse(_stream(service, asked, response), media_type="text/event-stream")
    answer = await service.ask("POST", asked.route, asked.body)
    if answer.status_code != 200:
        return Response(answer.content, answer.status_code, media_type="application/json")
    body = decoded(answer)
    rows = []
    try:
        for part in body["choices"]:
            said = Choice()
            _take(said, part, asked)
            row = _decide(service, asked, said, body["id"], part)
            if row is not None:
                rows.append(row)
            else:
                service.metrics.unparsed.labels(asked.route).inc()
            _strip(part, asked)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise Refusal(502, "the model server's answer is not one to a completion") from error
    if rows:
        await service.log_decisions(asked.route, rows)
    _strip_body(body, asked)
    return JSONResponse(body)


async def _refused(response: Stream) -> Response:
    """vLLM's reason, as it gave it."""
    try:
        return Response(await response.read(), response.status_code, media_type="application/json")
    except OSError as error:
        raise Refusal(503, "the model server broke off", "service_unavailable") from error
    finally:
        response.close()


async def _stream(service: Service, asked: Asked, response: Stream) -> AsyncIterator[str]:
    choices: dict[int, Choice] = {}
    try:
        async for line in response.lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                if line:
                    yield f"{line}\n\n"
                continue
            chunk = json.loads(line[len("data: ") :])
            for part in chunk.get("choices", ()):
                said = choices.setdefault(part["index"], Choice())
                _take(said, part, asked)
                row = None if said.logged else _decide(service, asked, said, chunk["id"], part)
                if row is not None:
                    said.logged = True
                    await service.log_decisions(asked.route, [row])
                _strip(part, asked)
            _strip_body(chunk, asked)
            yield f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n"
    except Refusal as error:
        yield _stream_error(error.message)
    except OSError:
        yield _stream_error("the model server broke off")
    except (LookupError, TypeError, ValueError, AttributeError):
        yield _stream_error("the model server's answer is not one to a completion")
    finally:
        response.close()
        unfinished = sum(not said.logged for said in choices.values())
        if unfinished:
            service.metrics.unparsed.labels(asked.route).inc(unfinished)


def _take(said: Choice, part: Mapping[str, Any], asked: Asked) -> None:
    """Add the tokens and log-probabilities that a choice (or a chunk of it) carries."""
    tokens = part.get("token_ids") or []
    logprobs = part.get("logprobs") or {}
    if asked.chat:
        values = [entry["logprob"] for entry in logprobs.get("content") or []]
    else:
        values = list(logprobs.get("token_logprobs") or [])
    said.token_ids += tokens
    said.log_probs += values


def _decide(
    service: Service, asked: Asked, said: Choice, response_id: str, part: dict[str, Any]
) -> dict[str, object] | None:
    """The decision row of a choice that has said a whole slate, which is also shown in the choice; else None.

    Refuses with 502 a slate whose probability is not known.
    """
    deployment = asked.deployment
    length = deployment.length(asked.slate_size)
    slate = deployment.parse(said.token_ids, asked.slate_size)
    if slate is None:
        return None
    if len(said.log_probs) < length:
        raise Refusal(502, "the model server gave no log-probabilities: what cannot be logged is not served")
    # Greedy decoding always says the same slate; vLLM still reports the distribution it was the likeliest of.
    propensity = 1.0 if asked.greedy else math.exp(math.fsum(said.log_probs[:length]))
    row = service.decision(
        deployment.item_ids(slate),
        propensity,
        move=slate.move,
        decision_id=f"{response_id}-{part['index']}",
        user_id=asked.user_id,
        surface=asked.surface,
        policy=asked.policy,
        steer=asked.steer,
        candidates=asked.candidates,
    )
    part["longplay"] = {
        "decision_id": row["decision_id"],
        "move": slate.move,
        "items": deployment.items(slate),
        "propensity": propensity,
        "policy": asked.policy,
        "catalog": deployment.catalog.version,
    }
    return row


def _strip(part: dict[str, Any], asked: Asked) -> None:
    if not asked.wants_log_probs and "logprobs" in part:
        part["logprobs"] = None
    if not asked.wants_token_ids:
        part.pop("token_ids", None)
        part.pop("prompt_token_ids", None)


def _strip_body(body: dict[str, Any], asked: Asked) -> None:
    if "model" in body:
        body["model"] = asked.policy  # with its version, as OpenAI's own answers say which snapshot spoke
    if not asked.wants_token_ids:
        body.pop("prompt_token_ids", None)


def _encoded(body: Mapping[str, Any]) -> bytes:
    """JSON as vLLM will read it. Refuses what JSON or UTF-8 cannot carry (NaN, half a surrogate pair)."""
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise Refusal(400, "the request body holds a number or text that JSON cannot carry") from error


def _user(given: object) -> str:
    """Whom a decision is logged for. Refuses what a log cannot hold."""
    if given in (None, ""):
        return "anonymous"
    try:
        if isinstance(given, str) and len(given) <= 256 and given.encode():
            return given
    except UnicodeEncodeError:
        pass
    raise Refusal(400, "user: must be a text of 1 to 256 characters that UTF-8 can carry")


def _last_words(body: Mapping[str, Any]) -> str | None:
    """What the listener said: the last user message that is plain text."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        return None
    said = [
        message["content"]
        for message in messages
        if isinstance(message, dict) and message.get("role") == "user" and isinstance(message.get("content"), str)
    ]
    return said[-1] if said else None


def _stream_error(message: str) -> str:
    return f"data: {json.dumps({'error': {'message': message, 'type': 'service_unavailable', 'code': 503}})}\n\n"
