"""CSV files of boxes, a line per object: Open Images', TensorFlow's, Roboflow's, keras-retinanet's and Kaggle's."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twins.data.base import Opened
from twins.data.formats.names import with_slashes
from twins.data.formats.outlines import Box, box_outline, read_coordinates
from twins.data.formats.shape_files import Shape, ShapeFile, ShapeFormat, ShapeImage, Target, read_start, text_encoding
from twins.data.formats.shape_parts import annotation_files
from twins.data.formats.shapes import is_class_mapping, open_shapes
from twins.data.formats.source import Source
from twins.data.formats.values import fraction_problems, read_flag, read_numbers, read_whole
from twins.data.images import is_image_file, list_images, walk
from twins.errors import DataError, number_of

_COLUMNS: dict[str, tuple[str, ...]] = {
    "image": ("filename", "file_name", "image", "path", "image_path", "filepath", "file", "img", "image_name",
              "img_path", "image_id", "imageid", "img_name", "name"),
    "class": ("class", "label", "class_name", "labelname", "label_name", "category", "category_name", "classname",
              "cls", "object", "name", "class_id", "category_id", "label_id"),
    "left": ("xmin", "x_min", "x1", "left", "xtl", "bbox_x1", "x_1", "box_xmin"),
    "top": ("ymin", "y_min", "y1", "top", "ytl", "bbox_y1", "y_1", "box_ymin"),
    "right": ("xmax", "x_max", "x2", "right", "xbr", "bbox_x2", "x_2", "box_xmax"),
    "bottom": ("ymax", "y_max", "y2", "bottom", "ybr", "bbox_y2", "y_2", "box_ymax"),
    "box": ("bbox", "box", "bounding_box"),
    "width": ("width", "image_width", "img_width"),
    "height": ("height", "image_height", "img_height"),
    "crowd": ("isgroupof", "iscrowd"),
}  # fmt: skip
"""The names of a column, in lower case and in order of preference."""
_SIDES = ("left", "top", "right", "bottom")
_HEADERLESS = ("image", *_SIDES, "class")
"""The columns of keras-retinanet's files, which have no header."""
_OPEN_IMAGES = frozenset(("imageid", "labelname", "xmin", "xmax", "ymin", "ymax"))
_NAMES = re.compile(r"(class-descriptions[^/]*|(^|/)classes)\.csv$")
"""Files of class names: Open Images', and keras-retinanet's or FiftyOne's."""
_FIRST_LINES = 5
"""Lines by which a file without a header is recognised; one of them may be damaged."""
_ONLY_CLASS = "object"
"""Class of boxes in a file without a column of classes."""
_MAX_SIDE = 65536
_Line = tuple[int, Box, str, bool]
"""Number of a line, its box, its class, and whether it is a crowd region."""


