"""From data sets to batches: what is random is a pure function of what it is for, whoever computes it.

An image's augmentation depends on (seed, epoch, image, copy) and on nothing else: not on the worker, the batch or
what ran before. So a run that was stopped goes on exactly where it was, and workers change nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from twins.data.base import ImageSet
from twins.data.transforms.patches import Patch, Patched, fill_patches
from twins.errors import ConfigError, DataError, NotFoundError
from twins.preprocess import Preprocess

if TYPE_CHECKING:
    from PIL.Image import Image

Transform = Callable[[Any, Any], tuple[Tensor | Patched, Any]]
"""Turns a Pillow image and its target into the network's input `(C, H, W)`, uint8 or normalised, and what is learned
from it."""
Entry = tuple[int, int, int]
"""Epoch, image and copy: what a training sample is drawn for."""
Shape = tuple[int, int]
"""Height and width in pixels."""
_SORTED = 16
"""Batches whose images are sorted together by aspect ratio."""


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read."""

    path: str
    reason: str


@dataclass(frozen=True)
class Sample:
    """One image on its way to the network."""

    image: Tensor
    """`(3, H, W)`: uint8, or normalised float32."""
    target: Any
    index: int
    original: tuple[int, int]
    """Height and width of the image in its file, in pixels."""
    skipped: tuple[Skipped, ...] = ()
    patches: tuple[Patch, ...] = ()
    """What is said of its normalised values."""


@dataclass
class Batch:
    """Images of one step. An evaluation batch can be empty, when none of its images could be read."""

    images: Tensor
    """`(B, 3, H, W)`: uint8, which `normalised` normalises, or normalised float32. Images of several shapes are padded
    with zeros at the bottom right."""
    targets: Any
    """As the task has them: class ids int64 `(B,)`, stacked maps, or a list."""
    indices: list[int]
    """Each image's place in its data set."""
    originals: list[tuple[int, int]]
    """Height and width of each image in its file, in pixels."""
    skipped: list[Skipped] = field(default_factory=list)
    sizes: Tensor | None = None
    """True height and width of each image in the batch, int64 `(B, 2)`; `None` where all fill it."""
    patches: list[tuple[Patch, ...]] = field(default_factory=list)
    """What is said of each image's normalised values."""

    def pin_memory(self) -> Batch:
        """Move the tensors to page-locked memory; called by the loader where there is a GPU."""
        self.images = self.images.pin_memory()
        if isinstance(self.targets, Tensor):
            self.targets = self.targets.pin_memory()
        return self


class TrainSamples(Dataset[Sample]):
    """Augmented samples by (epoch, image, copy); an unreadable image is replaced by the next one, and reported."""

    def __init__(self, images: ImageSet, transform: Transform, *, seed: int) -> None:
        self.images, self.transform, self.seed = images, transform, seed

    def __getitem__(self, entry: Entry) -> Sample:
        epoch, wanted, copy = entry
        skipped: list[Skipped] = []
        for index in (*range(wanted, len(self.images)), *range(wanted)):
            try:
                image, target = self.images.load(index), self.images.target(index)
                with seeded(self.seed, epoch, wanted, copy):
                    made, learned = self.transform(image, target)
            except (DataError, NotFoundError) as error:
                skipped.append(Skipped(self.images.path(index), str(error)))
                continue
            return _sample(made, learned, index, image, tuple(skipped))
        raise DataError(f"none of the {len(self.images)} training images can be read; the first: {skipped[0].reason}")


class EvalSamples(Dataset["Sample | Skipped"]):
    """Samples for evaluation, in order; an unreadable image is left out, and reported."""

    def __init__(self, images: ImageSet, transform: Transform) -> None:
        self.images, self.transform = images, transform

    def __getitem__(self, index: int) -> Sample | Skipped:
        try:
            image = self.images.load(index)
            made, target = self.transform(image, self.images.target(index))
        except (DataError, NotFoundError) as error:
            return Skipped(self.images.path(index), str(error))
        return _sample(made, target, index, image)


