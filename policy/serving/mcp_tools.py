"""The same verbs for an assistant, as MCP tools at /mcp: recommend, steer, why, search_catalog, feedback, message.

Any MCP client can use them over streamable HTTP. They do what the routes do, through the same code: decisions made by
an assistant are logged like any other, and what it says cannot leave the catalog. Only `why` is a replica's own: it
knows the last 10,000 decisions made there since the start; of all others the decision log tells.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import Any

from mcp.server import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette

from data.errors import InputError
from policy.serving.decide_message import decide_message
from policy.serving.message_requests import MessageRequest
from policy.serving.messages import FeedbackRequest, RecommendationRequest, RecommendationResponse
from policy.serving.recommend import recommend as answer
from policy.serving.service import Refusal, Service
from policy.serving.take_in import take_in

_REMEMBERED = 10_000


def mcp_server(service: Service) -> MCPServer:
    """The tools over one service."""
    # It would have every library's every line written to the terminal, listeners' requests among them.
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    server = MCPServer("longplay", instructions="Recommends what brings a listener back. Items come from one catalog.")
    root.setLevel(level)
    root.handlers[:] = handlers
    decided: OrderedDict[str, dict[str, Any]] = OrderedDict()

    async def decide(asked: dict[str, Any]) -> dict[str, Any]:
        request = RecommendationRequest.model_validate({**asked, "explain": True})
        try:
            made: RecommendationResponse = await answer(service, request)
        except (Refusal, InputError) as error:
            raise ValueError(str(error)) from error
        said = made.model_dump(mode="json")
        remember({"user_id": request.user_id, "steer": request.steer, **said})
        return said

    def remember(made: dict[str, Any]) -> None:
        decided[made["decision_id"]] = made
        while len(decided) > _REMEMBERED:
            decided.popitem(last=False)

    @server.tool()
    async def recommend(user_id: str, k: int | None = None, kinds: list[str] | None = None) -> dict[str, Any]:
        """A slate for a listener: items with titles, the policy's steer token, a decision_id to give feedback on."""
        return await decide({"user_id": user_id, "k": k, "kinds": kinds or []})

    @server.tool()
    async def steer(user_id: str, words: str, k: int | None = None) -> dict[str, Any]:
        """A slate for what the listener asks for in words, such as "something calmer, maybe a podcast"."""
        return await decide({"user_id": user_id, "steer": words, "k": k})

    @server.tool()
    async def message(user_id: str) -> dict[str, Any]:
        """Whether to write to a listener now, what, by which channel and when. It counts towards caps: do send it."""
        try:
            made = await decide_message(service, MessageRequest.model_validate({"user_id": user_id}))
        except (Refusal, InputError) as error:
            raise ValueError(str(error)) from error
        said = made.model_dump(mode="json")
        remember({"user_id": user_id, "steer": None, "move": made.action, "predicted": None, **said})
        return said

    @server.tool()
    async def why(decision_id: str) -> dict[str, Any]:
        """What a recent decision was made from and what it is expected to bring. Known to the replica that made it."""
        if decision_id not in decided:
            raise ValueError(f"this replica made no decision {decision_id!r} lately; the decision log has them all")
        made = decided[decision_id]
        listener = await service.listeners.look(made["user_id"])
        lately = [f"{reaction} {item} ({time:%Y-%m-%d})" for item, reaction, time in listener.lately(5)]
        return {
            "asked": made["steer"],
            "steer_token": made["move"],
            "chosen_by": made["policy"],
            "probability": made["propensity"],
            "expected": made["predicted"],
            "listener_lately": lately,
        }

    @server.tool()
    async def search_catalog(words: str = "", count: int = 10) -> list[dict[str, Any]]:
        """Items by the words in their title, creator, tags and text."""
        deployment = service.deployment
        rows = await asyncio.to_thread(deployment.search.find, words[:200], max(1, min(count, 100)))
        return [dict(deployment.cards[row]) for row in rows]

    @server.tool()
    async def feedback(user_id: str, action: str, item_id: str, decision_id: str | None = None) -> dict[str, Any]:
        """Say what the listener did with an item: play, skip, complete, save, like, dislike."""
        event = {"user_id": user_id, "surface": "other", "action": action, "item_id": item_id}
        event |= {"decision_id": decision_id} if decision_id else {}
        try:
            return (await take_in(service, FeedbackRequest.model_validate({"events": [event]}))).model_dump()
        except (Refusal, InputError) as error:
            raise ValueError(str(error)) from error

    return server


def mcp_app(server: MCPServer) -> Starlette:
    """The tools over streamable HTTP, stateless, so that any replica can answer."""
    # Its own list of hosts is fixed, and ours depends on the keys: policy.serving.guard checks Host and Origin instead.
    security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    return server.streamable_http_app(stateless_http=True, json_response=True, transport_security=security)
