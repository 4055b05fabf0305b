"""Opens data sets: a function for each type of target, which tries the formats of folders in the order of this table.

| target of an image | embedded | folders |
| --- | --- | --- |
| a class id | `digits` | `class_lists`, `class_folders` |
| a label map | `scenes` | `coco` panoptic, `mask_folders`, `coco` instances |
| objects, with or without masks | `scenes` | `coco_objects`, `voc` (without masks), `yolo` |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from twins.data.base import (
    AnnotatedImages,
    LabelledImages,
    LabelMapImages,
    NamedObjects,
    Opened,
    Splits,
)
from twins.data.config import BoxConfig, DataConfig, MaskConfig
from twins.data.formats.class_folders import open_class_folders
from twins.data.formats.class_lists import open_class_lists
from twins.data.formats.coco_maps import open_coco_maps
from twins.data.formats.coco_objects import open_coco_objects
from twins.data.formats.cvat import find_cvat
from twins.data.formats.digits import Digits
from twins.data.formats.mask_folders import open_mask_folders
from twins.data.formats.scenes import SceneMaps, SceneObjects
from twins.data.formats.shape_files import Target
from twins.data.formats.shape_formats import are_given, open_shape_formats
from twins.data.formats.shapes import listed_classes
from twins.data.formats.source import Source, split
from twins.data.formats.unread import unread_format
from twins.data.formats.voc import open_voc
from twins.data.formats.yolo import open_yolo
from twins.data.images import list_images
from twins.data.plan import ReadingPlan
from twins.errors import ConfigError, DataError


def open_class_ids(config: DataConfig) -> Splits[LabelledImages]:
    """Open a data set with a class id per image.

    Raises:
        DataError: the folder does not exist, or holds no classes or images.
    """
    if config.data == "digits":
        return embedded(Digits(train=True), Digits(train=False), "digits")
    source = Source(config, "a folder with one folder per class, digits, or another `task`")
    try:
        return split(open_class_lists(source) or open_class_folders(source), source)
    except DataError as error:
        unread = None if list_images(source.root) else unread_format(source)
        if unread is None:
            raise
        raise DataError(unread) from error


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
    root = source.root
    opened = open_shape_formats(source, "maps") if are_given(source) else None
    opened = opened or open_coco_maps(source, "panoptic") or open_mask_folders(source)
    opened = opened or open_coco_maps(source, "instances") or open_shape_formats(source, "maps")
    if opened is None:
        raise DataError(
            unread_format(source)
            or f"{root} holds no images with masks; put images in {root / 'images'} and masks of the same names in "
            f"{root / 'masks'}, each with train and val in it if the set is split"
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
    target: Target = "masks" if masks else "boxes"
    opened = open_shape_formats(source, target) if are_given(source) else None
    opened = opened or open_coco_objects(source, masks=masks) or _open_voc_or_yolo(source, masks=masks)
    opened = opened or open_shape_formats(source, target)
    if opened is None:
        raise DataError(
            unread_format(source)
            or f"{source.root} holds no images with objects in a known layout, COCO's "
            "(annotations/instances_train.json), Pascal VOC's (JPEGImages and Annotations) or YOLO's (images/train and "
            "labels/train, data.yaml); bring it into one"
        )
    return split(opened, source)


def embedded(train: Any, val: Any, name: str) -> Splits[Any]:
    """Return the parts of an embedded set."""
    parts = {"train": train, "val": val}
    counts = {part: {"images": len(images), "origin": "embedded"} for part, images in parts.items()}
    return Splits(parts, name, plan=ReadingPlan(f"embedded {name}", parts=counts))


def _open_voc_or_yolo(source: Source, *, masks: bool) -> Opened | None:
    classes = listed_classes(source)
    before = source.names_from, list(source.notes)
    try:
        return open_voc(source, classes, masks=masks) or open_yolo(source, classes, masks=masks)
    except DataError as error:
        if find_cvat(source):  # its XML may be in a folder that is called as VOC's
            source.names_from, source.notes[:] = before
            return None
        if (unread := unread_format(source, labels_only=True)) is None:
            raise
        raise DataError(unread) from error


def _fault_notes(faults: Sequence[str]) -> list[str]:
    if len(faults) < 2:
        return [f"one entry of the annotations is left out: {fault}" for fault in faults]
    return [f"{len(faults)} entries of the annotations are left out, the first: {faults[0]}"]


def _area_notes(train: NamedObjects) -> list[str]:
    names = [name for index in range(len(train)) for name in train.names_without_area(index)]
    if len(names) < 2:
        return [f"one training box has no area inside its image and is left out: {name}" for name in names]
    return [f"{len(names)} training boxes have no area inside their image and are left out, the first: {names[0]}"]
