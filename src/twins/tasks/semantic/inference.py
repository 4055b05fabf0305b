"""Inference of semantic networks on one image: several scales, flip, sliding window or tiles."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from twins.bands import AnyImage
from twins.heads.resampling import resize_map
from twins.predictions import Prediction
from twins.tasks.inference import InferenceConfig
from twins.tasks.network import scores_error
from twins.tasks.semantic.network import SemanticSegmentation, label_dtype, to_prediction
from twins.tasks.views import starts, tile_batches, views


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
        return to_prediction(network.info, _label_map_by_tiles(network, image, config), size)
    total: Tensor | None = None
    for view, mirrored in views(network, image, config):
        logits = _logits_by_windows(network, view, config) if config.window else _logits(network, view)
        logits = resize_map(resize_map(logits, view.shape[2:]), size)
        if mirrored:
            logits = logits.flip(3)
        probabilities = logits.softmax(dim=1)
        total = probabilities if total is None else total.add_(probabilities)
    assert total is not None
    return to_prediction(network.info, total[0].argmax(dim=0), size)


def _logits(network: SemanticSegmentation, images: Tensor) -> Tensor:
    """Return the logits `(B, K, h, w)` of views or tiles; raises WeightsError if they are not finite."""
    logits: Tensor = network(images)["logits"].float()
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
    for top in starts(height, side, step):
        for left in starts(width, side, step):
            window = view[:, :, top : top + side, left : left + side]
            logits = resize_map(_logits(network, window), window.shape[2:])
            total[:, :, top : top + side, left : left + side] += logits
            count[:, :, top : top + side, left : left + side] += 1
    return total.div_(count)


def _label_map_by_tiles(network: SemanticSegmentation, image: AnyImage, config: InferenceConfig) -> Tensor:
    """Return the class ids `(H, W)` of an image by tiles: uint8, or int32 for more than 256 classes."""
    label_map = torch.empty(image.height, image.width, dtype=label_dtype(network.info))
    rows, columns = (dict(_owned_pixels(length, config)) for length in label_map.shape)
    for tiles, images in tile_batches(network, image, config):
        for tile, logits in zip(tiles, _logits(network, images)[:, None], strict=True):
            (first_row, end_row), (first_column, end_column) = rows[tile.top], columns[tile.left]
            owned = resize_map(logits, images.shape[2:])[0]  # (K, h, w)
            owned = owned[
                :, first_row - tile.top : end_row - tile.top, first_column - tile.left : end_column - tile.left
            ]
            label_map[first_row:end_row, first_column:end_column] = owned.argmax(dim=0).to(label_map.dtype)
    return label_map


def _owned_pixels(length: int, config: InferenceConfig) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield the start of each tile along an axis, and the pixels that are nearer to its centre than to others'."""
    assert config.tile
    tile_starts = starts(length, config.tile, config.tile - config.shared_pixels)
    borders = [(start + config.tile + next_start) // 2 for start, next_start in pairwise(tile_starts)]
    yield from zip(tile_starts, zip([0, *borders], [*borders, length], strict=True), strict=True)