@dataclass(frozen=True)
class _Table:
    """How a file is to be read."""

    path: Path
    delimiter: str
    columns: Mapping[str, int]
    """Number of each column, by its key in `_COLUMNS`."""
    header: bool
    shares: bool
    """Whether boxes are shares of the image's width and height by the format's definition."""

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the lines with their numbers; raises DataError if the file is no text."""
        try:
            with self.path.open(encoding=text_encoding(self.path), newline="") as file:
                reader = csv.reader(file, delimiter=self.delimiter)
                if self.header:
                    next(reader, None)
                for row in reader:
                    if any(row):
                        yield reader.line_num, row
        except (OSError, ValueError, csv.Error) as error:
            raise DataError(f"{self.path} cannot be read as CSV ({error!s:.100}); save it as UTF-8") from error

    def cell(self, row: Sequence[str], key: str) -> str:
        """Return the text in a column; empty if there is none."""
        column = self.columns.get(key)
        return "" if column is None or column >= len(row) else row[column].strip()


def find_csv_boxes(source: Source) -> tuple[Path, ...]:
    """Return the CSV files of boxes; none if there is none."""
    return tuple(annotation_files(source, ".csv", is_csv_boxes))


def is_csv_boxes(path: Path) -> bool:
    """Return whether the first lines of a CSV file have an image and a box."""
    return _table(path) is not None


def open_csv_boxes(source: Source, target: Target) -> Opened | None:
    """Open images with CSV files of boxes; `None` if there is none.

    Numbers that are all shares of the image's sides are scaled. Open Images' classes get the names of a
    `class-descriptions*.csv`, and its images that were not downloaded are left out. The parts are files named like
    parts, or folders.

    Raises:
        DataError: masks are needed, a file is damaged, or its images are missing.
    """
    paths = find_csv_boxes(source)
    tables = [table for path in paths if (table := _table(path)) is not None]
    if not tables:
        return None
    if target != "boxes":
        raise DataError(
            f'{tables[0].path} lists boxes, and this task needs masks; choose `task="detection"`, or give masks in '
            "COCO's JSON"
        )
    names = _class_names(source)
    is_open_images = any(table.shares for table in tables)
    wanted = {_without_ending(path.name) for path in list_images(source.root)} if is_open_images else None
    files = [_read(table, names, wanted, source) for table in tables]
    used = {shape.name for file in files for image in file.images for shape in image.shapes}
    kind = ShapeFormat(
        layout="Open Images' CSV files" if is_open_images else "CSV files of boxes",
        unit="line",
        names=[name for name in names.values() if name in used],
        unlisted="an image without a line in the CSV files",
        subset=is_open_images,
    )
    return open_shapes(source, kind, files, target)


def _table(path: Path) -> _Table | None:
    """Return how a file is to be read; `None` if it has no columns of an image and a box."""
    lines = read_start(path, 8192).splitlines()
    if not lines:
        return None
    delimiter = max(",;\t", key=lines[0].count)
    with suppress(csv.Error):
        first = next(csv.reader(lines[:1], delimiter=delimiter), [])
        names = [re.sub(r"\W+", "_", cell.strip().lower()).strip("_") for cell in first]
        if columns := _named_columns(names):
            return _Table(path, delimiter, columns, True, set(names) >= _OPEN_IMAGES)
        if not _is_header(names) and any(map(_is_headerless, csv.reader(lines[:_FIRST_LINES], delimiter=delimiter))):
            columns = {key: column for column, key in enumerate(_HEADERLESS)}
            return _Table(path, delimiter, columns, False, False)
    return None


def _named_columns(names: Sequence[str]) -> dict[str, int] | None:
    """Return the number of each known column; `None` if there is no image or no box."""
    columns: dict[str, int] = {}
    for key, aliases in _COLUMNS.items():
        free = [name for name in aliases if name in names and names.index(name) not in columns.values()]
        if free:
            columns[key] = names.index(free[0])
    has_box = set(_SIDES) <= columns.keys() or "box" in columns
    return columns if has_box and "image" in columns else None


def _is_header(names: Sequence[str]) -> bool:
    """Return whether names of columns say another box than left, top, right and bottom, as `x, y, w, h` do."""
    known = all(name in _COLUMNS[key] for name, key in zip(names[1:5], _SIDES, strict=False))
    return len(names) > 4 and not known and all(re.fullmatch(r"[a-z]\w*", name) for name in names[:5])


def _is_headerless(row: Sequence[str]) -> bool:
    """Return whether a line is one of keras-retinanet's: an image, four numbers, a class, or an image alone."""
    if len(row) != len(_HEADERLESS) or not is_image_file(Path(with_slashes(row[0].strip() or "."))):
        return False
    sides = [cell.strip() for cell in row[1:5]]
    return not any(sides) or (read_coordinates(sides) is not None and bool(row[5].strip()))


def _class_names(source: Source) -> dict[str, str]:
    """Return the names of a file beside the annotations: of Open Images' ids, or of keras-retinanet's classes."""
    files = [source.root / name for name in walk(source.root, hidden=False) if _NAMES.search(name)]
    path = min(files, key=lambda path: ("boxable" not in path.name, path.name == "classes.csv", path), default=None)
    if path is None or (path.name == "classes.csv" and not is_class_mapping(path)):
        return {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row[:2]] for row in csv.reader(file) if len(row) >= 2]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV ({error!s:.100}); save it as UTF-8") from error
    source.use_names(path)
    by_number = [(number, row[0]) for row in rows if (number := read_whole(row[1])) is not None]
    if by_number and len(by_number) == len(rows):
        return {name: name for _, name in sorted(by_number)}
    return {row[0]: row[1] for row in rows if row[0] and row[1] and row[0].lower() != "labelname"}


