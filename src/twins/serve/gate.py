"""`Gate`: what every request passes: id, key, log, metrics, and errors as JSON."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from twins.serve.config import is_loopback
from twins.serve.errors import RequestError
from twins.serve.keys import Keys
from twins.serve.metrics import Metrics

OPEN_ROUTES = frozenset(
    ("/", "/docs", "/openapi.json", "/health/live", "/health/ready", "/health", "/v2/health/live", "/v2/health/ready")
)
"""Paths whose GET needs no key: they tell nothing of models or images."""
PAGE = "/page/"
"""Where the files of the page are, which need no key either."""
HOST = re.compile(r"(\[(?P<six>[0-9a-f:]+)\]|(?P<name>[a-z0-9.-]+?)\.?)(:[0-9]*)?")
"""A host with or without a port, in lower case."""
DRAIN_SECONDS = 1.0
"""Time for a client to finish a body that is refused, so that it reads the answer."""

log = logging.getLogger("twins.serve")


class Gate:
    """Wraps an application.

    Args:
        app: what answers.
        keys: accepted keys; `None` asks for none.
        metrics: counts the requests.
        local: refuse requests for a host that is not this machine, as a page elsewhere sends them that has its own name
            lead to 127.0.0.1 (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, keys: Keys | None, metrics: Metrics, *, local: bool = False) -> None:
        self.app, self.keys, self.metrics, self.local = app, keys, metrics, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request, status, body = uuid.uuid4().hex[:16], 0, _Body(receive, Headers(scope=scope))
        scope.setdefault("state", {})["request"] = request

        async def send_counted(message: Message) -> None:
            """Pass a message on, with the request's id, and keep its status."""
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request.encode())]
                if not await body.drain():
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            self._check_host(scope)
            self._check_key(scope)
            await self.app(scope, body.receive, send_counted)
        except RequestError as error:
            await _send_error(send_counted, error)
        except asyncio.CancelledError:  # the server stops, and its grace is over
            if not status:
                await _send_error(send_counted, RequestError(503, "the server is stopping; try again later"))
        except Exception:
            log.exception("a request failed", extra={"request": request})
            if not status:
                await _send_error(send_counted, RequestError(500, "the server failed; its log says why"))
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.request(route, status, seconds)
            self._log(scope, request, status, seconds)

    def _check_host(self, scope: Scope) -> None:
        hosts = Headers(scope=scope).getlist("host") or ["localhost"]
        host = ", ".join(hosts)
        match = HOST.fullmatch(host.lower())
        if self.local and (match is None or not is_loopback(match["six"] or match["name"])):
            raise RequestError(
                400,
                f"a server without keys answers for this machine alone, found the host {host!r:.80}; start it with "
                "--api-keys or --open",
            )

    def _check_key(self, scope: Scope) -> None:
        is_open = scope["path"] in OPEN_ROUTES or scope["path"].startswith(PAGE)
        if self.keys is None or (is_open and scope["method"] == "GET"):
            return
        key = _key_of(Headers(scope=scope))
        if not self.keys.accepts(key):
            sentence = "the key is not accepted" if key else "a key is needed"
            raise RequestError(
                401, f"{sentence}; send one as Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}
            )

    def _log(self, scope: Scope, request: str, status: int, seconds: float) -> None:
        values: dict[str, Any] = {
            "request": request,
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "milliseconds": round(1000 * seconds, 1),
            "client": (scope.get("client") or ("",))[0],
        }
        state = scope["state"]
        values |= {name: state[name] for name in ("model", "images") if name in state}
        if "buffered" in state:
            values["bytes"] = state["buffered"]
        log.info("request", extra=values)


def _key_of(headers: Headers) -> str:
    """Return the key that a request has: as a bearer, as the password of Basic authentication, or as `X-API-Key`."""
    word, _, text = headers.get("authorization", "").partition(" ")
    if word.lower() == "bearer":
        return text.strip()
    if word.lower() == "basic":
        with contextlib.suppress(ValueError):
            return base64.b64decode(text).decode().partition(":")[2]
    return headers.get("x-api-key", "")


class _Body:
    """Passes on the body of a request, and knows whether it has ended.

    Args:
        receive: gives the next part of the body.
        headers: of the request.
    """

    def __init__(self, receive: Receive, headers: Headers) -> None:
        self._receive = receive
        self._asks_first = headers.get("expect", "").lower() == "100-continue"
        self.ended = False

    async def receive(self) -> Message:
        """Return the next part of the body."""
        self._asks_first = False
        message = await self._receive()
        self.ended = self.ended or message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def drain(self) -> bool:
        """Read what is left of the body, for a short time; return whether it has ended.

        A client that asked whether to send it is not told to.
        """
        if not self.ended and not self._asks_first:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_SECONDS):
                    while not self.ended:
                        await self.receive()
        return self.ended


async def _send_error(send: Send, error: RequestError) -> None:
    body = error_body(error.sentence)
    headers = {"content-type": "application/json", "content-length": str(len(body))} | error.headers
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def error_body(sentence: str) -> bytes:
    """Return the JSON of an error."""
    return json.dumps({"error": sentence}).encode()
