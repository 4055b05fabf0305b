"""Image sets: their protocols, subsets, splits, and the choice of held-out images."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from twins.data.config import EMBEDDED, DataConfig, LayoutConfig
from twins.data.plan import ReadingPlan
from twins.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

    from twins.data.classes import ClassTable
    from twins.data.objects import Objects


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

    @property
    def labels(self) -> list[int]:
        """Class id of each image, in sets of class ids."""
        labels = [self.images.labels[index] for index in self.indices]
        return labels if self.change is None else [self.change(label) for label in labels]

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

    def image_ids(self) -> list[int] | None:
        """Return the id of each image in its annotations, see `own_image_ids`."""
        ids = own_image_ids(self.images)
        return None if ids is None else [ids[index] for index in self.indices]

    def category_ids(self) -> list[int | None] | None:
        """Return the category id of each class in the annotations, see `own_category_ids`."""
        return own_category_ids(self.images)


Images = TypeVar("Images", bound=ImageSet)


class Joined:
    """Several sets of the same classes as one.

    Objects keep the id of their image, unless images of different sets have the same: then it is the image's index.
    """

    def __init__(self, sets: Sequence[Any]) -> None:
        self.sets, self.names, self.classes = sets, sets[0].names, getattr(sets[0], "classes", None)
        self._ids = self.image_ids()
        self._positions = [(images, index) for images in sets for index in range(len(images))]

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def labels(self) -> list[int]:
        """Class id of each image, in sets of class ids."""
        return [label for images in self.sets for label in images.labels]

    def load(self, index: int) -> Image:
        """Return an image; raises DataError if it cannot be read."""
        image: Image = self._call("load", index)
        return image

    def target(self, index: int) -> Any:
        """Return an image's target; raises DataError if it cannot be read."""
        target = self._call("target", index)
        if not hasattr(target, "image_id"):
            return target
        return replace(target, image_id=index if self._ids is None else self._ids[index])

    def path(self, index: int) -> str:
        """Return the name of an image."""
        return str(self._call("path", index))

    def shape(self, index: int) -> tuple[int, int] | None:
        """Return an annotated image's height and width from its annotations, or `None`."""
        shape: tuple[int, int] | None = self._call("shape", index)
        return shape

    def describe_object(self, index: int, position: int) -> str:
        """Return the name of an object of an annotated image."""
        return str(self._call("describe_object", index, position))

    def names_without_area(self, index: int) -> Sequence[str]:
        """Return the names of an annotated image's objects that have no area inside it."""
        names: Sequence[str] = self._call("names_without_area", index)
        return names

    def image_ids(self) -> list[int] | None:
        """Return the id of each image in its annotations; `None` if images of different sets have the same."""
        groups = [own_image_ids(images) for images in self.sets]
        ids = [image_id for group in groups for image_id in group or ()]
        are_unique = len(set(ids)) == sum(len(set(group or ())) for group in groups)
        return ids if None not in groups and are_unique and len(set(map(type, ids))) < 2 else None

    def category_ids(self) -> list[int | None] | None:
        """Return the category id of each class in the annotations; `None` if the sets have different ones."""
        first, *others = map(own_category_ids, self.sets)
        return first if all(other == first for other in others) else None

    def _call(self, method: str, index: int, *arguments: Any) -> Any:
        images, inside = self._positions[index]
        return getattr(images, method)(inside, *arguments)


def own_image_ids(images: Any) -> list[int] | None:
    """Return the id of each image in its annotations, or its index in their files; `None` if those are not unique."""
    own: Callable[[], list[int] | None] | None = getattr(images, "image_ids", None)
    return list(range(len(images))) if own is None else own()


def own_category_ids(images: Any) -> list[int | None] | None:
    """Return the category id of each class in the annotations of these images.

    It is `None` for a class that they lack; the whole is `None` if files of these images have different ids.
    """
    own: Callable[[], list[int | None] | None] | None = getattr(images, "category_ids", None)
    return list(images.classes.values) if own is None else own()


