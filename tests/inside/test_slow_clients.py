"""Clients that send slowly, or nothing at all: the web server closes their connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from arq.connections import ArqRedis

from app.cli.serve import MAX_HEAD_BYTES
from app.components.backend import middleware, protocol
from app.components.backend.main import app
from tests.conftest import API_KEY

HEAD = b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
KEY = b"X-API-Key: " + API_KEY.encode() + b"\r\n"


@asynccontextmanager
async def server(limit: int | None = None) -> AsyncIterator[int]:
    config = uvicorn.Config(
        app,
        port=0,
        http=protocol.DeadlineProtocol,
        limit_concurrency=limit,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        log_config=None,
    )
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve())
    while not running.started:
        await asyncio.sleep(0.01)
    yield running.servers[0].sockets[0].getsockname()[1]
    running.should_exit = True
    await task


async def talk(port: int, sent: bytes) -> bytes:
    """Send something, then nothing; return what comes until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /livez HTTP/1.1\r\nHost: x\r\n", HEAD])
async def test_half_a_head_is_not_waited_for(
    sent: bytes, redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "MAX_HEAD_SECONDS", 0.2)
    async with server() as port:
        answers = await asyncio.gather(*(talk(port, sent) for _ in range(50)))
    assert answers == [b""] * 50


async def test_a_head_without_an_end_is_refused(redis: ArqRedis) -> None:
    async with server() as port:
        answer = await talk(port, b"GET / HTTP/1.1\r\nX: " + b"x" * 2 * MAX_HEAD_BYTES)
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Content-Length: 990000\r\n\r\n{", 401),
        (KEY + b"Content-Length: 990000\r\n\r\n{", 408),
        (KEY + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", 408),
        (KEY + b"Content-Length: 1000001\r\n\r\n", 413),
    ],
)
async def test_half_a_body_is_not_waited_for(
    head: bytes, status: int, redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "MAX_BODY_SECONDS", 0.2 if status == 408 else 60)
    async with server() as port:
        answers = await asyncio.gather(*(talk(port, HEAD + head) for _ in range(20)))
    assert {answer.split()[1] for answer in answers} == {str(status).encode()}
    assert all(b"application/problem+json" in answer for answer in answers)


async def test_a_request_in_pieces_is_served(redis: ArqRedis) -> None:
    async with server() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            for byte in b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n":
                writer.write(bytes([byte]))
                await asyncio.sleep(0)
            assert (await reader.readuntil(b'"pass"}')).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_a_busy_server_is_alive_but_not_ready(redis: ArqRedis) -> None:
    async def get(path: bytes) -> bytes:
        head = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        return (await talk(port, b"GET " + path + head)).split()[1]

    async with server(limit=2) as port:
        assert [await get(path) for path in (b"/livez", b"/readyz")] == [b"200", b"200"]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        assert [await get(path) for path in (b"/livez", b"/readyz")] == [b"200", b"503"]
        writer.close()
