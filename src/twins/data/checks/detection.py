"""The checks for objects: objects per class, and boxes and masks that cannot be right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from twins.data.base import NamedObjects
from twins.data.checks.scan import CheckReport, Scan, extremes, missing_from_training, summaries_of
from twins.data.objects import Objects, mask_areas, mask_boxes
from twins.errors import few, number_of

SLACK = 1.0
"""Pixels that a box may reach beyond its image without a report."""
_MIN_IOU = 0.5
"""Smallest intersection over union of a box and the smallest box around its mask."""
_ROUNDING = 2.0
"""Pixels by which the sides of these two may always differ, because masks are whole pixels."""
_MANY_CROWDS = 0.1
"""Share of crowd regions above which they are reported; in COCO it is 0.012."""
_SMALL = 32.0
"""Side in pixels below which COCO calls objects small."""


class ObjectCheck:
    """A `TaskCheck` (see `twins.data.checks.scan`); the summary of a target is its objects without masks."""

    def inspect(self, images: NamedObjects, index: int, image: Image | None) -> tuple[Objects, list[str]]:
        """Return an image's objects without masks, and their problems."""
        objects, size = images.target(index), None if image is None else image.size

        def describe(position: int) -> str:
            return images.describe_object(index, position)

        return replace(objects, masks=None), [
            *_wrong_size(objects, size, images.path(index)),
            *_wrong_boxes(objects, size, describe),
            *_duplicate_boxes(objects, images.names, describe),
            *_wrong_masks(objects, describe),
        ]

    def conclude(self, scan: Scan, report: CheckReport) -> None:
        """Count objects by class; report classes that cannot be learned or measured."""
        objects = summaries_of(scan)
        report.counts |= {part: _count(images, report.names) for part, images in objects.items()}
        held_out = report.counts.get("val") or report.counts[next(iter(report.counts))]
        report.problems += [*_no_objects(held_out), *_class_problems(report.counts), *_many_crowds(objects)]
        report.notes += [*_empty(objects), *_crowds(objects), *_small(objects.get("train", []))]
        report.notes += [*_absent(report.counts), *_unbalanced(report.counts.get("train", {}))]


def _no_objects(counts: dict[str, int]) -> list[str]:
    if any(counts.values()):
        return []
    return ["no held-out image has an object to find, so nothing could be measured; annotate some, or hold out others"]


def _wrong_size(objects: Objects, size: tuple[int, int] | None, path: str) -> list[str]:
    height, width = objects.size
    if size is None or size == (width, height):
        return []
    advice = (
        "height and width are swapped, or it is stored turned (EXIF) and must be annotated upright"
        if size == (height, width)
        else "fix one of them"
    )
    return [f"{path} has {size[0]} x {size[1]} pixels, its annotations say {width} x {height}; {advice}"]


def _wrong_boxes(objects: Objects, size: tuple[int, int] | None, describe: Callable[[int], str]) -> Iterator[str]:
    """Report boxes without area, and boxes that are outside their image or reach beyond it."""
    width, height = size or objects.size[::-1]
    beyond = np.maximum(-objects.boxes[:, :2], objects.boxes[:, 2:] - (width, height)).max(axis=1, initial=0)
    for i, (left, top, right, bottom) in enumerate(objects.boxes.tolist()):
        box = f"the box {left:g}, {top:g}, {right:g}, {bottom:g}"
        if right <= left or bottom <= top:
            yield f"{describe(i)} has {box}, which has no area; fix it or remove it"
        elif left >= width or top >= height or right <= 0 or bottom <= 0:
            yield f"{describe(i)} has {box}, which is outside its image of {width} x {height} pixels; fix it"
        elif beyond[i] > SLACK:
            yield (
                f"{describe(i)} has {box}, which reaches {beyond[i]:.3g} pixels beyond its image of {width} x "
                f"{height}; fix it"
            )


def _duplicate_boxes(objects: Objects, names: Sequence[str], describe: Callable[[int], str]) -> Iterator[str]:
    """Report objects with the class and box of another object."""
    first: dict[tuple[int, ...], int] = {}
    rows = zip(objects.labels.tolist(), objects.crowd.tolist(), objects.boxes.tolist(), strict=True)
    for i, (label, crowd, box) in enumerate(rows):
        other = first.setdefault((label, crowd, *box), i)
        if other != i:
            yield f"{describe(i)} and {describe(other)} are the same box of class {names[label]}; remove one"