def _without_ending(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[0]  # a file of Open Images has millions of lines


def _read(table: _Table, names: Mapping[str, str], wanted: set[str] | None, source: Source) -> ShapeFile:
    """Read the lines of a file; of Open Images only those of images that are there."""
    file = ShapeFile(table.path, [])
    by_image, sizes = _lines_by_image(table, wanted, file, source)
    scaled = table.shares or _are_shares(by_image)
    for name, lines in by_image.items():
        file.images.append(_image(name, lines, sizes.get(name), names, file))
        file.images[-1].shares = scaled
    if scaled and not table.shares:
        source.notes.append(f"the boxes of {table.path} are shares of the image's width and height, and are scaled")
    if not scaled:
        boxes = np.array([box for lines in by_image.values() for _, box, _, _ in lines]).reshape(-1, 4)
        problems = fraction_problems(boxes, str(table.path), "left, top, right and bottom")
        source.problems += problems or _corner_problems(table, file)
    if "class" not in table.columns:
        source.notes.append(f"{table.path} has no column of classes, so all boxes are of one class, {_ONLY_CLASS}")
    return file


def _lines_by_image(
    table: _Table, wanted: set[str] | None, file: ShapeFile, source: Source
) -> tuple[dict[str, list[_Line]], dict[str, tuple[int, int]]]:
    """Return the objects of each image and the sizes that the file gives; damaged lines are faults of the file."""
    by_image: dict[str, list[_Line]] = defaultdict(list)
    sizes: dict[str, tuple[int, int]] = {}
    others = 0
    for number, row in table.rows():
        image = table.cell(row, "image")
        if wanted is not None and image not in wanted and _without_ending(image) not in wanted:
            others += 1
        elif problem := _add_line(table, row, number, by_image[image]) if image else "no image":
            file.faults.append(f"line {number} of {table.path} has {problem}; fix it or remove it")
        elif size := _size(table, row):
            sizes[image] = size
    if not by_image:
        raise DataError(f"{table.path} has no line of an image in {source.root}; add the images or remove the file")
    if others:
        count = number_of(others, "line")
        source.notes.append(f"{count} of {table.path} are for images that are not in {source.root}, left out")
    return dict(by_image), sizes


def _add_line(table: _Table, row: Sequence[str], number: int, lines: list[_Line]) -> str:
    """Add the object of a line to those of its image; return what is wrong with it, or an empty text."""
    texts = [table.cell(row, key) for key in _SIDES]
    whole = table.cell(row, "box")
    if not any(texts) and whole.lower() in ("", "nan", "[]"):
        return ""  # an image without objects
    sides = read_coordinates(texts) if any(texts) else None
    if whole and not any(texts):
        box = read_numbers(whole if whole.startswith("[") else f"[{whole}]", 4)
        corner = read_coordinates(box) if box else None
        sides = [corner[0], corner[1], corner[0] + corner[2], corner[1] + corner[3]] if corner else None
    name = table.cell(row, "class") if "class" in table.columns else _ONLY_CLASS
    if sides is None or not name:
        return f"the box {', '.join(texts) if any(texts) else whole!s:.60} and the class {name!r:.60}"
    crowd = read_flag(table.cell(row, "crowd"))
    lines.append((number, (sides[0], sides[1], sides[2], sides[3]), name, crowd is True))
    return ""


def _size(table: _Table, row: Sequence[str]) -> tuple[int, int] | None:
    sides = [read_whole(table.cell(row, key)) or 0 for key in ("height", "width")]
    return (sides[0], sides[1]) if all(0 < side < _MAX_SIDE for side in sides) else None


def _are_shares(by_image: Mapping[str, Sequence[_Line]]) -> bool:
    """Return whether no coordinate of a file exceeds 1, so that they cannot be pixels."""
    boxes = [box for lines in by_image.values() for _, box, _, _ in lines]
    return bool(boxes) and all(0 <= side <= 1 for box in boxes for side in box)


def _corner_problems(table: _Table, file: ShapeFile) -> list[str]:
    """Return a sentence if boxes of one column reach beyond their image, and all fit if their numbers are corners."""
    rows = [(shape.outline.box, image.size) for image in file.images for shape in image.shapes if image.size]
    if "box" not in table.columns or not rows:
        return []
    boxes, sizes = np.array([box for box, _ in rows]), np.array([size[::-1] for _, size in rows])
    beyond = (boxes[:, 2:] > sizes + 1).any(axis=1)
    corners = boxes[:, 2:] - boxes[:, :2]
    if not beyond.any() or not ((corners > boxes[:, :2]) & (corners <= sizes + 1)).all():
        return []
    return [
        f"{beyond.sum()} of {len(rows)} boxes in {table.path} reach beyond their image, and all fit if their numbers "
        "are left, top, right and bottom; give left, top, width and height"
    ]


def _image(
    name: str,
    lines: Sequence[_Line],
    size: tuple[int, int] | None,
    names: Mapping[str, str],
    file: ShapeFile,
) -> ShapeImage:
    shapes = [Shape(names.get(label, label), box_outline(*box), number, crowd) for number, box, label, crowd in lines]
    return ShapeImage((with_slashes(name), with_slashes(name).rpartition("/")[2]), file.path, shapes, size)
