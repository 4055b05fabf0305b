"""Masks: from the pixels of a file to a map of class ids, one byte each, 255 where ignored."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from twins.data.classes import MAX_CLASSES, ClassTable, Colour, build_table, table_from_values
from twins.data.config import MaskConfig
from twins.data.images import open_file
from twins.errors import ConfigError, DataError, few, nearest

IGNORE = 255
"""Class id of ignored pixels."""
Values = Literal["index", "binary", "colour"]
_UNKNOWN = -1
_PEEK = 24
"""Masks that are looked at to learn what a set's pixels hold."""


@dataclass(frozen=True)
class MaskReader:
    """Reads the masks of one set."""

    classes: ClassTable
    """Names, values and colours by class id."""
    values: Values = "index"
    """What pixels hold."""
    ignore: tuple[int, ...] = ()
    """Values that are ignored, besides 255."""
    ignore_colours: tuple[Colour, ...] = ()
    """Colours that are ignored."""

    def __post_init__(self) -> None:
        if len(self.classes) > MAX_CLASSES:
            raise DataError(f"semantic maps have at most {MAX_CLASSES} classes, found {len(self.classes)}; join some")
        if self.values == "binary" and len(self.classes) != 2:
            raise DataError(f"binary masks have two classes, found {len(self.classes)} names; list two")
        if self.values == "colour" and len(set(self.classes.colours)) < len(self.classes):
            raise DataError("two classes have the same colour, so colours do not tell them apart; use index masks")

    def __call__(self, path: Path) -> NDArray[np.uint8]:
        """Return a file's class ids `(H, W)`.

        Raises:
            DataError: the file is no mask, damaged, or holds a value or colour that no class has; says which.
        """
        return self.to_classes(read_values(path, palette=self.values == "colour"), path)

    def to_classes(self, pixels: NDArray[Any], path: Path | str) -> NDArray[np.uint8]:
        """Return the class ids `(H, W)` of raw values `(H, W)` or colours `(H, W, 3)`; `path` is for messages."""
        if self.values == "binary":
            return _binary(pixels, self.ignore)
        if self.values == "colour":
            return self._of_colours(pixels, path)
        if pixels.ndim == 3:
            raise DataError(
                f"{path} is a colour image where masks of class values are expected; where it holds colours, "
                'say `masks.values="colour"`'
            )
        top = int(pixels.max(initial=0))
        lookup = np.full(max(top, 255, *self.classes.values, *self.ignore) + 1, _UNKNOWN, dtype=np.int16)
        lookup[255] = IGNORE
        lookup[list(self.classes.values)] = np.arange(len(self.classes))
        lookup[list(self.ignore)] = IGNORE
        return self._checked(lookup[pixels], pixels, path)

    def _of_colours(self, pixels: NDArray[Any], path: Path | str) -> NDArray[np.uint8]:
        if pixels.ndim == 2:  # a mask of black, white and greys alone
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        codes = _codes(pixels)
        known = _codes(np.array([*self.classes.colours, *self.ignore_colours], dtype=np.uint8))
        order = np.argsort(known)
        place = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
        found = np.where(known[order][place] == codes, order[place], _UNKNOWN)
        found[found >= len(self.classes)] = IGNORE
        return self._checked(found, pixels, path)

    def _checked(self, found: NDArray[Any], pixels: NDArray[Any], path: Path | str) -> NDArray[np.uint8]:
        wrong = found == _UNKNOWN
        if wrong.any():
            what = sorted({tuple(v) if np.ndim(v) else int(v) for v in pixels[wrong][:100_000].tolist()})
            share = wrong.mean()
            raise DataError(
                f"{path} holds {'colours' if pixels.ndim == 3 else 'values'} that no class has: {few(what)} "
                f"({share:.1%} of its pixels); {_advice(what, self.classes)}"
            )
        return found.astype(np.uint8)


def build_reader(
    config: MaskConfig, masks: Sequence[Path], classes: ClassTable | None, *, ignored: Sequence[int] = ()
) -> tuple[MaskReader, list[str]]:
    """Return the reader of a set, and a sentence for what its masks themselves decided.

    Args:
        config: what the user says of the masks.
        masks: all masks of the set.
        classes: the classes as the user or the layout has them, or `None`: those that the masks hold.
        ignored: values that the classes leave out.

    Raises:
        DataError: masks that cannot be read, or contradict each other or the classes.
    """
    notes: list[str] = []
    values = config.values
    if values == "auto":
        values = _peek(masks, classes, set(config.ignored_values))
        if values != "index":
            notes.append(_SAID[values])
    ignore = {*config.ignored_values, *ignored}
    reduced = config.reduce_zero_label is False and classes is not None and min(classes.values) == 1 and 0 in ignored
    if reduced and classes is not None:  # 0 would be ignored, but these masks have been reduced already
        ignore -= {0} - config.ignored_values
        classes = _moved(classes, -1)
    if config.reduce_zero_label:
        ignore.add(0)
        if classes is not None and 0 in classes.values:  # names in order of 1, 2, ...
            classes = _moved(classes, 1)
    if classes is None and values == "binary":
        classes = build_table(("background", "foreground"))
    if classes is None and values == "colour":
        raise DataError("masks of colours need a list of classes with their colours; give it with `masks.classes=FILE`")
    if classes is None:
        classes = table_from_values(_values_of(masks) - {IGNORE} - ignore)
        gaps = classes.values != tuple(range(len(classes)))
        notes.append(
            f"classes are called by the {len(classes)} values that the masks hold"
            + (", which have gaps" if gaps else "")
            + "; give names with `masks.classes=FILE`"
        )
    check_ignored(config.ignored_names, classes.names)
    rows = list(zip(classes.names, classes.values, classes.colours, strict=True))
    dropped = [row for row in rows if row[0] in config.ignored_names or row[1] in ignore]
    if dropped:
        kept = [row for row in rows if row not in dropped]
        classes = build_table([row[0] for row in kept], [row[1] for row in kept], [row[2] for row in kept])
    ignore.update(value for _, value, _ in dropped)
    return MaskReader(classes, values, tuple(sorted(ignore)), tuple(colour for _, _, colour in dropped)), notes


