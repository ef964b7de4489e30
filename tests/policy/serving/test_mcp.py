"""The tools, called by the official MCP client over HTTP before the real server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from mcp import Client

from policy.serving.segments import read_decision_log, read_event_log
from tests.policy.serving.conftest import RunningServer


async def use(url: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    async with Client(f"{url}/mcp") as client:

        async def call(name: str, **arguments: Any) -> Any:
            answer = await client.call_tool(name, arguments)
            said = answer.content[0]
            text = getattr(said, "text", "")
            if answer.is_error:
                return f"error: {text}"
            return answer.structured_content or json.loads(text)

        found["tools"] = {tool.name for tool in (await client.list_tools()).tools}
        found["slate"] = await call("recommend", user_id="u5", k=3, kinds=["podcast"])
        found["steered"] = await call("steer", user_id="u5", words="something calmer")
        found["why"] = await call("why", decision_id=found["steered"]["decision_id"])
        found["items"] = await call("search_catalog", words="quiet number 17")
        shown = found["slate"]["items"][0]["item_id"]
        found["heard"] = await call(
            "feedback", user_id="assistant", action="like", item_id=shown, decision_id=found["slate"]["decision_id"]
        )
        found["message"] = await call("message", user_id="nobody-known")
        found["why_held"] = await call("why", decision_id=found["message"]["decision_id"])
        found["wrong"] = [
            await call("message", user_id=""),
            await call("recommend", user_id="u5", k=99),
            await call("recommend", user_id="u5", kinds=["opera"]),
            await call("feedback", user_id="u5", action="explode", item_id=shown),
            await call("why", decision_id="d-nothing"),
        ]
    return found


def test_an_assistant_can_do_what_a_product_can(server: RunningServer) -> None:
    found = asyncio.run(use(server.url))

    assert found["tools"] == {"recommend", "steer", "why", "search_catalog", "feedback", "message"}
    assert [item["kind"] for item in found["slate"]["items"]] == ["podcast"] * 3
    assert found["why"]["asked"] == "something calmer"
    assert found["why"]["probability"] == found["steered"]["propensity"]
    assert len(found["why"]["listener_lately"]) == 5
    assert "item-17" in json.dumps(found["items"])
    assert found["heard"] == {"accepted": 1}
    assert (found["message"]["action"], found["message"]["message"]) == ("hold", None)  # who has agreed to nothing
    assert (found["why_held"]["steer_token"], found["why_held"]["probability"]) == ("hold", 1.0)
    assert all(str(said).startswith("error: ") for said in found["wrong"])
    logged = read_decision_log(server.run / "served" / "decisions")
    assert {found[name]["decision_id"] for name in ("slate", "steered", "message")} <= set(logged["decision_id"])
    liked = read_event_log(server.run / "served" / "events").filter(user_id="assistant")
    assert liked["decision_id"].to_list() == [found["slate"]["decision_id"]]
