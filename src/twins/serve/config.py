"""Settings of a server. This module imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import urlsplit

from tyro.conf import arg

from twins.errors import ConfigError, check_type

LOOPBACK = ("localhost", "::1")
"""Hosts of this machine alone, besides 127.0.0.0/8."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Address, batches, limits and life of a server.

    Raises:
        ConfigError: a value is out of range, or the server would be open to others without being told so.
    """

    host: str = "127.0.0.1"
    """Address to listen on; beyond this machine only with `api_keys` or `open`."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    open: bool = False
    """Answer anyone who can reach the address, without keys."""
    open_browser: bool = False
    """Open the page in a browser once the server is ready."""
    api_keys: Annotated[str | None, arg(metavar="FILE")] = None
    """File of keys, one in each line; requests need one of them, as `Authorization: Bearer KEY`, as `X-API-Key: KEY` or
    as the password of Basic authentication. The file is read again when it changes."""
    workers: int = 1
    """Processes that run the networks."""
    threads: int | None = None
    """CPU threads of each worker; unset: all cores, shared by the workers."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on."""
    max_batch: int = 8
    """Most images in a batch."""
    max_delay_ms: float = 5.0
    """Longest time in milliseconds that an image waits for others to share its batch, while all workers are busy."""
    max_padding: float | None = None
    """Padding that a batch of unequal images may have, as a share of their pixels; unset: 0 on a CPU, which batches
    images of one size, 0.25 elsewhere."""
    max_queue: int = 128
    """Images that wait for each model; further requests are refused with 429."""
    max_images: int = 16
    """Images in one request."""
    max_megabytes: float = 20.0
    """Size of a request's body in megabytes."""
    max_megapixels: float = 50.0
    """Size of an image in millions of pixels, checked before it is decoded."""
    max_connections: int = 512
    """Open connections; further ones are refused with 503."""
    receive_seconds: float = 30.0
    """Time in seconds for a client to send the head of a request, and again for the body."""
    answer_seconds: float = 60.0
    """Time in seconds for an answer; then the request ends with 503."""
    grace: float = 30.0
    """Time in seconds that a stopping server has to finish the requests it took."""
    reload_seconds: float = 2.0
    """Time in seconds between looks whether a model's file has changed; 0 leaves it to SIGHUP."""
    label_studio: Annotated[str | None, arg(metavar="ADDRESS")] = None
    """Address of the Label Studio whose images may be fetched, with the token in LABEL_STUDIO_API_KEY."""
    quiet: bool = False
    """Log errors only."""

    def __post_init__(self) -> None:
        check_type(self.host, str, "host", "an address, such as 127.0.0.1")
        check_type(self.api_keys, str | None, "api_keys", "the path of a file")
        for name, lowest in (("workers", 1), ("max_batch", 1), ("max_queue", 1), ("max_images", 1), ("port", 0)):
            _check_number(name, getattr(self, name), lowest, whole=True)
        if self.port > 65535:
            raise ConfigError(f"`port` must be at most 65535, found {self.port}")
        if self.threads is not None:
            _check_number("threads", self.threads, 1, whole=True)
        _check_number("max_connections", self.max_connections, 1, whole=True)
        if self.max_padding is not None:
            _check_number("max_padding", self.max_padding, 0)
        for name in ("max_delay_ms", "grace", "reload_seconds"):
            _check_number(name, getattr(self, name), 0)
        for name in ("max_megabytes", "max_megapixels", "receive_seconds", "answer_seconds"):
            _check_number(name, getattr(self, name), 0)
            if not getattr(self, name):
                raise ConfigError(f"`{name}` must be above 0, found {getattr(self, name)}")
        if self.max_images > self.max_queue:
            raise ConfigError(
                f"`max_images` cannot exceed `max_queue`, found {self.max_images} and {self.max_queue}; lower the first"
            )
        if self.label_studio is not None:
            parts = urlsplit(self.label_studio)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ConfigError(
                    f"`label_studio` must be an address such as http://localhost:8080, found {self.label_studio!r:.80}"
                )
        if not (self.open or self.api_keys or is_loopback(self.host)):
            raise ConfigError(
                f"anyone who reaches {self.host} could use the server; give `api_keys`, a file of keys, or say that "
                "this is meant with `open`"
            )

    @property
    def worker_threads(self) -> int:
        """CPU threads of each worker."""
        return self.threads or max(1, (os.cpu_count() or 1) // self.workers)

    @property
    def max_bytes(self) -> int:
        """Size of a request's body in bytes."""
        return int(self.max_megabytes * 1e6)

    @property
    def max_pixels(self) -> int:
        """Size of an image in pixels."""
        return int(self.max_megapixels * 1e6)


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this machine alone."""
    return host in LOOPBACK or (host.startswith("127.") and host.replace(".", "").isdigit())


def _check_number(name: str, value: object, lowest: int, *, whole: bool = False) -> None:
    check_type(value, int if whole else int | float, name, "a whole number" if whole else "a number")
    assert isinstance(value, int | float)
    if not lowest <= value < float("inf"):
        raise ConfigError(f"`{name}` must be at least {lowest}, found {value}")
