"""Images with objects: the layouts in which the field keeps them, each read as it lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from twins.data.base import Splits, hold_out, missing_folder
from twins.data.classes import ClassTable, read_table
from twins.data.config import DataConfig, MaskConfig
from twins.data.formats.annotated import AnnotatedSubset, NamedObjects, Opened, brightened
from twins.data.formats.coco_objects import open_coco_objects
from twins.data.formats.scenes import open_scenes
from twins.data.formats.semantic import CLASS_FILES
from twins.data.formats.voc import open_voc
from twins.data.formats.yolo import open_yolo
from twins.data.objects import AnnotatedImages
from twins.errors import ConfigError, DataError


def open_detection(config: DataConfig, *, masks: bool) -> Splits[AnnotatedImages]:
    """Open a data set for detection, or with masks for instance segmentation. No image is opened.

    Args:
        config: its `data` is `scenes`, or a folder in one of these layouts, the first that fits: COCO's JSON files
            (`open_coco_objects`), Pascal VOC's XML files (`open_voc`), YOLO's text files (`open_yolo`). Where there is
            no validation part a share of the images is held out by the seed.
        masks: whether objects have masks.

    Returns:
        the parts, with a note for what a run leaves out: annotations that contradict their file, and boxes of
        training images that have no area inside their image.

    Raises:
        ConfigError: settings of semantic masks.
        DataError: no such folder or layout, a damaged file, too few images, or masks of VOC's files, which have none.
    """
    splits, faults = open_parts(config, masks=masks)
    notes = [*splits.notes, *_told(faults), *_useless(splits.train)]
    return Splits(splits.train, splits.val, splits.source, tuple(notes))


def open_parts(config: DataConfig, *, masks: bool) -> tuple[Splits[NamedObjects], list[str]]:
    """Open a data set as `open_detection` does, and return its parts and every annotation that is left out."""
    if config.masks != MaskConfig():
        raise ConfigError("--masks says how semantic masks are read; leave it out for detection and instance")
    if config.data == "scenes":
        return open_scenes("instance" if masks else "detection"), []
    root = Path(config.data)
    if not root.is_dir():
        raise missing_folder(root, "a folder with images and annotations, or scenes")
    opened = _hold_out(_open(root, masks=masks), root, config)
    assert opened.val is not None
    for part, what in ((opened.train, "train on"), (opened.val, "evaluate on")):
        if not len(part):
            raise DataError(f"{root} leaves no image to {what}; add images and annotations")
    return Splits(opened.train, opened.val, str(root), tuple(opened.notes)), opened.faults


def _open(root: Path, *, masks: bool) -> Opened:
    opened = open_coco_objects(root, masks=masks)
    if opened is not None:
        return opened
    classes = _own_classes(root)
    opened = open_voc(root, classes)
    if opened is not None and masks:
        raise DataError(
            f"{root} holds VOC's XML files, which have boxes and no masks; choose --task detection, or give masks in "
            "COCO's JSON"
        )
    opened = opened or open_yolo(root, classes, masks=masks)
    if opened is not None:
        return opened
    raise DataError(
        f"{root} holds no images with objects in a known layout, COCO's (annotations/instances_train.json), Pascal "
        "VOC's (JPEGImages and Annotations) or YOLO's (images/train and labels/train, data.yaml); bring it into one"
    )


def _own_classes(root: Path) -> ClassTable | None:
    own = next((root / name for name in CLASS_FILES if (root / name).is_file()), None)
    return None if own is None else brightened(read_table(own))


def _hold_out(opened: Opened, root: Path, config: DataConfig) -> Opened:
    """Return a set in two parts."""
    if opened.val is not None:
        return opened
    learn, held_out = hold_out(len(opened.train), config.seed, config.val_share)
    if not learn or not held_out:
        raise DataError(
            f"{root} leaves no image to evaluate on ({len(opened.train)} images, share {config.val_share:g} held "
            "out); add images"
        )
    whole = opened.train
    return replace(opened, train=AnnotatedSubset(whole, learn), val=AnnotatedSubset(whole, held_out))


def _told(faults: Sequence[str]) -> list[str]:
    if len(faults) < 2:
        return [f"one entry of the annotations is left out: {fault}" for fault in faults]
    return [f"{len(faults)} entries of the annotations are left out, the first: {faults[0]}"]


def _useless(train: NamedObjects) -> list[str]:
    names = [name for index in sorted(train.without_area) for name in train.without_area[index]]
    if len(names) < 2:
        return [f"one training box has no area inside its image and is not learned from: {name}" for name in names]
    return [
        f"{len(names)} training boxes have no area inside their image and are not learned from, the first: {names[0]}"
    ]
