"""`Downloads`: images from the Label Studio that the server was started with, and from nowhere else."""

from __future__ import annotations

import json
import os
from functools import cached_property
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from twins.serve.config import ServeConfig
from twins.serve.errors import RequestError

TOKEN = "LABEL_STUDIO_API_KEY"
"""Environment variable with an access token of Label Studio's account page."""


class Downloads:
    """Fetches images for one request, or a part of it: the access that a token gives lasts some minutes.

    Args:
        config: address of the Label Studio, and limits.
    """

    def __init__(self, config: ServeConfig) -> None:
        self.config = config

    def fetch(self, address: str) -> bytes:
        """Return a file of the Label Studio.

        Args:
            address: of the file; one without a host is of that Label Studio.

        Raises:
            RequestError: 422 if it is of another host or cannot be fetched, 413 if it is too large.
        """
        base = self.config.label_studio
        try:
            found = quote(urljoin(base or "", address), safe="%/:=&?~#+!$,;'@()*[]")
            if base is None or urlsplit(found)[:2] != urlsplit(base)[:2]:
                raise RequestError(
                    422, f"images are fetched from the server's --label-studio address alone, found {address!r:.80}"
                )
            content = self._read(Request(found, headers=self._headers), self.config.max_bytes + 1)
        except (OSError, HTTPException, ValueError) as error:
            raise RequestError(422, f"the image {address!r:.80} cannot be fetched ({error})") from error
        if len(content) > self.config.max_bytes:
            raise RequestError(413, f"the image {address!r:.80} has more than {self.config.max_bytes:,} bytes")
        return content

    @cached_property
    def _headers(self) -> dict[str, str]:
        """The headers of a fetch: a legacy token is sent itself, a personal one is exchanged for an access token."""
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
        with build_opener(_NoRedirects).open(request, timeout=self.config.receive_seconds) as file:
            content: bytes = file.read(most)
        return content


class _NoRedirects(HTTPRedirectHandler):
    """Follows no redirect, which could lead elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        """Return no further request."""
