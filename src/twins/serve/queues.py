"""`Queues`: the models of a server and the images that wait for them, whoever runs the networks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    seconds: float = 0.1
    """Running mean of the time of a batch."""

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
        self._closed = ""

    async def answer(self, name: str, jobs: Sequence[tuple[Job, tuple[int, int]]]) -> list[Answer]:
        """Return an answer for each job, given with the height and width that the network sees.

        Raises:
            RequestError: 429 if the queue is full, 503 if no worker can answer.
        """
        served = self.models[name]
        if self._closed:
            raise RequestError(503, f"{self._closed}; try again later", {"Retry-After": "5"})
        if len(served.queue) + len(jobs) > self.config.max_queue:
            wait = len(served.queue) / self.config.max_batch / self.config.workers * served.seconds
            raise RequestError(
                429,
                f"{len(served.queue)} images wait for {name}, the queue takes {self.config.max_queue}; try again later",
                {"Retry-After": str(max(1, round(wait)))},
            )
        loop = asyncio.get_running_loop()
        items = [Item(job, shape, loop.create_future()) for job, shape in jobs]
        served.queue.add(items)
        self.wake.set()
        try:
            return list(await asyncio.gather(*(item.answer for item in items)))
        finally:
            for item in items:
                item.answer.cancel()

    async def next_batch(self) -> tuple[Served, list[Item]]:
        """Return the next batch once it is due, of the model whose first image arrived first."""
        while True:
            self.wake.clear()
            wait = float("inf")
            for served in sorted(self.models.values(), key=lambda served: served.queue.oldest):
                pads = served.description is not None and served.description.pads
                batch, left = served.queue.take(self.config.max_padding if pads else 0.0, time.monotonic())
                if batch:
                    return served, batch
                wait = min(wait, left)
            try:
                await asyncio.wait_for(self.wake.wait(), None if wait == float("inf") else wait)
            except TimeoutError:
                continue

    def finish(self, served: Served, items: Sequence[Item], answers: Sequence[Answer], seconds: float) -> None:
        """Give the answers of a batch to its requests."""
        served.seconds += 0.2 * (seconds - served.seconds)
        self._observe(served.source.name, len(items), seconds)
        for item, answer in zip(items, answers, strict=True):
            settle(item, answer)
        self.wake.set()

    def close(self, reason: str) -> None:
        """Refuse requests with 503 and a reason, those that wait too."""
        self._closed = reason
        for served in self.models.values():
            for item in list(served.queue.items):
                settle(item, Failure(503, f"{reason}; try again later"))

    def open(self) -> None:
        """Take requests again."""
        self._closed = ""


def settle(item: Item, answer: Answer) -> None:
    """Give an answer to a request, unless its client has left."""
    if not item.answer.done():
        item.answer.set_result(answer)
