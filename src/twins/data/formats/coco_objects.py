"""COCO's JSON files as objects: boxes, and masks if they are needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twins.data.base import UNSPLIT, Opened
from twins.data.classes import ClassTable
from twins.data.formats.coco import (
    CocoFile,
    class_table,
    describe,
    list_categories,
    read_image_list,
    read_mask,
    record_errors,
    record_size,
)
from twins.data.formats.coco_files import group_files
from twins.data.formats.coco_images import CocoImages, join_categories, open_files, repeated_images, unique_categories
from twins.data.formats.source import Source
from twins.data.formats.values import fraction_problems, read_flag, read_number, read_numbers
from twins.data.objects import Objects, Rle, build_objects, has_area, mask_areas, mask_boxes
from twins.errors import ConfigError, DataError, number_of

Record = dict[str, Any]
"""An annotation, or an image's record, as JSON has it."""


def open_coco_objects(source: Source, *, masks: bool) -> Opened | None:
    """Open a folder's COCO files as sets of images with objects; `None` if it has none.

    Files are found by their content, see `group_files`. Annotations that contradict their file (an unlisted category
    or image, a repeated id) are left out and reported.

    Raises:
        ConfigError: `boxes.classes` is set, which does not apply here.
        DataError: a file is damaged or holds panoptic segments, its images cannot be found, or two files have no class
            in common.
    """
    groups = group_files(source, "instances")
    if not groups:
        return None
    paths = dict.fromkeys(path for group in groups.values() for path in group)
    if source.config.boxes.classes != "auto":
        raise ConfigError(
            f"{next(iter(paths))} lists the classes of its boxes itself; leave out `boxes.classes`, which is given "
            "here or for the run"
        )
    files = {path: _read_instances(path, source.faults, masks=masks) for path in paths}
    lists = [(path, unique_categories(file)) for path, file in files.items()]
    try:
        classes = class_table(join_categories(lists, source.notes))
    except DataError as error:
        raise DataError(f"{lists[0][0]}: {error}") from error
    source.problems += [problem for file in files.values() for problem in _problems(file)]
    return open_files(
        source,
        groups,
        "COCO's JSON",
        lambda path, part: CocoObjects(source, files[path], classes, part, masks=masks),
    )


class CocoObjects(CocoImages):
    """Images of a COCO file with their objects."""

    def __init__(
        self, source: Source, file: CocoFile, classes: ClassTable, part: str = UNSPLIT, *, masks: bool
    ) -> None:
        super().__init__(source, file, classes, part)
        self.masks = masks
        self.image_ids = [record["id"] for record in file.images]
        numbers = {name: number for number, name in unique_categories(file)}
        self.category_ids = [numbers.get(name) for name in classes.names]
        """The file's own id of each class; `None` for one that it does not list."""

    def target(self, index: int) -> Objects:
        """Return an image's objects.

        Raises:
            DataError: a box is malformed; or a mask is damaged, of another size, or missing although masks are needed.
        """
        annotations, size = self._annotations(index), self.size(index)
        objects = [read_object(annotation, self.file.path, size, masks=self.masks) for annotation in annotations]
        return build_objects(
            [_corners(item.box) for item in objects],
            [self.class_id_of[annotation["category_id"]] for annotation in annotations],
            size=size,
            image_id=self.records[index]["id"],
            areas=[item.area for item in objects],
            crowd=[item.crowd for item in objects],
            masks=[item.mask for item in objects if item.mask is not None] if self.masks else None,
        )

    def shape(self, index: int) -> tuple[int, int] | None:
        """Return an image's height and width from its record; `None` if it has none."""
        return record_size(self.records[index])

    def describe_object(self, index: int, position: int) -> str:
        """Return an object's description for messages."""
        return describe(self._annotations(index)[position], self.file.path)

    def _annotations(self, index: int) -> Sequence[Record]:
        return self.file.annotations.get(self.records[index]["id"], ())

    def names_without_area(self, index: int) -> list[str]:
        """Describe the objects of an image whose boxes have no area inside it."""
        size = self.shape(index)
        return [
            describe(annotation, self.file.path)
            for annotation in self._annotations(index)
            if (box := read_box(annotation)) is not None and not has_area(_corners(box), size)
        ]


