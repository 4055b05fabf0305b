"""Label Studio's JSON exports, JSON and JSON_MIN: rectangles, polygons, ellipses and brush labels in percent."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from twins.data.base import Opened
from twins.data.formats.coco import read_json
from twins.data.formats.label_studio_rle import decode_brush
from twins.data.formats.names import with_slashes
from twins.data.formats.outlines import Outline, bitmap, ellipse, polygon, read_coordinates, read_points, turned_box
from twins.data.formats.shape_files import Shape, ShapeFile, ShapeFormat, ShapeImage, Target, read_start
from twins.data.formats.shape_parts import annotation_files
from twins.data.formats.shapes import open_shapes
from twins.data.formats.source import Source
from twins.data.formats.values import read_flag, read_number, read_whole
from twins.data.images import is_image_file
from twins.errors import DataError, number_of

_TASKS = re.compile(r'"(annotations|completions|predictions|total_annotations)"\s*:')
_MIN = re.compile(r'"(annotator|annotation_id|lead_time|original_width)"\s*:')
_UPLOAD_HASH = re.compile(r"^[0-9a-f]{8}-")
_GEOMETRY = ("rectangle", "polygon", "ellipse", "brush")
_EXTRAS = ("labels", "textarea", "rating", "number", "taxonomy", "datetime", "pairwise", "ranker", "relation")
"""Results that say more of a region or an image."""
_IMAGE_KEYS = ("image", "img")
"""Keys of the image in the data of a task, as Label Studio's templates call it."""
_COUNTS = ("predictions", "several", "skipped")
_MAX_SIDE = 65536


def find_label_studio(source: Source) -> tuple[Path, ...]:
    """Return Label Studio's JSON files; none if there is none."""
    return tuple(annotation_files(source, ".json", is_label_studio))


def is_label_studio(path: Path) -> bool:
    """Return whether the beginning of a JSON file is a list of Label Studio's tasks."""
    start = read_start(path, 20_000).lstrip()
    if not re.match(r"\[\s*\{", start):
        return False
    return bool((_TASKS.search(start) and re.search(r'"(data|result|id)"\s*:', start)) or _MIN.search(start))


def open_label_studio(source: Source, target: Target) -> Opened | None:
    """Open images with Label Studio's exports; `None` if there is none.

    Of several annotations of a task the latest that was not cancelled is used; tasks without one are left out, and so
    are predictions. Images are found by the end of their address, also without the hash of an upload. Key points have
    no area and are left out.

    Raises:
        DataError: a file is damaged or holds choices only, or its images are missing.
    """
    tasks = {path: items for path in find_label_studio(source) if (items := _tasks(path)) is not None}
    if not tasks:
        return None
    files = [_read(path, items) for path, items in tasks.items()]
    _check_choices(files)
    counts = Counter({name: sum(file.left_out.pop(name, 0) for file in files) for name in _COUNTS})
    source.notes += _notes(counts)
    kind = ShapeFormat(layout="Label Studio's JSON files", unit="region", unlisted="an image without an annotation")
    return open_shapes(source, kind, files, target)


def _notes(counts: Mapping[str, int]) -> list[str]:
    texts = {
        "predictions": "with predictions, which are not used",
        "several": "with several annotations, of which the latest that was not cancelled is used",
        "skipped": "without an annotation that was not cancelled, left out",
    }
    return [f"{number_of(count, 'task')} of Label Studio {texts[name]}" for name, count in counts.items() if count]


def _tasks(path: Path) -> list[dict[str, Any]] | None:
    """Return the tasks of a file; `None` if it is another tool's."""
    content = read_json(path)
    tasks = [item for item in content if isinstance(item, dict)] if isinstance(content, list) else []
    full = any(isinstance(item.get("data"), dict) for item in tasks)
    return tasks if full or any(_min_regions(item) for item in tasks) else None


def _read(path: Path, tasks: Sequence[dict[str, Any]]) -> ShapeFile:
    file = ShapeFile(path, [])
    for number, task in enumerate(tasks, start=1):
        data = task["data"] if isinstance(task.get("data"), dict) else task
        try:
            name = _image_name(data)
            results = _results(task, file.left_out)
            by_image = {} if results is None else _by_image(data, name, results)
        except ValueError as error:
            file.faults.append(f"task {task.get('id', number)!r:.40} of {path} {error}")
            continue
        for address, regions in by_image.items():
            image = ShapeImage(_file_names(address), path)
            _add_shapes(image, regions, file)
            file.images.append(image)
    if not file.images:
        reason = file.faults[0] if file.faults else f"no task of {path} has an annotation; label some images"
        raise DataError(reason)
    return file


