"""Mask files: from their pixels to a label map of class ids, one byte each, 255 where ignored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from twins.data.classes import (
    MAX_CLASSES,
    ClassTable,
    Colour,
    build_table,
    has_own_colours,
    table_from_values,
    voc_colours,
)
from twins.data.config import MaskConfig
from twins.data.formats.mask_problems import (
    alpha_problem,
    binary_problems,
    binary_threshold,
    palette_problems,
    single_page,
    value_problems,
)
from twins.data.images import open_file
from twins.errors import ConfigError, DataError, NotFoundError, few, nearest, number_of

IGNORE = 255
"""Class id of ignored pixels."""
Values = Literal["index", "binary", "colour"]
"""Content of mask pixels; see `MaskConfig.values`."""
_BACKGROUNDS = ("background", "bg", "unlabeled", "unlabelled", "void", "none")
"""Names of what is 0 in masks, in masks of two values also if it is named second."""
_BORDER: Colour = (224, 224, 192)
"""Colour of ignored pixels in Pascal VOC's palette."""
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
        return self.to_classes(read_values(path, palette=self.values == "colour", lossy=self.values == "binary"), path)

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
    config: MaskConfig,
    masks: Sequence[Path],
    classes: ClassTable | None,
    *,
    ignored: Sequence[int] = (),
    ignored_colours: Sequence[Colour] = (),
    problems: list[str] | None = None,
) -> tuple[MaskReader, list[str]]:
    """Return the mask reader of a data set, and a note for each decision that was made from the masks.

    Args:
        config: the user's settings.
        masks: all mask files of the set.
        classes: the classes of the user or the layout; `None` makes a class of each value in the masks.
        ignored: mask values of the layout that belong to no class.
        ignored_colours: colours of the layout that belong to no class.
        problems: gets a sentence if the values look like shades of grey or soft edges.

    Raises:
        ConfigError: `masks.ignore` names a class that does not exist.
        DataError: masks cannot be read, or contradict each other or the classes.
    """
    notes: list[str] = []
    values = config.values
    if values == "auto":
        values = detect_values(masks, classes, set(config.ignored_values))
        if values != "index":
            notes.append(_NOTES["jpeg" if values == "binary" and are_lossy(masks) else values])
    ignore = {*config.ignored_values, *ignored}
    if classes is not None:
        classes, ignore = _reduce_zero_label(config, classes, ignore)
        classes, more_notes = _with_values_of_masks(config, classes, values, masks, ignore)
        notes += more_notes
        if values == "colour" and not has_own_colours(classes):
            classes = _with_colours_by_position(classes, masks)
            ignored_colours = (*ignored_colours, _BORDER)
            notes.append("the classes have no colours in their file: they are those of Pascal VOC, by position")
    elif config.reduce_zero_label:
        ignore.add(0)
    if classes is None:
        classes, more_notes = _classes_of_values(values, masks, ignore, [] if problems is None else problems)
        notes += more_notes
    check_ignored(config.ignored_names, classes.names)
    rows = list(zip(classes.names, classes.values, classes.colours, strict=True))
    dropped = [row for row in rows if row[0] in config.ignored_names or row[1] in ignore]
    if dropped:
        rows = [row for row in rows if row not in dropped]
        classes = build_table([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])
    ignore.update(value for _, value, _ in dropped)
    ignore_colours = (*(colour for _, _, colour in dropped), *ignored_colours)
    threshold, found = _cut(masks, ignore) if values == "binary" else (1, [])
    if values == "index" and config.values == "auto":
        found = palette_problems({path: palette_colours(path) for path in _sample(masks)}, classes)
    if problems is not None:
        problems += found
    return MaskReader(classes, values, tuple(sorted(ignore)), ignore_colours, threshold), notes


def _reduce_zero_label(config: MaskConfig, classes: ClassTable, ignore: set[int]) -> tuple[ClassTable, set[int]]:
    """Return the classes and ignored values as `masks.reduce_zero_label` has them."""
    if config.reduce_zero_label is False and min(classes.values) == 1 and 0 in ignore - config.ignored_values:
        return _shift_values(classes, -1), ignore - {0}  # the masks are already reduced: 0 is the first class
    if not config.reduce_zero_label:
        return classes, ignore
    has_zero = 0 in classes.values and not _is_background(classes.names[classes.values.index(0)])
    return (_shift_values(classes, 1) if has_zero else classes), ignore | {0}  # without a background: 1, 2, ...


def _is_background(name: str) -> bool:
    return name.lower().strip("_ ") in _BACKGROUNDS


