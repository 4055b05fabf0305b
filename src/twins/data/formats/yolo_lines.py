"""The lines of YOLO's label files: boxes, polygons, and boxes with keypoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twins.data.formats.values import read_whole
from twins.errors import DataError

MAX_COORDINATE = 2.0
"""Greatest coordinate, as a fraction of the image's side; larger ones are most likely pixels."""
BOX = 5
"""Numbers of a class and a box."""
_SPREAD = 0.35
"""How far keypoints reach from their box's centre in most lines, as a share of half its side."""
_NEAR = 0.2
"""Greatest distance of the first two points of a polygon around a small object."""
_ROUNDING = 0.02
"""Share of half a box's side by which a point on its border may lie outside."""


@dataclass(frozen=True)
class YoloObject:
    """The object in a line of a label file."""

    number: int
    """Line number in the file, from 1."""
    value: int | str
    """Class id in the file, or a name that is none of the classes."""
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
        return BOX + self.points * self.values


@dataclass(frozen=True)
class LineForm:
    """The form of the lines of a data set."""

    keypoints: Keypoints | None = None
    confidence: bool = False
    """Whether a confidence follows, as in files of predictions."""
    ids: Mapping[str, int] = field(default_factory=dict)
    """Class ids by name, for lines that begin with the name of a class."""


class OtherFormatError(DataError):
    """A text file of annotations in another format than YOLO's."""


class Row(NamedTuple):
    """The numbers of a line."""

    number: int
    """Line number in the file, from 1."""
    values: tuple[float, ...]
    """The class id, then the coordinates."""
    text: str
    """The first word, for messages."""
    name: str = ""
    """The class's name, where it stands in place of its id; then the first number is -1."""


def describe_line(number: int, path: Path) -> str:
    """Return the description of a line for messages."""
    return f"line {number} of {path}"


def read_yolo(path: Path, form: LineForm | None = None) -> list[YoloObject]:
    """Read a label file; a missing one holds no objects.

    Lines are `class cx cy w h`, or `class x1 y1 x2 y2 ...` with three or more points. A polygon may have several
    parts: a part ends where it returns to its first point, and the next point begins the next part. Coordinates are
    COCO's, where pixel `i` covers `i` to `i + 1`; polygons through pixel centres give masks that are half a pixel
    smaller.

    Args:
        path: the label file.
        form: the form of the data set's lines; a set for poses has no polygons. `None` takes it from the file's lines.

    Raises:
        DataError: the file is no text, or a line has another form; the message gives its number.
    """
    rows = read_rows(path)
    if form is None:
        keypoints, is_clear = infer_points(rows)
        form = LineForm(infer_keypoints(rows) or (keypoints if is_clear else None))
    return read_objects(rows, path, form)


