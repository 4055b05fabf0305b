"""Opens data sets: a function for each type of target, which opens a folder in the one format that it has.

| target of an image | embedded | folders |
| --- | --- | --- |
| a class id | `digits` | `class_lists`, `class_folders` |
| a label map | `scenes` | `coco_maps` of panoptic segments or instances, `mask_folders`, `shape_formats` |
| objects, with or without masks | `scenes` | `coco_objects`, `voc` (without masks), `yolo`, `shape_formats` |
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from twins.data.base import (
    AnnotatedImages,
    LabelledImages,
    LabelMapImages,
    NamedObjects,
    Opened,
    Splits,
)
from twins.data.config import BoxConfig, DataConfig, LayoutConfig, MaskConfig
from twins.data.formats.class_folders import class_folders, open_class_folders
from twins.data.formats.class_lists import open_class_lists
from twins.data.formats.coco_files import Kind, find_coco
from twins.data.formats.coco_maps import open_coco_maps
from twins.data.formats.coco_objects import open_coco_objects
from twins.data.formats.digits import Digits
from twins.data.formats.mask_folders import find_mask_folders, open_mask_folders
from twins.data.formats.mask_names import IMAGE_FOLDERS, MASK_FOLDERS, role_of
from twins.data.formats.scenes import SceneMaps, SceneObjects
from twins.data.formats.several import open_one_set, sets_inside
from twins.data.formats.shape_files import Target
from twins.data.formats.shape_formats import SHAPE_FORMATS
from twins.data.formats.shapes import listed_classes
from twins.data.formats.source import LayoutUnknownError, SeveralSetsError, Source, split
from twins.data.formats.unread import unread_format
from twins.data.formats.voc import find_voc, open_voc
from twins.data.formats.yolo import find_yolo, open_yolo
from twins.data.formats.yolo_lines import OtherFormatError
from twins.data.images import list_images
from twins.data.parts import part_of
from twins.data.plan import ReadingPlan
from twins.errors import ConfigError, DataError, few, number_of


def open_class_ids(config: DataConfig) -> Splits[LabelledImages]:
    """Open a data set with a class id per image.

    Raises:
        DataError: the folder does not exist, or holds no classes or images.
    """
    if config.data == "digits":
        return embedded(Digits(train=True), Digits(train=False), "digits")
    source = Source(config, "a folder with one folder per class, digits, or another `task`")
    try:
        opened = open_class_lists(source)
        if opened is None:
            if _has_role_names(source):
                _refuse_other_tasks(source)
            _refuse_sets(source)
        return split(opened or open_class_folders(source), source)
    except DataError as error:
        unread = None if list_images(source.root) else unread_format(source)
        if unread is not None:
            raise DataError(unread) from error
        if not isinstance(error, LayoutUnknownError | SeveralSetsError) and source.settings_file is None:
            _refuse_other_tasks(source)
        raise


def open_label_maps(config: DataConfig) -> Splits[LabelMapImages]:
    """Open a data set with a label map per image.

    Raises:
        ConfigError: settings of masks that do not apply to the format.
        DataError: the folder does not exist or has no known layout; an image or mask is missing; or masks contradict
            the classes.
    """
    if config.data == "scenes":
        return embedded(SceneMaps(train=True), SceneMaps(train=False), "scenes")
    if config.boxes != BoxConfig():
        raise ConfigError("`boxes` sets how the classes of boxes are read; leave it out for semantic")
    source = Source(config, "a folder with images and masks, or scenes")
    opened = open_one_set(source, lambda: _open_one(source, _formats_of_maps()))
    if opened is None:
        raise _unknown_layout(
            source,
            "images with masks",
            f"put images in {source.root / 'images'} and masks of the same names in {source.root / 'masks'}, each with "
            "train and val in it if the set is split, or say where both are with `layout.images` and "
            "`layout.annotations`",
        )
    return split(opened, source)


def open_objects_for_run(config: DataConfig, *, masks: bool) -> Splits[AnnotatedImages]:
    """Open a data set with objects, and add notes on the annotations that a run does not use. Opens no image.

    Args:
        config: the data set; without a validation part, a share of its images is held out at random, by `seed`.
        masks: whether objects need masks.

    Returns:
        both parts, with notes on annotations that contradict their file and on training boxes without area inside
        their image.

    Raises:
        ConfigError: `config.masks`, which is for semantic masks, is set.
        DataError: the folder does not exist or has no known layout, a file is damaged, there are too few images, or
            the objects need masks and VOC's files have none.
    """
    splits: Splits[Any] = open_objects(config, masks=masks)
    areas = _area_notes(splits.train) if "train" in splits.parts else ()
    notes = (*splits.notes, *splits.problems, *_fault_notes(splits.faults), *areas)
    return replace(splits, notes=notes)


def open_objects(config: DataConfig, *, masks: bool) -> Splits[NamedObjects]:
    """Open a data set with objects, as `open_objects_for_run` does but without its notes."""
    if config.masks != MaskConfig():
        raise ConfigError("`masks` sets how semantic masks are read; leave it out for detection and instance")
    if config.data == "scenes":
        return embedded(SceneObjects(train=True, masks=masks), SceneObjects(train=False, masks=masks), "scenes")
    source = Source(config, "a folder with images and annotations, or scenes")
    opened = open_one_set(source, lambda: _open_one(source, _formats_of_objects(masks=masks)))
    if opened is None:
        raise _unknown_layout(
            source,
            "images with objects",
            "known are COCO's JSON, Pascal VOC's XML, YOLO's label files, and the files of LabelMe, CVAT, Label Studio "
            "and VIA, and CSV; bring it into one of them, or say where the annotations are with `layout.annotations`",
        )
    return split(opened, source)


def embedded(train: Any, val: Any, name: str) -> Splits[Any]:
    """Return the parts of an embedded set."""
    parts = {"train": train, "val": val}
    counts = {part: {"images": len(images), "origin": "its own split"} for part, images in parts.items()}
    note = f"{name} is the embedded data set; the folder here of that name is given as ./{name}"
    notes = (note,) if os.path.isdir(name) else ()
    return Splits(parts, name, notes, plan=ReadingPlan(f"the embedded set {name}", parts=counts))


_ROLES = frozenset(map(str.lower, (*IMAGE_FOLDERS, *MASK_FOLDERS, "Annotations", "ImageSets", "xmls", "panoptic")))
"""Names of folders that hold images, masks or boxes, in lower case; a class is rarely called so."""
_DEPTH = 2
"""Number of folders above one without a known layout in which the data folder is looked for."""
_LISTS = (".json", ".csv", ".yaml", ".xml")
"""Endings of files that lie beside the folders of a data set."""


def _has_role_names(source: Source) -> bool:
    """Return whether folders that could be classes are called like those of another task."""
    folders = class_folders(source.root)
    inner = [path for folder in folders if part_of(folder.name) for path in class_folders(folder)]
    return bool({path.name.lower() for path in (*folders, *inner)} & _ROLES)


def _refuse_other_tasks(source: Source) -> None:
    """Raise LayoutUnknownError if a folder has a format of another task."""
    if source.layout != LayoutConfig():
        return
    for task, formats in (("detection", _formats_of_objects(masks=False)), ("semantic", _formats_of_maps())):
        for kind in formats:
            if paths := kind.find(source):
                raise LayoutUnknownError(
                    f"{source.root} has {_shown(source, kind, paths)} instead of class folders; choose "
                    f'`task="{task}"`, or give `layout.images="."` if all of its folders are classes'
                )


def _refuse_sets(source: Source) -> None:
    """Raise SeveralSetsError if folders that could be classes are data sets of other tasks."""
    if sets := sets_inside(source):
        raise SeveralSetsError(
            f"{source.root} holds {number_of(len(sets), 'data set')} of other tasks instead of class folders, "
            f"{few(list(map(source.relative, sets)), limit=10)}; give one of these folders as the data, with its "
            '`task`, or give `layout.images="."` if all folders are classes'
        )


class _Format(NamedTuple):
    """A format of annotations."""

    name: str
    """For people."""
    find: Callable[[Source], Sequence[Path]]
    """Returns the files and folders by which a folder is recognised; none if it has another format."""
    open: Callable[[Source], Opened | None]
    rank: int = 0
    """Of two formats that fit, the one of lower rank is read; two of one rank are refused."""


def _formats_of_maps() -> list[_Format]:
    """Return the formats of label maps: panoptic files are complete, masks are often made from instances or shapes."""
    kinds: dict[Kind, int] = {"panoptic": 0, "instances": 2}
    panoptic, instances = (
        _Format(f"COCO's JSON of {kind}", partial(find_coco, kind=kind), partial(open_coco_maps, kind=kind), rank)
        for kind, rank in kinds.items()
    )
    return [panoptic, _Format("masks", find_mask_folders, open_mask_folders, 1), instances, *_shape_formats("maps", 3)]


def _formats_of_objects(*, masks: bool) -> list[_Format]:
    """Return the formats of objects; people convert from the higher ranks to the lower, and COCO to YOLO."""
    return [
        _Format("COCO's JSON", find_coco, partial(open_coco_objects, masks=masks)),
        _Format("VOC's XML files", find_voc, partial(_open_labels, open_voc, masks=masks), 3 if masks else 0),
        _Format("YOLO's label files", find_yolo, partial(_open_labels, open_yolo, masks=masks), 1),
        *_shape_formats("masks" if masks else "boxes", 2),
    ]


def _shape_formats(target: Target, rank: int) -> list[_Format]:
    return [_Format(name, find, partial(_open_shapes, name, target), rank) for name, (find, _) in SHAPE_FORMATS.items()]


def _open_shapes(name: str, target: Target, source: Source) -> Opened | None:
    return SHAPE_FORMATS[name][1](source, target)


def _open_one(source: Source, formats: Sequence[_Format]) -> Opened | None:
    """Open a folder in the format that it has; `None` if it has none.

    Raises:
        DataError: it has two formats, neither of which is usually made from the other.
    """
    found = [(kind, paths) for kind in formats if (paths := kind.find(source))]
    found = [(kind, paths) for kind, paths in found if _is_given(source, paths)] or found
    if not found:  # opening says why a folder that looks like a format is none
        return next((opened for kind in formats if (opened := kind.open(source))), None)
    found.sort(key=lambda item: item[0].rank)
    while found:
        (chosen, paths), *found = found
        _refuse_equals(source, (chosen, paths), found)
        if (opened := chosen.open(source)) is not None:  # else files that only look like the format
            source.notes[:0] = [
                f"of {_shown(source, chosen, paths)} and {_shown(source, other, files)} the first is read; "
                "`layout.annotations` decides otherwise"
                for other, files in found
            ]
            return opened
    return None


def _refuse_equals(
    source: Source, chosen: tuple[_Format, Sequence[Path]], others: Sequence[tuple[_Format, Sequence[Path]]]
) -> None:
    """Raise DataError if the next of the other formats has the rank of the chosen one."""
    if others and others[0][0].rank == chosen[0].rank:
        raise DataError(
            f"{source.root} has annotations in two formats, {_shown(source, *chosen)} and "
            f"{_shown(source, *others[0])}; give the file or folder to read as `layout.annotations`"
        )


def _shown(source: Source, kind: _Format, paths: Sequence[Path]) -> str:
    """Return a format's name, and the first files or folders by which it was recognised."""
    return f"{kind.name} ({', '.join(map(source.relative, paths[:2]))})"


