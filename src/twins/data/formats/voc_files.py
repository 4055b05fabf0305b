"""The content of VOC's XML files: names, boxes and sizes, and what a set of them shows about its coordinates."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from twins.data.formats.values import fraction_problems, read_number
from twins.errors import DataError, number_of

SIDES = ("xmin", "ymin", "xmax", "ymax")
ROOT = "annotation"
"""Name of the first element, in lower case."""


class VocObject(NamedTuple):
    """An object in an XML file."""

    number: int
    """Position in the file, from 1."""
    name: str
    """Class name."""
    box: tuple[float, ...]
    """xyxy in pixels, continuous coordinates."""
    corners: tuple[float, ...] = ()
    """The numbers of the `bndbox` as written; empty if the object has another shape."""
    shape: str = "bndbox"
    """The element that the box is of: `bndbox`, `polygon` or `robndbox`."""


class VocFile(NamedTuple):
    """The content of an XML file."""

    size: tuple[int, int] | None
    """Height and width of the image in pixels; `None` if the file has none."""
    objects: tuple[VocObject, ...]
    filename: str = ""
    """Name of the image, as written."""
    is_voc: bool = True
    """Whether the first element is VOC's."""
    is_latin: bool = False
    """Whether the text is in Windows' or Latin-1 encoding without saying so."""


def read_voc(path: Path) -> VocFile:
    """Read an XML file.

    VOC counts pixels from 1, and both corner pixels are inside the box, so left and top are one less in continuous
    coordinates. Equal or reversed coordinates are not changed: such a box is an annotator's mistake, and subtracting 1
    would give it area. An object without a `bndbox` has the smallest box around its polygon or rotated box.

    Raises:
        DataError: the file is missing or damaged, or an object lacks a name or a box of four finite numbers.
    """
    try:
        # safe for untrusted files: expat limits the growth of entities, and ElementTree opens no other file
        top, is_latin = _parse(path)
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        if not os.path.exists(path):
            message = f"there is no file of annotations {path!s:.250}; add it or remove its image"
            raise DataError(message) from error
        raise DataError(f"{path} is no XML ({error}); copy it again") from error
    objects = tuple(_object(element, i, path) for i, element in enumerate(top.findall("object"), start=1))
    filename = (top.findtext("filename") or "").strip()
    return VocFile(read_size(top), objects, filename, top.tag.lower() == ROOT, is_latin)


def attempt_voc(path: Path) -> VocFile | DataError:
    """Read an XML file, and return the error if it cannot be read."""
    try:
        return read_voc(path)
    except DataError as error:
        return DataError(str(error))  # a new error: the caught one would keep its stack frames alive


def read_filename(path: Path) -> str:
    """Return the image that an XML file names, without its folders; empty if there is none."""
    try:
        name = _parse(path)[0].findtext("filename") or _parse(path)[0].findtext("path") or ""
    except (ElementTree.ParseError, OSError, ValueError, LookupError):
        return ""
    return name.strip().replace("\\", "/").rpartition("/")[2]


def count_from_0(file: VocFile) -> VocFile:
    """Return a file whose corners are continuous coordinates from 0, so that boxes are as written."""
    return file._replace(objects=tuple(item._replace(box=item.corners or item.box) for item in file.objects))


def first_pixel(files: Sequence[VocFile], where: str) -> tuple[int, list[str], list[str]]:
    """Return the number of the first pixel in a set of files, 0 or 1, with notes and problems that say why.

    VOC counts from 1. A set counts from 0 if a box reaches from 0 to the image's width or height, or if at least as
    many boxes begin before 1 as begin at 1, where those on the image's border begin by VOC; or if most boxes have
    fractions, as CVAT writes them, which no number of a pixel has.
    """
    rows = [(*item.corners, *(file.size or (0, 0))) for file in files for item in file.objects if item.corners]
    values = np.array(rows, dtype=np.float64).reshape(-1, 6)
    low, high, sizes = values[:, :2], values[:, 2:4], values[:, :3:-1]
    below = ((low >= 0) & (low < 1) & (low < high)).any(axis=1)
    fractional = int((values[:, :4] % 1 != 0).any(axis=1).sum())
    if not (below.any() or 2 * fractional > len(values)) or fraction_problems(values[:, :4], where, ""):
        return 1, [], []
    if not below.any():
        boxes = f"{fractional} of {number_of(len(values), 'box', 'boxes')} in {where}"
        return 0, [f"{boxes} have fractions, so corners are no numbers of pixels, and are read as written"], []
    begin_at_1, count = int((low == 1).any(axis=1).sum()), int(below.sum())
    shown = f"{count} of {number_of(len(values), 'box', 'boxes')} in {where}"
    if ((low == 0) & (high == sizes) & (sizes > 0)).any() or count >= begin_at_1:
        return 0, [f"{shown} begin before pixel 1, so the files are 0-based: corners are read as written"], []
    problem = (
        f"{shown} begin before pixel 1, and {begin_at_1} at it, so the files are 1-based as VOC's; fix these boxes"
    )
    return 1, [], [problem]


