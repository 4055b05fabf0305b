"""The order of training images: which samples each step uses on each process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from twins.errors import ConfigError, number_of

SampleKey = tuple[int, int, int]
"""Epoch, image and copy: they identify a training sample and seed its randomness."""
Shape = tuple[int, int]
"""Height and width in pixels."""
_BATCHES_PER_SORT = 16
"""Number of batches whose images are sorted together by aspect ratio."""


class TrainBatches:
    """The samples of each step of each epoch, for one of `world` processes.

    Every epoch is one permutation of the images, cut into optimiser steps of `batch * world * accumulate` samples.
    Images that do not fill a last step are not used in this epoch. If a set is smaller than one step, the step shrinks.

    Args:
        count: number of images in the set.
        batch: samples per forward pass and process.
        seed: determines the permutations.
        rank: index of this process.
        world: number of processes.
        accumulate: forward passes per optimiser step.
        repeats: copies of each image in an epoch (repeated augmentation, DeiT's `RASampler`).
        shapes: height and width of each image. If given, images of similar aspect ratio share a batch: the order is
            sorted a few batches at a time, then the batches are shuffled.

    Raises:
        ConfigError: fewer images than `world * accumulate`.
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
            few = f"{number_of(count, 'training image')} {'is' if count == 1 else 'are'} too few"
            shares = f"{number_of(world, 'process', 'processes')} with `accumulate={accumulate}`"
            raise ConfigError(f"{few} for {shares}; use fewer")
        self.count, self.seed, self.rank, self.world, self.repeats = count, seed, rank, world, repeats
        self.batch = min(batch, count // (world * accumulate))
        self.steps = count // (self.batch * world * accumulate)
        self.accumulate, self.micro_batches = accumulate, self.steps * accumulate
        self.ratios = None if shapes is None else np.array([width / height for height, width in shapes])

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[SampleKey]]:
        """Yield the sample keys of each micro-batch of an epoch on this process, from micro-batch `start` on."""
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(self.count)
        if self.ratios is not None:
            order = _group_by_ratio(order, self.ratios, self.batch, random)
        copies = np.tile(np.arange(self.repeats), self.count)[: self.count]
        order = order.repeat(self.repeats)[: self.count]
        for micro in range(start, self.micro_batches):
            first = (micro * self.world + self.rank) * self.batch
            part = slice(first, first + self.batch)
            yield [(epoch, int(i), int(c)) for i, c in zip(order[part], copies[part], strict=True)]

    def stream(self, step: int) -> Iterator[list[SampleKey]]:
        """Yield endless micro-batches from optimiser step `step` of the run on."""
        epoch, step_in_epoch = divmod(step, self.steps)
        yield from self.epoch(epoch, step_in_epoch * self.accumulate)
        while True:
            epoch += 1
            yield from self.epoch(epoch)


def _group_by_ratio(
    order: NDArray[np.int64], ratios: NDArray[np.float64], batch: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """Reorder images so that batches have similar aspect ratios; the images of an incomplete batch stay at the end."""
    num_batched = len(order) - len(order) % batch
    batches: list[NDArray[np.int64]] = []
    for first in range(0, num_batched, _BATCHES_PER_SORT * batch):
        part = order[first : min(num_batched, first + _BATCHES_PER_SORT * batch)]
        batches += list(part[np.argsort(ratios[part], kind="stable")].reshape(-1, batch))
    shuffled = [batches[i] for i in random.permutation(len(batches))]
    return np.concatenate([*shuffled, order[num_batched:]])