@dataclass(frozen=True)
class CocoObject:
    """The object of an annotation, without its class."""

    box: list[float]
    """Left, top, width and height in pixels."""
    area: float
    """Area in pixels."""
    crowd: bool
    """Whether it is a crowd region (`iscrowd`)."""
    mask: Rle | None
    """`None` if the mask is not needed."""


def read_object(annotation: Record, path: Path, size: tuple[int, int] | None, *, masks: bool) -> CocoObject:
    """Return the object of an annotation; the mask replaces a missing box, and mask or box a missing area.

    Args:
        annotation: an annotation of the file.
        path: the file, for messages.
        size: height and width of the image in pixels, needed for masks; `None` if unknown.
        masks: whether the mask is needed although there is a box.

    Raises:
        DataError: the box is malformed; or the mask is damaged, of another size, or missing although it is needed.
    """
    mask = _mask(annotation, path, size, masks=masks) if masks or not annotation.get("bbox") else None
    box = _box(annotation, mask, path)
    return CocoObject(box, _area(annotation, box, mask), read_flag(annotation.get("iscrowd")) is True, mask)


def read_box(annotation: Record) -> list[float] | None:
    """Return the box of an annotation or a result, left, top, width and height; `None` if it is none."""
    return read_numbers(annotation.get("bbox"), 4)


def _problems(file: CocoFile) -> list[str]:
    """Return a sentence on each kind of annotation that cannot be right."""
    boxes = _box_problems(file) or _corner_problems(file)
    return [*boxes, *_background_problems(file), *(_area_problems(file) if not boxes else ()), *repeated_images(file)]


def _background_problems(file: CocoFile) -> list[str]:
    """Return a sentence if objects are of a category that is called background."""
    names = {number: name for number, name in file.categories if name.strip("_ ").lower() == "background"}
    count = sum(annotation["category_id"] in names for group in file.annotations.values() for annotation in group)
    if not count:
        return []
    name = next(iter(names.values()))
    return [
        f"{number_of(count, 'annotation')} of {file.path} are of the category {name!r}, which would be learned as "
        "objects; remove them and the category"
    ]


def _area_problems(file: CocoFile) -> list[str]:
    """Return a sentence if areas cannot be those of their boxes, by which objects count as small or large."""
    areas = [
        (area, box[2] * box[3], (box[2] + 2) * (box[3] + 2))
        for group in file.annotations.values()
        for annotation in group
        if (area := read_number(annotation.get("area"))) is not None and (box := read_box(annotation)) is not None
    ]
    small = sum(area < 1 < expected / 4 for area, expected, _ in areas)
    large = sum(area > 2 * most > 0 for area, _, most in areas)
    return [
        f"{count} of {len(areas)} areas in {file.path} are {fault}; fix them"
        for count, fault in (
            (small, "below 1 although the box has pixels"),
            (large, "more than twice as large as the box"),
        )
        if count
    ]


def _corner_problems(file: CocoFile) -> list[str]:
    """Return a sentence if the areas are those of the boxes as corners, and not as left, top, width and height."""
    rows = [
        (*box, area)
        for group in file.annotations.values()
        for annotation in group
        if (area := read_number(annotation.get("area"))) is not None and (box := read_box(annotation)) is not None
    ]
    left, top, third, fourth, areas = np.array(rows, dtype=np.float64).reshape(-1, 5).T
    as_corners = np.isclose((third - left) * (fourth - top), areas, rtol=0.01)
    as_written = np.isclose(third * fourth, areas, rtol=0.01)
    if not as_corners.all() or as_written.all():
        return []
    count = number_of(len(rows), "area")
    return [
        f"{count} in {file.path} fit the boxes if their numbers are left, top, right and bottom; give left, top, width "
        "and height"
    ]


