"""Tables and lists of images with their classes: which columns they have, and what is in them."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from twins.data.formats.names import read_list, with_slashes
from twins.data.formats.values import read_flag, read_number, read_whole
from twins.data.images import is_image_file
from twins.data.parts import part_of
from twins.errors import DataError, few, number_of

LIST_ENDINGS = (".csv", ".tsv", ".txt", ".lst")
Kind = Literal["labels", "paths", "ground_truth", "unlabelled", "other"]
"""What a file holds: images with classes; paths whose folders are the classes; a class in each line, without images;
images without classes; something else."""
_IMAGE_COLUMNS = (
    "image", "images", "imagepath", "imagefile", "imagefilename", "imagename", "imageid", "filename", "filepath",
    "file", "files", "path", "img", "imgpath", "imgname", "imgfile", "imgid", "fname", "photo", "picture", "id", "name",
)  # fmt: skip
_LABEL_COLUMNS = (
    "label", "labels", "labelname", "class", "classname", "category", "categoryname", "target", "diagnosis", "dx",
    "species", "breed", "disease", "tag", "labelid", "classid", "categoryid", "classindex", "labelindex", "y",
    "predictionstring",
)  # fmt: skip
_PART_COLUMNS = ("split", "set", "subset", "partition", "dataset", "phase")
_FLAG_COLUMNS = {
    "isvalid": ("val", "train"), "isval": ("val", "train"), "istrain": ("train", "test"), "istest": ("test", "train"),
    "valid": ("val", "train"), "val": ("val", "train"), "train": ("train", "test"), "test": ("test", "train"),
}  # fmt: skip
"""Columns of flags: the part of a true one and of a false one; the names of parts only beside a column of classes."""
_OTHER_COLUMNS = frozenset(
    ("score", "confidence", "probability", "prediction", "predicted", "pred", "xmin", "x1", "bbox")
)
"""Columns of predictions and of boxes."""
_SYNSET = re.compile(r"n\d{8}")
_MISSING = ("", "nan", "none", "null", "na", "n/a")
_ONE_HOT_SHARE = 0.95
"""Share of the rows that must have exactly one class for columns to be classes."""


class Row(NamedTuple):
    """An image with its class."""

    image: str
    label: str
    part: str | None = None


@dataclass
class LabelTable:
    """The rows of a file, and what is wrong with others."""

    path: Path
    rows: list[Row] = field(default_factory=list)
    names: tuple[str, ...] = ()
    """The classes in the order of their columns, if they have columns."""
    faults: list[str] = field(default_factory=list)

    @property
    def numbers(self) -> bool:
        """Whether the classes are whole numbers."""
        return all(is_number(row.label) for row in self.rows)


class _Columns(NamedTuple):
    image: int
    labels: tuple[int, ...]
    part: int | None
    names: list[str]
    """The header."""


def kind_of(path: Path) -> Kind:
    """Return what a file holds, by its first lines."""
    if path.suffix.lower() not in LIST_ENDINGS:
        return "other"
    try:
        with path.open("rb") as file:
            head = list(islice(file, 20))
    except OSError:
        return "other"
    encoding = "utf-16" if head and head[0].startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    lines = [line for line in b"".join(head).decode(encoding, errors="replace").splitlines() if line.strip()]
    if not lines:
        return "other"
    try:
        cells = _split(lines, path)
    except DataError:
        return "other"
    if (columns := _read_header(cells[0], cells[1:])) is not None:
        return "labels" if columns.labels else "unlabelled"
    if any(_image_column(row) is None for row in cells):
        return _kind_of_words([row[0] for row in cells if len(row) == 1], len(cells), path)
    return "labels" if len(cells[0]) > 1 else "paths" if "/" in with_slashes(lines[0]) else "unlabelled"


def _kind_of_words(words: Sequence[str], count: int, path: Path) -> Kind:
    """Return what a file of one word per line holds, none of which has the ending of an image."""
    if len(words) != count:
        return "other"
    if all(map(_SYNSET.fullmatch, words)):
        synsets = read_list(path)
        return "ground_truth" if len(set(synsets)) < len(synsets) else "other"  # each once: names of the classes
    stem = path.stem.lower()
    if all(map(is_number, words)):
        return "ground_truth" if "ground" in stem and "truth" in stem else "other"
    in_folders = all(re.fullmatch(r"[^\s/]+(/[^/]+)+", with_slashes(word)) for word in words)
    return "paths" if in_folders and list_part(path) else "other"


def is_number(text: str) -> bool:
    """Return whether a class is written as a whole number, without zeros in front."""
    return re.fullmatch(r"0|[1-9]\d{0,8}", text, re.ASCII) is not None


def list_part(path: Path) -> str | None:
    """Return the part that the name of a list says, whatever other words it has, as in `ISIC_2019_Training_Truth`."""
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", path.stem))
    parts = {part for word in words if (part := part_of(word))}
    return parts.pop() if len(parts) == 1 else part_of(path.stem)


def read_label_table(path: Path) -> LabelTable:
    """Read a file of images with their classes.

    Raises:
        DataError: it has no column that could be the class, or several, or its columns are no classes.
    """
    cells = _split(read_list(path), path)
    table = LabelTable(path)
    columns = _read_header(cells[0], cells[1:20]) if cells else None
    if columns is None:
        return _without_header(table, cells)
    if not columns.labels:
        raise DataError(
            f"{path} has no column of classes, found {few(columns.names)}; call it label, or leave one column beside "
            "that of the images"
        )
    rows = [row for row in cells[1:] if len(row) == len(columns.names)]
    if short := len(cells) - 1 - len(rows):
        table.faults.append(f"{number_of(short, 'line')} of {path} with another number of cells than its header")
    columns = columns if columns.part is not None else columns._replace(part=_part_column(rows, columns))
    if len(columns.labels) == 1 or columns.names[columns.labels[0]].lower() in _LABEL_COLUMNS:
        labels = [_label(row[_choose_column(path, columns, rows)]) for row in rows]
    else:
        table.names = tuple(columns.names[column] for column in columns.labels)
        labels = _one_hot(path, columns, rows)
    parts = [_part(columns, row) for row in rows]
    return _fill(
        table, [Row(row[columns.image], label, part) for row, label, part in zip(rows, labels, parts, strict=True)]
    )


def _part_column(rows: Sequence[Sequence[str]], columns: _Columns) -> int | None:
    """Return the only column, whatever its name, in which every row has the name of a part, if there are several."""
    found = [
        index
        for index in range(len(columns.names))
        if index != columns.image and index not in columns.labels and _are_parts([row[index] for row in rows])
    ]
    return found[0] if len(found) == 1 else None


def _are_parts(cells: Sequence[str]) -> bool:
    """Return whether cells name parts, more than one."""
    parts = {cell: part_of(cell) for cell in dict.fromkeys(cells)}
    return None not in parts.values() and len(set(parts.values())) > 1


def _is_index(rows: Sequence[Sequence[str]], column: int) -> bool:
    """Return whether a column holds a number of each image, which no class is."""
    numbers = {read_whole(row[column]) for row in rows}
    return None not in numbers and len(numbers) == len(rows) > 1


def _without_header(table: LabelTable, cells: Sequence[Sequence[str]]) -> LabelTable:
    found = [(row, column) for row in cells if (column := 0 if len(row) == 1 else _image_column(row)) is not None]
    if len(found) < len(cells):
        table.faults.append(f"{number_of(len(cells) - len(found), 'line')} of {table.path} without image or class")
    images = [row[column] for row, column in found]
    others = [[cell for index, cell in enumerate(row) if index != column] for row, column in found]
    count = max(map(len, others), default=0)
    if count == 0:
        return _fill(table, [Row(image, Path(with_slashes(image)).parent.name) for image in images])
    cells = [[*row, *([""] * (count - len(row)))] for row in others]
    names = [f"column {index + 1} beside the image" for index in range(count)]
    columns = _Columns(-1, (), None, names)
    part = _part_column(cells, columns) if count > 1 else None
    synsets = [index for index in range(count) if all(_SYNSET.fullmatch(row[index]) for row in cells)]
    labels = [index for index in range(count) if index != part and (count == 1 or not _is_index(cells, index))]
    labels = synsets or labels
    columns = columns._replace(labels=tuple(labels or [count - 1]), part=part)
    label = _choose_column(table.path, columns, cells)
    return _fill(
        table,
        [
            Row(image, _label(row[label]), None if part is None else part_of(row[part]))
            for image, row in zip(images, cells, strict=True)
        ],
    )


def _fill(table: LabelTable, rows: Sequence[Row]) -> LabelTable:
    """Add the rows that have an image and a class; raises DataError if the classes are none."""
    labels = list(dict.fromkeys(row.label for row in rows if row.label))
    if broken := [label for label in labels if "\ufffd" in label]:
        raise DataError(f"{table.path} is not in UTF-8, found {broken[0]:.50}; save it as UTF-8")
    if all(read_number(label) is not None for label in labels) and any(read_whole(label) is None for label in labels):
        raise DataError(f"{table.path} holds measurements instead of classes, such as {few(labels)}; write class names")
    table.rows = [row for row in rows if row.image and row.label]
    if missing := [row.image for row in rows if not row.label]:
        table.faults.append(f"{number_of(len(missing), 'image')} of {table.path} without a class, {missing[0]} first")
    return table


def _split(lines: Sequence[str], path: Path) -> list[list[str]]:
    """Return the cells of lines, which commas, semicolons or tabs separate, or in lists spaces."""
    first = lines[0] if lines else ""
    delimiter = max("\t,;", key=first.count)
    if delimiter in first:
        try:
            return [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter) if row]
        except csv.Error as error:
            raise DataError(f"{path} is no table ({error}); save it as CSV again") from error
    if path.suffix.lower() in (".csv", ".tsv"):
        return [[line.strip().strip('"')] for line in lines]
    return [_split_by_space(line.strip()) for line in lines]


def _split_by_space(line: str) -> list[str]:
    """Return the path in a line, which may have spaces, and the class behind it."""
    if is_image_file(Path(line)):
        return [line]
    path, _, label = line.rpartition(" ")
    if is_image_file(Path(path.strip())):
        return [path.strip(), label]
    match = re.match(r"(.+?\.[A-Za-z0-9]{2,5})\s+(.+)", line)  # a class whose name has spaces
    return [match[1], match[2]] if match and is_image_file(Path(match[1])) else line.split()


def _image_column(row: Sequence[str]) -> int | None:
    """Return the only column with the name of an image."""
    columns = [index for index, cell in enumerate(row) if is_image_file(Path(with_slashes(cell or ".")))]
    return columns[0] if len(columns) == 1 and not _is_boxes(row) else None


def _is_boxes(row: Sequence[str]) -> bool:
    """Return whether a line holds boxes or several numbers instead of a class; a synset is one, also before a box."""
    boxes = len(row) > 3 or (len(row) > 1 and "," in row[-1])
    return boxes and not any(map(_SYNSET.fullmatch, row))


def _read_header(header: Sequence[str], rows: Sequence[Sequence[str]]) -> _Columns | None:
    """Return the columns of a table; `None` if the first line is no header with a column of images."""
    keys = [re.sub(r"[\W_]+", "", cell).lower() for cell in header]
    if any(is_image_file(Path(with_slashes(cell or "."))) for cell in header):
        return None
    image = next((keys.index(key) for key in _IMAGE_COLUMNS if key in keys), None)
    if image is None or _OTHER_COLUMNS & set(keys):
        return None
    has_class = any(key in keys and keys.index(key) != image for key in _LABEL_COLUMNS)
    flags = [key for key in _FLAG_COLUMNS if has_class or key.startswith("is")]
    part = next((keys.index(key) for key in (*_PART_COLUMNS, *flags) if key in keys), None)
    others = [index for index in range(len(keys)) if index not in (image, part)]
    labels = [keys.index(key) for key in _LABEL_COLUMNS if key in keys and keys.index(key) in others]
    labels = [index for index in labels if keys[index] != "y" or "x" not in keys]
    full = [row for row in rows if len(row) == len(keys)]
    if not labels:
        labels = [i for i in others if full and all(read_number(row[i]) in (0, 1) for row in full)]
        labels = [] if all(part_of(keys[i]) for i in labels) else labels
        labels = labels if len(labels) > 1 else others if _is_pair(keys, image, others, full) else []
    names = [keys[i] if i in labels and keys[i] in _LABEL_COLUMNS else cell for i, cell in enumerate(header)]
    return _Columns(image, tuple(labels), part, names)


def _is_pair(keys: Sequence[str], image: int, others: Sequence[int], rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the only other column is the class, whatever its name; lists of class names have ids too."""
    if len(others) != 1:
        return False
    labels = [row[others[0]] for row in rows]
    return keys[image] not in ("id", "name") or len(set(labels)) < len(labels)