def read_rows(path: Path) -> list[Row]:
    """Return the numbers of each line of a label file; raises DataError for a line of anything else."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as text ({error}); copy it again") from error
    return [_read_row(line, number, path) for number, line in enumerate(lines, start=1) if line.strip()]


def read_objects(rows: Iterable[Row], path: Path, form: LineForm) -> list[YoloObject]:
    """Return the objects of a label file's lines; see `read_yolo`."""
    return [_read_object(row, path, form) for row in rows]


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
    longer = [row.values for row in rows if len(row.values) > BOX]
    counts = {len(values) for values in longer}
    if len(counts) != 1 or (size := counts.pop() - BOX) % 3:
        return None
    visibility = {flag for values in longer for flag in values[BOX + 2 :: 3]}
    if not visibility <= {0, 1, 2} or (size % 2 == 0 and 2 not in visibility):
        return None
    return Keypoints(size // 3, 3, "the visibility after each point")


def infer_points(rows: Iterable[Row]) -> tuple[Keypoints | None, bool]:
    """Return the keypoints of two numbers each that may follow the boxes, and whether lines cannot be polygons.

    A line of a box and its keypoints has as many numbers as a polygon. The lines are boxes where all have as many
    numbers, the points of each are in the box of its first four numbers, and they spread in it. The first points of a
    polygon around a small object are so near to each other that the others are in such a box too, near its centre.
    """
    longer = [row.values for row in rows if len(row.values) > BOX]
    counts = {len(values) for values in longer}
    if len(counts) != 1 or (count := counts.pop()) % 2 == 0:
        return None, False
    values = np.array(longer, dtype=np.float64)[:, 1:]
    offsets = _offsets(values)
    if not (offsets <= 1.0 + _ROUNDING).all():  # also false for NaN
        return None, False
    spread = float(np.median(offsets)) >= _SPREAD
    near = bool((np.abs(values[:, 2:4] - values[:, :2]) <= _NEAR).all())
    if near and not spread:
        return None, False
    return Keypoints((count - BOX) // 2, 2, "the points in the box of the first four numbers"), spread and not near


def _offsets(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far the points after a box reach from its centre, 1 at its sides, the most of each line, `(R,)`.

    A point at 0, 0 is one that is not visible. A box without area gives infinity.
    """
    centre, half = values[:, None, :2], values[:, None, 2:4] / 2
    points = values[:, 4:].reshape(len(values), -1, 2)
    visible = (points != 0).any(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(half > 0, np.abs(points - centre) / half, np.inf).max(axis=2)
    return np.asarray(np.where(visible, share, 0.0).max(axis=1))


def _read_row(line: str, number: int, path: Path) -> Row:
    words = line.split()
    if "," in line and all(len(part.split()) == 1 for part in line.rstrip(", \t").split(",")):
        words = [part.strip() for part in line.rstrip(", \t").split(",")]
    first = next((i for i, word in enumerate(words) if _is_number(word)), len(words))
    _check_format(words, first, number, path)
    try:
        if 0 < first <= len(words) - 4:
            name = " ".join(words[:first])
            return Row(number, (-1.0, *map(float, words[first:])), words[0], name)
        return Row(number, tuple(map(float, words)), words[0])
    except ValueError as error:
        message = f"{describe_line(number, path)} holds {line.strip()[:40]!r}, not numbers only; fix it"
        raise DataError(message) from error


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _check_format(words: Sequence[str], first: int, number: int, path: Path) -> None:
    """Raise OtherFormatError for a line of DOTA's or KITTI's; `first` is the position of the first number."""
    if words[0].lower().startswith(("imagesource:", "gsd:")) or (
        len(words) in (9, 10) and not first and not _is_number(words[8]) and all(map(_is_number, words[:8]))
    ):
        raise OtherFormatError(
            f"{describe_line(number, path)} is DOTA's: corners in pixels, a class name and a difficulty; convert the "
            "files to YOLO's with ultralytics' `convert_dota_to_yolo_obb`"
        )
    if first == 1 and len(words) in (15, 16) and all(map(_is_number, words[1:])):
        raise OtherFormatError(
            f"{describe_line(number, path)} is KITTI's: a class, 14 numbers and the box in pixels; convert the files "
            "to YOLO's or COCO's, for instance with FiftyOne's or Datumaro's `convert`"
        )


def _read_object(row: Row, path: Path, form: LineForm) -> YoloObject:
    description = describe_line(row.number, path)
    values = row.values[:-1] if form.confidence else row.values
    _check_count(len(values), description, form.keypoints)
    class_id, *coordinates = values
    if not row.name and (class_id < 0 or not class_id.is_integer()):
        raise DataError(f"{description} has the class {row.text}; give a whole number of at least 0")
    value: int | str = form.ids.get(row.name, row.name) if row.name else int(class_id)
    with_keypoints = form.keypoints is not None and len(coordinates) > 4
    if with_keypoints:
        coordinates = coordinates[:4]
    if wrong := [value for value in coordinates if not abs(value) <= MAX_COORDINATE]:
        raise DataError(
            f"{description} has the coordinate {wrong[0]:g}; give fractions of the image's width and height, 0 to 1"
        )
    if len(coordinates) > 4:
        box = min(coordinates[::2]), min(coordinates[1::2]), max(coordinates[::2]), max(coordinates[1::2])
        return YoloObject(row.number, value, box, tuple(coordinates))
    return YoloObject(row.number, value, _corners(coordinates), keypoints=with_keypoints)


def _check_count(count: int, description: str, keypoints: Keypoints | None) -> None:
    """Raise DataError for a line whose numbers fit neither a box, nor a polygon or a box with keypoints."""
    if keypoints is not None:
        if count not in (BOX, keypoints.numbers):
            raise DataError(
                f"{description} has {count} numbers; by {keypoints.source}, give a class with a box (5), or with a box "
                f"and {keypoints.points} keypoints of {keypoints.values} numbers ({keypoints.numbers})"
            )
    elif count != BOX and (count < 7 or count % 2 == 0):
        raise DataError(
            f"{description} has {count} numbers; give a class with a box (5), or with a polygon of three points or "
            "more (7, 9, ...)"
        )


def _corners(box: Sequence[float]) -> tuple[float, float, float, float]:
    x, y, width, height = box
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2