def _box_problems(file: CocoFile) -> list[str]:
    """Return a sentence if the boxes of a file look like fractions, corners or centres."""
    size_of = {record["id"]: record_size(record) for record in file.images}
    pairs = [
        (box, size_of[image])
        for image, group in file.annotations.items()
        for annotation in group
        if (box := read_box(annotation)) is not None
    ]
    return box_problems(pairs, file.path)


def box_problems(pairs: Iterable[tuple[Sequence[float], tuple[int, int] | None]], path: Path) -> list[str]:
    """Return a sentence if boxes look like fractions, corners or centres.

    Args:
        pairs: boxes as left, top, width and height, and the height and width of the image of each.
        path: the file that they are from.
    """
    rows = [(*box, *(size or (np.inf, np.inf))) for box, size in pairs]
    values = np.array(rows, dtype=np.float64).reshape(-1, 6)
    boxes, sizes = values[:, :4], values[:, :3:-1]
    xyxy = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    fractions = fraction_problems(xyxy, str(path), "left, top, width and height")
    return fractions or _convention_problems(boxes, sizes, path)


def _convention_problems(boxes: NDArray[np.float64], sizes: NDArray[np.float64], path: Path) -> list[str]:
    """Return a sentence if boxes that reach beyond their image would all fit as corners, or as centres and sizes.

    Args:
        boxes: `(R, 4)`, as in the file.
        sizes: width and height of the image of each, `(R, 2)`.
        path: the file.
    """
    first, second = boxes[:, :2], boxes[:, 2:]
    beyond = ~_are_inside(first, first + second, sizes)
    count, verb = number_of(len(boxes), "box", "boxes"), "reaches" if beyond.sum() == 1 else "reach"
    if not beyond.any():
        return []
    for description, low, high in (
        ("left, top, right and bottom", first, second),
        ("centre, width and height", first - second / 2, first + second / 2),
    ):
        if _are_inside(low, high, sizes).all():
            return [
                f"{beyond.sum()} of {count} in {path} {verb} beyond their image, and all fit if their "
                f"numbers are {description}; give left, top, width and height"
            ]
    return []


