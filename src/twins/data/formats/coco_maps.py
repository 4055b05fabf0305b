"""COCO's JSON files as label maps: panoptic segments, or instances with a background."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twins.data.base import UNSPLIT, Opened
from twins.data.classes import MAX_CLASSES, ClassTable, build_table
from twins.data.config import MaskConfig
from twins.data.formats.coco import CocoFile, class_table, read_coco, read_mask
from twins.data.formats.coco_files import Kind, find_coco, group_files
from twins.data.formats.coco_images import (
    Categories,
    CocoImages,
    join_categories,
    open_files,
    repeated_images,
    unique_categories,
)
from twins.data.formats.masks import IGNORE, check_ignored, read_values
from twins.data.formats.names import find_files
from twins.data.formats.source import MASKS, Source
from twins.data.formats.values import fraction_problems, read_numbers
from twins.data.objects import decode_masks
from twins.errors import ConfigError, DataError, few, number_of

_COUNTED = 1000
"""Number of images in which overlapping boxes are counted, so that opening takes little longer than reading."""
BACKGROUND = "background"
"""Class name of pixels without an instance when instances are read as a label map."""
BACKGROUNDS = frozenset((BACKGROUND, "_background_", "__background__"))
"""Names of the pixels without an object, in lower case."""


class PanopticMaps(CocoImages):
    """Panoptic segments as label maps: the category of each segment; pixels without a segment are ignored."""

    def __init__(self, source: Source, file: CocoFile, classes: ClassTable, part: str = UNSPLIT) -> None:
        super().__init__(source, file, classes, part)
        self.maps = _map_folder(file)
        names = [group[0]["file_name"] for group in file.annotations.values()]
        self.found_maps = find_files(names, self.maps)

    def notes(self) -> list[str]:
        """Return sentences on ids and names that are read otherwise than written."""
        double = [group[1]["file_name"] for group in self.file.annotations.values() if len(group) > 1]
        count = f"{number_of(len(double), 'image')} of {self.file.path}"
        ignored = [f"{count} has several maps, of which the first is used; {double[0]:.100} is not"] if double else []
        return [*super().notes(), *self.found_maps.note(f"the annotations of {self.file.path}"), *ignored]

    def target(self, index: int) -> NDArray[np.uint8]:
        """Return the label map `(H, W)`; raises DataError if the PNG cannot be read or holds an unlisted segment."""
        annotations = self.file.annotations.get(self.records[index]["id"])
        if not annotations:
            raise DataError(f"{self.file.path} has no segments for {self.path(index)}; add them or remove its record")
        name = annotations[0]["file_name"]
        path = self._existing_file(self._map_path(name))
        pixels = read_values(path, palette=True).astype(np.int64)
        factors = np.array([1, 256, 65536])  # in panopticapi's order; in a grey PNG all three bytes are equal
        segment_ids = pixels * factors.sum() if pixels.ndim == 2 else pixels @ factors
        label_of = {0: IGNORE} | {
            segment["id"]: self.class_id_of.get(segment["category_id"], IGNORE)
            for segment in annotations[0]["segments_info"]
        }
        ids, inverse = np.unique(segment_ids, return_inverse=True)
        if unknown := [int(i) for i in ids if int(i) not in label_of]:
            raise DataError(f"{path} holds segment {unknown[0]}, which {self.file.path} does not list; fix one of them")
        return np.array([label_of[int(i)] for i in ids], dtype=np.uint8)[inverse].reshape(segment_ids.shape)

    def map_paths(self) -> list[Path]:
        """Return the PNG files of the images."""
        return [self._map_path(group[0]["file_name"]) for group in self.file.annotations.values()]

    def _map_path(self, name: str) -> Path:
        return self.found_maps.paths.get(name, self.maps / name)


class InstanceMaps(CocoImages):
    """Instances as label maps: their categories, `background` elsewhere; pixels of two categories are ignored."""

    def __init__(self, source: Source, file: CocoFile, classes: ClassTable, part: str = UNSPLIT) -> None:
        super().__init__(source, file, classes, part)
        background = classes.names[0].lower() in BACKGROUNDS  # else a category of that name is ignored
        self.background = {number for number, label in self.class_id_of.items() if not label and background}
        self.class_id_of = {number: label for number, label in self.class_id_of.items() if label}

    def notes(self) -> list[str]:
        """Return sentences on what is read otherwise than written, and on pixels that are ignored."""
        groups = list(self.file.annotations.values())[:_COUNTED]
        count = sum(map(self._has_overlap, groups))
        images = f"in {count} of {number_of(len(groups), 'image')} of {self.file.path}"
        overlap = f"{images}, boxes of two classes overlap: pixels that masks of both cover are ignored"
        return [*super().notes(), *([overlap] if count else [])]

    def _has_overlap(self, annotations: Sequence[dict[str, Any]]) -> bool:
        """Return whether the boxes of two classes have pixels in common."""
        rows = [
            (*box, self.class_id_of.get(annotation["category_id"], IGNORE))
            for annotation in annotations
            if annotation["category_id"] not in self.background
            and (box := read_numbers(annotation.get("bbox"), 4)) is not None
        ]
        left, top, width, height, labels = np.array(rows, dtype=np.float64).reshape(-1, 5).T
        if len(np.unique(labels)) < 2:
            return False
        across = np.minimum.outer(left + width, left + width) - np.maximum.outer(left, left)
        down = np.minimum.outer(top + height, top + height) - np.maximum.outer(top, top)
        return bool(((across >= 1) & (down >= 1) & (labels[:, None] != labels)).any())

    def target(self, index: int) -> NDArray[np.uint8]:
        """Return the label map `(H, W)`; raises DataError if a mask is damaged or of another size."""
        size = self.size(index)
        label_map = np.zeros(size, dtype=np.uint8)
        is_covered = np.zeros(size, dtype=np.bool_)
        for annotation in self.file.annotations.get(self.records[index]["id"], ()):
            if annotation["category_id"] in self.background:
                continue
            mask = decode_masks([read_mask(annotation, size, self.file.path)], size)[0]
            label = self.class_id_of.get(annotation["category_id"], IGNORE)
            overlap = mask & is_covered & (label_map != label)
            label_map[mask] = label
            label_map[overlap] = IGNORE
            is_covered |= mask
        return label_map


def open_coco_maps(source: Source, kind: Kind) -> Opened | None:
    """Open a folder's COCO files as sets of images with label maps; `None` if it has none.

    Raises:
        ConfigError: settings of masks other than `ignore`, which do not apply here.
        DataError: a file is damaged, its images cannot be found, or two files have no class in common.
    """
    groups, masks = group_files(source, kind), source.config.masks
    if not groups:
        return None
    files = {path: read_coco(path) for path in dict.fromkeys(path for group in groups.values() for path in group)}
    for path, file in files.items():
        if file.annotations and file.panoptic != (kind == "panoptic"):
            content = "panoptic segments" if file.panoptic else "instances"
            raise DataError(f"{path} holds {content}; give it a name that says so")
    if masks.classes != "auto" or masks.values != "auto" or masks.reduce_zero_label is not None:
        raise ConfigError(
            f"{next(iter(files))} lists the classes of its masks itself; leave out those of `masks.classes`, "
            "`masks.values` and `masks.reduce_zero_label` that are given here or for the run"
        )
    maps = PanopticMaps if kind == "panoptic" else InstanceMaps
    lists = [(path, file.categories if file.panoptic else unique_categories(file)) for path, file in files.items()]
    for file in files.values():
        source.problems += [*repeated_images(file), *_unlisted_images(file), *_fractions(file)]
    categories = join_categories(lists, source.notes)
    if kind == "instances" and (listed := [name for _, name in categories if name.lower() in BACKGROUNDS]):
        source.notes.append(f"the category {listed[0]} is one class with the pixels outside of all objects")
    classes = _classes(lists[0][0], categories, masks, background=kind == "instances")
    sets: list[PanopticMaps | InstanceMaps] = []

    def build(path: Path, part: str) -> CocoImages:
        sets.append(maps(source, files[path], classes, part))
        return sets[-1]

    opened = open_files(source, groups, f"COCO's {kind} files", build)
    for images in sets:
        if isinstance(images, PanopticMaps):
            source.use(MASKS, *images.map_paths())
    if kind == "panoptic" and (others := find_coco(source, "instances")):
        source.notes.append(f"panoptic segments are read, and not the instances of {few(list(others))}")
    return opened


def _unlisted_images(file: CocoFile) -> list[str]:
    """Return a sentence if annotations are for images that are not listed; raises DataError if all are."""
    listed = {record["id"] for record in file.images}
    unlisted = {image: len(group) for image, group in file.annotations.items() if image not in listed}
    if not unlisted or not listed:
        return []
    count, image = number_of(sum(unlisted.values()), "annotation"), next(iter(unlisted))
    sentence = f"{count} of {file.path} for images that are not listed, the first {image!r:.60}; list them or remove it"
    if len(unlisted) == len(file.annotations):
        raise DataError(f"{sentence}; none is for an image that is")
    return [sentence]


def _fractions(file: CocoFile) -> list[str]:
    """Return a sentence if polygons look like fractions of their image."""
    boxes = []
    for annotation in (annotation for group in file.annotations.values() for annotation in group):
        parts = annotation.get("segmentation")
        lists = [part for part in parts if isinstance(part, list)] if isinstance(parts, list) else []
        polygons = [numbers for part in lists if (numbers := read_numbers(part, len(part))) and len(part) % 2 == 0]
        if polygons:
            points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
            boxes.append([*points.min(axis=0), *points.max(axis=0)])
    values = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return fraction_problems(values, f"{file.path}, around polygons,", "x and y")


def _classes(path: Path, categories: Categories, masks: MaskConfig, *, background: bool = False) -> ClassTable:
    """Return the classes of label maps, without ignored ones, optionally after a background class."""
    check_ignored(masks.ignored_names, [name for _, name in categories])
    categories = [
        (category_id, name)
        for category_id, name in categories
        if category_id not in masks.ignored_values and name not in masks.ignored_names
    ]
    try:
        classes = class_table(categories)
        if background:
            classes = _with_background(classes)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if len(classes) > MAX_CLASSES:
        raise DataError(f"{path}: semantic maps have at most {MAX_CLASSES} classes, found {len(classes)}; join some")
    return classes


def _with_background(classes: ClassTable) -> ClassTable:
    """Return the classes after a background: the category of that name, or one that no annotation has."""
    dark = build_table((BACKGROUND,)).colours
    rows = list(zip(classes.names, classes.values, classes.colours, strict=True))
    listed = [(name, value, *dark) for name, value, _ in rows if name.lower() in BACKGROUNDS][:1]
    first = listed or [(BACKGROUND, -1, *dark)]
    names, values, colours = zip(*first, *(row for row in rows if row[:2] != first[0][:2]), strict=True)
    return ClassTable(names, values, colours)


def _map_folder(file: CocoFile) -> Path:
    """Find the folder with the PNG files of a panoptic file."""
    if not file.annotations:
        raise DataError(f"{file.path} lists no annotation; check which file it is")
    first = next(iter(file.annotations.values()))[0]["file_name"]
    folders = (file.path.with_suffix(""), file.path.parent / "png", file.path.parent)
    for folder in folders:
        if os.path.exists(folder / first):
            return folder
    for folder in folders:
        if folder.is_dir() and find_files([first], folder).paths:
            return folder
    raise DataError(
        f"the PNG files of {file.path}, such as {first:.250}, are not in {folders[0]} or {folders[1]}; put them there"
    )
