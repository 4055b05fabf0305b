"""What a set of images must offer, and the labelled sets that lie in folders or come with the package."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from twins.data.config import EMBEDDED
from twins.data.images import is_image_file, open_image
from twins.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "test", "testing")


class ImageSet(Protocol):
    """A set of images with what is to be learned of each."""

    names: tuple[str, ...]
    """Class names by class id."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Image:
        """Return an image, RGB and upright; raises DataError where it cannot be read."""
        ...

    def target(self, index: int) -> Any:
        """Return what is to be learned of an image, as the task has it; raises DataError where it cannot be read."""
        ...

    def path(self, index: int) -> str:
        """Return what to call an image in messages."""
        ...


class LabelledImages(ImageSet, Protocol):
    """A set of images with one class id each, which is the target."""

    labels: list[int]
    """Class id of each image."""


Images = TypeVar("Images", bound=ImageSet)


@dataclass(frozen=True)
class Splits(Generic[Images]):
    """The two parts of a data set; both have the same class names."""

    train: Images
    val: Images
    source: str
    """What the data was opened by."""
    notes: tuple[str, ...] = ()
    """What was decided in opening it that a user should know, a sentence each."""


class ImageFiles:
    """Images in files, with one class id each."""

    def __init__(self, files: Sequence[Path], labels: Sequence[int], names: Sequence[str]) -> None:
        self.files, self.labels, self.names = list(files), list(labels), tuple(names)

    def __len__(self) -> int:
        return len(self.files)

    def load(self, index: int) -> Image:
        """Return an image, RGB and upright; raises DataError where it cannot be read."""
        return open_image(self.files[index])

    def target(self, index: int) -> int:
        """Return an image's class id."""
        return self.labels[index]

    def path(self, index: int) -> str:
        """Return an image's path."""
        return str(self.files[index])


class Digits:
    """scikit-learn's 1,797 real handwritten digits, 8 x 8 grey, enlarged to 32 x 32 RGB (1998, BSD-3-Clause)."""

    names = tuple(str(digit) for digit in range(10))

    def __init__(self, *, train: bool) -> None:
        pixels, labels = _read_digits()
        chosen = _stratified(labels.tolist(), val_share=0.2, seed=0)[0 if train else 1]
        self.labels = [int(labels[i]) for i in chosen]
        self.grey, self._numbers = pixels[chosen], chosen

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: int) -> Image:
        """Return a digit, 32 x 32 RGB, white on black."""
        return _enlarge_digits()[self._numbers[index]]

    def target(self, index: int) -> int:
        """Return a digit's class id."""
        return self.labels[index]

    def path(self, index: int) -> str:
        """Return a digit's number in scikit-learn's set, as `digits/N`."""
        return f"digits/{self._numbers[index]}"


@cache
def _read_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return all digits `(1797, 8, 8)`, and which each is."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return (pixels.reshape(-1, 8, 8) * (255.0 / 16.0)).round().astype(np.uint8), labels


@cache
def _enlarge_digits() -> list[Image]:
    from PIL import Image

    return [
        Image.fromarray(grey).resize((32, 32), Image.Resampling.BICUBIC).convert("RGB") for grey in _read_digits()[0]
    ]


def open_classification(path: str | Path, *, seed: int = 0, val_share: float = 0.2) -> Splits[LabelledImages]:
    """Open a data set for classification.

    Args:
        path: `digits`, or a folder that holds either `train` and `val` (or `valid`, `validation`, `test`) with one
            folder per class in each, or the class folders themselves. Classes are numbered by their sorted names.
        seed: chooses which images of an unsplit folder are held out.
        val_share: share of each class's images held out of an unsplit folder; a class with one image keeps it for
            training.

    Raises:
        DataError: no folder, no classes, no images, or a held-out class that training does not have.
    """
    if str(path) == "digits":
        return Splits(Digits(train=True), Digits(train=False), "digits")
    root = Path(path)
    if not os.path.isdir(root):
        raise missing_folder(root, "a folder with one folder per class, digits, or another --task")
    train, val = subfolder(root, TRAIN_NAMES), subfolder(root, VAL_NAMES)
    if train is None:
        return _split_folder(root, seed, val_share)
    if val is None:
        return _split_folder(train, seed, val_share, source=root)
    return _two_folders(train, val, root)


