"""LabelMe's JSON files: one per image, with polygons, rectangles, circles and masks; AnyLabeling writes the same."""

from __future__ import annotations

import base64
import io
import math
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from twins.data.base import Opened
from twins.data.formats.coco import read_json, record_size
from twins.data.formats.names import read_list
from twins.data.formats.outlines import (
    Outline,
    bitmap,
    box_outline,
    ellipse,
    join_outlines,
    polygon,
    read_coordinates,
    read_points,
)
from twins.data.formats.shape_files import Shape, ShapeFile, ShapeFormat, ShapeImage, Target, read_start
from twins.data.formats.shape_parts import annotation_files
from twins.data.formats.shapes import open_shapes
from twins.data.formats.source import Source
from twins.data.images import image_endings
from twins.errors import DataError, number_of

_SHAPES = re.compile(r'"shapes"\s*:\s*\[')
_KEYS = re.compile(r'"(label|flags|imagePath|imageHeight|lineColor)"\s*:')
_IMAGE = re.compile(r'"imageData"\s*:\s*"|"imagePath"\s*:')  # first in files with sorted keys
_OTHERS = re.compile(r'"(images|annotations|categories|info|objects)"\s*:')
_NAMES = ("labels.txt", "class_names.txt")
_WITHOUT_AREA = ("point", "points", "line", "linestrip", "linestring")
_POLYGONS = ("polygon", "rotation", "oriented_rectangle", "quadrilateral")


def find_labelme(source: Source) -> tuple[Path, ...]:
    """Return the JSON files of folders that hold LabelMe's; none if there is none."""
    return tuple(annotation_files(source, ".json", is_labelme, alike=True))


def is_labelme(path: Path) -> bool:
    """Return whether the beginning of a JSON file is LabelMe's."""
    start = read_start(path)
    is_one = (_SHAPES.search(start) and _KEYS.search(start)) or _IMAGE.search(start)
    return start.lstrip().startswith("{") and bool(is_one) and not _OTHERS.search(start)


def open_labelme(source: Source, target: Target) -> Opened | None:
    """Open images with LabelMe's JSON files; `None` if there is none.

    The files are beside their images or in folders of their own, the parts are folders. Classes are those of a
    `labels.txt`, without `__ignore__` and `_background_`; else all labels. Shapes of one label and `group_id` are one
    object, as in LabelMe's own conversion. Points and lines have no area and are left out.

    Raises:
        DataError: the images are missing, or there is no class.
    """
    paths = find_labelme(source)
    if not paths:
        return None
    likely = (path for path in paths if is_labelme(path) or _beside(path))
    files = [file for path in likely if (file := _read(path)) is not None]
    if not files:
        return None
    listed = next((source.root / name for name in _NAMES if (source.root / name).is_file()), None)
    if listed is not None:
        source.use_names(listed)
    kind = ShapeFormat(
        layout="LabelMe's JSON files",
        per_image=True,
        names=read_list(listed) if listed else (),
        closed=listed is not None,
        boxes_have_masks=True,
        paints=True,
        unlisted="an image without a JSON file of LabelMe",
    )
    opened = open_shapes(source, kind, files, target)
    source.problems += _other_image_problems(source, files)
    return opened


def _other_image_problems(source: Source, files: Sequence[ShapeFile]) -> list[str]:
    """Return a sentence on files whose `imagePath` is another image than the one of their own name beside it."""
    pairs = [(file.path, image.path) for file in files for image in file.images if image.path]
    others = [
        (path, image, own)
        for path, image in pairs
        if path.stem != image.stem and (own := _beside(image.parent / path.name))
    ]
    if not others:
        return []
    path, image, own = others[0]
    return [
        f"{number_of(len(others), 'JSON file')} of LabelMe with another image as imagePath than that of the file's own "
        f"name, such as {source.relative(path)}, read for {image.name:.100} and not for {own:.100}; fix the imagePath "
        "or rename the file"
    ]


def read_embedded(path: Path) -> Image.Image:
    """Return the copy of the image in a LabelMe file.

    Raises:
        DataError: there is none, or it is damaged.
    """
    content = read_json(path)
    try:
        with Image.open(io.BytesIO(base64.b64decode(content["imageData"]))) as image:
            image.load()
            return image.copy()
    except (KeyError, TypeError, ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} holds no image in its imageData ({error!s:.100}); put the image beside it") from error


