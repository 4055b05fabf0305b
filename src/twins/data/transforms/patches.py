"""What a transform hands on: levels as the file has them, and what becomes of them once they are normalised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Patch(NamedTuple):
    """A rectangle of an image, in pixels, whose normalised values are given."""

    top: int
    left: int
    height: int
    width: int
    noise: int | None
    """Seed of normal noise; `None` is 0 all over."""


@dataclass(frozen=True)
class Prepared:
    """An image on its way to the device, where it is normalised."""

    levels: Tensor
    """uint8 `(3, H, W)`."""
    patches: tuple[Patch, ...] = ()
    """What is said of its normalised values."""


def fill_patches(images: Tensor, patches: Sequence[Sequence[Patch]]) -> Tensor:
    """Fill rectangles of normalised images in place: noise is a function of its seed, on one kind of device.

    Args:
        images: `(B, 3, H, W)`.
        patches: those of each image.
    """
    for image, own in zip(images, patches, strict=True):
        for patch in own:
            shape = len(image), patch.height, patch.width
            place = image[:, patch.top : patch.top + patch.height, patch.left : patch.left + patch.width]
            if patch.noise is None:
                place.zero_()
            else:
                generator = torch.Generator(images.device).manual_seed(patch.noise)
                place.copy_(torch.randn(shape, generator=generator, device=images.device))
    return images
