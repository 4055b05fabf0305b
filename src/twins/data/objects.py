"""What annotations say of one image's objects, whatever file they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from twins.data.classes import ClassTable
from twins.data.dataset import ImageSet

Rle = dict[str, Any]
"""A mask as COCO's compressed run lengths: `size` (height, width) and `counts`, bytes."""


@dataclass(frozen=True)
class Objects:
    """One image's objects as its annotations have them: nothing is clipped or left out."""

    boxes: NDArray[np.float64]
    """`(R, 4)` xyxy in pixels, continuous coordinates; may reach beyond the image or have no area."""
    labels: NDArray[np.int64]
    """Class ids `(R,)`."""
    areas: NDArray[np.float64]
    """Pixels of each object, `(R,)`, by which evaluation tells small from large: as the file says, else the box's."""
    crowd: NDArray[np.bool_]
    """Which are regions, `(R,)`, in which finding an object is neither right nor wrong (COCO's `iscrowd`)."""
    size: tuple[int, int]
    """Height and width of the image in pixels."""
    image_id: int
    """The image's id in its file, or its place in the set; no two alike in a set."""
    masks: tuple[Rle, ...] | None = None
    """One per object; `None` where there are boxes only."""

    def __len__(self) -> int:
        return len(self.labels)


class AnnotatedImages(ImageSet, Protocol):
    """A set of images with objects each, which are the target."""

    classes: ClassTable
    """Names and colours by class id; `values` are the category ids that results are written with."""

    def target(self, index: int) -> Objects:
        """Return an image's objects; raises DataError where they cannot be read."""
        ...

    def shape(self, index: int) -> tuple[int, int] | None:
        """Return an image's height and width where its annotations say them, without opening it."""
        ...


def build_objects(
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    *,
    size: tuple[int, int],
    image_id: int,
    areas: Sequence[float] | None = None,
    crowd: Sequence[bool] | None = None,
    masks: Sequence[Rle] | None = None,
) -> Objects:
    """Return objects from plain lists; areas left out are the boxes', and nothing left out is a crowd."""
    array = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    sides = (array[:, 2:] - array[:, :2]).clip(min=0)
    return Objects(
        boxes=array,
        labels=np.asarray(labels, dtype=np.int64),
        areas=sides.prod(axis=1) if areas is None else np.asarray(areas, dtype=np.float64),
        crowd=np.zeros(len(array), dtype=bool) if crowd is None else np.asarray(crowd, dtype=bool),
        size=size,
        image_id=image_id,
        masks=None if masks is None else tuple(masks),
    )


def encode_mask(mask: NDArray[np.bool_]) -> Rle:
    """Return a mask `(H, W)` as compressed run lengths."""
    from faster_coco_eval import mask as rle

    encoded: Rle = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return encoded


def decode_masks(masks: Sequence[Rle], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return compressed run lengths as `(R, H, W)`; `size` is the height and width for where there are none."""
    from faster_coco_eval import mask as rle

    if not masks:
        return np.zeros((0, *size), dtype=bool)
    decoded: NDArray[np.uint8] = rle.decode(list(masks))  # (H, W, R)
    return np.ascontiguousarray(decoded.transpose(2, 0, 1)).astype(bool)


def usable(objects: Objects, size: tuple[int, int] | None = None) -> NDArray[np.bool_]:
    """Return which objects can be learned from, `(R,)`: those with some area inside the image.

    Args:
        objects: as annotated.
        size: height and width of the image where they are known better than the annotations know them.
    """
    height, width = size or objects.size
    low, high = objects.boxes[:, :2].clip(min=0), np.minimum(objects.boxes[:, 2:], (width, height))
    return np.asarray((high > low).all(axis=1) & np.isfinite(objects.boxes).all(axis=1))
