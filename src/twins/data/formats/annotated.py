"""What sets of annotated images share, whatever the format of their annotations."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from twins.data.classes import ClassTable, distinct_colours, table
from twins.data.images import open_image
from twins.data.objects import AnnotatedImages, Objects

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""


class NamedObjects(AnnotatedImages, Protocol):
    """Annotated images whose objects can be named in messages."""

    without_area: Mapping[int, Sequence[str]]
    """By image, the objects of which its annotations alone say that they have no area inside it."""

    def named(self, index: int, place: int) -> str:
        """Return what to call an object of an image: its file, and its id or line in it."""
        ...


@dataclass(frozen=True)
class Opened:
    """A data set as its files have it."""

    train: NamedObjects
    val: NamedObjects | None
    """`None` where the set is not split."""
    notes: list[str] = field(default_factory=list)
    """What was decided in opening it, a sentence each."""
    faults: list[str] = field(default_factory=list)
    """Annotations that are left out because they contradict their file, a sentence each."""


class AnnotatedSubset:
    """Some of a set's images."""

    def __init__(self, images: NamedObjects, indices: Sequence[int]) -> None:
        self.images, self.indices = images, list(indices)
        self.classes, self.names = images.classes, images.names
        self.without_area: Mapping[int, Sequence[str]] = {
            place: images.without_area[index]
            for place, index in enumerate(self.indices)
            if index in images.without_area
        }

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, index: int) -> Picture:
        """Return an image; raises DataError where it cannot be read."""
        return self.images.load(self.indices[index])

    def target(self, index: int) -> Objects:
        """Return an image's objects; raises DataError where they cannot be read."""
        return self.images.target(self.indices[index])

    def shape(self, index: int) -> tuple[int, int] | None:
        """Return an image's height and width where its annotations say them."""
        return self.images.shape(self.indices[index])

    def path(self, index: int) -> str:
        """Return what to call an image."""
        return self.images.path(self.indices[index])

    def named(self, index: int, place: int) -> str:
        """Return what to call an object of an image."""
        return self.images.named(self.indices[index], place)


def has_area(box: Sequence[float], size: tuple[int, int] | None) -> bool:
    """Whether a box, xyxy, has some area inside an image of some height and width, as `usable` judges many at once.

    Where the size is `None`, inside an image without an end.
    """
    height, width = size or (math.inf, math.inf)
    return min(box[2], width) > max(box[0], 0) and min(box[3], height) > max(box[1], 0)


def image_size(path: Path) -> tuple[int, int]:
    """Return the height and width that `open_image` gives a file, read from its header.

    Raises:
        NotFoundError: there is no such file.
        DataError: the file is no image, or damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
                return (width, height) if image.getexif().get(0x0112, 1) in _TURNED else (height, width)
    except Exception:  # whatever Pillow raises for a damaged file
        whole = open_image(path)  # says what is wrong
        return whole.height, whole.width


def coloured(names: Sequence[str], values: Sequence[int] | None = None) -> ClassTable:
    """Return classes in colours that are bright: the first one of a plain table is for backgrounds."""
    return table(names, values, distinct_colours(len(names) + 1)[1:])


def brightened(classes: ClassTable) -> ClassTable:
    """Return classes in bright colours, where nobody has chosen any."""
    chosen = classes.colours != distinct_colours(len(classes))
    return classes if chosen else coloured(classes.names, classes.values)
