"""What stands before every route: who asks, how often, how much, and whether there is room. ASGI, so streams pass."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data.errors import InputError
from policy.serving.admission import Admission, Overloaded
from policy.serving.keys import Key, Keys
from policy.serving.metrics import Metrics

# Anybody may see that the server is there and how to talk to it; the page asks for a key itself.
OPEN = ("/", "/health", "/ready", "/docs", "/openapi.json")
# What costs the model server something.
COSTLY = ("/v1/recommendations", "/v1/messages", "/v1/completions", "/v1/chat/completions", "/mcp")
ADMIN = ("/v1/experiment", "/v1/blocked")
_BODY_SECONDS = 20.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def refusal(
    status: int, message: str, kind: str = "invalid_request_error", param: str | None = None
) -> dict[str, object]:
    """The body of an error, in OpenAI's shape, so that one client reads all errors of this server."""
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


class Guard:
    """Middleware: 401 without a key, 403 with too small a one, 413 for too much, 429 for too many, 408 for too slow.

    Without keys it asks instead that a request on our loopback address comes from a page of this machine (403).
    """

    def __init__(self, app: ASGIApp, keys: Keys, admission: Admission, metrics: Metrics, max_body_bytes: int) -> None:
        self.app = app
        self.keys = keys
        self.admission = admission
        self.metrics = metrics
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = str(scope["path"])
        if not self.keys.required and (stranger := _stranger(scope)) is not None:
            said = f"{stranger[:80]!r} is not this machine: without API keys ask as localhost, or make a key"
            await self._refuse(send, "stranger", 403, said)
            return
        if self.keys.required and path not in OPEN:
            key = self._key(scope)
            if key is None:
                said = "give an API key: Authorization: Bearer lp-..."
                await self._refuse(send, "unauthorized", 401, said, {"WWW-Authenticate": "Bearer"})
                return
            if (wait := self.keys.take(key)) > 0:
                said = f"more than {key.per_second:g} requests a second with this key"
                await self._refuse(send, "rate", 429, said, {"Retry-After": str(math.ceil(wait))})
                return
            scope["key"] = key
            if path in ADMIN and not key.admin:
                await self._refuse(send, "forbidden", 403, f"{path} wants an admin key")
                return
        try:
            body = await asyncio.wait_for(self._body(scope, receive), _BODY_SECONDS)
        except TimeoutError:
            await self._refuse(send, "slow", 408, f"the request's body did not come within {_BODY_SECONDS:.0f} s")
            return
        if body is None:
            await self._refuse(send, "too_large", 413, f"at most {self.max_body_bytes} bytes are read of a request")
            return
        receive = _again(body, receive)
        if scope["method"] != "POST" or path not in COSTLY:
            await self.app(scope, receive, send)
            return
        try:
            with self.admission.place():
                self.metrics.in_flight.set(self.admission.in_flight)
                await self.app(scope, receive, send)
        except Overloaded as full:
            await self._refuse(send, "overloaded", 429, str(full), {"Retry-After": str(full.retry_after)})
        finally:
            self.metrics.in_flight.set(self.admission.in_flight)
            self.metrics.limit.set(self.admission.limit)

    def _key(self, scope: Scope) -> Key | None:
        headers = dict(scope["headers"])
        scheme, _, presented = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        return self.keys.find(presented.strip()) if scheme.lower() == "bearer" else None

    async def _body(self, scope: Scope, receive: Receive) -> list[Message] | None:
        """The messages of a request's body; None when it is longer than what is read."""
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self.max_body_bytes:
            return None
        messages: list[Message] = []
        size = 0
        while True:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            if size > self.max_body_bytes:
                return None
            if message["type"] != "http.request" or not message.get("more_body", False):
                return messages

    async def _refuse(
        self, send: Send, reason: str, status: int, said: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self.metrics.refused.labels(reason).inc()
        kind = "rate_limit_error" if status == 429 else "invalid_request_error"
        body = json.dumps(refusal(status, said, kind)).encode()
        head = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        raw = [(name.lower().encode(), value.encode()) for name, value in head.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})


def _stranger(scope: Scope) -> str | None:
    """The Host or Origin that names another machine, on a connection to our loopback address; else None.

    A page from elsewhere reaches that address through the browser of whoever sits here: by a name that it has pointed
    at 127.0.0.1 (DNS rebinding, seen in Host), or by asking across origins (seen in Origin).
    """
    server = scope.get("server")
    if server is None or server[0] not in _LOOPBACK:
        return None
    headers: dict[str, str] = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    host = headers.get("host", "")
    if _host_name(f"//{host}") not in _LOOPBACK:
        return host
    origin = headers.get("origin")
    return origin if origin is not None and _host_name(origin) not in _LOOPBACK else None


def _host_name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def watched(keys: Keys) -> str | None:
    """Look at the keys again; what is wrong with them, if anything is: the keys that were right then stay."""
    try:
        keys.refresh()
    except InputError as error:
        return str(error)
    return None


def _again(messages: list[Message], receive: Receive) -> Receive:
    waiting = list(messages)

    async def replay() -> Message:
        return waiting.pop(0) if waiting else await receive()

    return replay
