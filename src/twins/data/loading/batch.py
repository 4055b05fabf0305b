"""What a batch is, how samples become one, and how it is normalised on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from twins.data.transforms.patches import Patch, fill_patches
from twins.preprocess import Preprocess


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


def collate(samples: Sequence[Sample | Skipped]) -> Batch:
    """Stack the readable samples into a batch, and list the images that could not be read."""
    readable = [sample for sample in samples if isinstance(sample, Sample)]
    skipped = [sample for sample in samples if isinstance(sample, Skipped)]
    images, sizes = stack_images([sample.image for sample in readable])
    return Batch(
        images=images,
        targets=_stack_targets([sample.target for sample in readable]),
        indices=[sample.index for sample in readable],
        originals=[sample.original for sample in readable],
        skipped=skipped + [item for sample in readable for item in sample.skipped],
        sizes=sizes,
        patches=[sample.patches for sample in readable],
    )


def normalised(batch: Batch, preprocess: Preprocess, device: torch.device) -> Batch:
    """Return a batch whose images are on a device and normalised, with their patches filled."""
    images = normalise(batch.images, batch.sizes, preprocess, device)
    if not any(batch.patches):
        return replace(batch, images=images)
    if images is batch.images:
        images = images.clone()  # patches are filled in place
    return replace(batch, images=fill_patches(images, batch.patches), patches=[() for _ in batch.indices])


def normalise(images: Tensor, sizes: Tensor | None, preprocess: Preprocess, device: torch.device) -> Tensor:
    """Return images on a device, normalised where they are uint8; the one door to it, in training and elsewhere."""
    return preprocess.normalise(images.to(device, non_blocking=True), sizes)


def stack_images(images: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
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