def _by_image(data: Mapping[str, Any], name: str, results: Sequence[Any]) -> dict[str, list[Any]]:
    """Return the results by the address of their image: where a task has several, the one that `to_name` says.

    Raises:
        ValueError: it says none of them.
    """
    images = {key: value for key, value in data.items() if isinstance(value, str) and _is_image(value)}
    drawn = [result for result in results if isinstance(result, dict) and _kind(result) in _GEOMETRY]
    names = dict.fromkeys(str(result.get("to_name")) for result in drawn)
    if len(images) < 2 or (len(names) < 2 and not names.keys() & images.keys() and name in map(data.get, _IMAGE_KEYS)):
        return {name: list(results)}
    if others := [other for other in names if other not in images]:
        raise ValueError(
            f"has several images, {', '.join(images):.100}, and regions of {others[0]:.60}; give the keys of its data "
            "the names of the regions' images (to_name), or remove the task"
        )
    by_image: dict[str, list[Any]] = {}
    for result in results:
        key = result.get("to_name") if isinstance(result, dict) else None
        by_image.setdefault(images.get(str(key), name), []).append(result)
    return by_image or {name: []}


def _is_image(address: str) -> bool:
    return any(is_image_file(Path(name)) for name in _file_names(address))


def _kind(result: Mapping[str, Any]) -> str:
    return str(result.get("type")).removesuffix("labels")


def _image_name(data: Mapping[str, Any]) -> str:
    """Return the value of a task's data that is the address of an image; raises ValueError if there is none."""
    texts = {key: value for key, value in data.items() if isinstance(value, str) and value.strip()}
    ordered = sorted(texts, key=lambda key: (key not in _IMAGE_KEYS, "im" not in key.lower()))
    images = [texts[key] for key in ordered if _is_image(texts[key])]
    if not images and "image" not in texts:
        raise ValueError("names no image; add it or remove the task")
    return images[0] if images else texts["image"]


def _file_names(address: str) -> tuple[str, ...]:
    """Return the names that the file of an address may have: with folders, without them, without an upload's hash."""
    path = _path(address)
    name = with_slashes(path).lstrip("/")
    last = name.rpartition("/")[2]
    return tuple(dict.fromkeys((name, last, _UPLOAD_HASH.sub("", last))))


def _path(address: str) -> str:
    """Return the path in an address: of a URL, of an upload, or behind `?d=` of a local file; else all of it."""
    try:
        parts = urlsplit(address)
    except ValueError:  # such as brackets that are no IPv6 address
        return address
    if parts.path.startswith("/data/") and (local := parse_qs(parts.query).get("d")):
        return local[0]
    is_url = bool(parts.netloc) and len(parts.scheme) > 1
    return unquote(parts.path) if is_url or parts.path.startswith("/data/upload/") else address


def _results(task: Mapping[str, Any], counts: Counter[str]) -> list[Any] | None:
    """Return the results of a task's latest annotation that was not cancelled; `None` if there is none."""
    if "data" not in task:
        return [_as_result(region) for region in _min_regions(task)]
    if task.get("predictions"):
        counts["predictions"] += 1
    annotations = task.get("annotations", task.get("completions"))
    entries = [item for item in annotations if isinstance(item, dict)] if isinstance(annotations, list) else []
    valid = [item for item in entries if not read_flag(item.get("was_cancelled"))]
    if not valid:
        counts["skipped"] += 1
        return None
    if len(valid) > 1:
        counts["several"] += 1
    latest = max(valid, key=lambda item: (str(item.get("updated_at") or item.get("created_at") or ""), _id(item)))
    results = latest.get("result")
    return results if isinstance(results, list) else []


def _id(item: Mapping[str, Any]) -> int:
    return read_whole(item.get("id")) or 0


