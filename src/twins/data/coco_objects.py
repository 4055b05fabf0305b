"""COCO's JSON files as objects: boxes, and masks where they are wanted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from twins.data.annotated import Opened, has_area, image_size
from twins.data.classes import ClassTable
from twins.data.coco import (
    CocoFile,
    CocoImages,
    CocoParts,
    class_table,
    find_coco,
    list_categories,
    read_content,
    read_mask,
    sound_records,
)
from twins.data.dataset import TRAIN_NAMES, VAL_NAMES, subfolder
from twins.data.objects import Objects, Rle, build_objects
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

    Args:
        root: the data set's folder.
        masks: whether objects have masks.

    Raises:
        DataError: a file is damaged, holds panoptic segments, or its images cannot be found; or two files have
            different categories.
    """
    parts = find_coco(root, "instances") or find_coco(root, "annotations") or _in_parts(root)
    if parts is None:
        return None
    faults: list[str] = []
    files = [_read(path, faults, masks=masks) for path in (parts.train, parts.val) if path is not None]
    if any(file.categories != files[0].categories for file in files):
        raise DataError(f"{parts.train} and {parts.val} list different categories; give both the same")
    try:
        classes = class_table(_named_once(files))
    except DataError as error:
        raise DataError(f"{parts.train}: {error}") from error
    sets = [CocoObjects(root, file, classes, masks=masks) for file in files]
    return Opened(sets[0], sets[1] if len(sets) == 2 else None, faults=faults)


class CocoObjects(CocoImages):
    """Images of a COCO file with their objects."""

    def __init__(self, root: Path, file: CocoFile, classes: ClassTable, *, masks: bool) -> None:
        super().__init__(root, file)
        self.classes, self.names, self.masks = classes, classes.names, masks
        self.class_of = {value: label for label, value in enumerate(classes.values)}
        self.without_area: Mapping[int, Sequence[str]] = {
            index: names for index in range(len(self)) if (names := self._without_area(index))
        }

    def target(self, index: int) -> Objects:
        """Return an image's objects.

        Raises:
            DataError: a box is none, or a mask is damaged, of another size, or missing where masks are wanted.
        """
        found = self._annotations(index)
        size = self._size(index)
        masks = [self._mask(annotation, size) if self._needs_mask(annotation) else None for annotation in found]
        boxes = [self._box(annotation, mask) for annotation, mask in zip(found, masks, strict=True)]
        return build_objects(
            boxes,
            [self.class_of[annotation["category_id"]] for annotation in found],
            size=size,
            image_id=self.records[index]["id"],
            areas=[_area(*parts) for parts in zip(found, boxes, masks, strict=True)],
            crowd=[bool(annotation.get("iscrowd")) for annotation in found],
            masks=[mask for mask in masks if mask is not None] if self.masks else None,
        )

    def shape(self, index: int) -> tuple[int, int] | None:
        """Return an image's height and width where its record says them."""
        try:
            return self.size(index)
        except DataError:
            return None

    def named(self, index: int, place: int) -> str:
        """Return what to call one of an image's objects."""
        return self._called(self._annotations(index)[place])

    def _size(self, index: int) -> tuple[int, int]:
        record = self.records[index]
        unsaid = record.get("height") is None and record.get("width") is None
        return image_size(Path(self.path(index))) if unsaid else self.size(index)

    def _annotations(self, index: int) -> Sequence[Record]:
        return self.file.annotations.get(self.records[index]["id"], ())

    def _called(self, annotation: Record) -> str:
        return f"annotation {annotation.get('id', '?')} of {self.file.path}"

    def _needs_mask(self, annotation: Record) -> bool:
        return self.masks or not annotation.get("bbox")

    def _mask(self, annotation: Record, size: tuple[int, int]) -> Rle:
        if not self.masks and not annotation.get("segmentation"):
            raise DataError(f"{self._called(annotation)} has neither box nor mask; add one or remove the annotation")
        return read_mask(annotation, *size, self.file.path)

    def _box(self, annotation: Record, mask: Rle | None) -> list[float]:
        """Return a box as xyxy: the file's, else the mask's."""
        from faster_coco_eval import mask as rle

        box = annotation.get("bbox")
        if not box and mask is not None:
            x, y, width, height = rle.toBbox(mask).tolist()
        elif _is_box(box):
            x, y, width, height = box
        else:
            raise DataError(
                f"{self._called(annotation)} has the bbox {box!r:.60}; give four finite numbers, x, y, width and height"
            )
        return [x, y, x + width, y + height]

    def _without_area(self, index: int) -> list[str]:
        size = self.shape(index)
        return [
            self._called(annotation)
            for annotation in self._annotations(index)
            if _is_box(annotation.get("bbox")) and not has_area(self._box(annotation, None), size)
        ]


