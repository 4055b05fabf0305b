"""Boxes of a results file in another form: corners or centres instead of left, top, width and height."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twins.errors import number_of
from twins.metrics.coco_eval import CocoImage, Detections, pairwise_iou, xywh

_IMAGES = 1000
"""Number of images that are looked at."""
_GAIN, _LEAST = 0.25, 0.5
"""Mean IoU that boxes must gain in another form, and have in it."""


def form_notes(images: Sequence[CocoImage], path: Path) -> list[str]:
    """Return sentences if boxes have no area, are outside, or fit the objects much better in another form.

    Args:
        images: with the boxes of the results file as left, top, width and height.
        path: the results file.
    """
    boxes = np.concatenate([np.zeros((0, 4)), *(image.detections.boxes for image in images)])
    notes = []
    if flat := int((boxes[:, 2:] <= 0).any(axis=1).sum()):
        count = number_of(len(boxes), "box", "boxes")
        notes.append(f"{flat} of {count} in {path} without area; give left, top, width and height in pixels")
    if outside := sum(map(_outside, images)):
        count = number_of(len(boxes), "box", "boxes")
        notes.append(f"{outside} of {count} in {path} outside of the image; give pixels of the image in its own size")
    some = [image for image in images if len(image.truth.labels) and len(image.detections.labels)][:_IMAGES]
    written = _mean_iou(some)
    for form, change in (("left, top, right and bottom", xywh), ("centre, width and height", _from_centres)):
        changed = [replace(image, detections=_with_boxes(image, change(image.detections.boxes))) for image in some]
        if (fit := _mean_iou(changed)) > max(written + _GAIN, _LEAST):
            notes.append(
                f"the boxes in {path} overlap the objects by {100 * written:.0f} % on average, and by {100 * fit:.0f} "
                f"% if their numbers are {form}; give left, top, width and height"
            )
    return notes


def _outside(image: CocoImage) -> int:
    """Return the number of boxes that lie outside of an image of known size."""
    low, high = image.detections.boxes[:, :2], image.detections.boxes[:, :2] + image.detections.boxes[:, 2:]
    return int(((low >= image.size[::-1]) | (high <= 0)).any(axis=1).sum()) if all(image.size) else 0


def _with_boxes(image: CocoImage, boxes: NDArray[np.float64]) -> Detections:
    return replace(image.detections, boxes=np.hstack([boxes[:, :2], boxes[:, 2:].clip(min=0)]))


def _from_centres(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.hstack([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]])


def _mean_iou(images: Sequence[CocoImage]) -> float:
    """Return the mean over the objects of the largest IoU with a box of the same class; 0 without objects."""
    largest = [
        np.where(image.detections.labels[:, None] == image.truth.labels, pairwise_iou(image, "box"), 0.0).max(axis=0)
        for image in images
    ]
    return float(np.concatenate(largest).mean()) if largest else 0.0
