"""`Downloads`: images from the Label Studio that the server was started with, and from nowhere else."""

from __future__ import annotations

import json
import os
import time
from http.client import HTTPException
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    Request,
)

from twins.serve.config import ServeConfig
from twins.serve.errors import RequestError

CHUNK = 1 << 16
"""Bytes that are read at once."""
TOKEN = "LABEL_STUDIO_API_KEY"
"""Environment variable with an access token of Label Studio's account page."""


class Downloads:
    """Fetches images for one request: the access that a token gives lasts some minutes.

    Args:
        config: address of the Label Studio, and limits.
    """

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self._access: dict[str, str] | RequestError | None = None

    def fetch(self, address: str) -> bytes:
        """Return a file of the Label Studio.

        Args:
            address: of the file; one without a host is of that Label Studio.

        Raises:
            RequestError: 422 if it is of another host or cannot be fetched, 413 if it is too large.
        """
        base, shown = self.config.label_studio, address.partition("?")[0]  # a query may hold a signature
        try:
            whole = quote(urljoin(base or "", address), safe="%/:=&?~#+!$,;'@()*[]")
            if base is None or urlsplit(whole)[:2] != urlsplit(base)[:2]:
                raise RequestError(
                    422, f"images are fetched from the server's --label-studio address alone, found {shown!r:.80}"
                )
            content = self._read(Request(whole, headers=self._headers), self.config.max_bytes + 1)
        except (OSError, HTTPException, ValueError) as error:
            raise RequestError(422, f"the image {shown!r:.80} cannot be fetched ({error})") from error
        if len(content) > self.config.max_bytes:
            raise RequestError(413, f"the image {shown!r:.80} has more than {self.config.max_bytes:,} bytes")
        return content

    @property
    def _headers(self) -> dict[str, str]:
        """The headers of a fetch: a legacy token is sent itself, a personal one is exchanged for an access token.

        Raises:
            RequestError: 422 if the token is not accepted; it is not tried again.
        """
        if isinstance(self._access, RequestError):
            raise self._access
        if self._access is None:
            try:
                self._access = self._exchange()
            except RequestError as error:
                self._access = error
                raise
        return self._access

    def _exchange(self) -> dict[str, str]:
        token = os.environ.get(TOKEN, "").strip()
        if token.count(".") != 2:  # a personal token is a JSON Web Token, which has three parts
            return {"Authorization": f"Token {token}"} if token else {}
        assert self.config.label_studio is not None
        exchange = Request(
            self.config.label_studio.rstrip("/") + "/api/token/refresh/",
            data=json.dumps({"refresh": token}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            access = json.loads(self._read(exchange, 1 << 16))["access"]
        except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
            raise RequestError(422, f"Label Studio does not accept the token in {TOKEN} ({error})") from error
        return {"Authorization": f"Bearer {access}"}

    def _read(self, request: Request, most: int) -> bytes:
        seconds, content = self.config.receive_seconds, bytearray()
        end = time.monotonic() + seconds
        opener = OpenerDirector()  # no files, no proxies, no redirects
        for handler in (HTTPHandler, HTTPSHandler, HTTPErrorProcessor, HTTPDefaultErrorHandler):
            opener.add_handler(handler())
        with opener.open(request, timeout=seconds) as file:
            while len(content) < most and (part := file.read1(min(CHUNK, most - len(content)))):
                content += part
                if time.monotonic() > end:
                    raise TimeoutError(f"it took more than {seconds:g} seconds")
            declared = file.headers.get("Content-Length", "")
        if declared.isdigit() and len(content) < min(int(declared), most):
            raise OSError(f"it ended after {len(content):,} of {int(declared):,} bytes")
        return bytes(content)
