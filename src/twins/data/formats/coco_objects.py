"""COCO's JSON files as objects: boxes, and masks where they are wanted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from twins.data.base import TRAIN_NAMES, VAL_NAMES, Opened, subfolder
from twins.data.classes import ClassTable
from twins.data.formats.coco import (
    CocoFile,
    CocoImages,
    class_table,
    describe,
    find_coco,
    list_categories,
    list_parts,
    read_coco_json,
    read_mask,
    record_errors,
    record_size,
)
from twins.data.images import image_size
from twins.data.objects import Objects, Rle, build_objects, has_area, mask_areas, mask_boxes
from twins.errors import DataError

_IN_PARTS = ("_annotations.coco.json", "annotations.json", "annotation_coco.json", "instances.json")
"""What files are called that lie with the images of one part, Roboflow's first."""
_HUGE = 1e12
"""No box and no area is so large."""
Record = dict[str, Any]


def open_coco_objects(root: Path, *, masks: bool) -> Opened | None:
    """Return a folder's COCO files as sets of images with objects, or `None` when it has none.

    Files are looked for as `find_coco` does, `annotations_train.json` too, and as Roboflow writes them:
    `train/_annotations.coco.json`, `valid/_annotations.coco.json`. Annotations that contradict their file (an unlisted
    category or image, an id that was given before) are left out and told.

    Raises:
        DataError: a file is damaged, holds panoptic segments, or its images cannot be found; or two files have
            different categories.
    """
    paths = find_coco(root, "instances") or find_coco(root, "annotations") or _in_parts(root)
    if not paths:
        return None
    faults: list[str] = []
    files = [_read(path, faults, masks=masks) for path in paths]
    if files[0].categories != files[-1].categories:
        raise DataError(f"{paths[0]} and {paths[1]} list different categories; give both the same")
    try:
        classes = class_table(_named_once(files))
    except DataError as error:
        raise DataError(f"{paths[0]}: {error}") from error
    return Opened([CocoObjects(root, file, classes, masks=masks) for file in files], faults=faults)


class CocoObjects(CocoImages):
    """Images of a COCO file with their objects."""

    def __init__(self, root: Path, file: CocoFile, classes: ClassTable, *, masks: bool) -> None:
        super().__init__(root, file, classes)
        self.masks = masks

    def target(self, index: int) -> Objects:
        """Return an image's objects.

        Raises:
            DataError: a box is none, or a mask is damaged, of another size, or missing where masks are wanted.
        """
        annotations, size = self._annotations(index), self._size(index)
        found = [read_object(annotation, self.file.path, size, masks=self.masks) for annotation in annotations]
        return build_objects(
            [_corners(one.box) for one in found],
            [self.class_id_of[annotation["category_id"]] for annotation in annotations],
            size=size,
            image_id=self.records[index]["id"],
            areas=[one.area for one in found],
            crowd=[one.crowd for one in found],
            masks=[one.mask for one in found if one.mask is not None] if self.masks else None,
        )

    def shape(self, index: int) -> tuple[int, int] | None:
        """Return an image's height and width where its record says them."""
        return record_size(self.records[index])

    def describe_object(self, index: int, place: int) -> str:
        """Return what to call one of an image's objects."""
        return describe(self._annotations(index)[place], self.file.path)

    def _size(self, index: int) -> tuple[int, int]:
        record = self.records[index]
        unsaid = record.get("height") is None and record.get("width") is None
        return image_size(Path(self.path(index))) if unsaid else self.size(index)

    def _annotations(self, index: int) -> Sequence[Record]:
        return self.file.annotations.get(self.records[index]["id"], ())

    def without_area(self, index: int) -> list[str]:
        """Name the objects of an image whose boxes have no area inside it."""
        size = self.shape(index)
        return [
            describe(annotation, self.file.path)
            for annotation in self._annotations(index)
            if is_box(box := annotation.get("bbox")) and not has_area(_corners(box), size)
        ]


@dataclass(frozen=True)
class CocoObject:
    """What an annotation says of an object, its class aside."""

    box: list[float]
    """Left, top, width and height in pixels."""
    area: float
    """Pixels."""
    crowd: bool
    mask: Rle | None
    """Where it was needed."""


def read_object(annotation: Record, path: Path, size: tuple[int, int] | None, *, masks: bool) -> CocoObject:
    """Return an annotation's object: its box as the file says, else the mask's, and its area in the same way.

    Args:
        annotation: a record of the file.
        path: the file, to be named in messages.
        size: height and width of the image in pixels; `None` where they are not known, which masks need.
        masks: whether the mask is needed, even where there is a box.

    Raises:
        DataError: the box is none, or the mask is damaged, of another size, or missing where it is needed.
    """
    mask = _mask(annotation, path, size, masks=masks) if masks or not annotation.get("bbox") else None
    box = _box(annotation, mask, path)
    return CocoObject(box, _area(annotation, box, mask), str(annotation.get("iscrowd")) in ("1", "True"), mask)


