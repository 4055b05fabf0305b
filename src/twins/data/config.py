"""Settings of how data is read. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from twins.errors import ConfigError, DataError
from twins.files import too_long

EMBEDDED = ("digits", "scenes")
"""Sets that come with the package; a folder of such a name is meant by `./digits`."""


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """How a mask says the class of each pixel; by default the data tells."""

    classes: str = "auto"
    """Class names, mask values and colours: `ade20k`, `cityscapes`, `coco`, `coco_panoptic`, `voc`, or a file of one
    name per line (or CSV, JSON, YAML); `auto` takes `classes.*` of the data folder, then the layout's own classes,
    then the values that the masks hold."""
    values: Literal["auto", "index", "binary", "colour"] = "auto"
    """What pixels hold: `index`, a class's value; `binary`, 0 and anything else (such as 255) as two classes;
    `colour`, a class's RGB colour."""
    ignore: tuple[int | str, ...] = ()
    """Mask values (of COCO files, category ids) or class names that are ignored, besides 255."""
    reduce_zero_label: bool | None = None
    """Whether 0 is ignored and 1 is the first class; unset is as the classes have it (ADE20K: yes)."""

    def __post_init__(self) -> None:
        if self.values not in ("auto", "index", "binary", "colour"):
            raise ConfigError(f"`masks.values` must be one of auto, index, binary, colour, found {self.values!r}")
        if any(not 0 <= value <= 65535 for value in self.ignored_values):
            raise ConfigError(f"`masks.ignore` must list values between 0 and 65535, or names, found {self.ignore}")
        if too_long(self.classes):
            raise ConfigError(f'`masks.classes="{self.classes}"` does not exist; give the name of a set, or a file')

    @property
    def ignored_values(self) -> frozenset[int]:
        """Mask values among those ignored."""
        return frozenset(int(item) for item in self.ignore if isinstance(item, int) or item.lstrip("-").isdigit())

    @property
    def ignored_names(self) -> frozenset[str]:
        """Class names among those ignored."""
        return frozenset(str(item) for item in self.ignore) - {str(value) for value in self.ignored_values}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data set, and how it is read."""

    data: str
    """A folder, or the name of an embedded set."""
    seed: int = 0
    """Chooses what is held out of data without a validation part."""
    val_share: float = 0.2
    """Share held out of data without a validation part."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    """How masks are read."""

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("the path of the data is empty; give a folder, or the name of an embedded set")
        if too_long(self.data):
            raise DataError(f"the data folder {self.data} does not exist; check the path")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"`seed` must be at least 0 and below 2^32, found {self.seed}")
        if not 0 <= self.val_share < 1:
            raise ConfigError(f"`val_share` must be at least 0 and below 1, found {self.val_share}")
