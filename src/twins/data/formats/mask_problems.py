"""Masks that hold no classes: soft edges, shades of grey, ids of objects, differing palettes, alpha, several pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL.Image import Image

from twins.data.classes import ClassTable, Colour, has_own_colours
from twins.errors import DataError, few

WHITES = (255, 65535)
"""White in masks of 8 and of 16 bits."""
MAX_GREY_CLASSES, GREY_STEP = 8, 16
"""More unnamed values than these, most pixels at both ends, are soft edges; values this far apart are grey shades."""
VALUE_PROBLEMS = ("masks hold ", "255 is ignored ")
"""Beginnings of the sentences on values that are no classes."""
_NEAR, _MIN_END, _MIN_ENDS = 8, 0.01, 0.7
"""Soft edges without 255: the values near an end, and the least shares of the pixels near one end and both ends."""
_MIN_IDS, _MIN_COUNTS = 4, 3
"""Ids of objects: the least highest id, and number of different highest ids."""
_MAX_IN_MASK = 64
"""More unnamed values in one mask than these are no classes."""
_MAX_INDEX = 15
"""The highest value that, beside 255, looks like a class and not like a soft edge."""
_BINARY = 'set `masks.values="binary"`'


def value_problems(masks: Sequence[Counter[int]], values: Sequence[int]) -> list[str]:
    """Report unnamed values that look like no classes.

    Args:
        masks: number of pixels of each value in each mask.
        values: the values that are taken for classes.
    """
    counts: Counter[int] = sum(masks, Counter())
    if are_ids(masks):
        return [
            f"masks hold values from 1 on without a gap, up to {max(map(_highest_id, masks))}, each mask to another, "
            f"as ids of objects do; for two classes, background and objects, {_BINARY}; if the values are "
            "classes, list them in `masks.classes=FILE`"
        ]
    if ends := _soft_ends(counts, values):
        return [
            f"masks hold {len(counts)} values; {ends}, and the others look like soft edges or the noise of "
            f"compression; {_BINARY}, or save masks of class values"
        ]
    if 2 * sum(len(mask) > _MAX_IN_MASK for mask in masks) > len(masks):
        return [
            f"masks hold {len(counts)} values, and most of them more than {_MAX_IN_MASK} each, as photographs and maps "
            "of shares do; check that the folder holds masks of class values"
        ]
    white = counts[WHITES[0]]
    if white and len(values) > 1 and min(np.diff(values)) >= GREY_STEP:
        return [
            f"255 is ignored and fills {white / counts.total():.1%} of the pixels, although the values of the masks, "
            f"{few(values)} and 255, are spread like shades of grey; if 255 is a class, list all classes with their "
            "values in `masks.classes=FILE`"
        ]
    return []


def are_ids(masks: Sequence[Counter[int]]) -> bool:
    """Return whether values are ids of objects: from 1 on without a gap in every mask, and up to another each time."""
    highest = [_highest_id(counts) for counts in masks if counts.keys() - {0, WHITES[0]}]
    return 0 not in highest and max(highest, default=0) >= _MIN_IDS and len(set(highest)) >= _MIN_COUNTS


def _highest_id(counts: Mapping[int, int]) -> int:
    """Return the highest value of a mask if its values count from 1, apart from 0 and borders of 255; else 0."""
    values = counts.keys() - {0}
    values -= {WHITES[0]} if WHITES[0] - 1 not in values else set()
    return len(values) if max(values, default=0) == len(values) else 0


def _soft_ends(counts: Counter[int], values: Sequence[int]) -> str:
    """Return the share of the pixels at both ends if the values between are soft edges; else an empty text."""
    if len(values) <= MAX_GREY_CLASSES or max(values) <= 128:
        return ""
    total, top = counts.total(), max(counts)
    if counts[WHITES[0]]:
        extreme = (counts[WHITES[0]] + (counts[0] if 0 in values else 0)) / total
        return f"0 and 255 fill {extreme:.1%} of the pixels" if extreme > 0.5 else ""
    low = sum(count for value, count in counts.items() if value <= _NEAR) / total
    high = sum(count for value, count in counts.items() if value >= top - _NEAR) / total
    are_ends = min(low, high) >= _MIN_END and low + high >= _MIN_ENDS
    return f"those near 0 and {top} fill {low + high:.1%} of the pixels" if are_ends else ""


def binary_threshold(masks: Sequence[Counter[int]]) -> int:
    """Return the lowest foreground value of binary masks: half of white, or of the highest value of soft edges, so that
    these and the noise of compression are cut in the middle; otherwise 1.
    """
    counts: Counter[int] = sum(masks, Counter())
    top = max(counts, default=0)
    is_soft = len(counts) > MAX_GREY_CLASSES and top >= 128
    return top // 2 + 1 if (top in WHITES or is_soft) and not are_ids(masks) else 1


def binary_problems(masks: Sequence[Counter[int]], threshold: int) -> list[str]:
    """Report binary masks in which small values are cut off that look like classes, with 255 for ignored pixels."""
    low = sorted({value for counts in masks for value in counts} & set(range(1, threshold)))
    if not low or low[-1] > _MAX_INDEX:
        return []
    return [
        f"masks hold {few(low)} besides 0 and white, and values from {threshold} on are read as the foreground; if 255 "
        "marks pixels to ignore, leave out `masks.values`, or list 255 in `masks.ignore`"
    ]


def palette_problems(palettes: Mapping[Path, Mapping[int, Colour]], classes: ClassTable) -> list[str]:
    """Report masks whose palettes give a value different colours, or the colour of another class."""
    value_of = dict(zip(classes.colours, classes.values, strict=True)) if has_own_colours(classes) else {}
    first: dict[int, tuple[Path, Colour]] = {}
    for path, colours in palettes.items():
        for value, colour in colours.items():
            other, earlier = first.setdefault(value, (path, colour))
            if earlier != colour:
                return [
                    f"masks hold palettes that differ: the value {value} is {earlier} in {other} and {colour} in "
                    f"{path}; list the classes with their colours in `masks.classes=FILE`, or, if the values are the "
                    'classes, set `masks.values="index"`'
                ]
            if value_of.get(colour, value) != value and value in classes.values:
                return [
                    f"masks hold the value {value}, that of the class {classes.names[classes.values.index(value)]}, in "
                    f"the colour {colour} of the class {classes.names[classes.values.index(value_of[colour])]}, {path} "
                    'first; set `masks.values` to "index" or "colour", or correct the file of classes'
                ]
    return []


def alpha_problem(image: Image) -> str:
    """Return why a mask's alpha channel, which is not read, seems to say what its pixels are; else an empty text."""
    if image.mode not in ("RGBA", "LA"):
        return ""
    *colours, alpha = (np.asarray(channel) for channel in image.split())
    if not np.ptp(alpha):
        return ""
    if not any(np.ptp(channel) for channel in colours):
        return (
            "has one colour and differs only in its alpha channel, which is not read; save the alpha channel as a grey "
            "image"
        )
    codes = sum((channel.astype(np.int64) << 8 * i for i, channel in enumerate(colours)), np.zeros((), np.int64))
    both = np.intersect1d(codes[alpha == 0], codes[alpha > 0])
    if not both.any():
        return ""
    colour = tuple(int(both.max()) >> 8 * i & 255 for i in range(len(colours)))
    return f"has the colour {colour} in pixels that are transparent and in others; save it without alpha"


def single_page(image: Image) -> Image:
    """Return a copy of a mask's first page; raises DataError if another page of its size holds other values."""
    page = image.copy()
    if getattr(image, "n_frames", 1) > 1:
        image.seek(1)
        if image.size == page.size and image.tobytes() != page.tobytes():
            raise DataError(
                f"{getattr(image, 'filename', '')} has several pages of one size, and a mask has one; save the classes "
                "of all pages in one"
            )
    return page
