"""Settings of how data is read. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import arg

from twins.errors import ConfigError, DataError
from twins.files import is_invalid_path

PARTS = ("train", "val", "test")
"""Parts of a data set."""
EMBEDDED = ("digits", "scenes")
"""Data sets that come with the package; write `./digits` for a folder of that name."""


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """How mask files encode the class of each pixel; detected from the data by default."""

    classes: Annotated[str, arg(metavar="NAME|FILE")] = "auto"
    """Class names, mask values and colours: `ade20k`, `cityscapes`, `coco`, `coco_panoptic`, `voc`, or a file with
    one name per line (or CSV, JSON, YAML); `auto` uses the file of names beside the masks (`classes.txt`,
    `labelmap.txt`, `_classes.csv` and others), else the layout's own classes, else the values in the masks."""
    values: Literal["auto", "index", "binary", "colour"] = "auto"
    """Content of mask pixels: `index`, the class's value; `binary`, 0 for one class and any other value for the
    other, or if they hold 255, values from 128 on; `colour`, the class's RGB colour; `auto` detects it."""
    ignore: tuple[int | str, ...] = ()
    """Mask values (in COCO files, category ids) or class names to ignore, besides 255."""
    reduce_zero_label: bool | None = None
    """Whether 0 is ignored and 1 is the first class; unset follows the classes (ADE20K: yes)."""

    def __post_init__(self) -> None:
        if self.values not in ("auto", "index", "binary", "colour"):
            raise ConfigError(f"`masks.values` must be one of auto, index, binary, colour, found {self.values!r}")
        if any(not 0 <= value <= 65535 for value in self.ignored_values):
            raise ConfigError(f"`masks.ignore` must list values between 0 and 65535, or names, found {self.ignore}")
        if is_invalid_path(self.classes):
            raise ConfigError(f'`masks.classes="{self.classes}"` does not exist; give the name of a set, or a file')

    @property
    def ignored_values(self) -> frozenset[int]:
        """Return the mask values in `ignore`."""
        return frozenset(int(item) for item in self.ignore if isinstance(item, int) or item.lstrip("-").isdigit())

    @property
    def ignored_names(self) -> frozenset[str]:
        """Return the class names in `ignore`."""
        return frozenset(str(item) for item in self.ignore) - {str(value) for value in self.ignored_values}


@dataclass(frozen=True, kw_only=True)
class BoxConfig:
    """How the classes of boxes are read where the annotations themselves do not name all of them."""

    classes: Annotated[str, arg(metavar="NAME|FILE")] = "auto"
    """Class names of boxes by id, `coco`, `voc` or a file with one name per line (or CSV, JSON, YAML); `auto` uses
    those of the annotations, or of a file beside them."""

    def __post_init__(self) -> None:
        if is_invalid_path(self.classes):
            raise ConfigError(f'`boxes.classes="{self.classes}"` does not exist; give the name of a set, or a file')


@dataclass(frozen=True, kw_only=True)
class LayoutConfig:
    """Where the parts of a data set are, for folders that no convention fits; `twins.yaml` in the folder says the same.

    Paths are relative to the data folder. A setting that is not given is found by convention.
    """

    images: Annotated[str | None, arg(metavar="DIR")] = None
    """Folder of the images; for a classifier, the folder of the class folders."""
    annotations: Annotated[str | None, arg(metavar="PATH")] = None
    """Folder or file of the annotations: of label files, of masks, or a JSON, XML or CSV file."""
    train: Annotated[tuple[str, ...], arg(metavar="PATH...")] = ()
    """What makes up the training part: folders, lists of image names (`.txt`), or annotation files."""
    val: Annotated[tuple[str, ...], arg(metavar="PATH...")] = ()
    """What makes up the validation part, likewise."""
    test: Annotated[tuple[str, ...], arg(metavar="PATH...")] = ()
    """What makes up the test part, likewise."""

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """Return what makes up each part that is given."""
        return {name: value for name in PARTS if (value := getattr(self, name))}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data set to read, and how."""

    data: str
    """A folder, a `data.yaml` in it, or the name of an embedded set."""
    seed: int = 0
    """Selects the images that are held out of data without a validation part."""
    val_share: float = 0.2
    """Share of the images, 0 to 1, that is held out of data without a validation part."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    """How semantic masks are read."""
    boxes: BoxConfig = field(default_factory=BoxConfig)
    """How the classes of boxes are read."""
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    """Where the parts are, for folders that no convention fits."""

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("the path of the data is empty; give a folder, or the name of an embedded set")
        if is_invalid_path(self.data):
            raise DataError(f"the data folder {self.data} does not exist; check the path")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"`seed` must be at least 0 and below 2^32, found {self.seed}")
        if not 0 <= self.val_share < 1:
            raise ConfigError(f"`val_share` must be at least 0 and below 1, found {self.val_share}")
