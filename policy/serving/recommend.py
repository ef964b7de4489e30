"""A recommendation, within its deadline, from the first rung of the ladder that holds.

    the wanted adapter  ->  the base policy  ->  a slate drawn by popularity, without the model server

Each rung has its own logged policy and its own propensity, so an off-policy estimate never takes one for another. A
rung whose breaker is open is passed over; what is the client's fault is 400, before any rung is tried.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from torch import Tensor

from policy.serving.breaker import Attempt
from policy.serving.deployment import BASE, Deployment
from policy.serving.messages import Item, RecommendationRequest, RecommendationResponse
from policy.serving.popular import NAME as POPULAR
from policy.serving.service import Refusal, Service, decoded
from policy.serving.slate_arguments import SlateArguments

ROUTE = "/v1/recommendations"
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
# Kept of a deadline for what comes after the model: the last rung and the sync of the log.
_AFTER_SECONDS = 0.05
# A disk gets this long even when the model took the rest: a slate that is drawn should not be lost to a slow sync.
_LEAST_LOG_SECONDS = 1.0
# The share of the time left that a rung may take while there is a model below it to try.
_FIRST_SHARE = 0.7


@dataclass(frozen=True)
class Decided:
    """A slate as one rung chose it. rows: catalog rows. policy: "name@version"."""

    rows: tuple[int, ...]
    move: str | None
    propensity: float
    policy: str


async def recommend(service: Service, request: RecommendationRequest) -> RecommendationResponse:
    """Answer one request; the decision is on disk when this returns. Refuses what is the client's fault with 400."""
    deployment = service.deployment
    seconds = request.deadline_ms / 1000 if request.deadline_ms else service.settings.deadline_seconds
    deadline = time.monotonic() + seconds
    name, weights, arm = _assigned(service, deployment, request)
    steer = (request.steer or "").strip() or None
    situation = request.context
    when = situation.time if situation and situation.time else datetime.now(UTC)
    with service.metrics.stage("context"):
        listener = await service.listeners.look(request.user_id)
        arguments = _arguments(deployment, request, steer, listener.blocked)
        eligible = arguments.eligible(deployment.index)
        zone = situation.time_zone if situation else None
        length = deployment.prompt.history_length
        context = listener.context(deployment.index.row_of, length, request.surface, when, steer, zone)
        ids, _ = deployment.prompt.encode(context, weights)
    decided, fallback = await _climb(service, deployment, name, ids, arguments, eligible, deadline)
    _check(service, decided, eligible)
    row = service.decision(
        [deployment.index.item_ids[row] for row in decided.rows],
        decided.propensity,
        move=decided.move,
        user_id=request.user_id,
        surface=request.surface,
        policy=decided.policy,
        arm=arm,
        steer=steer,
        time=when,
        candidates=deployment.index.listed(eligible),
    )
    await service.log_decisions(ROUTE, [row], max(deadline - time.monotonic(), _LEAST_LOG_SECONDS))
    service.watch.see(decided.policy, arm or "none", decided.rows, decided.propensity)
    foreseen = None
    if service.forecast is not None:
        ask = partial(service.forecast.of, listener.past, deployment.index.row_of, context, decided.rows)
        if request.explain:
            with suppress(TimeoutError):  # the slate is worth more than what is expected of it
                foreseen = await asyncio.wait_for(asyncio.to_thread(ask), deadline - time.monotonic())
        elif service.wants_reward():
            service.note_reward(decided.policy, asyncio.create_task(asyncio.to_thread(ask)))
    return RecommendationResponse(
        decision_id=str(row["decision_id"]),
        move=decided.move,
        items=[Item.model_validate(deployment.cards[row]) for row in decided.rows],
        propensity=decided.propensity,
        policy=decided.policy,
        arm=arm,
        fallback=fallback,
        catalog=deployment.catalog.version,
        predicted=foreseen,
    )


def _assigned(
    service: Service, deployment: Deployment, request: RecommendationRequest
) -> tuple[str, Mapping[str, float] | None, str | None]:
    """(policy, weights, arm). Who names a policy or a trade-off has left the experiment: such a decision has no arm."""
    if request.policy is not None:
        if request.policy not in deployment.versions:
            served = ", ".join(deployment.versions)
            raise Refusal(400, f"unknown policy {request.policy!r}: this server has {served}")
        return request.policy, request.weights, None
    name, weights, arm = service.traffic.assign(request.user_id, deployment.default)
    if request.weights is not None:
        return name, request.weights, None
    return name, weights, arm


def _arguments(
    deployment: Deployment, request: RecommendationRequest, steer: str | None, blocked: frozenset[str]
) -> SlateArguments:
    given = {
        "slate_size": request.k,
        "kinds": request.kinds,
        "blocked": request.blocked,
        "seen": request.seen,
        "steer": steer,
        "end": 0,
        # Pinned, or vLLM would decode with the newest while we still read slates with the one before.
        "catalog": deployment.catalog.version,
    }
    arguments = SlateArguments.parse(
        {key: value for key, value in given.items() if value is not None}, deployment.slate_size
    )
    return arguments.without(blocked, deployment.index)