def _with_values_of_masks(
    config: MaskConfig, classes: ClassTable, values: Values, masks: Sequence[Path], ignore: set[int]
) -> tuple[ClassTable, list[str]]:
    """Return the classes of a file, with what it leaves out: a background, or that the masks count from 1."""
    if classes.values == (0,) and (values == "binary" or (values == "index" and 1 in sampled_values(masks) - ignore)):
        note = f"the one class that is named, {classes.names[0]}, has every value but 0, which is the background"
        return build_table(("background", *classes.names)), [note]
    if values == "binary" and len(classes) == 2:
        if _is_background(classes.names[1]):
            classes = build_table(classes.names[::-1], colours=classes.colours[::-1])
        return classes, [f"0 is {classes.names[0]}, and the other value {classes.names[1]}"]
    counts_from_0 = classes.values == tuple(range(len(classes))) and config.reduce_zero_label is None
    if (
        values != "index"
        or not counts_from_0
        or sampled_values(masks) & {0}
        or len(classes) not in sampled_values(masks)
    ):
        return classes, []
    if (_all_values(masks) - ignore - {IGNORE}) <= set(range(1, len(classes) + 1)):
        note = f"no mask holds 0, and the highest value is {len(classes)}: the classes have the values from 1 on"
        return _shift_values(classes, 1), [note]
    return classes, []


def _with_colours_by_position(classes: ClassTable, masks: Sequence[Path]) -> ClassTable:
    """Return classes with the colours that CVAT means where its `labelmap.txt` has none; raises DataError if the masks
    hold others.
    """
    colours = voc_colours(len(classes))
    unknown = sample_colours(masks) - {*colours, _BORDER}
    if unknown or not _is_background(classes.names[0]):
        raise DataError(
            f"masks are colour images, {masks[0]} first, and the {number_of(len(classes), 'class', 'classes')} have no "
            f"colours{f'; masks hold {few(sorted(unknown))}' if unknown else ''}; give each class its colour in a file "
            "of classes, `masks.classes=FILE`"
        )
    return ClassTable(classes.names, classes.values, colours)


def _classes_of_values(
    values: Values, masks: Sequence[Path], ignore: set[int], problems: list[str]
) -> tuple[ClassTable, list[str]]:
    """Return the classes of masks without names."""
    if values == "binary":
        return build_table(("background", "foreground")), []
    if values == "colour":
        raise DataError("masks of colours need a list of classes with their colours; give it with `masks.classes=FILE`")
    if are_lossy(masks):
        read_values(masks[0])  # raises DataError
    counts = _count_values(masks)
    classes = table_from_values(set().union(*counts) - {IGNORE} - ignore)
    problems += (found := value_problems(counts, classes.values))
    if found and len(classes) > MAX_CLASSES:
        raise DataError(found[0])
    gaps = classes.values != tuple(range(len(classes)))
    return classes, [
        f"classes are called by the {number_of(len(classes), 'value')} that the masks hold"
        + (", which have gaps" if gaps else "")
        + "; give names with `masks.classes=FILE`"
    ]


def _cut(masks: Sequence[Path], ignore: set[int]) -> tuple[int, list[str]]:
    """Return the lowest foreground value of binary masks, and problems."""
    if are_lossy(masks):
        return 128, []
    counts = [_mask_counts(path) or Counter[int]() for path in _sample(masks)]
    counts = [Counter({value: n for value, n in mask.items() if value not in ignore}) for mask in counts]
    threshold = binary_threshold(counts)
    return threshold, binary_problems(counts, threshold)


def check_ignored(names: Collection[str], classes: Sequence[str]) -> None:
    """Raise ConfigError if a class to ignore does not exist."""
    if unknown := sorted(set(names) - set(classes)):
        hint = nearest(unknown[0], classes) or f"; the classes are {few(classes)}"
        raise ConfigError(f"`masks.ignore` names {unknown[0]!r}, which is no class{hint}")


def read_values(path: Path, *, palette: bool = False, lossy: bool = False) -> NDArray[Any]:
    """Return the pixels of a mask file: values `(H, W)` of 8 or 16 bits, or colours `(H, W, 3)`.

    A colour image whose three channels are equal everywhere gives values.

    Args:
        path: the mask file.
        palette: whether an image with a palette gives its colours instead of its indices.
        lossy: whether JPEGs are read, whose compression changes values.

    Raises:
        DataError: the file is no image, damaged, or of a mode that holds no classes.
    """
    if not lossy and (kind := _lossy_kind(path)):
        raise DataError(f"{path} is a {kind}, whose compression changes the values of classes; save masks as PNG")
    image = open_file(path, single_page)
    if reason := alpha_problem(image):
        raise DataError(f"{path} {reason}")
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
    "jpeg": "masks are JPEGs of black and white: they are cut at half into two classes, background and foreground",
}


def detect_values(masks: Sequence[Path], classes: ClassTable | None, ignore: Set[int] = frozenset()) -> Values:
    """Detect the content of mask pixels: colours by a sample of the masks, only 0 and 255 by all of them."""
    sampled: set[int] = set()
    for path in _sample(masks):
        if (values := _mask_values(path)) is None:
            return "colour"
        sampled |= values
    if classes is not None and has_own_colours(classes) and _are_colours(_sample(masks), sampled, classes):
        return "colour"
    if classes is not None and classes.values not in ((0, 1), (0,)):
        return "index"
    if are_lossy(masks):
        return "binary" if _is_black_and_white(_sample(masks)) else "index"
    if sampled - ignore - {0, IGNORE, 65535}:
        return "index"
    return "binary" if _all_values(masks) - ignore in ({0, IGNORE}, {0, 65535}) else "index"


