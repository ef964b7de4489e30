"""The state behind the routes: one deployment, its listeners, its logs, and the connection to vLLM."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx

from policy.serving.decision_log import SegmentLog
from policy.serving.deployment import Deployment, Slate
from policy.serving.listeners import Listeners
from policy.serving.metrics import Metrics

_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class GatewaySettings:
    """engine_url: where vLLM listens. connect_seconds, answer_seconds: patience with it."""

    engine_url: str
    connect_seconds: float = 2.0
    answer_seconds: float = 60.0


class Refusal(Exception):  # noqa: N818 - an answer to the client, not a fault
    """A request that cannot be answered: HTTP status and one line for the client."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind


class Service:
    """Shared by all routes of one gateway process."""

    def __init__(self, deployment: Deployment, listeners: Listeners, served: Path, settings: GatewaySettings) -> None:
        """`served` is the folder of the decision and event logs."""
        self.deployment = deployment
        self.listeners = listeners
        self.metrics = Metrics()
        self.decisions = SegmentLog(served / "decisions", "decisions")
        self.events = SegmentLog(served / "events", "events")
        timeout = httpx.Timeout(settings.answer_seconds, connect=settings.connect_seconds)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
        self.engine = httpx.AsyncClient(base_url=settings.engine_url, timeout=timeout, limits=limits)

    async def close(self) -> None:
        """Finish what is being written and hang up."""
        await self.engine.aclose()
        await asyncio.to_thread(self.decisions.close)
        await asyncio.to_thread(self.events.close)

    def policy_version(self, name: str | None) -> str:
        """ "name@version" of a servable policy; the default if None. Refuses an unknown one with 400."""
        wanted = self.deployment.default if name is None else name
        if wanted not in self.deployment.versions:
            raise Refusal(400, f"unknown policy {wanted!r}: this server has {', '.join(self.deployment.versions)}")
        return self.deployment.versions[wanted]

    async def ask(self, method: str, path: str, body: bytes | None = None) -> httpx.Response:
        """One request to vLLM. Refuses with 503 when it cannot be reached, 504 when it does not answer in time."""
        try:
            return await self.engine.request(method, path, content=body, headers=_JSON)
        except httpx.TimeoutException as error:
            raise Refusal(504, "the model server did not answer in time", "timeout_error") from error
        except httpx.TransportError as error:
            raise Refusal(503, "the model server cannot be reached", "service_unavailable") from error

    async def stream(self, path: str, body: bytes) -> tuple[httpx.Response, AsyncIterator[str]]:
        """Begin a streamed request: the response, whose head has arrived, and its lines. Refuses as `ask` does."""
        request = self.engine.build_request("POST", path, content=body, headers=_JSON)
        try:
            response = await self.engine.send(request, stream=True)
        except httpx.TimeoutException as error:
            raise Refusal(504, "the model server did not answer in time", "timeout_error") from error
        except httpx.TransportError as error:
            raise Refusal(503, "the model server cannot be reached", "service_unavailable") from error
        return response, response.aiter_lines()

    async def log_decisions(self, route: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Put decisions on disk; returns when they are there. Refuses with 503 when they cannot be written."""
        try:
            with self.metrics.stage("log"):
                await asyncio.wrap_future(self.decisions.append(rows))
        except OSError as error:
            message = f"the decision cannot be logged ({error.strerror}), so it is not served"
            raise Refusal(503, message, "service_unavailable") from error
        for row in rows:
            self.metrics.decisions.labels(route, str(row["policy"]), str(row["move"])).inc()

    async def log_events(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Put feedback on disk; returns when it is there. Refuses with 503 when it cannot be written."""
        try:
            await asyncio.wrap_future(self.events.append(rows))
        except OSError as error:
            message = f"the events cannot be logged ({error.strerror})"
            raise Refusal(503, message, "service_unavailable") from error

    def decision(
        self,
        slate: Slate,
        propensity: float,
        *,
        decision_id: str | None = None,
        user_id: str,
        surface: str,
        policy: str,
        arm: str | None = None,
        steer: str | None = None,
        time: datetime | None = None,
    ) -> dict[str, object]:
        """A row of the decisions schema."""
        return {
            "decision_id": decision_id or f"d-{uuid.uuid4().hex}",
            "user_id": user_id,
            "time": time or datetime.now(UTC),
            "surface": surface,
            "policy": policy,
            "slate": self.deployment.item_ids(slate),
            "propensity": propensity,
            "move": slate.move,
            "steer": steer,
            "arm": arm,
        }
