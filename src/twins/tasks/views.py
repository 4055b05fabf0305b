"""Views and tiles of an image, which inference with other settings than the defaults predicts one after another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from twins.backbone.config import MIN_SIDE
from twins.bands import AnyImage
from twins.preprocess import Preprocess, pixels_of
from twins.tasks.inference import InferenceConfig
from twins.tasks.network import TaskNetwork, check_finite_scores

TILE_PIXELS = 1 << 18
"""Pixels of tiles in a forward pass: small tiles are batched, and tiles from 512 x 512 pixels on are passed singly."""


class View(NamedTuple):
    """An image at a scale."""

    images: Tensor
    """Normalised, `(1, C, h, w)`."""
    mirrored: bool
    """Whether left and right are exchanged."""


class Tile(NamedTuple):
    """A part of an image, in pixels; `right` and `bottom` are not included."""

    left: int
    top: int
    right: int
    bottom: int


def views(network: TaskNetwork, image: AnyImage, config: InferenceConfig) -> Iterator[View]:
    """Yield an image at each scale, with `flip` also mirrored."""
    for scale in config.scales:
        view = _tensor(network, _scaled_pixels(network.info.preprocess, image, scale)[None])
        yield View(view, mirrored=False)
        if config.flip:
            yield View(view.flip(3), mirrored=True)


def tile_batches(network: TaskNetwork, image: AnyImage, config: InferenceConfig) -> Iterator[tuple[list[Tile], Tensor]]:
    """Yield tiles that cover an image, in rows, and their pixels at the image's own size, not resized.

    All tiles have one shape, so several are passed at once if they are small. The last tile of a row or column ends
    with the image. Tiles of an image that is smaller than the network's smallest input are padded with zeros.

    Yields:
        a batch of tiles, and their normalised pixels `(B, C, h, w)`.
    """
    tiles, count = tiles_of(image.width, image.height, config), _tiles_at_once(image, config)
    for batch in (tiles[first : first + count] for first in range(0, len(tiles), count)):
        pixels = torch.stack([pixels_of(image.crop(tile)) for tile in batch])
        yield batch, _pad_to_min_side(_tensor(network, pixels))


def tiles_of(width: int, height: int, config: InferenceConfig) -> list[Tile]:
    """Return the tiles of an image of a size, row by row."""
    assert config.tile
    side, step = config.tile, config.tile - config.shared_pixels
    return [
        Tile(left, top, min(left + side, width), min(top + side, height))
        for top in starts(height, side, step)
        for left in starts(width, side, step)
    ]


def starts(length: int, side: int, step: int) -> list[int]:
    """Return the starts of parts of `side` pixels that cover a length; the last one ends at `length`."""
    last = max(0, length - side)
    return [*range(0, last, step), last]


def forward(network: TaskNetwork, images: Tensor) -> Any:
    """Return a network's outputs for a view or tiles; raises WeightsError if scores are not finite."""
    outputs = network(images)
    check_finite_scores(outputs)
    return outputs


def _tiles_at_once(image: AnyImage, config: InferenceConfig) -> int:
    assert config.tile
    return max(1, TILE_PIXELS // (min(config.tile, image.width) * min(config.tile, image.height)))


def _scaled_pixels(preprocess: Preprocess, image: AnyImage, scale: float) -> Tensor:
    """Return an image's pixels, uint8 `(C, h, w)`, with the input size multiplied by `scale`."""
    if preprocess.fit == "keep":
        return pixels_of(image.resize(preprocess.kept_size(image, scale), preprocess.resampling))
    return replace(preprocess, size=max(MIN_SIDE, round(scale * preprocess.size))).pixels(image)


def _tensor(network: TaskNetwork, pixels: Tensor) -> Tensor:
    """Return pixels `(B, C, h, w)` normalised, on the network's device and in the dtype of its weights."""
    reference = next(network.parameters())
    return network.info.preprocess.normalise(pixels.to(reference.device)).to(reference.dtype)


def _pad_to_min_side(images: Tensor) -> Tensor:
    """Pad normalised images that are smaller than the network's smallest input with zeros."""
    bottom, right = (max(0, MIN_SIDE - length) for length in images.shape[2:])
    return F.pad(images, (0, right, 0, bottom)) if bottom or right else images
