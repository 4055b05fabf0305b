"""Images with named shapes, as labelling tools write them, as sets with objects or with label maps.

The formats of the tools only parse their files into `ShapeFile`s; classes, parts, objects and label maps are made here.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from twins.data.base import Opened
from twins.data.classes import (
    MAX_CLASSES,
    ClassTable,
    Colour,
    bright_table,
    build_table,
    built_in,
    distinct_colours,
    find_table_file,
    read_table,
    with_bright_colours,
)
from twins.data.config import MaskConfig
from twins.data.formats.coco_maps import BACKGROUND, BACKGROUNDS
from twins.data.formats.masks import IGNORE, check_ignored
from twins.data.formats.shape_files import Shape, ShapeFile, ShapeFormat, ShapeImage, Target, describe_shape
from twins.data.formats.shape_parts import assign_parts, files_of_parts, locate_images, unlisted_images
from twins.data.formats.source import ANNOTATIONS, Source
from twins.data.images import image_size, open_image
from twins.data.objects import Objects, build_objects, decode_masks, has_area, mask_areas
from twins.errors import ConfigError, DataError, count_list, nearest, number_of

IGNORED_NAME = "__ignore__"
"""LabelMe's name of shapes to ignore."""


def open_shapes(source: Source, kind: ShapeFormat, files: Sequence[ShapeFile], target: Target) -> Opened:
    """Return images with named shapes as sets with objects or label maps.

    Raises:
        ConfigError: settings of masks that do not apply here.
        DataError: no image is in the folder, masks are needed and a shape is a box, or there is no class.
    """
    if target == "maps":
        _check_mask_settings(source.config.masks, files[0].path)
    files = files if kind.per_image else files_of_parts(source, files)
    images = [image for file in files for image in file.images]
    images = locate_images(source, images, subset=kind.subset, per_image=kind.per_image)
    parts, origins = assign_parts(source, images, per_image=kind.per_image)
    source.recognise(images=source.layout.images)
    used = [image for part in parts.values() for image in part]
    for file in files:
        source.use(ANNOTATIONS, file.path)
        source.faults += file.faults
    classes = _classes(source, kind, files, used, target)
    _name_ids(source, kind, used, classes)
    _keep_listed(source, kind, used, classes, target)
    if target != "boxes":
        _check_masks(source, kind, used)
    _add_notes(source, kind, files, target)
    _pass_over_unlisted(source, kind, images, used)
    sets: dict[str, Any] = {
        part: ShapeMaps(items, classes, kind, source.config.masks)
        if target == "maps"
        else ShapeObjects(items, classes, kind, masks=target == "masks")
        for part, items in parts.items()
    }
    return Opened(sets, kind.layout, _recognised_by(source, kind, files), origins)


class ShapeImages:
    """Images with named shapes; subclasses add `target`."""

    def __init__(self, images: Sequence[ShapeImage], classes: ClassTable, kind: ShapeFormat) -> None:
        self.images, self.classes, self.names, self.kind = list(images), classes, classes.names, kind
        self.class_id_of = {name: label for label, name in enumerate(classes.names)}

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> Image:
        """Return an image, RGB and upright; raises DataError if it cannot be read."""
        image = self.images[index]
        path = Path(self.path(index))
        if image.read_copy is not None:
            return open_image(image.read_copy(image.file))
        if not os.path.exists(path):  # never an error, also of names that no file can have
            raise DataError(f"{image.file} lists {path!s:.250}, which does not exist; add it or remove its entry")
        return open_image(path)

    def path(self, index: int) -> str:
        """Return an image's path."""
        image = self.images[index]
        return str(image.path or image.file.parent / image.names[0])

    def size(self, index: int) -> tuple[int, int]:
        """Return an image's height and width, if need be from its header."""
        image = self.images[index]
        if image.size is None:
            opened = None if image.read_copy is None else self.load(index)
            image.size = (opened.height, opened.width) if opened else image_size(Path(self.path(index)))
        return image.size

    def shapes(self, index: int) -> list[Shape]:
        """Return an image's shapes; raises DataError if its annotations cannot be read."""
        image = self.images[index]
        if image.error:
            raise DataError(image.error)
        if not image.shares:
            return image.shapes
        height, width = self.size(index)
        return [replace(shape, outline=shape.outline.scaled(width, height)) for shape in image.shapes]

    def describe_object(self, index: int, position: int) -> str:
        """Return an object's description for messages."""
        return describe_shape(self.kind, self.images[index], self.shapes(index)[position])


