"""The now-playing page at `/`, and what it asks for: listeners, their last sessions, items by their words."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from policy.serving.messages import REFUSALS, Id, Item
from policy.serving.service import Service

PAGE = Path(__file__).with_name("page.html")
# Nothing is fetched from elsewhere, and a title can never run.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"


class Heard(BaseModel):
    """One interaction. reaction: the strongest action on the item. time: in the listener's own zone."""

    item: Item
    reaction: str
    time: datetime


class ListenerResponse(BaseModel):
    """What is known about a listener. heard: newest first."""

    user_id: str
    time_zone: str
    blocked: list[str]
    arm: str
    policy: str
    heard: list[Heard]


def page_routes(service: Service) -> APIRouter:
    """Router with the page and the routes that only read."""
    router = APIRouter()

    @router.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers={"Content-Security-Policy": _POLICY})

    @router.get("/v1/listeners", tags=["longplay"], responses=REFUSALS)
    async def listeners(count: Annotated[int, Query(ge=1, le=100)] = 12) -> list[str]:
        """A few listeners of the log."""
        return await asyncio.to_thread(service.listeners.some, count)

    @router.get("/v1/listeners/{user_id}", tags=["longplay"], responses=REFUSALS)
    async def listener(user_id: Id, count: Annotated[int, Query(ge=1, le=200)] = 12) -> ListenerResponse:
        """What is known about one listener, and which arm they are in."""
        found = await service.listeners.look(user_id)
        deployment = service.deployment
        policy, _, arm = service.traffic.assign(user_id, deployment.default)
        heard = [
            Heard(item=Item.model_validate(deployment.cards[row]), reaction=reaction, time=time)
            for item, reaction, time in found.lately(count)
            if (row := deployment.index.row_of.get(item)) is not None
        ]
        return ListenerResponse(
            user_id=user_id,
            time_zone=found.past.zone,
            blocked=sorted(found.blocked),
            arm=arm,
            policy=deployment.versions.get(policy, policy),
            heard=heard,
        )

    @router.get("/v1/items", tags=["longplay"], responses=REFUSALS)
    async def items(
        q: Annotated[str, Query(max_length=200)] = "",
        count: Annotated[int, Query(ge=1, le=100)] = 10,
        kind: Annotated[str | None, Query(max_length=64)] = None,
    ) -> list[Item]:
        """Items of the catalog by the words in their title, creator, tags and text."""
        deployment = service.deployment
        rows = await asyncio.to_thread(deployment.search.find, q, count, (kind,) if kind else ())
        return [Item.model_validate(deployment.cards[row]) for row in rows]

    return router
