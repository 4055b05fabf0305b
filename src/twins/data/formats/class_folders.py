"""Class folders: one folder of images per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twins.data.base import (
    TRAIN_NAMES,
    VAL_NAMES,
    LabelledImages,
    Splits,
    find_subfolder,
    hold_out_per_class,
    list_images,
)
from twins.data.config import DataConfig
from twins.data.formats.files import ImageFiles
from twins.data.images import count_unread
from twins.errors import DataError, count_list


class LabelledFiles(ImageFiles):
    """Images in files, with one class id each."""

    def __init__(self, images: Sequence[Path], labels: Sequence[int], names: Sequence[str]) -> None:
        super().__init__(images)
        self.labels, self.names = list(labels), tuple(names)

    def target(self, index: int) -> int:
        """Return an image's class id."""
        return self.labels[index]


def open_class_folders(root: Path, config: DataConfig) -> Splits[LabelledImages]:
    """Open class folders, either in `train` and `val` (or `valid`, `validation`, `test`) or unsplit.

    Class ids follow the sorted names. In an unsplit folder, a share of the images of each class is held out by the
    seed; a class with one image keeps it for training.

    Raises:
        DataError: there are no classes or no images, or the validation part has a class that training lacks.
    """
    train, val = find_subfolder(root, TRAIN_NAMES), find_subfolder(root, VAL_NAMES)
    if train is None or val is None:
        return _split_folder(train or root, root, config)
    names = _class_names(train)
    unknown = sorted({entry.name for entry in class_folders(val)} - set(names))
    if unknown:
        raise DataError(f"{val} has classes that {train} lacks: {', '.join(unknown)}; rename or remove them")
    return Splits(_collect(train, names), _collect(val, names), str(root))


def class_folders(root: Path) -> list[Path]:
    """Return the class folders, sorted by name, without hidden ones."""
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _split_folder(folder: Path, root: Path, config: DataConfig) -> Splits[LabelledImages]:
    names = _class_names(folder)
    labelled = _collect(folder, names)
    train, val = (
        LabelledFiles([labelled.images[i] for i in part], [labelled.labels[i] for i in part], names)
        for part in hold_out_per_class(labelled.labels, config.seed, config.val_share)
    )
    if not len(val):
        raise DataError(
            f"{folder} leaves no image to evaluate on ({len(labelled)} images, share {config.val_share:g} held out); "
            "add images, or a val folder"
        )
    return Splits(train, val, str(root))


def _class_names(folder: Path) -> list[str]:
    names = [entry.name for entry in class_folders(folder)]
    if not names:
        raise DataError(f"{folder} has no class folders; put the images of each class in a folder with its name")
    if {"Annotations", "JPEGImages"} <= set(names):
        raise DataError(
            f'{folder} has Pascal VOC\'s folders instead of class folders; for its boxes use `task="detection"`'
        )
    if len(names) == 1:
        lists = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() == ".json")
        hint = f'; if {lists[0]} lists boxes, use `task="detection"` or `task="instance"`' if lists else ""
        raise DataError(f"{folder} has one class folder only, {names[0]}; at least two classes are needed{hint}")
    return names


def _collect(folder: Path, names: Sequence[str]) -> LabelledFiles:
    files, labels = [], []
    for label, name in enumerate(names):
        images = list_images(folder / name)
        files += images
        labels += [label] * len(images)
    if not files:
        unread = count_list(count_unread(folder))
        hint = "known endings are .jpg, .png, .webp and others"
        hint = hint if unread == "nothing" else f"Pillow cannot read its pictures ({unread}); convert them"
        raise DataError(f"{folder} holds no images in its class folders; {hint}")
    return LabelledFiles(files, labels, names)
