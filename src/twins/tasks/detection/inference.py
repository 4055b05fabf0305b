"""Inference of detectors on one image, with or without masks: several scales and flip, or tiles."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from twins.bands import AnyImage
from twins.errors import ConfigError
from twins.heads.mask import paste_masks
from twins.heads.merging import Detections, Merged, join, merge_tiles, merge_views
from twins.predictions import Prediction
from twins.tasks.detection.network import objects_prediction, scale_objects
from twins.tasks.inference import InferenceConfig, SelectionConfig
from twins.tasks.network import TaskNetwork
from twins.tasks.views import forward, tile_batches, tiles_of, views


@torch.inference_mode()
def infer(network: TaskNetwork, image: AnyImage, config: InferenceConfig) -> Prediction:
    """Return the objects of an image, at the image's size.

    The boxes and scores of several scales and of the mirrored image are averaged; see `merge_views`. Those of tiles are
    merged so that an object on a seam is found once; see `merge_tiles`. A mask comes from the surest view or tile; an
    object that no tile shows whole has the masks of its parts.

    Args:
        network: a detector in evaluation mode, of a class with `objects` and `selection`.
        image: with the network's number of channels.
        config: scales and flip, or tiles.

    Raises:
        ConfigError: tiles that do not overlap.
        WeightsError: scores are not finite.
    """
    size = (image.height, image.width)
    found, merged = (_by_tiles if config.tile else _by_views)(network, image, config)
    masks = None
    if found.masks is not None:
        rows = [row for part in merged.parts for row in part]
        owners = [owner for owner, part in enumerate(merged.parts) for _ in part]
        masks = paste_masks(found.masks[rows], found.boxes[rows], size, owners)
    return objects_prediction(network.info, merged, size, masks)


def _by_views(network: Any, image: AnyImage, config: InferenceConfig) -> tuple[Detections, Merged]:
    """Return the objects of all views in pixels of the image, and the objects that they are merged to."""
    found, lenient = [], _lenient(network)
    for view, mirrored in views(network, image, config):
        outputs = forward(lenient, view)
        objects = scale_objects(lenient.objects(outputs)[0], outputs["sizes"][0], (image.height, image.width))
        found.append(_mirror(objects, image.width) if mirrored else objects)
    everything = join(found)
    return everything, merge_views(everything, _origins(found), len(found), **_selection(network))


def _lenient(network: Any) -> Any:
    """Return a detector with the same weights that returns low-scoring objects too, since scores are averaged.

    It is a shallow copy, so that other threads can use the network at the same time.
    """
    lenient, selection = copy(network), network.selection
    lenient.selection = replace(selection, score=min(selection.score, SelectionConfig().score))
    return lenient


def _by_tiles(network: Any, image: AnyImage, config: InferenceConfig) -> tuple[Detections, Merged]:
    """Return the objects of all tiles in pixels of the image, and the objects that they are merged to."""
    tiles = tiles_of(image.width, image.height, config)
    if len(tiles) > 1 and not config.shared_pixels:
        raise ConfigError("`overlap` must be above 0 for a detector, at least as large as most objects, found 0")
    found, lenient = [], _lenient(network)
    for batch, images in tile_batches(network, image, config):
        for tile, objects in zip(batch, lenient.objects(forward(lenient, images)), strict=True):
            corner = objects.boxes.new_tensor([tile.left, tile.top])
            limit = objects.boxes.new_tensor([image.width, image.height])
            found.append(objects._replace(boxes=torch.minimum(objects.boxes + corner.repeat(2), limit.repeat(2))))
    everything = join(found)
    return everything, merge_tiles(everything, _origins(found), torch.tensor(tiles), **_selection(network))


def _origins(found: Sequence[Detections]) -> Tensor:
    """Return the view or tile of each row of joined detections."""
    return torch.arange(len(found)).repeat_interleave(torch.tensor([len(objects.scores) for objects in found]))


def _selection(network: Any) -> dict[str, Any]:
    """Return a detector's selection as arguments of the functions that merge."""
    selection: SelectionConfig = network.selection
    return {
        "score_threshold": selection.score,
        "iou_threshold": selection.nms,
        "max_objects": selection.most,
        "agnostic": selection.agnostic,
    }


def _mirror(objects: Detections, width: int) -> Detections:
    """Exchange left and right of objects in an image of `width` pixels."""
    left, top, right, bottom = objects.boxes.unbind(dim=1)
    masks = None if objects.masks is None else objects.masks.flip(2)
    boxes = torch.stack([width - right, top, width - left, bottom], dim=1)
    return objects._replace(boxes=boxes, masks=masks)
