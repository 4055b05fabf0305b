"""Samples, batches of them, and their normalisation on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from twins.data.transforms.deferred_fills import DeferredFill, apply_fills
from twins.preprocess import Preprocess


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read."""

    path: str
    reason: str
    """The error message."""


@dataclass(frozen=True)
class Sample:
    """One image on its way to the network."""

    image: Tensor
    """`(3, H, W)`: uint8, or normalised float32."""
    target: Any
    """As the task's transform returns it."""
    index: int
    """Index of the image in its set; in training, of the image that replaces an unreadable one."""
    original: tuple[int, int]
    """Height and width of the image in its file, in pixels."""
    skipped: tuple[Skipped, ...] = ()
    """Unreadable images that this one replaces."""
    fills: tuple[DeferredFill, ...] = ()
    """Rectangles to fill after normalisation."""


@dataclass
class Batch:
    """Images of one step; an evaluation batch is empty if none of its images can be read."""

    images: Tensor
    """`(B, 3, H, W)`: uint8, or float32 after `normalise_batch`. Images of different shapes are padded with zeros
    at the bottom and right."""
    targets: Any
    """Depending on the task: class ids int64 `(B,)`, stacked maps, or a list."""
    indices: list[int]
    """Index of each image in its data set."""
    originals: list[tuple[int, int]]
    """Height and width of each image in its file, in pixels."""
    skipped: list[Skipped] = field(default_factory=list)
    """Images that could not be read."""
    sizes: Tensor | None = None
    """True height and width of each image, int64 `(B, 2)`; `None` if all fill the batch."""
    fills: list[tuple[DeferredFill, ...]] = field(default_factory=list)
    """Rectangles of each image to fill after normalisation."""

    @property
    def input_sizes(self) -> list[tuple[int, int]]:
        """Height and width of each image in the network's input, without padding."""
        if self.sizes is None:
            return [(self.images.shape[2], self.images.shape[3])] * len(self.indices)
        return [(height, width) for height, width in self.sizes.tolist()]

    def pin_memory(self) -> Batch:
        """Move the tensors to page-locked memory; called by the loader if there is a GPU."""
        self.images = self.images.pin_memory()
        if isinstance(self.targets, Tensor):
            self.targets = self.targets.pin_memory()
        return self


def collate(samples: Sequence[Sample | Skipped]) -> Batch:
    """Stack readable samples into a batch, and list the images that could not be read."""
    readable = [sample for sample in samples if isinstance(sample, Sample)]
    skipped = [sample for sample in samples if isinstance(sample, Skipped)]
    images, sizes = stack_images([sample.image for sample in readable])
    return Batch(
        images=images,
        targets=stack_targets([sample.target for sample in readable]),
        indices=[sample.index for sample in readable],
        originals=[sample.original for sample in readable],
        skipped=skipped + [item for sample in readable for item in sample.skipped],
        sizes=sizes,
        fills=[sample.fills for sample in readable],
    )


def normalise_batch(batch: Batch, preprocess: Preprocess, device: torch.device) -> Batch:
    """Return a batch with its images on a device, normalised, and with their deferred fills applied."""
    images = normalise_images(batch.images, batch.sizes, preprocess, device)
    if not any(batch.fills):
        return replace(batch, images=images)
    if images is batch.images:
        images = images.clone()  # fills are applied in place
    return replace(batch, images=apply_fills(images, batch.fills), fills=[() for _ in batch.indices])


def normalise_images(images: Tensor, sizes: Tensor | None, preprocess: Preprocess, device: torch.device) -> Tensor:
    """Move images to a device and normalise them if they are uint8; training and everything else use this function."""
    return preprocess.normalise(images.to(device, non_blocking=True), sizes)


def to_device(value: Any, device: torch.device) -> Any:
    """Move a tensor, any nesting of lists and dicts of tensors, or `None` to a device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(value, device) for key, value in value.items()}
    return [to_device(value, device) for value in value] if isinstance(value, list | tuple) else value


def stack_images(images: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Stack images `(C, H_i, W_i)` into a channels-last batch, with zero padding if their shapes differ.

    Returns:
        the batch `(B, C, H, W)`, and the images' sizes `(B, 2)`, or `None` if all have one shape.
    """
    if not images:
        return torch.empty(0), None
    shapes = [image.shape for image in images]
    channels, height, width = (max(lengths) for lengths in zip(*shapes, strict=True))
    one_shape = len(set(shapes)) == 1
    allocate = images[0].new_empty if one_shape else images[0].new_zeros
    batch = allocate(len(images), height, width, channels).permute(0, 3, 1, 2)
    for slot, image in zip(batch, images, strict=True):
        slot[:, : image.shape[1], : image.shape[2]] = image
    return batch, None if one_shape else torch.tensor([shape[1:] for shape in shapes])


def stack_targets(targets: Sequence[Any]) -> Any:
    """Return class ids as one tensor, tensors of one shape as their stack, and anything else as a list."""
    if all(isinstance(target, int) for target in targets):
        return torch.tensor(targets, dtype=torch.int64)
    one_shape = all(isinstance(target, Tensor) for target in targets) and len({target.shape for target in targets}) == 1
    return torch.stack(list(targets)) if one_shape else list(targets)