def _sample(made: Tensor | Patched, target: Any, index: int, image: Image, skipped: tuple[Skipped, ...] = ()) -> Sample:
    prepared = made if isinstance(made, Patched) else Patched(made)
    return Sample(prepared.pixels, target, index, (image.height, image.width), skipped, prepared.patches)


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
                f"{count} training images are too few for {world} processes with --accumulate {accumulate}; use fewer"
            )
        self.count, self.seed, self.rank, self.world, self.repeats = count, seed, rank, world, repeats
        self.batch = min(batch, count // (world * accumulate))
        self.steps = count // (self.batch * world * accumulate)
        self.micro_batches = self.steps * accumulate
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

    def stream(self, step: int, accumulate: int) -> Iterator[list[Entry]]:
        """Yield micro-batches without end, from optimiser step `step` of the whole run on."""
        epoch, within = divmod(step, self.steps)
        yield from self.epoch(epoch, within * accumulate)
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


def train_loader(
    samples: TrainSamples, batches: TrainBatches, *, step: int, accumulate: int, workers: int, pin: bool
) -> Iterator[Batch]:
    """Yield training batches without end, from optimiser step `step` of the run on."""
    loader = DataLoader(
        samples,
        batch_sampler=_Stream(batches, step, accumulate),
        num_workers=workers,
        collate_fn=collate_train,
        pin_memory=pin,
    )
    return iter(loader)


def eval_loader(
    samples: EvalSamples,
    *,
    batch: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    pin: bool = False,
    shapes: Sequence[Shape] | None = None,
) -> DataLoader[Any]:
    """Return batches of every `world`-th image from `rank` on: over all processes each image exactly once.

    Args:
        samples: the images.
        batch: images at a time.
        rank: this process.
        world: number of processes.
        workers: loading processes.
        pin: whether batches are moved to page-locked memory.
        shapes: height and width of each image, by which they are sorted; `None` leaves them in their order.
    """
    order: Sequence[int] = range(len(samples.images))
    if shapes is not None:
        order = sorted(order, key=lambda index: (shapes[index][1] / shapes[index][0], shapes[index]))
    mine = order[rank::world]
    chunks = [list(mine[i : i + batch]) for i in range(0, len(mine), batch)]
    return DataLoader(
        samples,
        batch_sampler=chunks,
        num_workers=workers,
        collate_fn=collate_eval,
        pin_memory=pin,
    )


def collate_train(samples: Sequence[Sample]) -> Batch:
    """Stack samples into a batch."""
    return _stack(samples, [reason for sample in samples for reason in sample.skipped])


def collate_eval(samples: Sequence[Sample | Skipped]) -> Batch:
    """Stack the readable samples into a batch, and list the others."""
    readable = [sample for sample in samples if isinstance(sample, Sample)]
    return _stack(readable, [sample for sample in samples if isinstance(sample, Skipped)])


def mix(
    images: Tensor,
    targets: Tensor,
    *,
    mixup: float,
    cutmix: float,
    smoothing: float,
    num_classes: int,
    key: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Mix a batch's images among themselves by timm's mixup and cutmix; their choice is a function of `key` alone.

    Args:
        images: `(B, 3, H, W)`, `B` even.
        targets: class ids `(B,)`.
        mixup: alpha of mixup; 0 is off.
        cutmix: alpha of cutmix; 0 is off. With both on, each batch takes one, at even odds.
        smoothing: share of each target spread over all classes.
        num_classes: `K`.
        key: what the randomness is for: seed, epoch, first image.

    Returns:
        images of the same shape, and target probabilities `(B, K)`.
    """
    from timm.data import Mixup

    mixer = Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=smoothing, num_classes=num_classes)
    with seeded(*key):
        mixed, soft = mixer(images.clone(), targets)
    return mixed, soft


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Draw from `random`, numpy and torch as a pure function of `key`, and leave their states as they were."""
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    first, second, third = np.random.SeedSequence(key).generate_state(3).tolist()
    random.seed(first)
    np.random.seed(second)
    torch.default_generator.manual_seed(third)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])


class _Stream:
    """A batch sampler that never ends."""

    def __init__(self, batches: TrainBatches, step: int, accumulate: int) -> None:
        self.arguments = batches, step, accumulate

    def __iter__(self) -> Iterator[list[Entry]]:
        batches, step, accumulate = self.arguments
        return batches.stream(step, accumulate)


def _stack(samples: Sequence[Sample], skipped: list[Skipped]) -> Batch:
    images, sizes = fill_batch([sample.image for sample in samples])
    return Batch(
        images=images,
        targets=_stack_targets([sample.target for sample in samples]),
        indices=[sample.index for sample in samples],
        originals=[sample.original for sample in samples],
        skipped=skipped,
        sizes=sizes,
        patches=[sample.patches for sample in samples],
    )


def normalised(batch: Batch, preprocess: Preprocess, device: torch.device) -> Batch:
    """Return a batch whose images are on a device and normalised, with their patches filled."""
    images = batch.images.to(device, non_blocking=True)
    images = preprocess.normalise(images, batch.sizes)
    if not any(batch.patches):
        return replace(batch, images=images)
    if images is batch.images:
        images = images.clone()  # patches are filled in place
    return replace(batch, images=fill_patches(images, batch.patches), patches=[() for _ in batch.indices])


def fill_batch(images: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Stack images `(C, H_i, W_i)`, channels side by side in memory; pad those of several shapes, with their sizes."""
    if not images:
        return torch.empty(0), None
    shapes = [image.shape for image in images]
    channels, height, width = (max(lengths) for lengths in zip(*shapes, strict=True))
    alike = len(set(shapes)) == 1
    make = images[0].new_empty if alike else images[0].new_zeros
    batch = make(len(images), height, width, channels).permute(0, 3, 1, 2)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch, None if alike else torch.tensor([shape[1:] for shape in shapes])


def _stack_targets(targets: Sequence[Any]) -> Any:
    """Return class ids as one tensor, tensors of one shape stacked, anything else as a list."""
    if all(isinstance(target, int) for target in targets):
        return torch.tensor(targets, dtype=torch.int64)
    alike = all(isinstance(target, Tensor) for target in targets) and len({target.shape for target in targets}) == 1
    return torch.stack(list(targets)) if alike else list(targets)
