"""Looking at one image with a semantic network: at several sizes, mirrored, through windows, or tile by tile."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from twins.backbone.config import MIN_SIDE
from twins.heads.layers import resize_map
from twins.predictions import Prediction
from twins.preprocess import pixels_of
from twins.tasks.inference import InferenceConfig
from twins.tasks.semantic.network import SemanticSegmentation

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Span = tuple[int, int, int, int]
"""Where a tile begins and ends, and which part of it is its own to say."""


@torch.inference_mode()
def infer(network: SemanticSegmentation, image: Picture, config: InferenceConfig) -> Prediction:
    """Return an image's classes, at its own size.

    Several sizes and the mirror image are averaged as probabilities, windows as logits, both as mmsegmentation does.
    Tiles are never averaged: each pixel is read off the tile that sees it furthest from its border, so that nothing
    larger than a tile is held but the image and the result.

    Args:
        network: in evaluation mode.
        image: RGB.
        config: how to look.
    """
    size = (image.height, image.width)
    if config.tile:
        found = _by_tiles(network, image, config.tile, config.tile // 4 if config.overlap is None else config.overlap)
        return network.prediction(found, size)
    total: Tensor | None = None
    for view, mirrored in _views(network, image, config):
        logits = _by_windows(network, view, config) if config.window else _logits(network, view)
        logits = resize_map(resize_map(logits, view.shape[2:]), size)
        if mirrored:
            logits = logits.flip(3)
        probabilities = logits.softmax(dim=1)
        total = probabilities if total is None else total.add_(probabilities)
    assert total is not None
    return network.prediction(total[0].argmax(dim=0), size)


def _views(network: SemanticSegmentation, image: Picture, config: InferenceConfig) -> Iterator[tuple[Tensor, bool]]:
    """Yield the image at each size, `(1, 3, h, w)`, and its mirror image, and whether it is that."""
    preprocess = network.info.preprocess
    resampling = Image.Resampling[preprocess.interpolation.upper()]
    for scale in config.scales:
        picture = image.resize(preprocess.kept_size(image, scale), resampling)
        view = _tensor(network, picture)
        yield view, False
        if config.flip:
            yield view.flip(3), True


def _tensor(network: SemanticSegmentation, picture: Picture) -> Tensor:
    return network.info.preprocess.normalise(pixels_of(picture)[None]).to(next(network.parameters()))


def _logits(network: SemanticSegmentation, view: Tensor) -> Tensor:
    return network(view)["logits"].float()


def _by_windows(network: SemanticSegmentation, view: Tensor, config: InferenceConfig) -> Tensor:
    """Return the mean logits `(1, K, h, w)` of windows that slide over a view."""
    assert config.window
    side, step = config.window, config.stride or max(1, config.window * 2 // 3)
    height, width = view.shape[2:]
    total = view.new_zeros(1, network.num_classes, height, width, dtype=torch.float32)
    count = view.new_zeros(1, 1, height, width, dtype=torch.float32)
    for top in _starts(height, side, step):
        for left in _starts(width, side, step):
            window = view[:, :, top : top + side, left : left + side]
            logits = resize_map(_logits(network, window), window.shape[2:])
            total[:, :, top : top + side, left : left + side] += logits
            count[:, :, top : top + side, left : left + side] += 1
    return total.div_(count)


def _by_tiles(network: SemanticSegmentation, image: Picture, side: int, overlap: int) -> Tensor:
    """Return class ids `(H, W)`, in as few bytes as they need."""
    kind = torch.uint8 if network.num_classes <= 256 else torch.int32
    found = torch.empty(image.height, image.width, dtype=kind)
    columns = list(_spans(image.width, side, overlap))
    for top, bottom, first, last in _spans(image.height, side, overlap):
        for left, right, begin, end in columns:
            tile = _filled(_tensor(network, image.crop((left, top, right, bottom))))
            logits = resize_map(_logits(network, tile), tile.shape[2:])
            part = logits[0, :, first - top : last - top, begin - left : end - left]
            found[first:last, begin:end] = part.argmax(dim=0).to(kind)
    return found


def _starts(length: int, side: int, step: int) -> list[int]:
    """Return where windows begin so that they cover a length; the last one ends with it."""
    last = max(0, length - side)
    return [*range(0, last, step), last]


def _spans(length: int, side: int, overlap: int) -> Iterator[Span]:
    """Yield tiles over a length, and the part of each that lies nearer to its middle than to its neighbours'."""
    starts = _starts(length, side, side - overlap)
    middles = [(one + side + other) // 2 for one, other in pairwise(starts)]
    for start, first, last in zip(starts, [0, *middles], [*middles, length], strict=True):
        yield start, min(start + side, length), first, last


def _filled(tile: Tensor) -> Tensor:
    """Fill a tile that is smaller than the network's smallest input up, with what 0 is after normalisation."""
    bottom, right = (max(0, MIN_SIDE - length) for length in tile.shape[2:])
    return F.pad(tile, (0, right, 0, bottom)) if bottom or right else tile
