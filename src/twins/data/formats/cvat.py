"""CVAT's XML files "for images": all images of a task with boxes, polygons, ellipses and masks."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from twins.data.base import Opened
from twins.data.classes import Colour
from twins.data.formats.outlines import (
    Outline,
    bitmap,
    box_outline,
    ellipse,
    join_outlines,
    polygon,
    read_coordinates,
    turned_box,
)
from twins.data.formats.shape_files import Shape, ShapeFile, ShapeFormat, ShapeImage, Target, read_start
from twins.data.formats.shape_parts import annotation_files
from twins.data.formats.shapes import open_shapes
from twins.data.formats.source import Source
from twins.data.formats.values import read_number, read_whole
from twins.errors import DataError, number_of

_START = re.compile(r"<annotations\b[^>]*>\s*(?:<!--.*?-->\s*)*<(version|meta|image|track)\b", re.DOTALL)
_WITHOUT_AREA = ("points", "polyline", "skeleton", "cuboid", "tag")
_MAX_SIDE = 65536


def find_cvat(source: Source) -> tuple[Path, ...]:
    """Return CVAT's XML files; none if there is none."""
    return tuple(annotation_files(source, ".xml", is_cvat))


def is_cvat(path: Path) -> bool:
    """Return whether the beginning of an XML file is CVAT's."""
    return _START.search(read_start(path)) is not None


def open_cvat(source: Source, target: Target) -> Opened | None:
    """Open images with CVAT's XML files; `None` if there is none.

    Classes and colours are those of the task's labels, in its order, without those that are only for points, lines or
    tags. The parts are the images' subsets, else several files or folders. Polygons, ellipses and masks of one label
    and group are one object, as in CVAT's export for COCO; boxes are not joined. Label maps are painted by `z_order`.

    Raises:
        DataError: a file is damaged or is for a video, or its images are missing.
    """
    paths = find_cvat(source)
    if not paths:
        return None
    files = [_read(path) for path in paths]
    joined = sum(file.left_out.pop("joined", 0) for file in files)
    if joined:
        source.notes.append(f"{number_of(joined, 'shape')} of CVAT's groups, joined to one object for each group")
    return open_shapes(source, ShapeFormat(layout="CVAT's XML files", paints=True), files, target)


def _read(path: Path) -> ShapeFile:
    try:
        # safe for untrusted files: expat limits the growth of entities, and ElementTree opens no other file
        top = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError, ValueError, LookupError, RecursionError) as error:
        raise DataError(f"{path} is no XML ({error}); copy it again") from error
    if top.find("track") is not None:
        raise DataError(
            f"{path} is CVAT's XML for a video, whose boxes are interpolated between frames; export the task again as "
            '"CVAT for images 1.1", with the images'
        )
    names, colours = _labels(top)
    file = ShapeFile(path, [], names, colours)
    for number, element in enumerate(top.findall("image"), start=1):
        file.images.append(_image(element, number, file))
    if not file.images:
        raise DataError(f"{path} lists no image; export the task again with its images")
    return file