def _choose_column(path: Path, columns: _Columns, rows: Sequence[Sequence[str]]) -> int:
    """Return the column of the class: the only one, or that of the names where others are the same classes.

    Raises:
        DataError: several columns are different classes.
    """
    values = {column: [_label(row[column]) for row in rows] for column in columns.labels}
    values = {column: labels for column, labels in values.items() if any(labels)}
    if not values:
        return columns.labels[0]
    groups = {column: len(set(labels)) for column, labels in values.items()}
    first, *others = values
    for other in others:
        if not len(set(zip(values[first], values[other], strict=True))) == groups[first] == groups[other]:
            names = few([columns.names[column] for column in values])
            raise DataError(
                f"{path} has several columns that could be the class, {names}, and they differ; give a copy of the "
                'file with one of them as `layout.annotations="..."`'
            )
    return next((column for column, labels in values.items() if not all(map(is_number, labels))), first)


def _one_hot(path: Path, columns: _Columns, rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the name of the column that holds 1, for each row; an empty text if none or several do."""
    labels = []
    for row in rows:
        hits = [column for column in columns.labels if read_number(row[column]) == 1]
        labels.append(columns.names[hits[0]] if len(hits) == 1 else "")
    if labels.count("") > (1 - _ONE_HOT_SHARE) * len(labels):
        raise DataError(
            f"{path} gives {labels.count('')} of {len(labels)} images no class or several, and a classifier needs one "
            "for each; leave those out of the file, or add a column for the missing class"
        )
    return labels


def _label(cell: str) -> str:
    """Return the class in a cell: a whole number in its shortest form, the synset before boxes, or a name."""
    text = cell.strip()
    if text.lower() in (*_MISSING, "true", "false"):
        return "" if text.lower() in _MISSING else text.lower()
    if (match := _SYNSET.match(text)) and re.fullmatch(r"(n\d{8}( -?\d+){4} ?)+", f"{text} "):
        return match[0]
    whole = read_whole(text) if re.fullmatch(r"\d+(\.0*)?(e\+\d+)?", text) else None
    return str(whole) if whole is not None and not re.match(r"0\d", text) else text


def _part(columns: _Columns, row: Sequence[str]) -> str | None:
    if columns.part is None:
        return None
    key = re.sub(r"[\W_]+", "", columns.names[columns.part]).lower()
    if key in _FLAG_COLUMNS:
        flag = read_flag(row[columns.part])
        return "" if flag is None else _FLAG_COLUMNS[key][0 if flag else 1]
    return part_of(row[columns.part]) or row[columns.part].strip() or ""
