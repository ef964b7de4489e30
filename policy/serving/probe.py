"""Asking after rungs that are left alone, so that no listener has to be the one who finds out that they hold again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime

from policy.serving.breaker import Attempt
from policy.serving.deployment import Deployment
from policy.serving.listeners import Listener, nobody
from policy.serving.recommend import attempted, draw_as
from policy.serving.service import Refusal, Service
from policy.serving.slate_arguments import SlateArguments


async def probe(service: Service) -> None:
    """Try every rung whose rest is over, with a slate for nobody; nothing of it is logged."""
    deployment = service.deployment
    due = [
        _try(service, deployment, rung, attempt)
        for rung, breaker in list(service.breakers.items())
        if breaker.is_open and rung in deployment.versions and (attempt := breaker.attempt()) is not None
    ]
    await asyncio.gather(*due)


async def _try(service: Service, deployment: Deployment, rung: str, attempt: Attempt) -> None:
    context = Listener(nobody(), frozenset()).context({}, deployment.prompt.history_length, "other", datetime.now(UTC))
    ids, _ = deployment.prompt.encode(context, None)
    arguments = SlateArguments(deployment.slate_size, end=False, catalog=deployment.catalog.version)
    with suppress(Refusal), attempted(service, rung, attempt):
        # A rung that does not answer alone within a whole deadline would answer nobody.
        await draw_as(service, deployment, rung, ids, arguments, service.settings.deadline_seconds)