def is_box(box: Any) -> TypeGuard[list[float]]:
    """Return whether a value is four finite numbers."""
    return isinstance(box, list) and len(box) == 4 and all(map(is_number, box))


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value is a finite number, of a size that boxes and areas have."""
    return isinstance(value, int | float) and abs(value) < _HUGE


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
    box = annotation.get("bbox")
    if not box and mask is not None:
        around: list[float] = mask_boxes([mask])[0].tolist()
        return around
    if not is_box(box):
        raise DataError(
            f"{describe(annotation, path)} has the bbox {box!r:.60}; give four finite numbers, x, y, width and height"
        )
    return box


def _area(annotation: Record, box: Sequence[float], mask: Rle | None) -> float:
    said = annotation.get("area")
    if is_number(said) and said >= 0:
        return said
    if mask is not None:
        return float(mask_areas([mask])[0])
    return max(0.0, box[2]) * max(0.0, box[3])


def _in_parts(root: Path) -> list[Path]:
    """Return the files that lie with the images of each part."""
    train, val = (_first(subfolder(root, names)) for names in (TRAIN_NAMES, VAL_NAMES))
    return list_parts(train, val) or list_parts(_first(root), None)


def _first(folder: Path | None) -> Path | None:
    return next((folder / name for name in _IN_PARTS if (folder / name).is_file()), None) if folder else None


def _named_once(files: Sequence[CocoFile]) -> list[tuple[int, str]]:
    """Return categories, those aside that nothing uses and whose name another has.

    Roboflow lists a set's only class twice: once as the parent of all classes.
    """
    names = [name for _, name in files[0].categories]
    used = {one["category_id"] for file in files for found in file.annotations.values() for one in found}
    return [(value, name) for value, name in files[0].categories if names.count(name) == 1 or value in used]


def _read(path: Path, faults: list[str], *, masks: bool) -> CocoFile:
    """Read a JSON file of instances; what contradicts the file is left out, and added to the faults.

    Raises:
        DataError: the file is damaged, lacks a part, holds panoptic segments or images without an id or a name.
    """
    content = read_coco_json(path)
    with record_errors(path):
        categories = list_categories(content)
        images = _unique_images(path, content["images"], faults)
        annotations = list(content["annotations"])
        if any("segments_info" in record for record in annotations[:1]):
            raise DataError("it holds panoptic segments; give it a name that says so")
    known = {record["id"] for record in images}, {value for value, _ in categories}
    kept = valid_annotations(path, annotations, *known, faults)
    for found in kept.values():
        for record in found:
            _make_lean(record, masks=masks)
    return CocoFile(path, images, categories, kept, panoptic=False)


def valid_annotations(
    path: Path, annotations: Iterable[Any], images: set[Any], categories: set[int], faults: list[str]
) -> dict[Any, list[Record]]:
    """Return a file's annotations by image id, without those that contradict the ids of its images and categories.

    What is wrong with those is added to the faults.
    """
    ids: set[str] = set()
    kept: dict[Any, list[Record]] = defaultdict(list)
    for record in annotations:
        if fault := _fault(record, path, images, categories, ids):
            faults.append(fault)
        else:
            ids.add(str(record.get("id")))
            kept[record["image_id"]].append(record)
    return dict(kept)


def _unique_images(path: Path, records: Sequence[Record], faults: list[str]) -> list[Record]:
    """Return the records of images, without those whose id was given before."""
    known: dict[int, Record] = {}
    for record in records:
        Path(record["file_name"])
        if not isinstance(record["id"], int):
            raise DataError(f"image {record['file_name']} has the id {record['id']!r}; give it a whole number")
        first = known.setdefault(record["id"], record)
        if first is not record:
            faults.append(
                f"image id {record['id']} of {path} is given to {first['file_name']} and to {record['file_name']}; "
                "give each its own"
            )
    return list(known.values())


def _fault(record: Any, path: Path, images: set[Any], categories: set[int], ids: set[str]) -> str:
    """Return what is wrong with an annotation, or an empty string; ids are those of the annotations before it."""
    if not isinstance(record, dict):
        return f"{path} has the annotation {record!r:.40}, which is no record; remove it"
    what = describe(record, path)
    for key, known, told in (("image_id", images, "is for the image"), ("category_id", categories, "has the category")):
        if key not in record:
            return f"{what} has no {key}; add it or remove the annotation"
        if not isinstance(record[key], int | float | str) or record[key] not in known:
            return f"{what} {told} {record[key]!r:.40}, which is not listed; list it or remove the annotation"
    if "id" in record and str(record["id"]) in ids:
        return f"{what} has an id that another annotation has; give each its own"
    return ""


def _make_lean(record: Record, *, masks: bool) -> None:
    """Take an annotation's mask away where none is needed, and store polygons in a quarter of the memory."""
    segmentation = record.get("segmentation")
    if not masks and record.get("bbox"):
        record.pop("segmentation", None)
    elif isinstance(segmentation, list) and all(isinstance(part, list) and part for part in segmentation):
        with suppress(ValueError):  # which reading the mask will say
            record["segmentation"] = [np.array(part) for part in segmentation]
