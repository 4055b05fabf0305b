"""Inference of semantic networks on one image: several scales, flip, sliding window or tiles."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from twins.backbone.config import MIN_SIDE
from twins.bands import AnyImage
from twins.heads.layers import resize_map
from twins.predictions import Prediction
from twins.preprocess import pixels_of
from twins.tasks.inference import InferenceConfig
from twins.tasks.network import scores_error
from twins.tasks.semantic.network import SemanticSegmentation

Span = tuple[int, int, int, int]
"""Along one axis: start and end of a tile, then start and end of the pixels whose result comes from it."""


@torch.inference_mode()
def infer(network: SemanticSegmentation, image: AnyImage, config: InferenceConfig) -> Prediction:
    """Return the label map of an image, at the image's size.

    As in mmsegmentation, probabilities are averaged over scales and mirror images, and logits over overlapping windows.
    Tiles are not averaged: the class of each pixel comes from the tile whose border is furthest from it. So only the
    image and the label map need more memory than a tile.

    Args:
        network: in evaluation mode.
        image: with the network's number of channels.
        config: scales, flip, sliding window or tiles.

    Raises:
        WeightsError: scores are not finite.
    """
    size = (image.height, image.width)
    if config.tile:
        overlap = config.tile // 4 if config.overlap is None else config.overlap
        return network.prediction(_label_map_by_tiles(network, image, config.tile, overlap), size)
    total: Tensor | None = None
    for view, mirrored in _views(network, image, config):
        logits = _logits_by_windows(network, view, config) if config.window else _logits(network, view)
        logits = resize_map(resize_map(logits, view.shape[2:]), size)
        if mirrored:
            logits = logits.flip(3)
        probabilities = logits.softmax(dim=1)
        total = probabilities if total is None else total.add_(probabilities)
    assert total is not None
    return network.prediction(total[0].argmax(dim=0), size)


def _views(network: SemanticSegmentation, image: AnyImage, config: InferenceConfig) -> Iterator[tuple[Tensor, bool]]:
    """Yield views and whether each is mirrored: the image `(1, C, h, w)` at each scale, with `flip` also mirrored."""
    preprocess = network.info.preprocess
    resampling = Image.Resampling[preprocess.interpolation.upper()]
    for scale in config.scales:
        view = _tensor(network, image.resize(preprocess.kept_size(image, scale), resampling))
        yield view, False
        if config.flip:
            yield view.flip(3), True


def _tensor(network: SemanticSegmentation, image: AnyImage) -> Tensor:
    return network.info.preprocess.normalise(pixels_of(image)[None]).to(next(network.parameters()))


def _logits(network: SemanticSegmentation, view: Tensor) -> Tensor:
    """Return the logits `(1, K, h, w)` of a view; raises WeightsError if they are not finite."""
    logits: Tensor = network(view)["logits"].float()
    if not logits.isfinite().all():
        raise scores_error()
    return logits


def _logits_by_windows(network: SemanticSegmentation, view: Tensor, config: InferenceConfig) -> Tensor:
    """Return the logits `(1, K, h, w)` of a view by a sliding window, averaged where windows overlap."""
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


def _label_map_by_tiles(network: SemanticSegmentation, image: AnyImage, side: int, overlap: int) -> Tensor:
    """Return the class ids `(H, W)` of an image by tiles: uint8, or int32 for more than 256 classes."""
    dtype = torch.uint8 if network.num_classes <= 256 else torch.int32
    label_map = torch.empty(image.height, image.width, dtype=dtype)
    columns = list(_spans(image.width, side, overlap))
    for top, bottom, first_row, end_row in _spans(image.height, side, overlap):
        for left, right, first_column, end_column in columns:
            tile = _pad_to_min_side(_tensor(network, image.crop((left, top, right, bottom))))
            logits = resize_map(_logits(network, tile), tile.shape[2:])
            logits_part = logits[0, :, first_row - top : end_row - top, first_column - left : end_column - left]
            label_map[first_row:end_row, first_column:end_column] = logits_part.argmax(dim=0).to(dtype)
    return label_map


def _starts(length: int, side: int, step: int) -> list[int]:
    """Return the starts of windows that cover a length; the last window ends at `length`."""
    last = max(0, length - side)
    return [*range(0, last, step), last]


def _spans(length: int, side: int, overlap: int) -> Iterator[Span]:
    """Yield tiles that cover a length, each with the pixels that are nearer to its centre than to those of others."""
    starts = _starts(length, side, side - overlap)
    borders = [(start + side + next_start) // 2 for start, next_start in pairwise(starts)]
    for start, first, end in zip(starts, [0, *borders], [*borders, length], strict=True):
        yield start, min(start + side, length), first, end


def _pad_to_min_side(tile: Tensor) -> Tensor:
    """Pad a normalised tile that is smaller than the network's smallest input with zeros."""
    bottom, right = (max(0, MIN_SIDE - length) for length in tile.shape[2:])
    return F.pad(tile, (0, right, 0, bottom)) if bottom or right else tile
