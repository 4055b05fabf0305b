"""Mask files: from their pixels to a label map of class ids, one byte each, 255 where ignored."""

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
from twins.errors import ConfigError, DataError, few, nearest, number_of

IGNORE = 255
"""Class id of ignored pixels."""
Values = Literal["index", "binary", "colour"]
"""Content of mask pixels; see `MaskConfig.values`."""
_UNKNOWN = -1
_SAMPLE = 24
"""Number of masks that are read to detect whether a set's masks hold colours, or white."""


@dataclass(frozen=True)
class MaskReader:
    """Reader of the mask files of one data set."""

    classes: ClassTable
    """Names, mask values and colours by class id."""
    values: Values = "index"
    """Content of mask pixels."""
    ignore: tuple[int, ...] = ()
    """Mask values that are ignored, besides 255."""
    ignore_colours: tuple[Colour, ...] = ()
    """Colours that are ignored."""
    threshold: int = 1
    """Lowest value of the foreground in binary masks."""

    def __post_init__(self) -> None:
        if len(self.classes) > MAX_CLASSES:
            raise DataError(f"semantic maps have at most {MAX_CLASSES} classes, found {len(self.classes)}; join some")
        if self.values == "binary" and len(self.classes) != 2:
            raise DataError(f"binary masks have two classes, found {len(self.classes)} names; list two")
        if self.values == "colour" and len(set(self.classes.colours)) < len(self.classes):
            raise DataError("two classes have the same colour, so a colour does not name one class; use index masks")

    def __call__(self, path: Path) -> NDArray[np.uint8]:
        """Return the label map `(H, W)` of a mask file.

        Raises:
            DataError: the file is no mask, damaged, or holds a value or colour that no class has.
        """
        return self.to_classes(read_values(path, palette=self.values == "colour"), path)

    def to_classes(self, pixels: NDArray[Any], path: Path | str) -> NDArray[np.uint8]:
        """Return the label map `(H, W)` of mask values `(H, W)` or colours `(H, W, 3)`; `path` is for messages."""
        if self.values == "binary":
            return _binary(pixels, self.ignore, self.threshold)
        if self.values == "colour":
            return self._from_colours(pixels, path)
        if pixels.ndim == 3:
            raise DataError(
                f"{path} is a colour image where masks of class values are expected; if it holds colours, "
                'set `masks.values="colour"`'
            )
        top = int(pixels.max(initial=0))
        lookup = np.full(max(top, 255, *self.classes.values, *self.ignore) + 1, _UNKNOWN, dtype=np.int16)
        lookup[255] = IGNORE
        lookup[list(self.classes.values)] = np.arange(len(self.classes))
        lookup[list(self.ignore)] = IGNORE
        return self._to_label_map(lookup[pixels], pixels, path)

    def _from_colours(self, pixels: NDArray[Any], path: Path | str) -> NDArray[np.uint8]:
        if pixels.ndim == 2:  # a mask that holds only black, white and grey
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        codes = _colour_codes(pixels)
        class_codes = _colour_codes(np.array([*self.classes.colours, *self.ignore_colours], dtype=np.uint8))
        order = np.argsort(class_codes)
        position = np.searchsorted(class_codes[order], codes).clip(max=len(class_codes) - 1)
        labels = np.where(class_codes[order][position] == codes, order[position], _UNKNOWN)
        labels[labels >= len(self.classes)] = IGNORE
        return self._to_label_map(labels, pixels, path)

    def _to_label_map(self, labels: NDArray[Any], pixels: NDArray[Any], path: Path | str) -> NDArray[np.uint8]:
        """Return class ids as a label map; raises DataError for pixels of no class."""
        unknown = labels == _UNKNOWN
        if unknown.any():
            values = sorted({tuple(v) if np.ndim(v) else int(v) for v in pixels[unknown][:100_000].tolist()})
            share = unknown.mean()
            raise DataError(
                f"{path} holds {'colours' if pixels.ndim == 3 else 'values'} that no class has: {few(values)} "
                f"({share:.1%} of its pixels); {_advice(values, self.classes)}"
            )
        return labels.astype(np.uint8)


def build_reader(
    config: MaskConfig, masks: Sequence[Path], classes: ClassTable | None, *, ignored: Sequence[int] = ()
) -> tuple[MaskReader, list[str]]:
    """Return the mask reader of a data set, and a note for each decision that was made from the masks.

    Args:
        config: the user's settings.
        masks: all mask files of the set.
        classes: the classes of the user or the layout; `None` makes a class of each value in the masks.
        ignored: mask values of the layout that belong to no class.

    Raises:
        ConfigError: `masks.ignore` names a class that does not exist.
        DataError: masks cannot be read, or contradict each other or the classes.
    """
    notes: list[str] = []
    values = config.values
    if values == "auto":
        values = _detect_values(masks, classes, set(config.ignored_values))
        if values != "index":
            notes.append(_NOTES[values])
    ignore = {*config.ignored_values, *ignored}
    reduced = config.reduce_zero_label is False and classes is not None and min(classes.values) == 1 and 0 in ignored
    if reduced and classes is not None:  # the masks are already reduced: 0 is the first class
        ignore -= {0} - config.ignored_values
        classes = _shift_values(classes, -1)
    if config.reduce_zero_label:
        ignore.add(0)
        if classes is not None and 0 in classes.values:  # the names belong to 1, 2, ...
            classes = _shift_values(classes, 1)
    if classes is None and values == "binary":
        classes = build_table(("background", "foreground"))
    if classes is None and values == "colour":
        raise DataError("masks of colours need a list of classes with their colours; give it with `masks.classes=FILE`")
    if classes is None:
        classes = table_from_values(_all_values(masks) - {IGNORE} - ignore)
        gaps = classes.values != tuple(range(len(classes)))
        notes.append(
            f"classes are called by the {number_of(len(classes), 'value')} that the masks hold"
            + (", which have gaps" if gaps else "")
            + "; give names with `masks.classes=FILE`"
        )
    check_ignored(config.ignored_names, classes.names)
    rows = list(zip(classes.names, classes.values, classes.colours, strict=True))
    dropped = [row for row in rows if row[0] in config.ignored_names or row[1] in ignore]
    if dropped:
        rows = [row for row in rows if row not in dropped]
        classes = build_table([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])
    ignore.update(value for _, value, _ in dropped)
    ignore_colours = tuple(colour for _, _, colour in dropped)
    threshold = _threshold(masks, ignore) if values == "binary" else 1
    return MaskReader(classes, values, tuple(sorted(ignore)), ignore_colours, threshold), notes