class ShapeObjects(ShapeImages):
    """Images whose shapes are objects."""

    def __init__(self, images: Sequence[ShapeImage], classes: ClassTable, kind: ShapeFormat, *, masks: bool) -> None:
        super().__init__(images, classes, kind)
        self.masks = masks

    def target(self, index: int) -> Objects:
        """Return an image's objects; raises DataError if its annotations cannot be read."""
        shapes, size = self.shapes(index), self.size(index)
        masks = [shape.outline.mask(size) for shape in shapes] if self.masks else None
        return build_objects(
            [shape.outline.box for shape in shapes],
            [self.class_id_of[shape.name] for shape in shapes],
            size=size,
            image_id=index,
            areas=None if masks is None else mask_areas(masks).tolist(),
            crowd=[shape.crowd for shape in shapes],
            masks=masks,
        )

    def shape(self, index: int) -> tuple[int, int] | None:
        """Return an image's height and width from its annotations; `None` if they do not say."""
        return self.images[index].size

    def names_without_area(self, index: int) -> list[str]:
        """Describe the objects of an image whose boxes have no area inside it."""
        image = self.images[index]
        size = (1, 1) if image.shares else image.size
        return [
            describe_shape(self.kind, image, shape) for shape in image.shapes if not has_area(shape.outline.box, size)
        ]


class ShapeMaps(ShapeImages):
    """Images whose shapes make a label map, `background` elsewhere."""

    def __init__(self, images: Sequence[ShapeImage], classes: ClassTable, kind: ShapeFormat, masks: MaskConfig) -> None:
        super().__init__(images, classes, kind)
        self.background = next(i for i, name in enumerate(classes.names) if name.lower() in BACKGROUNDS)

    def target(self, index: int) -> NDArray[np.uint8]:
        """Return the label map `(H, W)`; raises DataError if the annotations cannot be read."""
        shapes, size = self.shapes(index), self.size(index)
        label_map = np.full(size, self.background, dtype=np.uint8)
        for shape in shapes:
            mask = decode_masks([shape.outline.mask(size)], size)[0]
            label = self.class_id_of.get(shape.name, IGNORE)
            overlap = mask & (label_map != self.background) & (label_map != label)
            label_map[mask] = label
            if not self.kind.paints:
                label_map[overlap] = IGNORE
        return label_map


def _check_mask_settings(masks: MaskConfig, file: Path) -> None:
    if masks.classes != "auto" or masks.values != "auto" or masks.reduce_zero_label is not None:
        raise ConfigError(
            f"{file} names the classes of its shapes itself; leave out those of `masks.classes`, `masks.values` and "
            "`masks.reduce_zero_label` that are given here or for the run"
        )
    if masks.ignored_values:
        raise ConfigError(f"{file} has class names and no mask values; list names in `masks.ignore`")


def _classes(
    source: Source, kind: ShapeFormat, files: Sequence[ShapeFile], images: Sequence[ShapeImage], target: Target
) -> ClassTable:
    """Return the classes: of the folder's class table, else as the annotations list them, else the names of shapes."""
    is_set = source.config.boxes.classes != "auto"
    if (is_set or not kind.closed) and (classes := listed_classes(source)) is not None:
        kept = _without_special(classes.names)
        classes = classes if kept == classes.names or target == "maps" else bright_table(kept)
        return _with_background(classes, source.config.masks) if target == "maps" else classes
    names = _class_names(source, kind, files, images, target)
    colours = {name: colour for file in files for name, colour in file.colours.items()}
    try:
        classes = _table(names, colours)
        return _with_background(classes, source.config.masks) if target == "maps" else classes
    except DataError as error:
        raise DataError(f"{source.names_from}: {error}") from error