def _is_given(source: Source, paths: Sequence[Path]) -> bool:
    """Return whether a format was recognised by the annotations that the layout settings give."""
    parts = [path for group in source.part_paths().values() for path in group]
    given = [source.path(source.layout.annotations), *(path for path in parts if path.suffix and path.is_file())]
    given_paths = [os.path.abspath(path) for path in given if path is not None and path.suffix.lower() != ".txt"]
    found = [os.path.abspath(path) for path in paths]
    return any(path == folder or path.startswith(folder + os.sep) for folder in given_paths for path in found)


def _open_labels(open_format: Callable[..., Opened | None], source: Source, *, masks: bool) -> Opened | None:
    """Open VOC's or YOLO's files; files of another format that look like them get its sentence."""
    try:
        return open_format(source, listed_classes(source), masks=masks)
    except OtherFormatError:
        raise
    except DataError as error:
        if (unread := unread_format(source, labels_only=True)) is None:
            raise
        raise DataError(unread) from error


def _unknown_layout(source: Source, content: str, advice: str) -> LayoutUnknownError:
    """Return the error for a folder whose layout is not known; a folder in a data set gets the one to give instead."""
    if (above := _data_folder_above(source.root)) is not None:
        advice = f"it looks like a part of the data in {above}; give that folder"
    return LayoutUnknownError(unread_format(source) or f"{source.root} holds no {content} in a known layout; {advice}")


