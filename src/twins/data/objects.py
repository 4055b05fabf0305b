"""The annotated objects of one image, in one form for every file format, and masks as run lengths."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rle = dict[str, Any]
"""A mask as COCO's compressed run lengths: `size` (height, width) and `counts`, bytes."""
MAX_COORDINATE = 1e6
"""Greatest coordinate of a polygon, in pixels."""


@dataclass(frozen=True)
class Objects:
    """The objects of one image as annotated: no box is clipped, no object left out."""

    boxes: NDArray[np.float64]
    """`(R, 4)` xyxy in pixels, continuous coordinates; a box may reach beyond the image or have no area."""
    labels: NDArray[np.int64]
    """Class ids `(R,)`."""
    areas: NDArray[np.float64]
    """Area of each object in pixels, `(R,)`, for the size groups of the evaluation: from the file, else of the box."""
    crowd: NDArray[np.bool_]
    """Which objects are crowd regions, `(R,)`: a detection inside one is ignored (COCO's `iscrowd`)."""
    size: tuple[int, int]
    """Height and width of the image in pixels."""
    image_id: int
    """The image's id in its file, or its index in the set; unique in a set."""
    masks: tuple[Rle, ...] | None = None
    """One per object; `None` if the objects have boxes only."""

    def __len__(self) -> int:
        return len(self.labels)


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
    """Return objects from plain lists; `areas` default to those of the boxes, `crowd` to false."""
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
    """Return a mask `(H, W)` as compressed run lengths.

    Runs go down the columns. Only the columns that the mask touches are encoded: most masks are small, so this is
    five times as fast as encoding the whole image.
    """
    height, width = mask.shape
    columns = np.flatnonzero(mask.any(axis=0))
    first, last = (columns[0], columns[-1] + 1) if len(columns) else (0, 0)
    pixels = np.zeros((last - first) * height + 2, dtype=bool)  # one pixel outside the mask before and after
    pixels[1:-1] = mask[:, first:last].T.ravel()
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + first * height
    lengths = np.diff(changes[changes < mask.size], prepend=0, append=mask.size)
    return encode_lengths(lengths.tolist(), (height, width))


def encode_lengths(lengths: Sequence[int], size: tuple[int, int]) -> Rle:
    """Return run lengths of a mask, alternating pixels outside and inside, first outside, in compressed form."""
    from faster_coco_eval import mask as rle

    encoded: Rle = rle.frPyObjects({"size": list(size), "counts": list(lengths)}, *size)
    return encoded


def encode_polygons(polygons: Sequence[Any], size: tuple[int, int]) -> Rle:
    """Return the union of polygons, each a list of alternating x and y in pixels, as compressed run lengths.

    Raises:
        ValueError: a polygon is not such a list; the message shows it.
    """
    from faster_coco_eval import mask as rle

    points = [_points(polygon) for polygon in polygons]
    drawable = [polygon for polygon in points if len(polygon) >= 6]  # the library reads four numbers as a box
    if not drawable:
        return encode_mask(np.zeros(size, dtype=bool))
    encoded: Rle = rle.merge(rle.frPyObjects(drawable, *size))
    return encoded


def _points(polygon: Any) -> list[float]:
    try:
        points = np.asarray(polygon)
    except ValueError:  # lists of different lengths
        points = np.zeros(1)
    well_formed = points.ndim == 1 and points.size % 2 == 0 and points.dtype.kind in "iuf"
    # the library turns a huge coordinate into NaN
    if not well_formed or not (np.abs(points.astype(np.float64)) < MAX_COORDINATE).all():
        shown = reprlib.repr(polygon.tolist() if isinstance(polygon, np.ndarray) else polygon)
        raise ValueError(
            f"the polygon {shown}, which must list x and y alternately, numbers below {MAX_COORDINATE:,.0f}"
        )
    coordinates: list[float] = points.astype(np.float64).tolist()
    return coordinates


def has_pixels(mask: Rle, count: int) -> bool:
    """Return whether compressed run lengths are valid and cover exactly `count` pixels.

    The library refuses invalid text and runs that go beyond the image, but not runs that end too early. Those also fit
    an image with one pixel less, so a second call detects them: fifty times as fast as decoding the mask.
    """
    return _fits(mask, count) and not _fits(mask, count - 1)


def _fits(mask: Rle, count: int) -> bool:
    from faster_coco_eval import mask as rle

    try:
        rle.area({"size": [1, count], "counts": mask["counts"]})
    except (ValueError, RuntimeError):
        return False
    return True


def mask_areas(masks: Sequence[Rle]) -> NDArray[np.float64]:
    """Return the area of each mask in pixels, `(R,)`."""
    from faster_coco_eval import mask as rle

    return np.asarray(rle.area(list(masks)) if masks else [], dtype=np.float64)


def mask_boxes(masks: Sequence[Rle]) -> NDArray[np.float64]:
    """Return the smallest box around each mask, `(R, 4)`: left, top, width and height in pixels."""
    from faster_coco_eval import mask as rle

    return np.asarray(rle.toBbox(list(masks)) if masks else [], dtype=np.float64).reshape(-1, 4)


def decode_masks(masks: Sequence[Rle], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return compressed run lengths as masks `(R, H, W)`; `size`, height and width, is used if there are none."""
    from faster_coco_eval import mask as rle

    if not masks:
        return np.zeros((0, *size), dtype=bool)
    decoded: NDArray[np.uint8] = rle.decode(list(masks))  # (H, W, R)
    return np.ascontiguousarray(decoded.transpose(2, 0, 1)).astype(bool)


def trainable(objects: Objects, size: tuple[int, int] | None = None) -> NDArray[np.bool_]:
    """Return which objects can be trained on, `(R,)`: those whose box has area inside the image.

    Args:
        objects: as annotated.
        size: true height and width of the image; without it, as annotated.
    """
    height, width = size or objects.size
    low, high = objects.boxes[:, :2].clip(min=0), np.minimum(objects.boxes[:, 2:], (width, height))
    return np.asarray((high > low).all(axis=1) & np.isfinite(objects.boxes).all(axis=1))


def has_area(box: Sequence[float], size: tuple[int, int] | None) -> bool:
    """Return whether a box, xyxy, has area inside an image of a height and width; `None` means of any size.

    The test of `trainable`, for one box.
    """
    height, width = size or (math.inf, math.inf)
    return min(box[2], width) > max(box[0], 0) and min(box[3], height) > max(box[1], 0)


def sample_mask(mask: Rle, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return a mask at some rows and columns of its image, `(len(rows), len(columns))`, without decoding it.

    Only what lies in the mask's box is looked up among the ends of its runs. For small objects on large images this is
    some twenty times as fast as decoding.
    """
    from faster_coco_eval import mask_api_new_cpp as rle

    result = np.zeros((len(rows), len(columns)), dtype=bool)
    left, top, width, height = mask_boxes([mask])[0]
    used_rows = np.flatnonzero((rows >= top) & (rows < top + height))
    used_columns = np.flatnonzero((columns >= left) & (columns < left + width))
    ends = np.cumsum(rle.toUncompressedRLE([mask])[0]["counts"])
    positions = columns[used_columns] * mask["size"][0] + rows[used_rows, None]  # runs go down the columns
    result[np.ix_(used_rows, used_columns)] = np.searchsorted(ends, positions, side="right") % 2 == 1
    return result
