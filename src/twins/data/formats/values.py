"""Numbers, ids and flags of annotations, which data frames and scripts write as `1`, `1.0`, `"1"` or `true`.

Each function returns the value that was meant, or `None` if the value cannot mean one.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twins.errors import number_of

_LIMIT = 1e12
"""Limit of the numbers of boxes and areas."""
_EXACT = 2**53
"""Limit below which a float holds every whole number."""
_FLAGS = {"true": True, "yes": True, "t": True, "y": True, "false": False, "no": False, "f": False, "n": False}
_MISSING = ("", "nan", "none", "null")
"""Texts that data frames write for a missing value, in lower case."""


def read_number(value: Any) -> float | None:
    """Return a finite number that a box, an area or a score can have; an int stays one."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return value if isinstance(value, int | float) and abs(value) < _LIMIT else None


def read_numbers(value: Any, count: int) -> list[float] | None:
    """Return a list of `count` finite numbers, also from a text such as `"[1, 2, 3, 4]"`."""
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    if not isinstance(value, list) or len(value) != count:
        return None
    if all(type(item) in (int, float) and abs(item) < _LIMIT for item in value):
        return value
    numbers = [number for item in value if (number := read_number(item)) is not None]
    return numbers if len(numbers) == count else None


def read_whole(value: Any) -> int | None:
    """Return a whole number; a text of digits is exact at any size that an id has."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str) and len(value) < 20:
        with suppress(ValueError):
            return int(value)
    number = read_number(value)
    return int(number) if number is not None and abs(number) < _EXACT and number == int(number) else None


def read_id(value: Any) -> int | str | None:
    """Return an id: a whole number in any of its forms as an int, another text unchanged.

    Texts with zeros in front, such as `"007"`, stay texts, because `"7"` may be another id.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        digits = value.strip().removesuffix(".0")
        whole = read_whole(digits)
        return whole if whole is not None and str(whole) == digits else value
    return read_whole(value)


def read_flag(value: Any) -> bool | None:
    """Return a flag: a missing value, `None` or not a number, is false; a negative one is none."""
    if isinstance(value, int):
        return None if value < 0 else bool(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return False
    if isinstance(value, str):
        text = value.strip().lower()
        if text in _FLAGS or text in _MISSING:
            return _FLAGS.get(text, False)
    number = read_number(value)
    return None if number is None or number < 0 else number != 0


def fraction_problems(boxes: NDArray[np.float64], source: str, expected: str) -> list[str]:
    """Return a sentence if boxes look like fractions of their image: no value exceeds 1, or by rounding.

    Args:
        boxes: all boxes of a file or folder, `(R, 4)`, xyxy in pixels, or what is written as such.
        source: the file or folder.
        expected: what a box should hold instead.
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    small = ((np.abs(low) <= 1) & (high <= 2) & (low < high)).all(axis=1)
    if not (boxes[small] % 1).any():  # a box of whole pixels may be as small
        return []
    count, verb = number_of(len(boxes), "box", "boxes"), "lies" if small.sum() == 1 else "lie"
    return [
        f"{small.sum()} of {count} in {source} {verb} in the first pixels of their image, so they look like "
        f"fractions of its width and height; give {expected} in pixels"
    ]
