"""Masks as COCO's files write them: polygons, run lengths as a list, or run lengths as text."""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np
from faster_coco_eval import mask as rle
from numpy.typing import NDArray

from twins.data.objects import Rle

BASE, MORE, BITS = 48, 32, 5
"""Of the text: its character for 0, the bit that says that a number goes on, and the bits of a number in one."""
FARTHEST = 1e6
"""Pixels from the image's corner up to which a polygon is drawn."""


def parse_mask(segmentation: Any, size: tuple[int, int]) -> Rle:
    """Return a mask as compressed run lengths; nothing that a file can hold makes the library read beyond it.

    Args:
        segmentation: a list of polygons, each `[x, y, x, y, ...]` in pixels, or a dictionary of `size` (height, width)
            and `counts`, a list or text.
        size: height and width of the image in pixels.

    Raises:
        ValueError: it is none of these, or not of an image of this size; says what it is.
    """
    height, width = size
    if isinstance(segmentation, list):
        if not segmentation or not all(_is_polygon(part) for part in segmentation):
            raise ValueError(f"a segmentation {_brief(segmentation)}, not polygons of three points or more")
        polygons = [[float(value) for value in part] for part in segmentation]
        merged: Rle = rle.merge(rle.frPyObjects(polygons, height, width))
        return merged
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise ValueError(f"a segmentation {_brief(segmentation)}, neither polygons nor run lengths")
    if segmentation["size"] != [height, width]:
        raise ValueError(f"a mask of size {_brief(segmentation['size'])} where the image has [{height}, {width}]")
    counts = segmentation["counts"]
    lengths = read_lengths(counts) if isinstance(counts, str) else _listed(counts)
    if lengths is None or (lengths < 0).any() or lengths.sum() != height * width:
        raise ValueError(f"run lengths {_brief(counts)} that do not make {height} x {width} pixels")
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts.encode("ascii")}
    encoded: Rle = rle.frPyObjects({"size": [height, width], "counts": lengths.tolist()}, height, width)
    return encoded


def read_lengths(counts: str) -> NDArray[np.int64] | None:
    """Return the run lengths that a text stands for, `None` where it stands for none.

    Each number is cut into groups of five bits, lowest first, and from the fourth on it is the difference from the one
    before last; a group's sixth bit says that another follows, and its fifth is the sign of a number's last group.
    """
    if not counts.isascii():
        return None
    codes = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - BASE
    last = np.flatnonzero(codes & MORE == 0)  # of each number
    if not len(codes) or codes.min() < 0 or codes.max() >= 2 * MORE or last[-1:].tolist() != [len(codes) - 1]:
        return None
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    if place.max() > 7:  # more than an image has pixels
        return None
    numbers = np.add.reduceat((codes & (MORE - 1)) << (BITS * place), first)
    negative = codes[last] & (MORE >> 1) != 0
    numbers -= np.where(negative, 1 << (BITS * (place[last] + 1)), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])  # the first alone stands for itself
    return numbers


def _listed(counts: Any) -> NDArray[np.int64] | None:
    if not isinstance(counts, list) or not all(type(count) is int and abs(count) < 2**40 for count in counts):
        return None
    return np.array(counts, dtype=np.int64)


def _is_polygon(part: Any) -> bool:
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
        return False
    return all(type(value) in (int, float) and abs(value) < FARTHEST for value in part)


def _brief(value: Any) -> str:
    return reprlib.repr(value)
