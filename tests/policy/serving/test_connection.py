"""The connection to a vLLM that hangs up, says too much at once, or is not there."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest

from policy.serving.connection import Connection
from policy.serving.engine import free_port

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"


@contextmanager
def said(answer: bytes) -> Iterator[str]:
    """A server that says this to whoever connects, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            try:
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(answer)
            except OSError:
                return  # closed: the test is over

        Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


async def lines(url: str) -> list[str]:
    connection = Connection(url, {}, connect_seconds=1, answer_seconds=2)
    try:
        stream = await connection.stream("/v1/completions", b"{}")
        try:
            return [line async for line in stream.lines()]
        finally:
            stream.close()
    finally:
        await connection.close()


def test_a_line_of_a_megabyte_comes_whole() -> None:
    long, rest = b"data: " + b"x" * 2**20, b"\n\ndata: \n"
    with said(HEAD % len(long + rest) + long + rest) as url:
        assert [len(line) for line in asyncio.run(lines(url))] == [len(long), 0, 6]


def test_a_stream_that_breaks_off_is_an_error_not_an_end() -> None:
    with said(HEAD % 1000 + b"data: {}\n") as url, pytest.raises(ConnectionError):
        asyncio.run(lines(url))


def test_a_head_that_never_comes_is_a_timeout_and_nobody_there_no_connection() -> None:
    async def ask(url: str) -> None:
        connection = Connection(url, {}, connect_seconds=1, answer_seconds=0.2)
        try:
            await connection.ask("GET", "/health")
        finally:
            await connection.close()

    with pytest.raises(ConnectionError):
        asyncio.run(ask(f"http://127.0.0.1:{free_port()}"))
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TimeoutError):
        asyncio.run(ask(f"http://127.0.0.1:{silent.getsockname()[1]}"))