def join(sets: Sequence[Any]) -> Any:
    """Return several sets of the same classes as one; a single set is returned itself."""
    return sets[0] if len(sets) == 1 else Joined(sets)


UNSPLIT = "all"
"""Name of the only part of a data set without parts."""


@dataclass(frozen=True)
class Opened:
    """A data set as its files define it."""

    parts: Mapping[str, Any]
    """The images of each part, by its name in `PARTS`; or those of an unsplit set, as `UNSPLIT`."""
    layout: str = "images"
    """Name of the layout, for people."""
    recognised_by: Sequence[Path] = ()
    """Files and folders by which the layout was recognised."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where each part comes from, by name; by default from the data folder."""


@dataclass(frozen=True)
class Splits(Generic[Images]):
    """The parts of a data set, with the same class names."""

    parts: Mapping[str, Images]
    """The images of each part that there is, by its name in `PARTS`, in their order."""
    source: str
    """The folder or embedded name that was opened."""
    notes: tuple[str, ...] = ()
    """Decisions made while opening it that a user should know, one sentence each."""
    faults: tuple[str, ...] = ()
    """Annotations left out because they contradict their file, one sentence each."""
    problems: tuple[str, ...] = ()
    """Annotations that are used although they cannot be right, one sentence each kind."""
    plan: ReadingPlan = field(default_factory=lambda: ReadingPlan("embedded"))
    """What was read of the folder, and what was passed over."""

    layout: LayoutConfig = field(default_factory=LayoutConfig)
    """The layout settings by which the folder would be read in the same way."""
    share: str = ""
    """What was held out of an unsplit set, for messages."""

    @property
    def train(self) -> Images:
        """The training images; raises DataError if there are none."""
        return self.part("train")

    @property
    def val(self) -> Images:
        """The validation images; raises DataError if there are none."""
        return self.part("val")

    @property
    def names(self) -> tuple[str, ...]:
        """The class names by class id."""
        return next(iter(self.parts.values())).names

    @property
    def count(self) -> int:
        """The number of images in all parts, without those that two parts share."""
        return sum(len(images) for images in self._different())

    def _different(self) -> list[Any]:
        """Return the parts, without images that an earlier one has; a test part may also be the validation part."""
        parts: list[Any] = list({id(images): images for images in self.parts.values()}.values())
        if self.share or len(parts) < 2:
            return parts
        seen: set[str] = set()
        for position, images in enumerate(parts):
            paths = [os.path.abspath(images.path(index)) for index in range(len(images))]
            new = [index for index, path in enumerate(paths) if path not in seen]
            parts[position] = images if len(new) == len(paths) else Derived(images, new)
            seen.update(paths)
        return parts

    def part(self, name: str) -> Images:
        """Return the images of a part; raises DataError if there are none."""
        if name not in self.parts:
            raise DataError(
                f"{self.source} has no {name} part, found {' and '.join(self.parts)}; add one, or say where it is with "
                f"`layout.{name}`"
            )
        if not len(images := self.parts[name]):
            purpose = "train on" if name == "train" else "evaluate on"
            raise DataError(f"{self.source} leaves no image to {purpose}{self.share}; add images and annotations")
        return images

    def select(self, part: str) -> Images:
        """Return the images to measure: those of a part, or of `all`.

        A set without training part is measured whole where it has no validation part.

        Raises:
            DataError: there is no such part, or it has no images.
        """
        if part == "val" and not {"val", "train"} & self.parts.keys():
            part = UNSPLIT
        if part != UNSPLIT:
            return self.part(part)
        parts = [images for images in self._different() if len(images)]
        whole: Images = join(parts or [self.part(next(iter(self.parts)))])
        return whole


def hold_out_images(images: Any, config: DataConfig) -> list[Any]:
    """Split a set into training and validation images: by the same share of each class, if the targets are classes."""
    if (labels := getattr(images, "labels", None)) is not None:
        groups = hold_out_per_class(labels, config.seed, config.val_share)
    else:
        groups = hold_out(len(images), config.seed, config.val_share)
    return [Derived(images, indices) for indices in groups]


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
