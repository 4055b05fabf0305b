"""The outlines of annotated shapes in pixels: polygons, turned boxes, ellipses and bitmaps, with the boxes around them.

Coordinates are continuous: pixel `i` covers `i` to `i + 1`. Angles are degrees, clockwise as seen in the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twins.data.formats.values import read_number
from twins.data.objects import MAX_COORDINATE, Rle, decode_masks, encode_mask, encode_polygons

Box = tuple[float, float, float, float]
"""xyxy in pixels."""
_ELLIPSE_POINTS = 360
"""Points of the polygon that stands for an ellipse: it deviates by less than 1/25,000 of the radius."""


@dataclass(frozen=True)
class Bitmap:
    """Pixels of an object in a part of an image."""

    left: int
    """First column in the image."""
    top: int
    """First row in the image."""
    shape: tuple[int, int]
    """Height and width of the part."""
    bits: NDArray[np.uint8]
    """A bit for each pixel, in rows: an eighth of the memory of the pixels."""

    @property
    def pixels(self) -> NDArray[np.bool_]:
        """Return the pixels, `(h, w)`; those outside the image do not count."""
        height, width = self.shape
        return np.unpackbits(self.bits, count=height * width).reshape(height, width).astype(bool)


@dataclass(frozen=True)
class Outline:
    """Where an object is: its box, and its polygons or bitmaps if there are any."""

    box: Box
    """The box around all of it."""
    polygons: tuple[NDArray[np.float64], ...] = ()
    """Each a flat array of x and y in turn."""
    bitmaps: tuple[Bitmap, ...] = ()
    is_box: bool = False
    """Whether the object was drawn as a box, which is no mask."""

    def mask(self, size: tuple[int, int]) -> Rle:
        """Return the mask on an image of a height and width; that of a box is all of it."""
        polygons = self.polygons or (() if self.bitmaps else (_corners(self.box),))
        if not self.bitmaps:
            return encode_polygons(polygons, size)
        pixels = decode_masks([encode_polygons(polygons, size)], size)[0]
        for bitmap in self.bitmaps:
            _paint(pixels, bitmap)
        return encode_mask(pixels)

    def scaled(self, width: float, height: float) -> Outline:
        """Return a box or polygons in shares of the image's width and height as one in pixels."""
        left, top, right, bottom = self.box
        polygons = (part.reshape(-1, 2) * (width, height) for part in self.polygons)
        box = left * width, top * height, right * width, bottom * height
        return replace(self, box=box, polygons=tuple(part.ravel() for part in polygons))


def box_outline(left: float, top: float, right: float, bottom: float) -> Outline:
    """Return an upright box."""
    return Outline((left, top, right, bottom), is_box=True)


def turned_box(box: Box, angle: float, pivot: tuple[float, float] | None = None) -> Outline:
    """Return a box that is turned about a point, by default its centre; its own box is the hull."""
    if angle % 360 == 0:
        return box_outline(*box)
    points = _turn(_corners(box).reshape(-1, 2), angle, pivot or ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
    return Outline(_hull(points), (points.ravel(),), is_box=True)


def polygon(points: Sequence[float]) -> Outline:
    """Return a polygon of x and y in turn."""
    array = np.asarray(points, dtype=np.float64)
    return Outline(_hull(array.reshape(-1, 2)), (array,))


def ellipse(x: float, y: float, radius_x: float, radius_y: float, angle: float = 0.0) -> Outline:
    """Return an ellipse about a centre; its box is exact."""
    turns = np.linspace(0, 2 * math.pi, _ELLIPSE_POINTS, endpoint=False)
    points = np.stack([x + radius_x * np.cos(turns), y + radius_y * np.sin(turns)], axis=1)
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    half_width = math.hypot(radius_x * cosine, radius_y * sine)
    half_height = math.hypot(radius_x * sine, radius_y * cosine)
    box = x - half_width, y - half_height, x + half_width, y + half_height
    return Outline(box, (_turn(points, angle, (x, y)).ravel(),))


def bitmap(left: int, top: int, pixels: NDArray[np.bool_]) -> Outline | None:
    """Return the outline of pixels whose first column and row are given; `None` if none is set."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return None
    first, last = (int(rows[0]), int(columns[0])), (int(rows[-1]) + 1, int(columns[-1]) + 1)
    inside = pixels[first[0] : last[0], first[1] : last[1]]
    packed = Bitmap(left + first[1], top + first[0], inside.shape, np.packbits(inside))
    box = float(packed.left), float(packed.top), float(left + last[1]), float(top + last[0])
    return Outline(box, bitmaps=(packed,))


def join_outlines(outlines: Sequence[Outline]) -> Outline:
    """Return several outlines as that of one object; upright boxes among them become polygons."""
    if len(outlines) == 1:
        return outlines[0]
    boxes = np.array([outline.box for outline in outlines])
    drawn = [outline.polygons or (() if outline.bitmaps else (_corners(outline.box),)) for outline in outlines]
    return Outline(
        (*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()),
        tuple(part for polygons in drawn for part in polygons),
        tuple(part for outline in outlines for part in outline.bitmaps),
        is_box=any(outline.is_box for outline in outlines),
    )


def read_points(value: Any) -> list[float] | None:
    """Return a list of points, each a list of x and y, as x and y in turn; `None` if it is none."""
    if not isinstance(value, list) or not all(isinstance(point, list) and len(point) == 2 for point in value):
        return None
    return read_coordinates([number for point in value for number in point])


def read_coordinates(values: Sequence[Any]) -> list[float] | None:
    """Return numbers that a coordinate can have; `None` if one is none."""
    numbers = [number for value in values if (number := read_number(value)) is not None and _is_coordinate(number)]
    return numbers if len(numbers) == len(values) else None


def _is_coordinate(number: float) -> bool:
    return abs(number) < MAX_COORDINATE


def _corners(box: Box) -> NDArray[np.float64]:
    left, top, right, bottom = box
    return np.array([left, top, right, top, right, bottom, left, bottom], dtype=np.float64)


def _turn(points: NDArray[np.float64], angle: float, pivot: tuple[float, float]) -> NDArray[np.float64]:
    """Turn points `(P, 2)` clockwise about another, in an image whose y goes down."""
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return np.asarray((points - pivot) @ np.array([[cosine, sine], [-sine, cosine]]) + pivot)


def _hull(points: NDArray[np.float64]) -> Box:
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return left, top, right, bottom


def _paint(pixels: NDArray[np.bool_], bitmap: Bitmap) -> None:
    """Set the pixels of a bitmap in an image's mask."""
    (height, width), (rows, columns) = pixels.shape, bitmap.shape
    top, left = max(bitmap.top, 0), max(bitmap.left, 0)
    bottom, right = min(bitmap.top + rows, height), min(bitmap.left + columns, width)
    if bottom > top and right > left:
        inside = bitmap.pixels[top - bitmap.top : bottom - bitmap.top, left - bitmap.left : right - bitmap.left]
        pixels[top:bottom, left:right] |= inside