def _class_names(
    source: Source, kind: ShapeFormat, files: Sequence[ShapeFile], images: Sequence[ShapeImage], target: Target
) -> list[str]:
    """Return the names of the classes that the annotations list, then those of other shapes; without special ones."""
    used = {shape.name for image in images for shape in image.shapes}
    names = list(kind.names) or list(dict.fromkeys(name for file in files for name in file.names))
    if len({tuple(sorted(file.names)) for file in files if file.names}) > 1 and not kind.names:
        source.notes.append(f"{kind.layout} list different classes; all {len(names)} of them are used")
    source.names_from = source.names_from or (source.relative(files[0].path) if names else kind.layout)
    names += [] if kind.closed and names else sorted(used - set(names))
    has_background = target != "maps" and BACKGROUND in used  # only a class of objects where somebody drew one
    dropped = {IGNORED_NAME, *BACKGROUNDS} - ({BACKGROUND} if has_background else set())
    names = [name for name in names if name.lower() not in dropped]
    if not names:
        reasons = [*(image.error for image in images), *(fault for file in files for fault in file.faults)]
        error = next(filter(None, reasons), "")
        raise DataError(error or f"no annotation of {kind.layout} in {source.root} names a class; add objects")
    source.problems += _alike(names)
    return names


def _alike(names: Sequence[str]) -> list[str]:
    """Return a sentence on classes whose names differ only in case or Unicode form."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[unicodedata.normalize("NFC", name).casefold()].append(name)
    return [
        f"the classes {' and '.join(map(repr, group))} differ only in case or Unicode form, and are different classes; "
        "give both the same name"
        for group in groups.values()
        if len(group) > 1
    ]


def _without_special(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of objects: without those of ignored shapes and of LabelMe's background."""
    return tuple(name for name in names if name not in {IGNORED_NAME, *BACKGROUNDS} - {BACKGROUND})


def _table(names: Sequence[str], colours: dict[str, Colour]) -> ClassTable:
    own = [colours[name] for name in names if name in colours]
    return build_table(names, colours=own) if len(set(own)) == len(names) else bright_table(names)


def _with_background(classes: ClassTable, masks: MaskConfig) -> ClassTable:
    """Return classes of label maps: without ignored ones, and with a background if they list none."""
    check_ignored(masks.ignored_names, classes.names)
    rows = [row for row in zip(classes.names, classes.colours, strict=True) if row[0] not in masks.ignored_names]
    if not any(name.lower() in BACKGROUNDS for name, _ in rows):
        rows = [(BACKGROUND, distinct_colours(1)[0]), *rows]
    if len(rows) > MAX_CLASSES:
        raise DataError(f"semantic maps have at most {MAX_CLASSES} classes, found {len(rows)}; join some")
    return build_table([name for name, _ in rows], colours=[colour for _, colour in rows])


def listed_classes(source: Source) -> ClassTable | None:
    """Return the classes of boxes by the settings, or by a file of class names in the folder; `None` without."""
    name = source.config.boxes.classes
    path = find_table_file(source.root) if name == "auto" else Path(name) if Path(name).is_file() else None
    if name == "auto" and (path is None or is_class_mapping(path)):
        return None
    if path is not None:
        source.use_names(path)
        return with_bright_colours(read_table(path))
    source.names_from = f"the built-in table {name}"
    rows = zip(built_in(name).names, built_in(name).colours, strict=True)
    objects = [row for row in rows if row[0] not in BACKGROUNDS]
    # ids of boxes count the names, as in YOLO's files; those of the table are mask values or COCO's categories
    return build_table([row[0] for row in objects], colours=[row[1] for row in objects])


def is_class_mapping(path: Path) -> bool:
    """Return whether a `classes.csv` has no header, as keras-retinanet's (name, id) and FiftyOne's (id, name)."""
    if path.suffix.lower() != ".csv":
        return False
    first = path.read_bytes()[:4096].decode("utf-8-sig", errors="replace").splitlines()[:1]
    return "name" not in [cell.strip() for line in first for cell in line.split(",")]


