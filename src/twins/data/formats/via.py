"""The JSON files of the VGG Image Annotator (VIA), version 1 and 2: annotations, and projects with them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from twins.data.base import Opened
from twins.data.formats.coco import read_json
from twins.data.formats.outlines import Outline, box_outline, ellipse, polygon, read_coordinates
from twins.data.formats.shape_files import Shape, ShapeFile, ShapeFormat, ShapeImage, Target, read_start
from twins.data.formats.shape_parts import annotation_files
from twins.data.formats.shapes import open_shapes
from twins.data.formats.source import Source
from twins.data.formats.values import read_number
from twins.errors import DataError, number_of

_KEYS = re.compile(r'"(_via_img_metadata|_via_settings|regions|filename|fileref|base64_img_data)"\s*:')
_REGIONS = re.compile(r'"(_via_img_metadata|_via_settings|regions|shape_attributes)"\s*:')
_OTHERS = re.compile(r'"(images|annotations|categories)"\s*:')
_WITHOUT_AREA = ("point", "polyline")
_ONLY_CLASS = "object"
"""Name of the class of a set whose regions have no attribute."""


def find_via(source: Source) -> tuple[Path, ...]:
    """Return VIA's JSON files; none if there is none."""
    return tuple(annotation_files(source, ".json", is_via))


def is_via(path: Path) -> bool:
    """Return whether the beginning of a JSON file is VIA's."""
    start = read_start(path)
    is_object = start.lstrip().startswith("{")
    return is_object and bool(_KEYS.search(start) and _REGIONS.search(start)) and not _OTHERS.search(start)


def open_via(source: Source, target: Target) -> Opened | None:
    """Open images with VIA's JSON files; `None` if there is none.

    The class of a region is its only attribute; a set whose regions have none has one class. The parts are folders or
    several files.

    Raises:
        DataError: a file is damaged, its images are missing, or regions have several attributes.
    """
    paths = find_via(source)
    entries = {path: items for path in paths if (items := _entries(path)) is not None}
    if not entries:
        return None
    key = _class_attribute(entries, source.notes)
    if key is None:
        source.notes.append(f"no region of VIA's files has an attribute, so all are of one class, {_ONLY_CLASS}")
    files = [_read(path, items, key) for path, items in entries.items()]
    source.names_from = f"the attribute {key!r:.60} of regions" if key else "no file, one class"
    return open_shapes(source, ShapeFormat(layout="VIA's JSON files", unit="region"), files, target)


def _entries(path: Path) -> list[dict[str, Any]] | None:
    """Return the entries of images; `None` if a file is another tool's."""
    content = read_json(path)
    if isinstance(content, dict) and "_via_img_metadata" in content:
        content = content["_via_img_metadata"]
    items = list(content.values()) if isinstance(content, dict) else []
    entries = [item for item in items if isinstance(item, dict) and isinstance(item.get("filename"), str)]
    return entries if entries and any("regions" in item for item in entries) else None


def _regions(entry: Mapping[str, Any]) -> list[Any]:
    """Return the regions of an image: a list, or in version 1 a dictionary."""
    regions = entry.get("regions")
    return list(regions.values()) if isinstance(regions, dict) else regions if isinstance(regions, list) else []


def _all_attributes(entries: Mapping[Path, Sequence[Mapping[str, Any]]]) -> Iterator[set[str]]:
    """Yield the names of the attributes of each region that have a value."""
    for items in entries.values():
        for entry in items:
            for region in _regions(entry):
                if isinstance(region, dict):
                    attributes = region.get("region_attributes")
                    values = attributes if isinstance(attributes, dict) else {}
                    yield {str(key) for key, value in values.items() if _class_name(value)}


def _class_attribute(entries: Mapping[Path, Sequence[Mapping[str, Any]]], notes: list[str]) -> str | None:
    """Return the attribute that is the class; `None` if no region has one. Others are noted.

    Raises:
        DataError: there are several, and not one of them is the only one that all regions have.
    """
    regions = list(_all_attributes(entries))
    counts = Counter(key for keys in regions for key in keys)
    shared = [key for key, count in counts.items() if count == len(regions)]
    shown = ", ".join(f"{key!r:.40} ({count})" for key, count in sorted(counts.items())[:8])
    if len(shared) == 1 and len(counts) > 1:
        notes.append(
            f"of the attributes of VIA's {number_of(len(regions), 'region')}, {shown}, the class is {shared[0]!r:.40}, "
            "the only one that all have"
        )
    if len(counts) == 1 or len(shared) == 1:
        return shared[0] if shared else next(iter(counts))
    if not counts:
        return None
    raise DataError(
        f"the regions of {next(iter(entries))} have several attributes, {shown}, of which any could be the class; keep "
        "the one that is and remove the others in VIA"
    )


def _class_name(value: Any) -> str:
    """Return the name in an attribute's value: a text, or the only choice that is ticked; empty if there is none."""
    if isinstance(value, dict):
        ticked = [str(name) for name, is_ticked in value.items() if is_ticked in (True, "true", 1)]
        return ticked[0] if len(ticked) == 1 else ""
    return str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _read(path: Path, entries: Sequence[Mapping[str, Any]], key: str | None) -> ShapeFile:
    file = ShapeFile(path, [])
    for entry in entries:
        image = ShapeImage((entry["filename"],), path)
        for number, region in enumerate(_regions(entry), start=1):
            if shape := _shape(region, number, key, file, entry["filename"]):
                image.shapes.append(shape)
        file.images.append(image)
    return file


def _shape(region: Any, number: int, key: str | None, file: ShapeFile, image: str) -> Shape | None:
    """Return a region as a shape; `None` if it is left out, which the file then says."""
    content = region if isinstance(region, dict) else {}
    drawn, attributes = content.get("shape_attributes"), content.get("region_attributes")
    drawn = drawn if isinstance(drawn, dict) else {}
    if drawn.get("name") in _WITHOUT_AREA:
        file.left_out[str(drawn["name"])] += 1
        return None
    name = _class_name(attributes.get(key)) if key and isinstance(attributes, dict) else ""
    outline = _outline(drawn)
    if outline is None or (key and not name):
        reason = f"no {key!r:.40}" if outline is not None else f"the outline {drawn!r:.80}"
        file.faults.append(f"region {number} of {image:.250} in {file.path} has {reason}; fix it or remove the region")
        return None
    return Shape(name or _ONLY_CLASS, outline, number)


def _outline(drawn: Mapping[str, Any]) -> Outline | None:
    """Return the outline of a region; `None` if it is damaged."""
    if drawn.get("name") in ("polygon", "polyline"):
        xs, ys = drawn.get("all_points_x"), drawn.get("all_points_y")
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys) or len(xs) < 3:
            return None
        points = read_coordinates([number for point in zip(xs, ys, strict=True) for number in point])
        return None if points is None else polygon(points)
    keys = _KEYS_OF.get(str(drawn.get("name")), ())
    values = read_coordinates([drawn.get(key) for key in keys]) if keys else None
    if values is None:
        return None
    if drawn["name"] == "rect":
        left, top, width, height = values
        return box_outline(left, top, left + width, top + height)
    if drawn["name"] == "circle":
        return ellipse(values[0], values[1], values[2], values[2])
    turn = read_number(drawn.get("theta") or 0)
    x, y, radius_x, radius_y = values
    return None if turn is None else ellipse(x, y, radius_x, radius_y, math.degrees(turn))


_KEYS_OF = {"rect": ("x", "y", "width", "height"), "circle": ("cx", "cy", "r"), "ellipse": ("cx", "cy", "rx", "ry")}
"""The numbers of each kind of region."""