def are_lossy(masks: Sequence[Path]) -> bool:
    """Return whether all masks are compressed with loss, such as JPEGs."""
    return bool(masks) and all(map(_lossy_kind, masks))


def _lossy_kind(path: Path) -> str:
    """Return the name of a file's compression with loss, by its first bytes; empty for other files."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return ""
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    return "lossy WebP" if start.startswith(b"RIFF") and start.endswith(b"WEBPVP8 ") else ""


def _is_black_and_white(masks: Sequence[Path]) -> bool:
    """Return whether nearly all pixels of masks are near 0 or near 255, and some are near 255."""
    counts: Counter[int] = sum(_count_values(masks), Counter())
    near = sum(count for value, count in counts.items() if value < 64 or value >= 192)
    return near > 0.97 * counts.total() and max(counts, default=0) >= 192


def _are_colours(masks: Sequence[Path], values: Set[int], classes: ClassTable) -> bool:
    """Return whether masks of one channel hold the colours of classes: by their palette, or as shades of grey."""
    colours, indices = dict(zip(classes.values, classes.colours, strict=True)), set(classes.values)
    shown: dict[int, Colour] = {}
    for path in masks:
        shown |= palette_colours(path)
    shown = {value: colour for value, colour in shown.items() if value != IGNORE}
    if shown:
        by_colour = set(shown.values()) <= set(classes.colours)
        return by_colour and any(colours.get(value) != colour for value, colour in shown.items())
    greys = {value: (value, value, value) for value in values}
    fits_indices = values <= indices | {IGNORE} and (IGNORE, IGNORE, IGNORE) not in classes.colours
    differ = len(values) > 1 and any(colours.get(value) != grey for value, grey in greys.items())
    return bool(values) and set(greys.values()) <= set(classes.colours) and (differ or not fits_indices)


def palette_colours(path: Path) -> dict[int, Colour]:
    """Return the colours of the values in a mask with a palette; none if it has no palette or cannot be read."""
    try:
        image = open_file(path)
    except (DataError, NotFoundError):
        return {}
    if image.mode != "P" or (palette := image.getpalette("RGB")) is None:
        return {}
    values = np.unique(np.asarray(image)).tolist()
    return {
        value: (palette[3 * value], palette[3 * value + 1], palette[3 * value + 2])
        for value in values
        if 3 * value + 2 < len(palette)
    }


def sample_colours(masks: Sequence[Path]) -> set[Colour]:
    """Return the colours in some masks of colours; none if they hold values."""
    colours: set[Colour] = set()
    for path in _sample(masks):
        try:
            pixels = read_values(path, palette=True)
        except (DataError, NotFoundError):
            continue
        flat = pixels.reshape(-1, 3) if pixels.ndim == 3 else np.repeat(np.unique(pixels)[:, None], 3, axis=1)
        colours |= {(red, green, blue) for red, green, blue in np.unique(flat, axis=0).tolist()}
    return colours


def _sample(masks: Sequence[Path]) -> Sequence[Path]:
    """Return some masks, spread evenly over a set."""
    return masks[:: max(1, len(masks) // _SAMPLE)][:_SAMPLE]


def sampled_values(masks: Sequence[Path]) -> set[int]:
    """Return the values in some masks, spread evenly over a set; none of masks that hold colours."""
    return set().union(*(_mask_values(path) or () for path in _sample(masks)))


def _mask_values(path: Path) -> set[int] | None:
    """Return the values in one mask: an empty set if it cannot be read, `None` if it holds colours."""
    counts = _mask_counts(path)
    return None if counts is None else set(counts)


def _mask_counts(path: Path) -> Counter[int] | None:
    """Return the number of pixels of each value in one mask: none if it cannot be read, `None` if it holds colours."""
    try:
        pixels = read_values(path, lossy=True)
    except (DataError, NotFoundError):
        return Counter()
    if pixels.ndim == 3:
        return None
    counts = np.bincount(pixels.ravel())
    return Counter({value: int(counts[value]) for value in np.flatnonzero(counts).tolist()})


def _count_values(masks: Sequence[Path]) -> list[Counter[int]]:
    """Return the number of pixels of each value in each mask; none of masks of colours and unreadable ones.

    Raises:
        DataError: there are none but 255.
    """
    with ThreadPoolExecutor() as pool:
        counts = [counts or Counter() for counts in pool.map(_mask_counts, masks)]
    if not set().union(*counts) - {IGNORE}:
        read_values(masks[0], lossy=True)  # raises DataError if it cannot be read
        raise DataError("no mask can be read, or all of them hold only 255; check the masks")
    return counts


def _all_values(masks: Sequence[Path]) -> set[int]:
    """Return every value in a set of masks, without masks that hold colours or cannot be read."""
    return set().union(*_count_values(masks))


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
    if values == [last + 1] and first == 0:
        return (
            f"the {len(classes)} classes have the values 0 to {last}; if 0 is a background without a name, add its "
            "name to the file of classes as the first"
        )
    known = (
        f"the {len(classes)} classes have the values {first} to {last}"
        if first < last
        else f"the class has the value {first}"
    )
    return f"{known}; fix it, or ignore values with `masks.ignore`"