def shape_notes(files: Iterable[VocFile], where: str) -> list[str]:
    """Return sentences on objects without `bndbox`, and on files whose encoding is not said."""
    files = list(files)
    shapes = Counter(item.shape for file in files for item in file.objects)
    notes = [
        f"{number_of(shapes[shape], 'object')} in {where} without bndbox: the smallest box around the {word} is read"
        for shape, word in (("polygon", "polygon"), ("robndbox", "rotated box (robndbox)"))
        if shapes[shape]
    ]
    if latin := sum(file.is_latin for file in files):
        notes.append(f"{number_of(latin, 'XML file')} in {where} read as Windows-1252, as UTF-8 does not fit")
    return notes


def read_size(top: ElementTree.Element) -> tuple[int, int] | None:
    """Return height and width; `None` if they are missing, or 0 as labelling tools write for an unknown size."""
    height, width = (read_number(top.findtext(f"size/{side}")) or 0 for side in ("height", "width"))
    return (int(height), int(width)) if 1 <= height < 65536 and 1 <= width < 65536 else None


def _parse(path: Path) -> tuple[ElementTree.Element, bool]:
    """Return the first element of a file, and whether its text is Windows-1252 where it should be UTF-8."""
    try:
        return ElementTree.parse(path).getroot(), False
    except ElementTree.ParseError:
        data = path.read_bytes()
        if data.startswith((b"\xff\xfe", b"\xfe\xff")) or _is_utf8(data):
            raise
        text = data.decode("cp1252", errors="replace")
        return ElementTree.fromstring(re.sub(r"^\s*<\?xml.*?\?>", "", text)), True


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _object(element: ElementTree.Element, number: int, path: Path) -> VocObject:
    name = (element.findtext("name") or "").strip()
    description = f"object {number} of {path}"
    if not name:
        raise DataError(f"object {number} of {path} has no name; add it or remove the object")
    if element.find("bndbox") is None:
        for shape, box in (("robndbox", _rotated_box(element)), ("polygon", _polygon_box(element))):
            if box is not None:
                return VocObject(number, name, box, (), shape)
    left, top, right, bottom = corners = _corners(element, description)
    return VocObject(number, name, (left - (right > left), top - (bottom > top), right, bottom), corners)


def _corners(element: ElementTree.Element, description: str) -> tuple[float, ...]:
    box = element.find("bndbox")
    texts = [None if box is None else box.findtext(side) for side in SIDES]
    values = [value for text in texts if (value := read_number(text)) is not None]
    if len(values) < len(SIDES):
        shown = ", ".join(str(text).strip() for text in texts)
        raise DataError(f"{description} has the bndbox {shown}; give finite numbers as {', '.join(SIDES)}")
    return tuple(values)


def _rotated_box(element: ElementTree.Element) -> tuple[float, ...] | None:
    """Return the smallest box around roLabelImg's `robndbox`: centre, sides and an angle in radians."""
    values = [read_number(element.findtext(f"robndbox/{name}")) for name in ("cx", "cy", "w", "h", "angle")]
    numbers = [value for value in values if value is not None]
    if len(numbers) < 5:
        return None
    x, y, width, height, angle = numbers
    cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
    half = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    return x - half[0], y - half[1], x + half[0], y + half[1]


def _polygon_box(element: ElementTree.Element) -> tuple[float, ...] | None:
    """Return the smallest box around a polygon: `<x1>`, `<y1>`, ... as Roboflow writes, or points `<pt>`, `<point>`."""
    polygon = element.find("polygon")
    if polygon is None:
        return None
    sides: dict[str, list[float]] = {"x": [], "y": []}
    for item in polygon.iter():
        axis = re.fullmatch(r"([xy])\d*", item.tag)
        if axis and (value := read_number(item.text)) is not None:
            sides[axis[1]].append(value)
    x, y = sides["x"], sides["y"]
    return (min(x), min(y), max(x), max(y)) if len(x) == len(y) > 2 else None


def all_corners(files: Iterable[VocFile]) -> NDArray[np.float64]:
    """Return all boxes as continuous coordinates, `(R, 4)`."""
    return np.array([item.box for file in files for item in file.objects], dtype=np.float64).reshape(-1, 4)
