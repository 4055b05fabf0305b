"""`RequestError`: why a request gets no answer, as a status and a sentence."""

from __future__ import annotations

from collections.abc import Mapping


class RequestError(Exception):
    """A request that is refused.

    Args:
        status: HTTP's status code.
        sentence: what was wrong, what was found, what to do.
        headers: further headers of the answer.
    """

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, dict(headers or {})


class ClientLeftError(RequestError):
    """Nobody waits for the answer any more."""

    def __init__(self) -> None:
        super().__init__(400, "the client left before its answer")
