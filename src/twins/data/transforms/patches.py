"""Deferred fill: a transform gives a uint8 image, and the rectangles that are filled after normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Patch(NamedTuple):
    """A rectangle of an image, in pixels, that is filled after normalisation."""

    top: int
    left: int
    height: int
    width: int
    noise: int | None
    """Seed of normal noise; `None` fills with 0."""


@dataclass(frozen=True)
class Patched:
    """An image with its deferred fills."""

    pixels: Tensor
    """uint8 `(3, H, W)`."""
    patches: tuple[Patch, ...] = ()
    """Filled in this order."""


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