def _min_regions(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the regions of a task in JSON_MIN: in each list of dictionaries, those that hold labels."""
    lists = [value for value in task.values() if isinstance(value, list)]
    regions = [item for items in lists for item in items if isinstance(item, dict)]
    return [item for item in regions if any(key.endswith("labels") for key in item)]


def _as_result(region: dict[str, Any]) -> dict[str, Any]:
    """Return a region of JSON_MIN as a result of JSON."""
    kind = next(key for key in region if key.endswith("labels"))
    sides = {key: region.get(key) for key in ("original_width", "original_height", "image_rotation")}
    return {"type": kind, "value": region, **sides}


def _add_shapes(image: ShapeImage, results: Sequence[Any], file: ShapeFile) -> None:
    """Add the regions of an annotation to an image; what is no region with an area is counted or is a fault."""
    for number, (kind, result, labels) in enumerate(_regions(results), start=1):
        if kind not in _GEOMETRY:
            file.left_out[kind] += kind not in _EXTRAS
            continue
        try:
            outline = _outline(kind, result)
            if len(labels) != 1:
                raise ValueError(f"the labels {', '.join(labels) or 'none'!s:.80}, and one is needed")
        except ValueError as error:
            description = f"region {number} of {image.names[-1]:.250} in {file.path}"
            file.faults.append(f"{description} has {error}; fix it or remove the region")
            continue
        image.size = image.size or _size(result)
        image.shapes.append(Shape(labels[0], outline, number))


def _regions(results: Sequence[Any]) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """Yield the kind, result and labels of each region; results of the same id are of one region."""
    by_id: dict[str, list[dict[str, Any]]] = {}
    for position, result in enumerate(results):
        if isinstance(result, dict) and isinstance(result.get("value"), dict):
            by_id.setdefault(str(result.get("id") or f"at {position}"), []).append(result)
    for group in by_id.values():
        kinds = [_kind(result) for result in group]
        labels = [name for result in group for name in _labels(result["value"])]
        position = next((i for i, kind in enumerate(kinds) if kind in _GEOMETRY), 0)
        kind = kinds[position] if kinds[position] in _GEOMETRY else str(group[0].get("type"))
        yield kind, group[position], list(dict.fromkeys(labels))


def _labels(value: Mapping[str, Any]) -> list[str]:
    lists = [names for key, names in value.items() if key.endswith("labels") and isinstance(names, list)]
    return [str(name).strip() for names in lists for name in names if isinstance(name, str | int) and str(name).strip()]


def _size(result: Mapping[str, Any]) -> tuple[int, int] | None:
    sides = [read_whole(result.get(f"original_{side}")) or 0 for side in ("height", "width")]
    return (sides[0], sides[1]) if all(0 < side < _MAX_SIDE for side in sides) else None


def _outline(kind: str, result: Mapping[str, Any]) -> Outline:
    """Return the outline of a region; raises ValueError if it is damaged."""
    value, size = result["value"], _size(result)
    if size is None:
        raise ValueError("no original_width and original_height")
    if turn := read_number(result.get("image_rotation") or 0):
        raise ValueError(f"image_rotation {turn:g}: it was drawn on the turned image")
    if kind == "brush":
        outline = bitmap(0, 0, decode_brush(value.get("rle"), size)) if value.get("format") == "rle" else None
    else:
        outline = _READERS[kind](value, size[1] / 100, size[0] / 100)
    if outline is None:
        raise ValueError(f"no {kind} in its value, or an empty one")
    return outline


def _rectangle(value: Mapping[str, Any], x_scale: float, y_scale: float) -> Outline | None:
    """Return a rectangle, which is turned about its left upper corner."""
    numbers = read_coordinates([value.get(key) for key in ("x", "y", "width", "height")])
    angle = read_number(value.get("rotation") or 0)
    if numbers is None or angle is None:
        return None
    left, top, width, height = (n * scale for n, scale in zip(numbers, (x_scale, y_scale) * 2, strict=True))
    return turned_box((left, top, left + width, top + height), angle, (left, top))


def _ellipse(value: Mapping[str, Any], x_scale: float, y_scale: float) -> Outline | None:
    numbers = read_coordinates([value.get(key) for key in ("x", "y", "radiusX", "radiusY")])
    angle = read_number(value.get("rotation") or 0)
    if numbers is None or angle is None:
        return None
    x, y, radius_x, radius_y = (n * scale for n, scale in zip(numbers, (x_scale, y_scale) * 2, strict=True))
    return ellipse(x, y, radius_x, radius_y, angle)


def _polygon(value: Mapping[str, Any], x_scale: float, y_scale: float) -> Outline | None:
    points = read_points(value.get("points"))
    if points is None or len(points) < 6:
        return None
    return polygon([number * (y_scale if i % 2 else x_scale) for i, number in enumerate(points)])


_READERS = {"rectangle": _rectangle, "ellipse": _ellipse, "polygon": _polygon}


def _check_choices(files: Sequence[ShapeFile]) -> None:
    """Raise DataError if the exports hold choices and no region."""
    shapes = sum(len(image.shapes) for file in files for image in file.images)
    if not shapes and any(file.left_out["choices"] for file in files):
        raise DataError(
            f"{files[0].path} holds choices, which are classes of whole images; export it as CSV, keep the columns of "
            'image and choice, and use `task="classification"`'
        )
