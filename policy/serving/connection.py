"""The connection to vLLM: requests whole or streamed, over connections that are kept.

aiohttp's client takes a quarter of the processor time of httpx's for a request as small as ours, and the gateway shares
its cores with the model.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

_HEADERS = {"Content-Type": "application/json"}
# Of a streamed line: a chunk with many log-probabilities is longer than what aiohttp takes by default.
_LINE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Answer:
    """What vLLM answered, whole."""

    status_code: int
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        """Raises ValueError for what is no JSON."""
        return json.loads(self.content)


class Stream:
    """An answer whose head has arrived. To be closed."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    @property
    def status_code(self) -> int:
        return self._response.status

    async def read(self) -> bytes:
        """All of it. Raises OSError when it breaks off."""
        try:
            return await self._response.read()
        except aiohttp.ClientError as error:
            raise _gone(error) from error

    async def lines(self) -> AsyncIterator[str]:
        """Line by line, without their ends. Raises OSError when it breaks off, ValueError for a line without end."""
        try:
            async for line in self._response.content:
                yield line.decode().rstrip("\r\n")
        except aiohttp.ClientError as error:
            raise _gone(error) from error

    def close(self) -> None:
        """Hang up: vLLM gives up what it has not answered yet."""
        self._response.close()


class Connection:
    """To the vLLM at `url`, which may be changed while it is used: the next request goes there.

    headers: of every request. connect_seconds, answer_seconds: patience to connect, and between parts of an answer.
    """

    def __init__(self, url: str, headers: Mapping[str, str], connect_seconds: float, answer_seconds: float) -> None:
        self.url = url
        self._headers = {**_HEADERS, **headers}
        self._patience = aiohttp.ClientTimeout(None, sock_connect=connect_seconds, sock_read=answer_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """One request. Raises TimeoutError when vLLM is too slow, another OSError when it cannot be reached."""
        try:
            async with self._open().request(method, f"{self.url}{path}", data=body) as response:
                return Answer(response.status, await response.read())
        except aiohttp.ClientError as error:
            raise _gone(error) from error

    async def stream(self, path: str, body: bytes) -> Stream:
        """Begin a request; returns when the head of the answer has arrived. Raises as `ask`."""
        try:
            return Stream(await self._open().post(f"{self.url}{path}", data=body))
        except aiohttp.ClientError as error:
            raise _gone(error) from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        # Not before: a session belongs to the event loop that it was made in.
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0)  # how many at once is for the gateway's admission to say
            self._session = aiohttp.ClientSession(
                headers=self._headers, timeout=self._patience, connector=connector, read_bufsize=_LINE_BYTES
            )
        return self._session


def _gone(error: aiohttp.ClientError) -> OSError:
    """As the standard library has it: TimeoutError or ConnectionError."""
    return TimeoutError(str(error)) if isinstance(error, TimeoutError) else ConnectionError(str(error))
