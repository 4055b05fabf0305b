"""The HTTP connection: uvicorn's, with a limit on their number and on the time that the head of a request takes."""

from __future__ import annotations

import asyncio
import http
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from twins.serve.gate import error_body

HEAD_BYTES = 1 << 18
"""Size of a request's head in bytes."""


def guarded_protocol(most: int, seconds: float, send_seconds: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with limits.

    Args:
        most: open connections.
        seconds: time for the head of a request, from its first byte, or from the opening of the connection.
        send_seconds: time for a client to take what is sent to it, while it holds the server up.
    """
    limits = {"most": most, "seconds": seconds, "send_seconds": send_seconds}
    return type("LimitedProtocol", (GuardedProtocol,), limits)


class GuardedProtocol(HttpToolsProtocol):
    """A connection that is refused if there are too many, and closed if it sends too slowly."""

    most: int
    seconds: float
    send_seconds: float
    _timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None
    _received = 0
    _in_head = False

    def connection_made(self, transport: Any) -> None:
        """Refuse the connection, or give it time to send."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._refuse(503, "the server has too many connections; try again later")
        else:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Start the timer with the first bytes of a further request."""
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._start_timer()
        if self.transport.is_closing():
            return
        self._received += len(data)
        super().data_received(data)
        if self._timer is not None and self._received > HEAD_BYTES:
            self._refuse(400, f"the head of the request has more than {HEAD_BYTES:,} bytes; send a shorter one")

    def on_message_begin(self) -> None:
        """Begin to keep headers."""
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header of the head; those behind a body are ignored."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop the timer: the application limits the time of the body."""
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Keep the timer stopped for what follows of this request."""
        self._stop_timer()
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Give the client time to take what is sent to it; a closing connection too waits for that."""
        super().pause_writing()
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(self.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop that time."""
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is no HTTP in JSON, as every error."""
        self._refuse(400, "the request is no valid HTTP")

    def _start_timer(self) -> None:
        self._timer, self._received = self.loop.call_later(self.seconds, self._time_out), 0

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_out(self) -> None:
        self._refuse(408, f"the head of the request did not arrive within {self.seconds:g} seconds; send it faster")

    def _refuse(self, status: int, sentence: str) -> None:
        if self.transport.is_closing():
            return
        body = error_body(sentence)
        head = (
            f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
