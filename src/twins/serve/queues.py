"""`Queues`: the models of a server and the images that wait for them, whoever runs the networks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from twins.serve.batching import Item, Queue
from twins.serve.config import ServeConfig
from twins.serve.errors import RequestError
from twins.serve.messages import Answer, Description, Failure, Job
from twins.serve.sources import Source


@dataclass
class Served:
    """A model with its queue and the version in use."""

    source: Source
    queue: Queue
    version: int = 1
    path: str = ""
    """Path of the copy that workers load."""
    description: Description | None = None
    state: tuple[object, ...] = ()
    """State of the files that the version in use, or one that was refused since, was read from."""
    seconds: float = 0.1
    """Running mean of the time of a batch."""
    hashes: dict[str, str] = field(default_factory=dict)
    """Hash of the files' content by `key`, of versions for which it was asked."""

    @property
    def key(self) -> str:
        """Name and version, by which workers know it."""
        return f"{self.source.name}@{self.version}"


class Queues:
    """Takes jobs, hands out batches, and gives back answers.

    Args:
        config: settings of the server.
        sources: models to serve.
        observe: called with a model's name, the number of images and the seconds of each batch, for metrics.
    """

    def __init__(
        self, config: ServeConfig, sources: Sequence[Source], observe: Callable[[str, int, float], None] | None = None
    ) -> None:
        self.config = config
        self.models = {
            source.name: Served(source, Queue(config.max_batch, config.max_delay_ms / 1000)) for source in sources
        }
        self.wake = asyncio.Event()
        """Set when a batch may have fallen due, or a worker is free."""
        self._observe = observe or (lambda *_: None)
        self._pending: set[Item] = set()
        self._closed = ""

    def submit(self, served: Served, jobs: Sequence[Job]) -> list[Item]:
        """Put jobs into the queue of a model, all for its version in use; `Item.answer` gets each answer.

        Raises:
            RequestError: 429 if the queue is full, 503 if no worker can answer.
        """
        if self._closed:
            raise RequestError(503, f"{self._closed}; try again later", {"Retry-After": "5"})
        waiting, name = len(served.queue), served.source.name
        if waiting + len(jobs) > self.config.max_queue:
            seconds = waiting / self.config.max_batch / self.config.workers * served.seconds
            raise RequestError(
                429,
                f"{waiting} images wait for {name}, the queue takes {self.config.max_queue}; try again later",
                {"Retry-After": str(max(1, round(seconds)))},
            )
        loop = asyncio.get_running_loop()
        items = [Item(job, served.key, loop.create_future()) for job in jobs]
        for item in items:
            self._pending.add(item)
            item.answer.add_done_callback(lambda _, item=item: self._pending.discard(item))  # type: ignore[misc]
        served.queue.add(items)
        self.wake.set()
        return items

    async def next_batch(self, idle: Callable[[], bool]) -> tuple[Served, list[Item]]:
        """Return the next batch once it is due, of the model whose first image arrived first.

        Args:
            idle: returns whether a worker has nothing to do; then no image waits for others.
        """
        while True:
            self.wake.clear()
            wait = float("inf")
            for served in sorted(self.models.values(), key=lambda served: served.queue.oldest):
                batch, left = served.queue.take(self._padding(served), time.monotonic(), at_once=idle())
                if batch:
                    return served, batch
                wait = min(wait, left)
            try:
                await asyncio.wait_for(self.wake.wait(), None if wait == float("inf") else wait)
            except TimeoutError:
                continue

    def _padding(self, served: Served) -> float:
        """Return the padding that batches of a model may have."""
        if served.description is None or not served.description.pads:
            return 0.0
        return served.description.padding if self.config.max_padding is None else self.config.max_padding

    def finish(self, served: Served, items: Sequence[Item], answers: Sequence[Answer], seconds: float) -> None:
        """Give the answers of a batch to its requests."""
        served.seconds += 0.2 * (seconds - served.seconds)
        self._observe(served.source.name, len(items), seconds)
        for item, answer in zip(items, answers, strict=True):
            settle(item, answer)
        self.wake.set()

    def close(self, reason: str) -> None:
        """Refuse requests with 503 and a reason, also those that wait or are computed."""
        self._closed = reason
        for item in list(self._pending):
            settle(item, Failure(503, f"{reason}; try again later"))

    def open(self) -> None:
        """Take requests again."""
        self._closed = ""


def settle(item: Item, answer: Answer) -> None:
    """Give an answer to a request, unless its client has left."""
    if not item.answer.done():
        item.answer.set_result(answer)
