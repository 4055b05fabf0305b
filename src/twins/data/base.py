"""Image sets: their protocols, subsets, splits, and the choice of held-out images."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from twins.data.config import EMBEDDED, DataConfig
from twins.data.images import is_image_file
from twins.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

    from twins.data.classes import ClassTable
    from twins.data.objects import Objects

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "test", "testing")


class ImageSet(Protocol):
    """A set of images, each with its target."""

    names: tuple[str, ...]
    """Class names by class id."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Image:
        """Return an image as upright RGB; raises DataError if it cannot be read."""

    def target(self, index: int) -> Any:
        """Return an image's target, whose type depends on the task; raises DataError if it cannot be read."""

    def path(self, index: int) -> str:
        """Return the name of an image for messages."""


class LabelledImages(ImageSet, Protocol):
    """A set of images whose targets are class ids."""

    labels: list[int]
    """Class id of each image."""


class LabelMapImages(ImageSet, Protocol):
    """A set of images whose targets are maps of class ids."""

    classes: ClassTable
    """Names and colours by class id."""

    def target(self, index: int) -> NDArray[np.uint8]:
        """Return class ids `(H, W)`, 255 for ignored pixels; raises DataError if they cannot be read or do not fit."""


class AnnotatedImages(ImageSet, Protocol):
    """A set of images whose targets are objects."""

    classes: ClassTable
    """Names and colours by class id; `values` are the category ids in results files."""

    def target(self, index: int) -> Objects:
        """Return an image's objects; raises DataError if they cannot be read."""

    def shape(self, index: int) -> tuple[int, int] | None:
        """Return an image's height and width from its annotations, without opening it, or `None`."""


class NamedObjects(AnnotatedImages, Protocol):
    """Annotated images that name their objects in messages."""

    def describe_object(self, index: int, position: int) -> str:
        """Return the name of an object of an image: its file, and its id or line in it."""

    def names_without_area(self, index: int) -> Sequence[str]:
        """Return the names of objects that, by the annotations alone, have no area inside their image."""


class Derived:
    """A set made of another: a subset of its images, changed targets, or both.

    Args:
        images: the other set.
        indices: indices of the subset; `None` takes all images.
        change: function from a target to the new one, for instance with other class ids; `None` keeps targets. It must
            be picklable for worker processes.
    """

    def __init__(
        self, images: Any, indices: Sequence[int] | None = None, change: Callable[[Any], Any] | None = None
    ) -> None:
        self.images, self.change = images, change
        self.indices = list(range(len(images)) if indices is None else indices)
        self.names = images.names
        self.classes = getattr(images, "classes", None)  # sets of class ids per image have no colours

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, index: int) -> Image:
        """Return an image; raises DataError if it cannot be read."""
        image: Image = self.images.load(self.indices[index])
        return image

    def target(self, index: int) -> Any:
        """Return an image's target, changed; raises DataError if it cannot be read."""
        target = self.images.target(self.indices[index])
        return target if self.change is None else self.change(target)

    def path(self, index: int) -> str:
        """Return the name of an image."""
        return str(self.images.path(self.indices[index]))

    def shape(self, index: int) -> tuple[int, int] | None:
        """Return an annotated image's height and width from its annotations, or `None`."""
        shape: tuple[int, int] | None = self.images.shape(self.indices[index])
        return shape

    def describe_object(self, index: int, position: int) -> str:
        """Return the name of an object of an annotated image."""
        return str(self.images.describe_object(self.indices[index], position))

    def names_without_area(self, index: int) -> Sequence[str]:
        """Return the names of an annotated image's objects that have no area inside it."""
        names: Sequence[str] = self.images.names_without_area(self.indices[index])
        return names


Images = TypeVar("Images", bound=ImageSet)


@dataclass(frozen=True)
class Opened:
    """A data set as its files define it."""

    parts: Sequence[Any]
    """The images for training and for validation, or one set of all images if they are not split."""
    notes: list[str] = field(default_factory=list)
    """Decisions made while opening it, one sentence each."""
    faults: list[str] = field(default_factory=list)
    """Annotations left out because they contradict their file, one sentence each."""
    problems: list[str] = field(default_factory=list)
    """Annotations that are used although they cannot be right, one sentence each kind."""


@dataclass(frozen=True)
class Splits(Generic[Images]):
    """The training and validation images of a data set, with the same class names."""

    train: Images
    val: Images
    source: str
    """The folder or embedded name that was opened."""
    notes: tuple[str, ...] = ()
    """Decisions made while opening it that a user should know, one sentence each."""
    faults: tuple[str, ...] = ()
    """Annotations left out because they contradict their file, one sentence each."""
    problems: tuple[str, ...] = ()
    """Annotations that are used although they cannot be right, one sentence each kind."""


def split(opened: Opened, root: Path, config: DataConfig) -> Splits[Any]:
    """Return the parts of a data set; a share of an unsplit set is held out at random.

    Raises:
        DataError: a part has no images.
    """
    parts, detail = opened.parts, ""
    if len(parts) == 1:
        count = len(parts[0])
        detail = f" ({count} images, share {config.val_share:g} held out)"
        parts = [Derived(parts[0], indices) for indices in hold_out(count, config.seed, config.val_share)]
    for part, purpose in zip(parts, ("train on", "evaluate on"), strict=True):
        if not len(part):
            raise DataError(f"{root} leaves no image to {purpose}{detail}; add images and annotations")
    return Splits(parts[0], parts[1], str(root), tuple(opened.notes), tuple(opened.faults), tuple(opened.problems))


def hold_out(count: int, seed: int, val_share: float) -> tuple[list[int], list[int]]:
    """Split `count` indices at random into training and validation.

    At least one of two or more is held out, unless the share is 0.
    """
    held_out = set(
        np.random.default_rng([seed, count]).permutation(count)[: _held_out_count(count, val_share)].tolist()
    )
    return [i for i in range(count) if i not in held_out], sorted(held_out)


def hold_out_per_class(labels: Sequence[int], seed: int, val_share: float) -> tuple[list[int], list[int]]:
    """Split indices at random into training and validation, by the same share of each class.

    At least one of two or more images of a class is held out, unless the share is 0.
    """
    held_out: set[int] = set()
    array = np.asarray(labels)
    for label in np.unique(array):
        members = np.random.default_rng([seed, int(label)]).permutation(np.flatnonzero(array == label))
        held_out.update(members[: _held_out_count(len(members), val_share)].tolist())
    return [i for i in range(len(array)) if i not in held_out], sorted(held_out)


def _held_out_count(count: int, val_share: float) -> int:
    return min(max(round(val_share * count), 1), count - 1) if val_share > 0 and count else 0


def missing_folder(root: Path, expected: str) -> DataError:
    """Return the error for data that is no folder of images; `expected` says what to give instead."""
    if str(root) in EMBEDDED:
        return DataError(f"the embedded {root} has nothing to learn for this task; give {expected}")
    problem = "is a file" if os.path.exists(root) else "does not exist"
    return DataError(f"the data folder {root} {problem}; give {expected}")


def list_images(folder: Path) -> list[Path]:
    """Return all image files below a folder, sorted, without hidden files and folders."""
    return sorted(
        path
        for path in folder.rglob("*")
        if is_image_file(path)
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def find_subfolder(root: Path, names: Sequence[str]) -> Path | None:
    """Return the folder in `root` with the first of some lower-case names that exists, ignoring case, or `None`."""
    entries = {entry.name.lower(): entry for entry in root.iterdir() if entry.is_dir()}
    return next((entries[name] for name in names if name in entries), None)
