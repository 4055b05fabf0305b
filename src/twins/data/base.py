"""Sets of images: what one must offer, sets made of others, and which images are held out."""

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
        """Return an image, RGB and upright; raises DataError where it cannot be read."""

    def target(self, index: int) -> Any:
        """Return an image's target, as the task has it; raises DataError where it cannot be read."""

    def path(self, index: int) -> str:
        """Return what to call an image in messages."""


class LabelledImages(ImageSet, Protocol):
    """A set of images with a class id each, which is the target."""

    labels: list[int]
    """Class id of each image."""


class MappedImages(ImageSet, Protocol):
    """A set of images with a map of class ids each, which is the target."""

    classes: ClassTable
    """Names and colours by class id."""

    def target(self, index: int) -> NDArray[np.uint8]:
        """Return class ids `(H, W)`, 255 where ignored; raises DataError where they cannot be read or do not fit."""


class AnnotatedImages(ImageSet, Protocol):
    """A set of images with objects each, which are the target."""

    classes: ClassTable
    """Names and colours by class id; `values` are the category ids that results are written with."""

    def target(self, index: int) -> Objects:
        """Return an image's objects; raises DataError where they cannot be read."""

    def shape(self, index: int) -> tuple[int, int] | None:
        """Return an image's height and width where its annotations say them, without opening it."""


class NamedObjects(AnnotatedImages, Protocol):
    """Annotated images whose objects can be named in messages."""

    def named(self, index: int, place: int) -> str:
        """Return what to call an object of an image: its file, and its id or line in it."""

    def without_area(self, index: int) -> Sequence[str]:
        """Name the objects of which an image's annotations alone say that they have no area inside it."""


class Derived:
    """A set made of another: some of its images, perhaps with changed targets.

    Args:
        images: the other set.
        indices: the images that are taken; `None` takes all.
        change: what becomes of each target, such as other class ids; `None` leaves them. Loading processes get it by
            pickle.
    """

    def __init__(
        self, images: Any, indices: Sequence[int] | None = None, change: Callable[[Any], Any] | None = None
    ) -> None:
        self.images, self.change = images, change
        self.indices = list(range(len(images)) if indices is None else indices)
        self.names = images.names
        self.classes = getattr(images, "classes", None)  # sets with a class id per image have no colours

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, index: int) -> Image:
        """Return an image; raises DataError where it cannot be read."""
        image: Image = self.images.load(self.indices[index])
        return image

    def target(self, index: int) -> Any:
        """Return an image's target; raises DataError where it cannot be read."""
        target = self.images.target(self.indices[index])
        return target if self.change is None else self.change(target)

    def path(self, index: int) -> str:
        """Return what to call an image."""
        return str(self.images.path(self.indices[index]))

    def shape(self, index: int) -> tuple[int, int] | None:
        """Return an annotated image's height and width where its annotations say them."""
        shape: tuple[int, int] | None = self.images.shape(self.indices[index])
        return shape

    def named(self, index: int, place: int) -> str:
        """Return what to call an object of an annotated image."""
        return str(self.images.named(self.indices[index], place))

    def without_area(self, index: int) -> Sequence[str]:
        """Name the objects of an annotated image that have no area inside it."""
        names: Sequence[str] = self.images.without_area(self.indices[index])
        return names


Images = TypeVar("Images", bound=ImageSet)


@dataclass(frozen=True)
class Opened:
    """A data set as its files have it."""

    parts: Sequence[Any]
    """Images to train on and to evaluate on, or one set of all, which is not split."""
    notes: list[str] = field(default_factory=list)
    """What was decided in opening it, a sentence each."""
    faults: list[str] = field(default_factory=list)
    """Annotations that are left out because they contradict their file, a sentence each."""


@dataclass(frozen=True)
class Splits(Generic[Images]):
    """The two parts of a data set; both have the same class names."""

    train: Images
    val: Images
    source: str
    """What the data was opened by."""
    notes: tuple[str, ...] = ()
    """What was decided in opening it that a user should know, a sentence each."""
    faults: tuple[str, ...] = ()
    """Annotations that are left out because they contradict their file, a sentence each."""


def split(opened: Opened, root: Path, config: DataConfig) -> Splits[Any]:
    """Return a set's parts; of one that is not split a share of the images is held out by the seed.

    Raises:
        DataError: a part has no image.
    """
    parts, detail = opened.parts, ""
    if len(parts) == 1:
        count = len(parts[0])
        detail = f" ({count} images, share {config.val_share:g} held out)"
        parts = [Derived(parts[0], indices) for indices in hold_out(count, config.seed, config.val_share)]
    for part, what in zip(parts, ("train on", "evaluate on"), strict=True):
        if not len(part):
            raise DataError(f"{root} leaves no image to {what}{detail}; add images and annotations")
    return Splits(parts[0], parts[1], str(root), tuple(opened.notes), tuple(opened.faults))


def hold_out(count: int, seed: int, val_share: float) -> tuple[list[int], list[int]]:
    """Split `count` indices by the seed; of two or more at least one is held out, unless the share is 0."""
    chosen = set(np.random.default_rng([seed, count]).permutation(count)[: _share(count, val_share)].tolist())
    return [i for i in range(count) if i not in chosen], sorted(chosen)


def hold_out_per_class(labels: Sequence[int], seed: int, val_share: float) -> tuple[list[int], list[int]]:
    """Split indices so that each class gives its share, at least one of two or more, unless the share is 0."""
    chosen: set[int] = set()
    array = np.asarray(labels)
    for label in np.unique(array):
        members = np.random.default_rng([seed, int(label)]).permutation(np.flatnonzero(array == label))
        chosen.update(members[: _share(len(members), val_share)].tolist())
    return [i for i in range(len(array)) if i not in chosen], sorted(chosen)


def _share(count: int, val_share: float) -> int:
    return min(max(round(val_share * count), 1), count - 1) if val_share > 0 and count else 0


def missing_folder(root: Path, wanted: str) -> DataError:
    """Return the error for a data folder that is none; `wanted` says what to give instead."""
    if str(root) in EMBEDDED:
        return DataError(f"the embedded {root} has nothing to learn for this task; give {wanted}")
    what = "is a file" if os.path.exists(root) else "does not exist"
    return DataError(f"the data folder {root} {what}; give {wanted}")


def list_images(folder: Path) -> list[Path]:
    """Return the image files anywhere below a folder, sorted; hidden ones are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if is_image_file(path)
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def subfolder(root: Path, names: Sequence[str]) -> Path | None:
    """Return the first folder in `root` that is called one of some names, whatever the case."""
    entries = {entry.name.lower(): entry for entry in root.iterdir() if entry.is_dir()}
    return next((entries[name] for name in names if name in entries), None)
