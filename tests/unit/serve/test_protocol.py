"""Limits of connections, with a small application behind them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest
import uvicorn

from twins.serve.protocol import HEAD_BYTES, guarded_protocol

SECONDS = 0.3


async def application(scope, receive, send):
    """Read the body, and answer with as many megabytes as the path says."""
    while (await receive()).get("more_body"):
        pass
    body = bytes(int(scope["path"].strip("/")) * 10**6)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def run(test: Callable[[int, uvicorn.Server], Awaitable[None]], most: int = 8) -> None:
    """Run a test beside a server on a free port."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            http = guarded_protocol(most, SECONDS, SECONDS)
            server = uvicorn.Server(uvicorn.Config(application, http=http, lifespan="off", log_config=None, ws="none"))
            serving = asyncio.create_task(server._serve([listener]))
            await test(listener.getsockname()[1], server)
            server.should_exit = True
            await serving

    asyncio.run(asyncio.wait_for(main(), 30))


async def first_line(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await asyncio.sleep(pause)
    line = await reader.readline()
    writer.close()
    return line.strip()


def test_a_client_that_does_not_take_its_answer_is_cut_off():
    async def test(port: int, server: uvicorn.Server) -> None:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /30 HTTP/1.1\r\n\r\n")
        await asyncio.sleep(0.1)
        assert len(server.server_state.connections) == 1
        await asyncio.sleep(3 * SECONDS)
        assert not server.server_state.connections
        client.close()

    run(test)


def test_a_client_that_takes_its_answer_slowly_gets_it():
    async def test(port: int, server: uvicorn.Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
        writer.write(b"GET /3 HTTP/1.1\r\n\r\n")
        count = 0
        while count < 3 * 10**6:
            count += len(await reader.read(2**16))
            await asyncio.sleep(0.001)
        writer.close()

    run(test)


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ((b"GET /0 HTTP/1.1\r\n\r\n",), b"200"),
        ((b"",), b"408"),
        ((b"GET /0 HT",), b"408"),
        ((b"GET /0 HTTP/1.1\r\n", *[b"a: b\r\n"] * 4), b"408"),
        ((b"GET /0 HTTP/1.1\r\na: ", b"b" * HEAD_BYTES, b"\r\n\r\n"), b"400"),
        ((b"no http\r\n\r\n",), b"400"),
    ],
)
def test_a_head_has_a_time_and_a_size(parts, status):
    async def test(port: int, server: uvicorn.Server) -> None:
        assert (await first_line(port, *parts, pause=0.05)).split(b" ")[1] == status

    run(test)


def test_a_further_request_of_a_connection_has_a_time_too():
    async def test(port: int, server: uvicorn.Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /0 HTTP/1.1\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.write(b"GET /")
        assert b" 408 " in await reader.readline()
        writer.close()

    run(test)


def test_further_connections_are_refused():
    async def test(port: int, server: uvicorn.Server) -> None:
        open_ones = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        assert b" 503 " in await first_line(port)
        for _, writer in open_ones:
            writer.close()

    run(test, most=2)


def test_headers_behind_a_body_are_not_kept():
    async def test(port: int, server: uvicorn.Server) -> None:
        head = b"POST /0 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"a: b\r\n" * 1000)
        await asyncio.sleep(0.1)
        (connection,) = server.server_state.connections
        assert len(connection.headers) == 1
        writer.write(b"\r\n")
        assert b" 200 " in await reader.readline()
        writer.close()

    run(test)