def _name_ids(source: Source, kind: ShapeFormat, images: Sequence[ShapeImage], classes: ClassTable) -> None:
    """Give shapes that have ids in place of names the names of these, if all have and a file lists all of them."""
    name_of = {str(value): name for value, name in zip(classes.values, classes.names, strict=True)}
    used = {shape.name for image in images for shape in image.shapes}
    if not used or not used <= name_of.keys() or used & set(classes.names):
        return
    for image in images:
        image.shapes = [replace(shape, name=name_of[shape.name]) for shape in image.shapes]
    source.notes.append(f"{kind.layout} have ids of classes, which get the names of {source.names_from}")


def _keep_listed(
    source: Source, kind: ShapeFormat, images: Sequence[ShapeImage], classes: ClassTable, target: Target
) -> None:
    """Remove the shapes of unlisted classes, and report them; label maps keep those to ignore."""
    known = set(classes.names) | ({IGNORED_NAME, *source.config.masks.ignored_names} if target == "maps" else set())
    background = next((name for name in classes.names if name.lower() in BACKGROUNDS), BACKGROUND)
    special_count = 0
    for image in images:
        shapes, image.shapes = image.shapes, []
        for shape in shapes:
            if shape.name in known:
                image.shapes.append(shape)
            elif target == "maps" and shape.name.lower() in BACKGROUNDS:
                image.shapes.append(replace(shape, name=background))
            elif shape.name.lower() in {IGNORED_NAME, *BACKGROUNDS}:
                special_count += 1
            else:
                hint = nearest(shape.name, classes.names) or "; add it to the classes or remove the object"
                description = describe_shape(kind, image, shape)
                source.faults.append(f"{description} is of the class {shape.name!r:.60}, which is not listed{hint}")
    if special_count:
        count = number_of(special_count, kind.unit)
        source.notes.append(f"{count} of {IGNORED_NAME} or a background in {kind.layout}, left out")


def _check_masks(source: Source, kind: ShapeFormat, images: Sequence[ShapeImage]) -> None:
    """Raise DataError if shapes that need a mask are boxes."""
    if kind.boxes_have_masks:
        return
    shapes = [(image, shape) for image in images for shape in image.shapes]
    boxes = [item for item in shapes if item[1].outline.is_box]
    if shapes and len(boxes) == len(shapes):
        raise DataError(
            f'{source.root} holds {kind.layout}, which have boxes and no masks; choose `task="detection"`, or draw '
            "polygons"
        )
    if boxes:
        raise DataError(
            f"{describe_shape(kind, *boxes[0])} is a box, as {len(boxes)} of {len(shapes)} are, and this task needs "
            'polygons or masks; draw them, remove the boxes, or choose `task="detection"`'
        )


def _add_notes(source: Source, kind: ShapeFormat, files: Sequence[ShapeFile], target: Target) -> None:
    left_out: Counter[str] = Counter()
    for file in files:
        left_out += file.left_out
    if left_out:
        source.notes.append(
            f"left out of {kind.layout}, as they are no box, polygon, ellipse or mask: {count_list(left_out)}"
        )
    if target == "maps":
        overlap = "the later one covers the earlier one" if kind.paints else "pixels of two classes are ignored"
        source.notes.append(f"label maps are drawn from shapes, {BACKGROUND} elsewhere; where shapes meet, {overlap}")


def _pass_over_unlisted(
    source: Source, kind: ShapeFormat, images: Sequence[ShapeImage], used: Sequence[ShapeImage]
) -> None:
    """Give the reason why other images are not used."""
    unlisted, settings = unlisted_images(source, images), [*chain(*source.part_paths().values())]
    if settings:  # annotations elsewhere were not read
        unlisted = [path for path in unlisted if any(path.is_relative_to(folder) for folder in settings)]
    source.pass_over(kind.unlisted, *unlisted)
    if unlisted:
        count = number_of(len(unlisted), "image")
        source.notes.append(f"{count} left out, {kind.unlisted}; {source.relative(unlisted[0])} first")
    if not used:
        raise DataError(f"{source.root} has no image with annotations of {kind.layout}; check the layout settings")


def _recognised_by(source: Source, kind: ShapeFormat, files: Sequence[ShapeFile]) -> list[Path]:
    paths = [file.path for file in files]
    return list(dict.fromkeys(path.parent for path in paths)) if kind.per_image else paths