def missing_folder(root: Path, wanted: str) -> DataError:
    """Return the error for a data folder that is none; `wanted` says what to give instead."""
    if str(root) in EMBEDDED:
        return DataError(f"the embedded {root} has nothing to learn for this task; give {wanted}")
    what = "is a file" if os.path.exists(root) else "does not exist"
    return DataError(f"the data folder {root} {what}; give {wanted}")


def class_folders(root: Path) -> list[Path]:
    """Return the folders of classes, sorted by name; hidden ones are left out."""
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def list_images(folder: Path) -> list[Path]:
    """Return the image files anywhere below a folder, sorted; hidden ones are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if is_image_file(path)
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _two_folders(train: Path, val: Path, root: Path) -> Splits[LabelledImages]:
    names = _class_names(train)
    extra = sorted({entry.name for entry in class_folders(val)} - set(names))
    if extra:
        raise DataError(f"{val} has classes that {train} has not: {', '.join(extra)}; rename or remove them")
    return Splits(_collect(train, names), _collect(val, names), str(root))


def _split_folder(folder: Path, seed: int, val_share: float, source: Path | None = None) -> Splits[LabelledImages]:
    names = _class_names(folder)
    whole = _collect(folder, names)
    parts = _stratified(whole.labels, val_share=val_share, seed=seed)
    train, val = (ImageFiles([whole.files[i] for i in part], [whole.labels[i] for i in part], names) for part in parts)
    if not len(val):
        raise DataError(
            f"{folder} leaves no image to evaluate on ({len(whole)} images, share {val_share:g} held out); "
            "add images, or a val folder"
        )
    return Splits(train, val, str(source or folder))


def _class_names(folder: Path) -> list[str]:
    names = [entry.name for entry in class_folders(folder)]
    if not names:
        raise DataError(f"{folder} has no class folders; put the images of each class in a folder with its name")
    if {"Annotations", "JPEGImages"} <= set(names):
        raise DataError(
            f"{folder} has Pascal VOC's folders instead of class folders; for its boxes say --task detection"
        )
    if len(names) == 1:
        lists = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() == ".json")
        hint = f"; if {lists[0]} lists boxes, say --task detection or --task instance" if lists else ""
        raise DataError(f"{folder} has one class folder only, {names[0]}; at least two classes are needed{hint}")
    return names


def _collect(folder: Path, names: Sequence[str]) -> ImageFiles:
    files, labels = [], []
    for label, name in enumerate(names):
        found = list_images(folder / name)
        files += found
        labels += [label] * len(found)
    if not files:
        raise DataError(
            f"{folder} holds no images in its class folders; known endings are .jpg, .png, .webp and others"
        )
    return ImageFiles(files, labels, names)


def subfolder(root: Path, names: Sequence[str]) -> Path | None:
    """Return the first folder in `root` that is called one of some names, whatever the case."""
    entries = {entry.name.lower(): entry for entry in root.iterdir() if entry.is_dir()}
    return next((entries[name] for name in names if name in entries), None)


def hold_out(count: int, seed: int, val_share: float) -> tuple[list[int], list[int]]:
    """Split `count` indices by the seed; of two or more at least one is held out, unless the share is 0."""
    share = min(max(round(val_share * count), 1), count - 1) if val_share > 0 else 0
    chosen = set(np.random.default_rng([seed, count]).permutation(count)[:share].tolist())
    return [i for i in range(count) if i not in chosen], sorted(chosen)


def _stratified(labels: Sequence[int], *, val_share: float, seed: int) -> tuple[list[int], list[int]]:
    """Split indices so that each class gives its share, at least one of two or more; deterministic from the seed."""
    held_out: set[int] = set()
    array = np.asarray(labels)
    for label in np.unique(array):
        members = np.random.default_rng([seed, int(label)]).permutation(np.flatnonzero(array == label))
        count = min(max(round(val_share * len(members)), 1), len(members) - 1) if val_share > 0 else 0
        held_out.update(members[:count].tolist())
    return [i for i in range(len(array)) if i not in held_out], sorted(held_out)
