"""Which images each training step uses, on each process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from twins.errors import ConfigError

Entry = tuple[int, int, int]
"""Epoch, image and copy: what a training sample is drawn for."""
Shape = tuple[int, int]
"""Height and width in pixels."""
_SORTED = 16
"""Batches whose images are sorted together by aspect ratio."""


class TrainBatches:
    """Which samples each step of each epoch uses, for one of `world` processes.

    Every epoch is one permutation of the images, cut into optimiser steps of `batch * world * accumulate` samples;
    what does not fill the last step waits for another epoch's order. A set smaller than one step shrinks the step.

    Args:
        count: images in the set.
        batch: samples of one forward pass on one process.
        seed: chooses the permutations.
        rank: this process.
        world: number of processes.
        accumulate: forward passes per optimiser step.
        repeats: copies of each image in the order (repeated augmentation, DeiT's `RASampler`).
        shapes: height and width of each image, where batches are to be of alike ones; an epoch's order is then
            sorted a few batches at a time, and the batches shuffled.

    Raises:
        ConfigError: fewer images than processes times accumulation.
    """

    def __init__(
        self,
        count: int,
        batch: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        repeats: int = 1,
        shapes: Sequence[Shape] | None = None,
    ) -> None:
        if count < world * accumulate:
            raise ConfigError(
                f"{count} training images are too few for {world} processes with `accumulate={accumulate}`; use fewer"
            )
        self.count, self.seed, self.rank, self.world, self.repeats = count, seed, rank, world, repeats
        self.batch = min(batch, count // (world * accumulate))
        self.steps = count // (self.batch * world * accumulate)
        self.accumulate, self.micro_batches = accumulate, self.steps * accumulate
        self.ratios = None if shapes is None else np.array([width / height for height, width in shapes])

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Entry]]:
        """Yield this process's entries of each micro-batch of an epoch, from micro-batch `start` on."""
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(self.count)
        if self.ratios is not None:
            order = _alike(order, self.ratios, self.batch, random)
        copies = np.tile(np.arange(self.repeats), self.count)[: self.count]
        order = order.repeat(self.repeats)[: self.count]
        for micro in range(start, self.micro_batches):
            first = (micro * self.world + self.rank) * self.batch
            chosen = slice(first, first + self.batch)
            yield [(epoch, int(i), int(c)) for i, c in zip(order[chosen], copies[chosen], strict=True)]

    def stream(self, step: int) -> Iterator[list[Entry]]:
        """Yield micro-batches without end, from optimiser step `step` of the whole run on."""
        epoch, within = divmod(step, self.steps)
        yield from self.epoch(epoch, within * self.accumulate)
        while True:
            epoch += 1
            yield from self.epoch(epoch)


def _alike(
    order: NDArray[np.int64], ratios: NDArray[np.float64], batch: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """Return an order whose batches hold images of like aspect ratio; what fills no batch stays at its end."""
    whole = len(order) - len(order) % batch
    batches: list[NDArray[np.int64]] = []
    for first in range(0, whole, _SORTED * batch):
        part = order[first : min(whole, first + _SORTED * batch)]
        batches += list(part[np.argsort(ratios[part], kind="stable")].reshape(-1, batch))
    shuffled = [batches[i] for i in random.permutation(len(batches))]
    return np.concatenate([*shuffled, order[whole:]])
