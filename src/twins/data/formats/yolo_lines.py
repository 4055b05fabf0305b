"""The lines of YOLO's label files: boxes, polygons, and boxes with keypoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from twins.data.formats.values import read_whole
from twins.errors import DataError

_MAX_COORDINATE = 2.0
"""Greatest coordinate, as a fraction of the image's side; larger ones are most likely pixels."""
_BOX = 5
"""Numbers of a class and a box."""


@dataclass(frozen=True)
class YoloObject:
    """The object in a line of a label file."""

    number: int
    """Line number in the file, from 1."""
    value: int
    """Class id in the file."""
    box: tuple[float, float, float, float]
    """xyxy in fractions of width and height; for a polygon, the smallest box around it."""
    points: tuple[float, ...] = ()
    """Polygon around the object's parts, x and y in turn, in the same fractions; empty if the line is a box."""
    keypoints: bool = False
    """Whether keypoints follow the box; they are not read."""


class Keypoints(NamedTuple):
    """The keypoints that follow the box in each line of a data set for poses."""

    points: int
    """Keypoints of an object."""
    values: int
    """Numbers of a keypoint: 2, x and y, or 3, with its visibility."""
    source: str
    """What says so, for messages."""

    @property
    def numbers(self) -> int:
        """Return how many numbers a line has."""
        return _BOX + self.points * self.values


class Row(NamedTuple):
    """The numbers of a line."""

    number: int
    """Line number in the file, from 1."""
    values: tuple[float, ...]
    """The class id, then the coordinates."""
    text: str
    """The first word, for messages."""


def describe_line(number: int, path: Path) -> str:
    """Return the description of a line for messages."""
    return f"line {number} of {path}"


def read_yolo(path: Path, keypoints: Keypoints | None = None) -> list[YoloObject]:
    """Read a label file; a missing one holds no objects.

    Lines are `class cx cy w h`, or `class x1 y1 x2 y2 ...` with three or more points. A polygon may have several
    parts: a part ends where it returns to its first point, and the next point begins the next part. Coordinates are
    COCO's, where pixel `i` covers `i` to `i + 1`; polygons through pixel centres give masks that are half a pixel
    smaller.

    Args:
        path: the label file.
        keypoints: what follows the box of each line in a data set for poses; such a set has no polygons.

    Raises:
        DataError: the file is no text, or a line has another form; the message gives its number.
    """
    return read_objects(read_rows(path), path, keypoints)


def read_rows(path: Path) -> list[Row]:
    """Return the numbers of each line of a label file; raises DataError for a line of anything else."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as text ({error}); copy it again") from error
    return [_read_row(line, number, path) for number, line in enumerate(lines, start=1) if line.strip()]


def read_objects(rows: Iterable[Row], path: Path, keypoints: Keypoints | None = None) -> list[YoloObject]:
    """Return the objects of a label file's lines; see `read_yolo`."""
    return [_read_object(row, path, keypoints) for row in rows]


def keypoint_setting(settings: Mapping[str, Any], source: Path | None) -> Keypoints | None:
    """Return the keypoints that `kpt_shape` of a `data.yaml` describes; `None` without one.

    Raises:
        DataError: `kpt_shape` is not the number of keypoints and 2 or 3.
    """
    if (shape := settings.get("kpt_shape")) in (None, "", "null"):
        return None
    numbers = [read_whole(item) for item in shape] if isinstance(shape, list) else []
    if len(numbers) != 2 or not numbers[0] or numbers[0] < 1 or numbers[1] not in (2, 3):
        raise DataError(
            f"{source} has the kpt_shape {shape}; give the number of keypoints, and 2 or 3 numbers for each"
        )
    return Keypoints(numbers[0], numbers[1], f"kpt_shape of {source}")


def infer_keypoints(rows: Iterable[Row]) -> Keypoints | None:
    """Return the keypoints that the lines of a data set show by their visibility, a 0, 1 or 2 after each x and y.

    All lines with more than a box then have as many numbers, and these fit no polygon: they are even in number, or a 2
    is among them, which no coordinate is.
    """
    longer = [row.values for row in rows if len(row.values) > _BOX]
    counts = {len(values) for values in longer}
    if len(counts) != 1 or (size := counts.pop() - _BOX) % 3:
        return None
    visibility = {flag for values in longer for flag in values[_BOX + 2 :: 3]}
    if not visibility <= {0, 1, 2} or (size % 2 == 0 and 2 not in visibility):
        return None
    return Keypoints(size // 3, 3, "the visibility after each point")


def _read_row(line: str, number: int, path: Path) -> Row:
    words = line.split()
    try:
        return Row(number, tuple(map(float, words)), words[0])
    except ValueError as error:
        message = f"{describe_line(number, path)} holds {line.strip()[:40]!r}, not numbers only; fix it"
        raise DataError(message) from error


def _read_object(row: Row, path: Path, keypoints: Keypoints | None) -> YoloObject:
    description = describe_line(row.number, path)
    _check_count(len(row.values), description, keypoints)
    class_id, *coordinates = row.values
    if class_id < 0 or not class_id.is_integer():
        raise DataError(f"{description} has the class {row.text}; give a whole number of at least 0")
    with_keypoints = keypoints is not None and len(coordinates) > 4
    if with_keypoints:
        coordinates = coordinates[:4]
    if wrong := [value for value in coordinates if not abs(value) <= _MAX_COORDINATE]:
        raise DataError(
            f"{description} has the coordinate {wrong[0]:g}; give fractions of the image's width and height, 0 to 1"
        )
    if len(coordinates) > 4:
        box = min(coordinates[::2]), min(coordinates[1::2]), max(coordinates[::2]), max(coordinates[1::2])
        return YoloObject(row.number, int(class_id), box, tuple(coordinates))
    return YoloObject(row.number, int(class_id), _corners(coordinates), keypoints=with_keypoints)


def _check_count(count: int, description: str, keypoints: Keypoints | None) -> None:
    """Raise DataError for a line whose numbers fit neither a box, nor a polygon or a box with keypoints."""
    if keypoints is not None:
        if count not in (_BOX, keypoints.numbers):
            raise DataError(
                f"{description} has {count} numbers; by {keypoints.source}, give a class with a box (5), or with a box "
                f"and {keypoints.points} keypoints of {keypoints.values} numbers ({keypoints.numbers})"
            )
    elif count != _BOX and (count < 7 or count % 2 == 0):
        raise DataError(
            f"{description} has {count} numbers; give a class with a box (5), or with a polygon of three points or "
            "more (7, 9, ...)"
        )


def _corners(box: Sequence[float]) -> tuple[float, float, float, float]:
    x, y, width, height = box
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2