def _is_box(box: Any) -> TypeGuard[list[float]]:
    return isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and abs(value) < _HUGE


def _area(annotation: Record, box: Sequence[float], mask: Rle | None) -> float:
    """Return an object's pixels: as the file says, else the mask's, else the box's."""
    from faster_coco_eval import mask as rle

    said = annotation.get("area")
    if _is_number(said) and said >= 0:
        return said
    if mask is not None:
        return float(rle.area(mask))
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _in_parts(root: Path) -> CocoParts | None:
    """Return the files that lie with the images of each part."""
    found = [_first(subfolder(root, names)) for names in (TRAIN_NAMES, VAL_NAMES)]
    if found[0] is not None:
        return CocoParts(found[0], found[1])
    alone = _first(root)
    return None if alone is None else CocoParts(alone, None)


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
    content = read_content(path)
    with sound_records(path):
        categories = list_categories(content)
        images = _unique_images(path, content["images"], faults)
        annotations = list(content["annotations"])
        if any("segments_info" in record for record in annotations[:1]):
            raise DataError("it holds panoptic segments; give it a name that says so")
    sifter = _Sifter(path, {record["id"] for record in images}, {value for value, _ in categories})
    kept: dict[int, list[Record]] = defaultdict(list)
    for record in annotations:
        if fault := sifter.fault(record):
            faults.append(fault)
        else:
            kept[record["image_id"]].append(_lean(record, masks=masks))
    return CocoFile(path, images, categories, dict(kept), panoptic=False)


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


@dataclass
class _Sifter:
    """Tells the annotations that contradict their file."""

    path: Path
    images: set[int]
    categories: set[int]
    ids: set[str] = field(default_factory=set)
    """Ids of the annotations seen so far."""

    def fault(self, record: Any) -> str:
        """Return what is wrong with an annotation, or an empty string."""
        if not isinstance(record, dict):
            return f"{self.path} has the annotation {record!r:.40}, which is no record; remove it"
        what = f"annotation {record.get('id', '?')} of {self.path}"
        for key, known, told in (
            ("image_id", self.images, "is for the image"),
            ("category_id", self.categories, "has the category"),
        ):
            if key not in record:
                return f"{what} has no {key}; add it or remove the annotation"
            if not isinstance(record[key], int | float) or record[key] not in known:
                return f"{what} {told} {record[key]!r:.40}, which is not listed; list it or remove the annotation"
        if "id" in record and str(record["id"]) in self.ids:
            return f"{what} has an id that another annotation has; give each its own"
        self.ids.add(str(record.get("id")))
        return ""


def _lean(record: Record, *, masks: bool) -> Record:
    """Return an annotation as it is kept: no mask where none is needed, polygons in a quarter of the memory."""
    segmentation = record.get("segmentation")
    if not masks and record.get("bbox"):
        record.pop("segmentation", None)
        return record
    if isinstance(segmentation, list) and all(isinstance(part, list) and part for part in segmentation):
        try:
            record["segmentation"] = [np.array(part) for part in segmentation]
        except ValueError:  # which reading the mask will say
            return record
    return record