def _are_inside(low: NDArray[np.float64], high: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which boxes have area and lie in their image, within a pixel, `(R,)`."""
    return np.asarray(((low >= -1) & (low < high) & (high <= sizes + 1)).all(axis=1))


def _corners(box: Sequence[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y + height]


def _mask(annotation: Record, path: Path, size: tuple[int, int] | None, *, masks: bool) -> Rle:
    if not masks and not annotation.get("segmentation"):
        raise DataError(f"{describe(annotation, path)} has neither box nor mask; add one or remove the annotation")
    if size is None:
        raise DataError(
            f"{describe(annotation, path)} has a segmentation in an image whose height and width are not in the file; "
            "add them to the image's record"
        )
    return read_mask(annotation, size, path)


def _box(annotation: Record, mask: Rle | None, path: Path) -> list[float]:
    if not annotation.get("bbox") and mask is not None:
        mask_box: list[float] = mask_boxes([mask])[0].tolist()
        return mask_box
    if (box := read_box(annotation)) is None:
        raise DataError(
            f"{describe(annotation, path)} has the bbox {annotation.get('bbox')!r:.60}; give four finite numbers, "
            "x, y, width and height"
        )
    return box


def _area(annotation: Record, box: Sequence[float], mask: Rle | None) -> float:
    area = read_number(annotation.get("area"))
    if area is not None and area >= 0:
        return area
    if mask is not None:
        return float(mask_areas([mask])[0])
    return max(0.0, box[2]) * max(0.0, box[3])


def _read_instances(path: Path, faults: list[str], *, masks: bool) -> CocoFile:
    """Read a JSON file of instances; entries that contradict the file are left out and added to `faults`.

    Raises:
        DataError: the file is damaged, lacks a list, or holds panoptic segments or images without an id or a name.
    """
    content, notes = read_image_list(path)
    with record_errors(path):
        categories = list_categories(content)
        images = _unique_images(path, content["images"], faults)
        annotations = list(content["annotations"])
        if any("segments_info" in annotation for annotation in annotations[:1]):
            raise DataError("it holds panoptic segments; give it a name that says so")
    image_ids, category_ids = {record["id"] for record in images}, {category_id for category_id, _ in categories}
    by_image = valid_annotations(path, annotations, image_ids, category_ids, faults)
    for group in by_image.values():
        for annotation in group:
            _compact(annotation, masks=masks)
    return CocoFile(path, images, categories, by_image, panoptic=False, notes=notes)


def valid_annotations(
    path: Path, annotations: Iterable[Any], image_ids: set[Any], category_ids: set[int], faults: list[str]
) -> dict[Any, list[Record]]:
    """Return a file's annotations by image id; add a sentence to `faults` for each that contradicts the file."""
    ids: set[str] = set()
    by_image: dict[Any, list[Record]] = defaultdict(list)
    for annotation in annotations:
        if fault := _fault(annotation, path, image_ids, category_ids, ids):
            faults.append(fault)
        else:
            ids.add(str(annotation.get("id")))
            by_image[annotation["image_id"]].append(annotation)
    return dict(by_image)


def _unique_images(path: Path, records: Sequence[Record], faults: list[str]) -> list[Record]:
    """Return the records of images, without those that repeat an id; these are added to `faults`."""
    by_id: dict[int, Record] = {}
    for record in records:
        Path(record["file_name"])
        if not isinstance(record["id"], int):
            raise DataError(f"image {record['file_name']} has the id {record['id']!r}; give it a whole number")
        first = by_id.setdefault(record["id"], record)
        if first is not record:
            names = first["file_name"], record["file_name"]
            faults.append(
                f"image id {record['id']} of {path} is given to {names[0]} and to {names[1]}; give each its own"
                if names[0] != names[1]
                else f"{path} lists {names[0]} twice with the image id {record['id']}; remove one"
            )
    return list(by_id.values())


def _fault(annotation: Any, path: Path, image_ids: set[Any], category_ids: set[int], used_ids: set[str]) -> str:
    """Return a sentence on the fault of an annotation, or an empty string."""
    if not isinstance(annotation, dict):
        return f"{path} has the annotation {annotation!r:.40}, which is no JSON object; remove it"
    subject = describe(annotation, path)
    for key, ids, text in (
        ("image_id", image_ids, "is for the image"),
        ("category_id", category_ids, "has the category"),
    ):
        if key not in annotation:
            return f"{subject} has no {key}; add it or remove the annotation"
        if not isinstance(annotation[key], int | float | str) or annotation[key] not in ids:
            return f"{subject} {text} {annotation[key]!r:.40}, which is not listed; list it or remove the annotation"
    if read_flag(annotation.get("iscrowd")) is None:
        return f"{subject} has the iscrowd {annotation['iscrowd']!r:.40}, which is neither 0 nor 1; fix it"
    if "id" in annotation and str(annotation["id"]) in used_ids:
        return f"{subject} has an id that another annotation has; give each its own"
    return ""


def _compact(annotation: Record, *, masks: bool) -> None:
    """Remove an annotation's mask if it is not needed, and store polygons as arrays, in a quarter of the memory."""
    segmentation = annotation.get("segmentation")
    if not masks and annotation.get("bbox"):
        annotation.pop("segmentation", None)
    elif isinstance(segmentation, list) and all(isinstance(part, list) and part for part in segmentation):
        with suppress(ValueError):  # `read_mask` reports it
            annotation["segmentation"] = [np.array(part) for part in segmentation]
