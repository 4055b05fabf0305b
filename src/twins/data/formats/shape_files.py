"""Annotations of images by named shapes, as the formats of labelling tools parse them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL.Image import Image

from twins.data.classes import Colour
from twins.data.formats.outlines import Outline

Target = Literal["boxes", "masks", "maps"]
"""What is needed of each image: objects with boxes, objects with masks, or a label map."""


@dataclass(frozen=True)
class Shape:
    """A shape that somebody drew in an image."""

    name: str
    """Class name."""
    outline: Outline
    number: int
    """Position among the shapes of the image, or the line in the file, from 1."""
    crowd: bool = False
    """Whether it is a group of objects."""


@dataclass(eq=False)
class ShapeImage:
    """An image with its shapes."""

    names: tuple[str, ...]
    """Names that the file may have, the likeliest first."""
    file: Path
    """File of its annotations."""
    shapes: list[Shape] = field(default_factory=list)
    """In the order in which they are painted."""
    size: tuple[int, int] | None = None
    """Height and width in pixels; `None` if the annotations do not say."""
    shares: bool = False
    """Whether coordinates are shares of the image's width and height."""
    part: str = ""
    """The part as the annotations name it."""
    error: str = ""
    """Why its annotations cannot be read."""
    path: Path | None = None
    """The image; `None` if there is none yet."""
    read_copy: Callable[[Path], Image] | None = None
    """Reads the copy of the image in the annotation file, where the image itself is missing."""


@dataclass(eq=False)
class ShapeFile:
    """The content of an annotation file."""

    path: Path
    images: list[ShapeImage]
    names: list[str] = field(default_factory=list)
    """The classes that it lists, in their order; empty if it lists none."""
    colours: dict[str, Colour] = field(default_factory=dict)
    """Colours of classes."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Number of shapes of each kind that cannot be read, such as `points`."""
    faults: list[str] = field(default_factory=list)
    """Shapes that contradict the file, a sentence each."""


@dataclass(frozen=True, kw_only=True)
class ShapeFormat:
    """A format of annotations, as far as messages and classes need it."""

    layout: str
    """Name, for people."""
    unit: str = "shape"
    """What a shape is called."""
    per_image: bool = False
    """Whether each image has a file of its own."""
    names: Sequence[str] = ()
    """Class names that a file beside the annotations lists."""
    closed: bool = False
    """Whether there are no other classes than the listed ones."""
    boxes_have_masks: bool = False
    """Whether the tool's own conversion fills boxes."""
    paints: bool = False
    """Whether in the tool's own conversion a later shape covers earlier ones; else both are ignored where they meet."""
    unlisted: str = "an image that no annotation names"
    """Why an image is not used."""
    subset: bool = False
    """Whether the annotations may be for images that were never downloaded."""


def describe_shape(kind: ShapeFormat, image: ShapeImage, shape: Shape) -> str:
    """Return a shape's description for messages."""
    if kind.per_image or kind.unit == "line":
        return f"{kind.unit} {shape.number} of {image.file}"
    return f"{kind.unit} {shape.number} of {image.names[0]:.250} in {image.file}"


def read_start(path: Path, count: int = 4000) -> str:
    """Return the text of the first bytes of a file; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(count)
    except OSError:
        return ""
    return data.decode(_encoding(data), errors="replace")


def text_encoding(path: Path) -> str:
    """Return the encoding of a text: UTF-16 if it begins with its byte order mark, else UTF-8."""
    with path.open("rb") as file:
        return _encoding(file.read(2))


def _encoding(data: bytes) -> str:
    return "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