async def _climb(
    service: Service,
    deployment: Deployment,
    name: str,
    ids: Tensor,
    arguments: SlateArguments,
    eligible: Tensor | None,
    deadline: float,
) -> tuple[Decided, str | None]:
    """The slate, and the rung that gave it if it was not the first."""
    rungs = [name] if name == BASE else [name, BASE]
    for place, rung in enumerate(rungs):
        if rung not in deployment.versions:  # an experiment names an adapter that has left the run
            service.metrics.fallbacks.labels(rung, "gone").inc()
            continue
        left = deadline - time.monotonic() - _AFTER_SECONDS
        if left <= 0:
            service.metrics.fallbacks.labels(rung, "deadline").inc()
            break
        breaker = service.breakers[rung]
        if (attempt := breaker.attempt()) is None:
            service.metrics.fallbacks.labels(rung, "breaker").inc()
            continue
        patience = left if place == len(rungs) - 1 else left * _FIRST_SHARE
        with suppress(Refusal), attempted(service, rung, attempt):
            return await draw_as(service, deployment, rung, ids, arguments, patience), None if place == 0 else rung
    mask = None if eligible is None else eligible.numpy()
    rows, propensity = deployment.popular.draw(mask, arguments.slate_size, service.rng)
    return Decided(rows, None, propensity, deployment.popular.version), POPULAR


@contextmanager
def attempted(service: Service, rung: str, attempt: Attempt) -> Iterator[None]:
    """Time one try of a rung, and tell its breaker and the metrics how it went; a Refusal goes on up."""
    try:
        with service.metrics.stage("engine"):
            yield
    except Refusal as refused:
        # A request that passed our checks and not vLLM's is not the client's fault, and no sign of an ill rung.
        reason = {400: "refused", 504: "timeout"}.get(refused.status, "error")
        if reason == "timeout":
            service.admission.late()
        if reason == "refused":
            attempt.abandoned()
        else:
            attempt.failed()
        service.metrics.fallbacks.labels(rung, reason).inc()
        raise
    except BaseException:
        attempt.abandoned()
        raise
    else:
        attempt.succeeded()
    finally:
        service.metrics.breaker_open.labels(rung).set(float(service.breakers[rung].is_open))


async def draw_as(
    service: Service, deployment: Deployment, rung: str, ids: Tensor, arguments: SlateArguments, seconds: float
) -> Decided:
    """A slate from one policy of the model server, nothing logged. Refuses with 400, 502, 503 or 504."""
    tokens, log_probs = await complete(service, deployment, rung, ids, arguments.xargs(), seconds, ROUTE)
    length = deployment.length(arguments.slate_size)
    slate = deployment.parse(tokens, arguments.slate_size)
    if slate is None or len(log_probs) < length:
        service.metrics.unparsed.labels(ROUTE).inc()
        raise Refusal(502, "the model server answered with no whole slate; is it run with the catalog plugin?")
    return Decided(slate.rows, slate.move, math.exp(math.fsum(log_probs[:length])), deployment.versions[rung])


async def complete(
    service: Service,
    deployment: Deployment,
    rung: str,
    ids: Tensor,
    xargs: Mapping[str, object],
    seconds: float,
    route: str,
) -> tuple[list[int], list[float]]:
    """Tokens of one policy's completion of a prompt (1, S), and their log-probabilities. Refuses as `draw_as`."""
    asked = {
        **AS_TRAINED,
        "model": deployment.engine_name(rung),
        "prompt": ids[0].tolist(),
        "logprobs": 0,
        "return_token_ids": True,
        "vllm_xargs": xargs,
    }
    answer = await service.ask("POST", "/v1/completions", json.dumps(asked).encode(), seconds)
    if answer.status_code != 200:
        # An adapter that vLLM does not have (404) is not the client's fault: the gateway offered it. A vLLM that was
        # started again has only those that it began with.
        service.engine_is_new |= answer.status_code == 404
        raise Refusal(400 if answer.status_code == 400 else 502, _reason(decoded(answer)))
    try:
        choice = decoded(answer)["choices"][0]
        return [int(token) for token in choice["token_ids"]], [float(p) for p in choice["logprobs"]["token_logprobs"]]
    except (LookupError, TypeError, ValueError) as error:
        service.metrics.unparsed.labels(route).inc()
        raise Refusal(502, "the model server's answer is not one to a completion") from error


def _check(service: Service, decided: Decided, eligible: Tensor | None) -> None:
    """Count what by construction never is: an item twice, or one that may not be shown. Alerts watch for it."""
    if len(set(decided.rows)) < len(decided.rows):
        service.metrics.illegal.labels("repeated").inc()
    if eligible is not None and not all(bool(eligible[row]) for row in decided.rows):
        service.metrics.illegal.labels("ineligible").inc()


def _reason(body: dict[str, object]) -> str:
    error = body.get("error")
    return str(error["message"]) if isinstance(error, dict) and "message" in error else str(body)