def _labels(top: ElementTree.Element) -> tuple[list[str], dict[str, Colour]]:
    """Return the labels that shapes with an area can have, in their order, and their colours."""
    names: list[str] = []
    colours: dict[str, Colour] = {}
    meta = top.find("meta")
    for label in () if meta is None else meta.iter("label"):
        name = (label.findtext("name") or "").strip()
        if not name or label.findtext("parent") or (label.findtext("type") or "").strip() in _WITHOUT_AREA:
            continue
        names.append(name)
        if colour := re.fullmatch(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", label.findtext("color") or ""):
            red, green, blue = (int(part, 16) for part in colour.groups())
            colours[name] = (red, green, blue)
    return list(dict.fromkeys(names)), colours


def _image(element: ElementTree.Element, number: int, file: ShapeFile) -> ShapeImage:
    name = element.get("name") or ""
    if not name:
        raise DataError(f"image {number} of {file.path} has no name; export the task again")
    sides = [read_whole(element.get(side)) or 0 for side in ("height", "width")]
    size = (sides[0], sides[1]) if all(0 < side < _MAX_SIDE for side in sides) else None
    image = ShapeImage((name,), file.path, size=size, part=element.get("subset") or "")
    image.shapes = _shapes(element, name, file)
    return image


def _shapes(element: ElementTree.Element, name: str, file: ShapeFile) -> list[Shape]:
    """Return the shapes of an image in the order of painting, those of one label and group joined."""
    groups: dict[object, list[tuple[float, int, str, Outline]]] = defaultdict(list)
    for number, item in enumerate(element, start=1):
        if item.tag in _WITHOUT_AREA:
            file.left_out[item.tag] += 1
        if (read := _READERS.get(item.tag)) is None:
            continue
        label, outline = (item.get("label") or "").strip(), read(item)
        if not label or outline is None:
            shown = " ".join(f'{key}="{value:.40}"' for key, value in item.attrib.items())
            file.faults.append(
                f"shape {number} of {name:.250} in {file.path} is <{item.tag} {shown:.160}>, which has no label or no "
                "such outline; fix it or remove it"
            )
            continue
        group = read_whole(item.get("group_id")) or 0
        key = (label, group) if group > 0 and not outline.is_box else number
        groups[key].append((read_number(item.get("z_order")) or 0, number, label, outline))
    return _joined(list(groups.values()), file.left_out)


def _joined(groups: list[list[tuple[float, int, str, Outline]]], counts: Counter[str]) -> list[Shape]:
    counts["joined"] += sum(len(members) for members in groups if len(members) > 1)
    groups.sort(key=lambda members: members[0][0])  # stable: the order of the file within an order of painting
    return [
        Shape(members[0][2], join_outlines([outline for *_, outline in members]), members[0][1]) for members in groups
    ]


def _coordinates(item: ElementTree.Element, *names: str) -> list[float] | None:
    return read_coordinates([item.get(name) for name in names])


def _box(item: ElementTree.Element) -> Outline | None:
    sides, angle = _coordinates(item, "xtl", "ytl", "xbr", "ybr"), read_number(item.get("rotation", "0"))
    if sides is None or angle is None:
        return None
    left, top, right, bottom = sides
    return turned_box((left, top, right, bottom), angle) if angle else box_outline(left, top, right, bottom)


def _ellipse(item: ElementTree.Element) -> Outline | None:
    values, angle = _coordinates(item, "cx", "cy", "rx", "ry"), read_number(item.get("rotation", "0"))
    if values is None or angle is None:
        return None
    x, y, radius_x, radius_y = values
    return ellipse(x, y, radius_x, radius_y, angle)


def _polygon(item: ElementTree.Element) -> Outline | None:
    points = [point.split(",") for point in (item.get("points") or "").split(";") if point.strip()]
    if any(len(point) != 2 for point in points):
        return None
    values = read_coordinates([number for point in points for number in point])
    return polygon(values) if values and len(values) >= 6 else None


def _mask(item: ElementTree.Element) -> Outline | None:
    """Return the outline of a mask: run lengths of the rows of its rectangle, first those outside the object."""
    sides = [read_whole(item.get(name)) for name in ("left", "top", "width", "height")]
    lengths = [read_whole(text.strip()) for text in (item.get("rle") or "").split(",")]
    left, top, width, height = (-1 if side is None else side for side in sides)
    if not (0 <= left < _MAX_SIDE and 0 <= top < _MAX_SIDE and 0 < width < _MAX_SIDE and 0 < height < _MAX_SIDE):
        return None
    runs = [length for length in lengths if length is not None and length >= 0]
    if len(runs) < len(lengths) or sum(runs) != width * height:
        return None
    pixels = np.zeros(width * height, dtype=bool)
    ends = list(accumulate(runs))
    for start, end in zip(ends[::2], ends[1::2], strict=False):
        pixels[start:end] = True
    return bitmap(left, top, pixels.reshape(height, width))


_READERS: dict[str, Callable[[ElementTree.Element], Outline | None]] = {
    "box": _box,
    "polygon": _polygon,
    "ellipse": _ellipse,
    "mask": _mask,
}
