"""What detection adds to the scan of a data set: objects, and boxes and masks that cannot be right."""

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
"""Pixels that a box may reach beyond its image without being named."""
_FIT = 0.5
"""Least intersection over union of a box with the smallest box around its mask."""
_ROUNDED = 2.0
"""Pixels that the two may differ whatever their union is: masks are whole pixels."""
_SMALL = 32.0
"""Side in pixels below which COCO calls objects small."""


class ObjectCheck:
    """See `twins.data.checks.scan.TaskCheck`; an image's finding is its objects, without their masks."""

    def look(self, images: NamedObjects, index: int, image: Image | None) -> tuple[Objects, list[str]]:
        """Return an image's objects, and what is wrong with them."""
        objects, size = images.target(index), None if image is None else image.size

        def name(place: int) -> str:
            return images.describe_object(index, place)

        return replace(objects, masks=None), [
            *_wrong_size(objects, size, images.path(index)),
            *_wrong_boxes(objects, size, name),
            *_same_boxes(objects, images.names, name),
            *_wrong_masks(objects, name),
        ]

    def conclude(self, scan: Scan, report: CheckReport) -> None:
        """Count objects by class, and name classes that cannot be learned or measured."""
        found = summaries_of(scan)
        report.counts |= {part: _count(objects, report.names) for part, objects in found.items()}
        report.problems += [*_nothing_to_find(report.counts["val"]), *_class_problems(report.counts)]
        report.notes += [*_empty(found), *_crowds(found), *_small(found["train"])]
        report.notes += [*_absent(report.counts), *_unbalanced(report.counts["train"])]


def _nothing_to_find(counts: dict[str, int]) -> list[str]:
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
        else "mend one of them"
    )
    return [f"{path} has {size[0]} x {size[1]} pixels, its annotations say {width} x {height}; {advice}"]


def _wrong_boxes(objects: Objects, size: tuple[int, int] | None, name: Callable[[int], str]) -> Iterator[str]:
    """Name boxes without area, and those that lie or reach outside their image."""
    width, height = size or objects.size[::-1]
    beyond = np.maximum(-objects.boxes[:, :2], objects.boxes[:, 2:] - (width, height)).max(axis=1, initial=0)
    for place, (left, top, right, bottom) in enumerate(objects.boxes.tolist()):
        box = f"the box {left:g}, {top:g}, {right:g}, {bottom:g}"
        if right <= left or bottom <= top:
            yield f"{name(place)} has {box}, which has no area; mend it or remove it"
        elif left >= width or top >= height or right <= 0 or bottom <= 0:
            yield f"{name(place)} has {box}, which lies outside its image of {width} x {height} pixels; mend it"
        elif beyond[place] > SLACK:
            yield (
                f"{name(place)} has {box}, which reaches {beyond[place]:.3g} pixels beyond its image of {width} x "
                f"{height}; mend it"
            )


def _same_boxes(objects: Objects, names: Sequence[str], name: Callable[[int], str]) -> Iterator[str]:
    """Name objects that another one of the same class covers exactly."""
    first: dict[tuple[int, ...], int] = {}
    rows = zip(objects.labels.tolist(), objects.crowd.tolist(), objects.boxes.tolist(), strict=True)
    for place, (label, crowd, box) in enumerate(rows):
        other = first.setdefault((label, crowd, *box), place)
        if other != place:
            yield f"{name(place)} and {name(other)} are the same box of class {names[label]}; remove one"


def _wrong_masks(objects: Objects, name: Callable[[int], str]) -> Iterator[str]:
    """Name masks that are empty, or lie elsewhere than their box."""
    if not objects.masks:
        return
    around = mask_boxes(objects.masks)
    around[:, 2:] += around[:, :2]
    empty = mask_areas(objects.masks) == 0
    fit = _overlap(objects.boxes, around)
    far = np.abs(objects.boxes - around).max(axis=1) > _ROUNDED
    for place in np.flatnonzero(empty | ((fit < _FIT) & far)).tolist():
        if empty[place]:
            yield f"{name(place)} has an empty mask; draw it or remove the object"
            continue
        found = ", ".join(f"{side:g}" for side in around[place])
        box = ", ".join(f"{side:g}" for side in objects.boxes[place])
        yield f"{name(place)} has the box {box}, and a mask that fills {found}; mend one of them"


def _overlap(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the intersection over union `(R,)` of boxes `(R, 4)` in pairs; of those without area 1."""
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    shared = (high - low).clip(min=0).prod(axis=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1) for boxes in (first, second)]
    union = areas[0] + areas[1] - shared
    return np.where(areas[0] > 0, shared / np.where(union > 0, union, 1), 1.0)


def _count(found: Sequence[Objects], names: Sequence[str]) -> dict[str, int]:
    """Return the objects of each class."""
    labels = np.concatenate([np.zeros(0, dtype=np.int64), *(objects.labels[~objects.crowd] for objects in found)])
    return dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))


def _class_problems(counts: dict[str, dict[str, int]]) -> list[str]:
    return [
        f"class {name} has {number_of(count, 'object')} to evaluate on and none to train on; move some"
        for name, count in missing_from_training(counts).items()
    ]


def _empty(found: dict[str, list[Objects]]) -> list[str]:
    counts = {split: sum(not len(objects) for objects in part) for split, part in found.items()}
    if not any(counts.values()):
        return []
    train, val = (number_of(counts[split], "image") for split in ("train", "val"))
    return [f"{train} to train on and {val} held out without objects; they are learned and measured as background"]


def _crowds(found: dict[str, list[Objects]]) -> list[str]:
    count = sum(int(objects.crowd.sum()) for part in found.values() for objects in part)
    return [f"{number_of(count, 'crowd region')}, in which nothing found is right or wrong"] if count else []


def _small(train: Sequence[Objects]) -> list[str]:
    """Tell when half of the objects to learn are small; a side is the root of the box's area."""
    sides = [
        np.sqrt((objects.boxes[:, 2:] - objects.boxes[:, :2]).clip(min=0).prod(axis=1)[~objects.crowd])
        for objects in train
    ]
    together = np.concatenate([*sides, np.zeros(0)])
    if not len(together) or np.median(together) >= _SMALL:
        return []
    return [
        f"half of the training objects have a side below {np.median(together):.0f} pixels; consider a larger `size`"
    ]


def _absent(counts: dict[str, dict[str, int]]) -> list[str]:
    """Name the classes that no image has, and those that nothing is measured of."""
    train, val = counts["train"], counts["val"]
    unseen = [name for name in train if not train[name] and not val[name]]
    unmeasured = [name for name in train if train[name] and not val[name]]
    return [
        f"{number_of(len(names), 'class', 'classes')} without objects{what}: {few(names, most=10)}"
        for names, what in ((unseen, ", not to be learned"), (unmeasured, " to evaluate on, so without an AP"))
        if names
    ]


def _unbalanced(counts: dict[str, int]) -> list[str]:
    if (found := extremes(counts)) is None:
        return []
    rarest, commonest = found
    if counts[commonest] <= 10 * counts[rarest]:
        return []
    return [
        f"class {commonest} has {counts[commonest]} training objects, {rarest} {counts[rarest]}; more images with "
        f"{rarest} would help it most"
    ]
