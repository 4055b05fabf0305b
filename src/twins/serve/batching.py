"""The queue of a model, and which of its images share a batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from twins.serve.messages import Answer, Job


@dataclass(eq=False)
class Item:
    """An image that waits for its answer."""

    job: Job
    key: str
    """The model and its version when the image was accepted."""
    answer: asyncio.Future[Answer]
    """It is cancelled when the client leaves."""
    arrived: float = field(default_factory=time.monotonic)
    attempts: int = 0
    """Workers that died over it."""

    @property
    def kind(self) -> tuple[object, ...]:
        """What all images of a batch share: the version, and whether they are files, tensors or tensors with sizes."""
        return self.key, isinstance(self.job.content, bytes), self.job.size is not None

    @property
    def alone(self) -> bool:
        """Whether it gets a batch of its own: it is large, or may have been what killed a worker."""
        return self.attempts > 0 or self.job.alone


def choose_batch(items: Sequence[Item], most: int, padding: float) -> list[Item]:
    """Return the images that share the next batch: the first, and later ones of like shape.

    Args:
        items: in the order of their arrival, at least one.
        most: images in a batch.
        padding: padding that the batch may have, as a share of its images' pixels; 0 takes images of one shape.
    """
    first = items[0]
    batch = [first]
    if first.alone:
        return batch
    if not isinstance(first.job.content, bytes):  # outputs as tensors have the shape of the batch
        padding = 0.0
    height, width = first.job.shape
    pixels = height * width
    for item in items[1:]:
        if len(batch) == most:
            break
        if item.alone or item.kind != first.kind:
            continue
        shape = item.job.shape
        tall, wide, area = max(height, shape[0]), max(width, shape[1]), shape[0] * shape[1]
        if tall * wide * (len(batch) + 1) <= (1 + padding) * (pixels + area):
            batch.append(item)
            height, width, pixels = tall, wide, pixels + area
    return batch


class Queue:
    """The images that wait for a model, in the order of their arrival.

    Args:
        most: images in a batch.
        delay: longest time in seconds that an image waits for others.
    """

    def __init__(self, most: int, delay: float) -> None:
        self.most, self.delay = most, delay
        self.items: list[Item] = []

    def __len__(self) -> int:
        return len(self.items)

    @property
    def oldest(self) -> float:
        """When the first image arrived; `inf` if none waits."""
        return self.items[0].arrived if self.items else float("inf")

    def add(self, items: Sequence[Item], *, first: bool = False) -> None:
        """Add images at the end, or `first`; one whose client leaves is removed."""
        end = 0 if first else len(self.items)
        self.items[end:end] = items
        for item in items:
            item.answer.add_done_callback(partial(self._remove, item))

    def _remove(self, item: Item, _: asyncio.Future[Answer]) -> None:
        if item in self.items:
            self.items.remove(item)

    def take(self, padding: float, now: float, *, at_once: bool = False) -> tuple[list[Item], float]:
        """Return the next batch if it is due, else none and the time in seconds until it is; `inf` if none waits.

        A batch is due if it is full, if its first image waited for `delay` or gets a batch of its own, or `at_once`.
        """
        if not self.items:
            return [], float("inf")
        batch = choose_batch(self.items, self.most, padding)
        wait = batch[0].arrived + self.delay - now
        if len(batch) < self.most and wait > 0 and not batch[0].alone and not at_once:
            return [], wait
        chosen = set(batch)
        self.items = [item for item in self.items if item not in chosen]
        return batch, 0.0