def _read(path: Path) -> ShapeFile | None:
    """Return the content of a JSON file; `None` if it is another tool's."""
    try:
        content = read_json(path)
    except DataError as error:
        beside = _beside(path)
        broken = ShapeImage((beside or path.name,), path, error=str(error))
        return ShapeFile(path, [broken] if beside else [], faults=[] if beside else [str(error)])
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        return None
    names = [name for name in (content.get("imagePath"), _beside(path)) if isinstance(name, str) and name]
    image = ShapeImage(tuple(names) or (path.name,), path)
    image.size = record_size({"height": content.get("imageHeight"), "width": content.get("imageWidth")})
    if isinstance(content.get("imageData"), str) and not _exists(path, names):
        image.read_copy = read_embedded
    file = ShapeFile(path, [image])
    image.shapes = _shapes(content["shapes"], file)
    return file


def _exists(path: Path, names: list[str]) -> bool:
    return any(os.path.isfile(path.parent / name) for name in names)


def _beside(path: Path) -> str | None:
    """Return the name of the image beside a file with its name."""
    endings = sorted(image_endings(), key=lambda ending: (ending not in (".jpg", ".jpeg", ".png"), ending))
    stems = (path.with_suffix(form) for ending in endings for form in (ending, ending.upper()))
    return next((other.name for other in stems if os.path.isfile(other)), None)


def _shapes(items: list[Any], file: ShapeFile) -> list[Shape]:
    """Return the shapes of a file, those of one label and group joined."""
    groups: dict[Any, list[tuple[int, str, Outline]]] = defaultdict(list)
    for number, item in enumerate(items, start=1):
        try:
            name, outline = _outline(item)
        except ValueError as error:
            file.faults.append(f"shape {number} of {file.path} has {error}; fix it or remove the shape")
            continue
        if outline is None:
            file.left_out[str(item.get("shape_type"))] += 1
            continue
        group = item.get("group_id")
        key = (name, str(group)) if isinstance(group, int | float | str) and group != "" else number
        groups[key].append((number, name, outline))
    return [
        Shape(members[0][1], join_outlines([outline for _, _, outline in members]), members[0][0])
        for members in groups.values()
    ]


def _outline(item: Any) -> tuple[str, Outline | None]:
    """Return the label and outline of a shape, `None` if it has no area; raises ValueError if it is damaged."""
    if not isinstance(item, dict):
        raise ValueError(f"the content {item!r:.40}, which is no JSON object")
    name = item.get("label")
    if not isinstance(name, str | int) or not str(name).strip():
        raise ValueError(f"the label {name!r:.40}")
    kind = item.get("shape_type") or "polygon"
    if kind in _WITHOUT_AREA:
        return str(name), None
    points = read_points(item.get("points"))
    if points is None:
        raise ValueError(f"the points {item.get('points')!r:.60}, where lists of x and y belong")
    outline = _drawn(str(kind), points, item)
    if outline is None:
        raise ValueError(f"the shape_type {kind!r:.40} with {len(points) // 2} points")
    return str(name).strip(), outline


def _drawn(kind: str, points: list[float], item: Mapping[str, Any]) -> Outline | None:
    """Return an outline by its kind; `None` if the kind is unknown or has another number of points."""
    if kind == "mask":
        return _mask(points, item)
    if kind in _POLYGONS or (kind == "rectangle" and len(points) == 8):
        return polygon(points) if len(points) >= 6 else None
    if len(points) != 4:
        return None
    x1, y1, x2, y2 = points
    if kind == "rectangle":
        return box_outline(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    if kind == "circle":
        radius = math.hypot(x2 - x1, y2 - y1)
        return ellipse(x1, y1, radius, radius)
    return None


def _mask(points: list[float], item: Mapping[str, Any]) -> Outline:
    """Return the outline of a mask: a PNG whose first pixel is at the first point."""
    corner = read_coordinates(points[:2])
    try:
        with Image.open(io.BytesIO(base64.b64decode(item["mask"]))) as image:
            pixels = np.asarray(image.convert("L")) > 0
    except (KeyError, TypeError, ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"a mask that is no PNG in base64 ({error!s:.60})") from error
    outline = bitmap(round(corner[0]), round(corner[1]), pixels) if corner else None
    if outline is None:
        raise ValueError("an empty mask")
    return outline