def _threshold(masks: Sequence[Path], ignore: set[int]) -> int:
    """Return the lowest foreground value of binary masks: half of white if they hold white, so that soft edges and the
    noise of compression are cut in the middle, otherwise 1.
    """
    values = set().union(*(_mask_values(path) or () for path in _sample(masks))) - ignore
    return next((white // 2 + 1 for white in (255, 65535) if max(values, default=0) == white), 1)


def check_ignored(names: Collection[str], classes: Sequence[str]) -> None:
    """Raise ConfigError if a class to ignore does not exist."""
    if unknown := sorted(set(names) - set(classes)):
        hint = nearest(unknown[0], classes) or f"; the classes are {few(classes)}"
        raise ConfigError(f"`masks.ignore` names {unknown[0]!r}, which is no class{hint}")


def read_values(path: Path, *, palette: bool = False) -> NDArray[Any]:
    """Return the pixels of a mask file: values `(H, W)` of 8 or 16 bits, or colours `(H, W, 3)`.

    A colour image whose three channels are equal everywhere gives values.

    Args:
        path: the mask file.
        palette: whether an image with a palette gives its colours instead of its indices.

    Raises:
        DataError: the file is no image, damaged, or of a mode that holds no classes.
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
        grey = (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
        return pixels[..., 0] if grey else pixels
    raise DataError(f"{path} is an image of mode {image.mode}, which holds no classes; save masks as grey PNG")


_NOTES = {
    "binary": "masks hold only 0 and 255: they are read as two classes, background and foreground",
    "colour": "masks are colour images: classes are read by their colours",
}


def _detect_values(masks: Sequence[Path], classes: ClassTable | None, ignore: set[int]) -> Values:
    """Detect the content of mask pixels: colours by a sample of the masks, only 0 and 255 by all of them."""
    sampled: set[int] = set()
    for path in _sample(masks):
        if (values := _mask_values(path)) is None:
            return "colour"
        sampled |= values
    if sampled - ignore - {0, IGNORE} or (classes is not None and classes.values != (0, 1)):
        return "index"
    return "binary" if _all_values(masks) - ignore == {0, IGNORE} else "index"


def _sample(masks: Sequence[Path]) -> Sequence[Path]:
    """Return some masks, spread evenly over a set."""
    return masks[:: max(1, len(masks) // _SAMPLE)][:_SAMPLE]


def _mask_values(path: Path) -> set[int] | None:
    """Return the values in one mask: an empty set if it cannot be read, `None` if it holds colours."""
    try:
        pixels = read_values(path)
    except DataError:
        return set()
    return None if pixels.ndim == 3 else set(np.unique(pixels).tolist())


def _all_values(masks: Sequence[Path]) -> set[int]:
    """Return every value in a set of masks, without masks that hold colours or cannot be read."""
    with ThreadPoolExecutor() as pool:
        all_values: set[int] = set().union(*(values or () for values in pool.map(_mask_values, masks)))
    if not all_values - {IGNORE}:
        raise DataError("no mask can be read, or all of them hold only 255; check the masks")
    return all_values


def _binary(pixels: NDArray[Any], ignore: Sequence[int], threshold: int) -> NDArray[np.uint8]:
    if pixels.ndim == 3:
        return np.asarray((pixels >= threshold).any(axis=2), dtype=np.uint8)
    return np.where(np.isin(pixels, ignore), IGNORE, pixels >= threshold).astype(np.uint8)


def _shift_values(classes: ClassTable, step: int) -> ClassTable:
    return ClassTable(classes.names, tuple(value + step for value in classes.values), classes.colours)


def _colour_codes(colours: NDArray[Any]) -> NDArray[np.int64]:
    """Return one number per colour, `(..., 3)` to `(...)`."""
    return colours.astype(np.int64) @ np.array([65536, 256, 1])


def _advice(values: list[Any], classes: ClassTable) -> str:
    if isinstance(values[0], tuple):
        return "give each class its colour in a file of classes, `masks.classes=FILE`"
    if values == [0] and 1 in classes.values:
        return "if 0 is to be ignored, set `masks.reduce_zero_label=True`"
    first, last = min(classes.values), max(classes.values)
    known = (
        f"the {len(classes)} classes have the values {first} to {last}"
        if first < last
        else f"the class has the value {first}"
    )
    return f"{known}; fix it, or ignore values with `masks.ignore`"