def _data_folder_above(root: Path) -> Path | None:
    """Return the data folder of a folder called like its images, annotations or parts, as `images/train` is."""
    top = None
    for path in (folder := Path(os.path.abspath(root)), *folder.parents[:_DEPTH]):
        if not (_is_inner(path.name) or top is None):
            break
        siblings = [item for item in _entries(path.parent) if item != path]
        if _is_inner(path.name) and any(_is_inner(item.stem) or item.suffix in _LISTS for item in siblings):
            top = path.parent
    return top


def _is_inner(name: str) -> bool:
    """Return whether a name is that of a folder or file in a data set: of images, of annotations, or of a part."""
    return role_of(name) is not None or part_of(name) is not None


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _fault_notes(faults: Sequence[str]) -> list[str]:
    if len(faults) < 2:
        return [f"one entry of the annotations is left out: {fault}" for fault in faults]
    return [f"{len(faults)} entries of the annotations are left out, the first: {faults[0]}"]


def _area_notes(train: NamedObjects) -> list[str]:
    names = [name for index in range(len(train)) for name in train.names_without_area(index)]
    if len(names) < 2:
        return [f"one training box has no area inside its image and is left out: {name}" for name in names]
    return [f"{len(names)} training boxes have no area inside their image and are left out, the first: {names[0]}"]
