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
            "longplay_decisions_total", "Decisions logged.", ("route", "policy", "move", "arm"), registry=self.registry
        )
        self.fallbacks = Counter(
            "longplay_fallbacks_total",
            "Rungs that did not hold: left alone (breaker), too slow (timeout, deadline), refused, gone, error, state.",
            ("rung", "reason"),
            registry=self.registry,
        )
        self.breaker_open = Gauge(
            "longplay_breaker_open", "1 while a rung is left alone.", ("rung",), registry=self.registry
        )
        self.refused = Counter(
            "longplay_refused_total",
            "Requests refused before any route: stranger, unauthorized, forbidden, rate, overloaded, too_large, slow.",
            ("reason",),
            registry=self.registry,
        )
        self.in_flight = Gauge("longplay_in_flight", "Requests being answered.", registry=self.registry)
        self.limit = Gauge("longplay_in_flight_limit", "Above this, requests are shed.", registry=self.registry)
        self.illegal = Counter(
            "longplay_illegal_items_total",
            "Slates with an item twice (repeated), with one that may not be shown (ineligible); bad messages. Stays 0.",
            ("kind",),
            registry=self.registry,
        )
        for kind in ("repeated", "ineligible", "message"):
            self.illegal.labels(kind)
        self.drift = Gauge(
            "longplay_drift_psi",
            "Population stability index of what is served against what the policy does at the training log.",
            ("policy", "quantity"),
            registry=self.registry,
        )
        self.coverage = Gauge(
            "longplay_coverage", "Share of the catalog among the items shown lately.", registry=self.registry
        )
        self.entropy = Gauge(
            "longplay_entropy_nats", "Entropy of the items that an arm shows lately.", ("arm",), registry=self.registry
        )
        self.state_errors = Counter(
            "longplay_state_errors_total", "Times that the state could not be reached.", registry=self.registry
        )
        self.watch_errors = Counter(
            "longplay_watch_errors_total",
            "Looks at the experiment, the keys, the run or a reference that ended in an error nobody foresaw.",
            ("what",),
            registry=self.registry,
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
        self.messages = Counter(
            "longplay_messages_total",
            "Decisions about messages, by the channel that was chosen (hold: none).",
            ("policy", "channel", "arm"),
            registry=self.registry,
        )
        self.opportunities = Counter(
            "longplay_opportunities_total",
            "Opportunities that domains submitted: accepted, known before, or rejected.",
            ("result",),
            registry=self.registry,
        )
        self.state_errors_seen = 0
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