def _wrong_masks(objects: Objects, describe: Callable[[int], str]) -> Iterator[str]:
    """Report masks that are empty or do not fit their box."""
    if not objects.masks:
        return
    mask_xyxy = mask_boxes(objects.masks)
    mask_xyxy[:, 2:] += mask_xyxy[:, :2]
    empty = mask_areas(objects.masks) == 0
    iou = _pairwise_iou(objects.boxes, mask_xyxy)
    differs = np.abs(objects.boxes - mask_xyxy).max(axis=1) > _ROUNDING
    for i in np.flatnonzero(empty | ((iou < _MIN_IOU) & differs)).tolist():
        if empty[i]:
            yield f"{describe(i)} has an empty mask; draw it or remove the object"
            continue
        mask_box = ", ".join(f"{side:g}" for side in mask_xyxy[i])
        box = ", ".join(f"{side:g}" for side in objects.boxes[i])
        yield f"{describe(i)} has the box {box}, and a mask that fills {mask_box}; fix one of them"


def _pairwise_iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the intersection over union `(R,)` of pairs of boxes `(R, 4)`; 1 where the first has no area."""
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    intersection = (high - low).clip(min=0).prod(axis=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1) for boxes in (first, second)]
    union = areas[0] + areas[1] - intersection
    return np.where(areas[0] > 0, intersection / np.where(union > 0, union, 1), 1.0)


def _count(images: Sequence[Objects], names: Sequence[str]) -> dict[str, int]:
    """Return the number of objects of each class, without crowd regions."""
    labels = np.concatenate([np.zeros(0, dtype=np.int64), *(objects.labels[~objects.crowd] for objects in images)])
    return dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))


def _class_problems(counts: dict[str, dict[str, int]]) -> list[str]:
    return [
        f"class {name} has {number_of(count, 'object')} to evaluate on and none to train on; move some"
        for name, count in missing_from_training(counts).items()
    ]


def _empty(parts: dict[str, list[Objects]]) -> list[str]:
    counts = {split: sum(not len(objects) for objects in images) for split, images in parts.items()}
    if not any(counts.values()):
        return []
    train = number_of(counts.get("train", 0), "image")
    held_out = number_of(sum(count for part, count in counts.items() if part != "train"), "image")
    return [f"{train} to train on and {held_out} held out without objects; they are learned and measured as background"]


def _crowds(parts: dict[str, list[Objects]]) -> list[str]:
    count = sum(int(objects.crowd.sum()) for images in parts.values() for objects in images)
    return [f"{number_of(count, 'crowd region')}, in which detections are ignored"] if count else []


def _many_crowds(parts: dict[str, list[Objects]]) -> list[str]:
    """Report if many of the annotations are crowd regions, as tools write for single objects with holes."""
    crowd = np.concatenate(
        [np.zeros(0, dtype=bool), *(objects.crowd for images in parts.values() for objects in images)]
    )
    if not crowd.any() or crowd.mean() <= _MANY_CROWDS:
        return []
    return [
        f"{crowd.sum()} of {number_of(len(crowd), 'annotation')} are crowd regions (iscrowd), which are neither "
        "learned nor counted; some tools write this for objects with holes or several parts: give these the iscrowd 0"
    ]


def _small(train: Sequence[Objects]) -> list[str]:
    """Report if half of the training objects are small; the side is the square root of the box's area."""
    sides = [
        np.sqrt((objects.boxes[:, 2:] - objects.boxes[:, :2]).clip(min=0).prod(axis=1)[~objects.crowd])
        for objects in train
    ]
    all_sides = np.concatenate([*sides, np.zeros(0)])
    if not len(all_sides) or not 1 <= np.median(all_sides) < _SMALL:
        return []
    return [
        f"half of the training objects have a side below {np.median(all_sides):.0f} pixels; consider a larger `size`"
    ]


def _absent(counts: dict[str, dict[str, int]]) -> list[str]:
    """Report classes without objects, and classes without objects in the validation part."""
    held_out = [part for name, part in counts.items() if name != "train"]
    train = counts.get("train", held_out[0])
    unseen = [name for name in train if not any(part[name] for part in counts.values())]
    unmeasured = [name for name in train if train[name] and not any(part[name] for part in held_out)]
    return [
        f"{number_of(len(names), 'class', 'classes')} without objects{effect}: {few(names, limit=10)}"
        for names, effect in ((unseen, ", not to be learned"), (unmeasured, " to evaluate on, so without an AP"))
        if names
    ]


def _unbalanced(counts: dict[str, int]) -> list[str]:
    if (classes := extremes(counts)) is None:
        return []
    rarest, commonest = classes
    if counts[commonest] <= 10 * counts[rarest]:
        return []
    return [
        f"class {commonest} has {counts[commonest]} training objects, {rarest} {counts[rarest]}; more images with "
        f"{rarest} would help it most"
    ]
