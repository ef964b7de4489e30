"""What /metrics tells: requests, latency by stage, decisions by policy, and what went wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    """Prometheus series of one gateway, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "longplay_requests_total", "Requests answered.", ("route", "status"), registry=self.registry
        )
        self.latency = Histogram(
            "longplay_request_seconds",
            "Time from request to whole response.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.stages = Histogram(
            "longplay_stage_seconds",
            "Time of a recommendation by stage: context, engine, log.",
            ("stage",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.decisions = Counter(
            "longplay_decisions_total", "Decisions logged.", ("route", "policy", "move"), registry=self.registry
        )
        self.unparsed = Counter(
            "longplay_unparsed_total",
            "Completions that were not a whole legal slate and so are not in the decision log.",
            ("route",),
            registry=self.registry,
        )
        self.feedback = Counter(
            "longplay_feedback_events_total", "Events received.", ("action",), registry=self.registry
        )
        self.engine_up = Gauge("longplay_engine_up", "1 if vLLM answered the last probe.", registry=self.registry)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage of a recommendation."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.stages.labels(name).observe(time.perf_counter() - began)


class Measure:
    """ASGI middleware: counts and times every request to its last byte, streams included."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, note)
        finally:
            path = getattr(scope.get("route"), "path", "unknown")
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.latency.labels(path).observe(time.perf_counter() - began)
