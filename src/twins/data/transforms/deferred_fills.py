"""Deferred fills: rectangles of a uint8 image that a transform chooses and that are filled after normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class DeferredFill(NamedTuple):
    """A rectangle of an image, in pixels, that is filled after normalisation."""

    top: int
    left: int
    height: int
    width: int
    noise_seed: int | None
    """Seed of the normal noise that fills it; `None` fills it with 0."""


@dataclass(frozen=True)
class PixelsWithFills:
    """An image with its deferred fills."""

    pixels: Tensor
    """uint8 `(3, H, W)`."""
    fills: tuple[DeferredFill, ...] = ()
    """In the order in which they are applied."""


def apply_fills(images: Tensor, fills: Sequence[Sequence[DeferredFill]]) -> Tensor:
    """Fill rectangles of normalised images in place; noise depends only on its seed and the kind of device.

    Args:
        images: `(B, 3, H, W)`.
        fills: those of each image.
    """
    for image, image_fills in zip(images, fills, strict=True):
        for fill in image_fills:
            region = image[:, fill.top : fill.top + fill.height, fill.left : fill.left + fill.width]
            if fill.noise_seed is None:
                region.zero_()
            else:
                shape = len(image), fill.height, fill.width
                generator = torch.Generator(images.device).manual_seed(fill.noise_seed)
                region.copy_(torch.randn(shape, generator=generator, device=images.device))
    return images