def check_ignored(names: Collection[str], classes: Sequence[str]) -> None:
    """Raise ConfigError where a class that is to be ignored does not exist."""
    if wrong := sorted(set(names) - set(classes)):
        hint = nearest(wrong[0], classes) or f"; the classes are {few(classes)}"
        raise ConfigError(f"`masks.ignore` names {wrong[0]!r}, which is no class{hint}")


def read_values(path: Path, *, palette: bool = False) -> NDArray[Any]:
    """Return a mask's raw pixels: values `(H, W)` of 8 or 16 bits, or `(H, W, 3)`.

    A colour image whose three channels are the same everywhere counts as one of values.

    Args:
        path: the mask.
        palette: whether an image with a palette gives its colours; else its indices.

    Raises:
        DataError: the file is no image, damaged, or of a kind that holds no classes.
    """
    if path.suffix.lower() in (".jpg", ".jpeg", ".jpe", ".jfif"):
        raise DataError(f"{path} is a JPEG, whose compression changes the values of classes; save masks as PNG")
    image = open_file(path)
    if palette and image.mode == "P":
        image = image.convert("RGB")
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8) * 255
    if image.mode in ("L", "P"):
        return np.asarray(image)
    if image.mode.startswith("I"):
        pixels = np.asarray(image)
        if int(pixels.min(initial=0)) < 0 or int(pixels.max(initial=0)) > 65535:
            raise DataError(f"{path} holds values beyond 16 bits, which are no class values; convert it")
        return pixels.astype(np.int32)
    if image.mode in ("RGB", "RGBA", "LA"):
        pixels = np.asarray(image.convert("RGB") if image.mode != "RGB" else image)
        same = (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
        return pixels[..., 0] if same else pixels
    raise DataError(f"{path} is an image of mode {image.mode}, which holds no classes; save masks as grey PNG")


_SAID = {
    "binary": "masks hold 0 and 255 alone: they are read as two classes, background and foreground",
    "colour": "masks are colour images: classes are read by their colours",
}


def _peek(masks: Sequence[Path], classes: ClassTable | None, ignore: set[int]) -> Values:
    """Judge what pixels hold: by some masks whether it is colours, by all of them whether it is 0 and 255 alone."""
    seen: set[int] = set()
    for path in masks[:: max(1, len(masks) // _PEEK)][:_PEEK]:
        if (values := _values_in(path)) is None:
            return "colour"
        seen |= values
    if seen - ignore - {0, IGNORE} or (classes is not None and classes.values != (0, 1)):
        return "index"
    return "binary" if _values_of(masks) - ignore == {0, IGNORE} else "index"


def _values_in(path: Path) -> set[int] | None:
    """Return the values of one mask, none where it cannot be read; `None` where it holds colours."""
    try:
        pixels = read_values(path)
    except DataError:
        return set()
    return None if pixels.ndim == 3 else set(np.unique(pixels).tolist())


def _values_of(masks: Sequence[Path]) -> set[int]:
    """Return every value that a set of masks holds; masks of colours and such as cannot be read are passed over."""
    with ThreadPoolExecutor() as pool:
        found: set[int] = set().union(*(values or () for values in pool.map(_values_in, masks)))
    if not found - {IGNORE}:
        raise DataError("no mask can be read, or all of them hold nothing but 255; check the masks")
    return found


def _binary(pixels: NDArray[Any], ignore: Sequence[int]) -> NDArray[np.uint8]:
    if pixels.ndim == 3:
        return (pixels != 0).any(axis=2).astype(np.uint8)
    return np.where(np.isin(pixels, ignore), IGNORE, pixels != 0).astype(np.uint8)


def _moved(classes: ClassTable, step: int) -> ClassTable:
    return ClassTable(classes.names, tuple(value + step for value in classes.values), classes.colours)


def _codes(colours: NDArray[Any]) -> NDArray[np.int64]:
    """Return one number for each colour of `(..., 3)`."""
    return colours.astype(np.int64) @ np.array([65536, 256, 1])


def _advice(values: list[Any], classes: ClassTable) -> str:
    if isinstance(values[0], tuple):
        return "give each class its colour in a file of classes, `masks.classes=FILE`"
    if values == [0] and 1 in classes.values:
        return "where 0 counts for nothing, say `masks.reduce_zero_label=True`"
    first, last = min(classes.values), max(classes.values)
    return f"the {len(classes)} classes have {first} to {last}; mend it, or pass values over with `masks.ignore`"
