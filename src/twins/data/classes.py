"""Class tables: names, mask values and colours. Those of well-known data sets come with the package."""

from __future__ import annotations

import colorsys
import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from twins.errors import DataError, NotFoundError, nearest

Colour = tuple[int, int, int]
BUILT_IN = ("ade20k", "cityscapes", "coco", "coco_panoptic", "voc")
"""Data sets whose classes come with the package: ADE20K's 150 (CSAILVision/sceneparsing), Cityscapes' 19,
COCO's 80 things and its 133 panoptic categories (cocodataset/panopticapi), VOC's 21."""
TABLE_FILES = ("classes.txt", "classes.csv", "classes.json", "classes.yaml", "classes.yml")
"""File names of a class table in a data folder, first match wins."""
IGNORED_NAME = "__ignore__"
"""LabelMe's name of ignored pixels."""
_NAME_COLUMNS = ("name", "class_name", "classname", "class", "label_name", "title", "category", "label", "readable")
_VALUE_COLUMNS = (
    "value", "pixel_value", "pixelvalue", "mask_value", "class_id", "category_id", "label_id", "id", "idx", "index",
)  # fmt: skip
_COLOUR_COLUMNS = ("color", "colour", "rgb", "hex")
_CONTENT_KEYS = ("classes", "names", "class_names", "labels", "categories", "id2label", "label_names")
_CVAT_LINE = re.compile(r"[^:]+:(\s*\d+\s*,\s*\d+\s*,\s*\d+\s*)?:[^:]*:[^:]*")
"""A line of CVAT's `labelmap.txt`: `name:red,green,blue:parts:actions`."""
_VALUE_FIRST = re.compile(r"(\d+)(\s*[:;,=\t]\s*|[. )-]\s*)(\S.*)")
_VALUE_LAST = re.compile(r"(.*\S)(\s*[:;,=\t]\s*| +)(\d+)")
MAX_CLASSES = 255
"""Maximum number of classes in a label map: ids are one byte, and 255 marks ignored pixels."""


@dataclass(frozen=True)
class ClassTable:
    """Classes in order of class id: class `i` is at index `i` of every tuple."""

    names: tuple[str, ...]
    """Class names, all different."""
    values: tuple[int, ...]
    """The value of each class in masks, or its category id in annotations; all different."""
    colours: tuple[Colour, ...]
    """RGB of each class, 0..255."""

    def __post_init__(self) -> None:
        for field, items in (("name", self.names), ("value", self.values)):
            if duplicates := sorted({str(item) for item in items if items.count(item) > 1}):
                raise DataError(f"two classes have the same {field}, {duplicates[0]!r}; give each its own")
        if not self.names:
            raise DataError("there is no class; list at least one")

    def __len__(self) -> int:
        return len(self.names)


def built_in(name: str) -> ClassTable:
    """Return the class table of a well-known data set.

    Raises:
        NotFoundError: no built-in table has this name.
    """
    if name not in BUILT_IN:
        hint = nearest(name, BUILT_IN) or f"; the built-in ones are {', '.join(BUILT_IN)}"
        raise NotFoundError(f"no class table is called {name!r}, and no file{hint}")
    return _from_csv((files("twins.data") / "tables" / f"{name}.csv").read_text(encoding="utf-8").splitlines())


def table_from_values(values: Iterable[int]) -> ClassTable:
    """Return a table of classes that are named after their values."""
    values = tuple(sorted(values))
    return build_table(tuple(map(str, values)), values)


def build_table(
    names: Sequence[str], values: Sequence[int] | None = None, colours: Sequence[Colour] | None = None
) -> ClassTable:
    """Return a table; `values` default to 0, 1, ..., `colours` to `distinct_colours`."""
    return ClassTable(
        tuple(names),
        tuple(range(len(names)) if values is None else values),
        tuple(distinct_colours(len(names)) if colours is None else colours),
    )


def read_table(path: Path) -> ClassTable:
    """Read a table that a user wrote.

    Args:
        path: `.json` or `.yaml`: a list of names, or a dictionary from mask values to names, at the top or under
            `classes`, `names`, `labels` or `categories`, also from names to values or to colours; `.csv`: a column
            `name` (or `class`, `label`) and, optionally, `value` (or `pixel value`, `id`), and `red`, `green`, `blue`
            (or `r`, `g`, `b`); any other suffix: one name per line, optionally with red, green and blue, or a value,
            before or behind it, and CVAT's `labelmap.txt`.

    Raises:
        NotFoundError: there is no such file.
        DataError: the file cannot be understood; the message gives the line if there is one.
    """
    if not path.is_file():
        raise NotFoundError(f"there is no file of classes {path}; check the path")
    try:
        data = path.read_bytes()
        text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error}); save it as UTF-8") from error
    try:
        return _check_ranges(_from_text(text, path.suffix.lower()))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, RecursionError, csv.Error) as error:
        raise DataError(f"{path} is no list of classes ({type(error).__name__}: {error}); fix it") from error


def find_table_file(folder: Path) -> Path | None:
    """Return the file of a class table in a data folder, or `None` if there is none."""
    return next((folder / name for name in TABLE_FILES if (folder / name).is_file()), None)


def bright_table(names: Sequence[str], values: Sequence[int] | None = None) -> ClassTable:
    """Return a table in bright colours: without the dark first colour, which is for a background."""
    return build_table(names, values, distinct_colours(len(names) + 1)[1:])


def has_own_colours(classes: ClassTable) -> bool:
    """Return whether the colours of a table were given, not made by `distinct_colours`."""
    return classes.colours != distinct_colours(len(classes))


def with_bright_colours(classes: ClassTable) -> ClassTable:
    """Return classes in bright colours, unless the user chose colours."""
    return classes if has_own_colours(classes) else bright_table(classes.names, classes.values)


@cache
def imagenet_names() -> tuple[str, ...]:
    """Return ImageNet-1k's class names by class id: the first word of each synset, from timm."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return tuple(info.index_to_description(index).split(",")[0].strip() for index in range(1000))


def distinct_colours(count: int) -> tuple[Colour, ...]:
    """Return `count` colours that are easy to distinguish; the first is dark, for the background."""
    colours: list[Colour] = [(40, 44, 52)]
    for number in range(count - 1):
        hue = number * 0.61803398875 % 1.0  # steps of the golden ratio spread any number of hues evenly
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.3 * (number % 3 == 1), 0.95 - 0.25 * (number % 3 == 2))
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return tuple(colours[:count])


def class_colours(count: int, own: Sequence[Colour], *, bright: bool) -> Sequence[Colour]:
    """Return the colours of `count` classes in drawings: their own if each has one, else distinct ones.

    Args:
        count: number of classes.
        own: RGB of classes by class id.
        bright: leave out the dark first colour, which is for a background.
    """
    if len(own) >= count:
        return own
    return distinct_colours(count + 1)[1:] if bright else distinct_colours(count)


def voc_colours(count: int) -> tuple[Colour, ...]:
    """Return the first colours of Pascal VOC's palette: each channel collects every third bit of the class id."""
    return tuple(
        tuple(sum((index >> 3 * bit + channel & 1) << 7 - bit for bit in range(3)) for channel in range(3))  # type: ignore[misc]
        for index in range(count)
    )


class _Row(NamedTuple):
    """A class as a file has it."""

    name: str
    value: int | None = None
    colour: Colour | None = None


def _from_text(text: str, suffix: str) -> ClassTable:
    if suffix in (".json", ".yaml", ".yml"):
        return _from_rows(_content_rows(_parse(text, suffix)))
    lines = [line for line in text.splitlines() if line.strip()]
    if suffix in (".csv", ".tsv"):
        return _from_csv(text.splitlines()) if not _is_without_header(lines) else _from_rows(_line_rows(lines))
    if lines and _header_words(lines[0]) >= 2:
        header = lines[0].strip().lstrip("#").strip()
        return _from_csv([header, *lines[1:]]) if re.search("[,;\t]", header) else _from_rows(_line_rows(lines[1:]))
    return _from_rows(_line_rows(lines))


def _from_rows(rows: Sequence[_Row]) -> ClassTable:
    """Return the table of a file's classes; raises DataError if only some have a value or a colour.

    LabelMe's `__ignore__`, which has the value 255, is no class.
    """
    rows = [row for row in rows if row.name.lower() != IGNORED_NAME]
    columns: list[list[Any] | None] = []
    for field, items in (("value", [row.value for row in rows]), ("colour", [row.colour for row in rows])):
        given = [item for item in items if item is not None]
        if given and len(given) != len(rows):
            raise DataError(f"{len(given)} of {len(rows)} classes have a {field}; give one to each or to none")
        columns.append(given or None)
    return build_table([row.name for row in rows], *columns)


def _check_ranges(classes: ClassTable) -> ClassTable:
    """Return the classes; raises DataError for a value that no mask can hold, or a colour outside 0..255."""
    for name, value, colour in zip(classes.names, classes.values, classes.colours, strict=True):
        if not 0 <= value <= 65535:
            raise DataError(f"class {name} has the value {value}; masks hold 0 to 65535")
        if not all(0 <= channel <= 255 for channel in colour):
            raise DataError(f"class {name} has the colour {colour}; red, green and blue are 0 to 255")
    return classes


def _parse(text: str, suffix: str) -> Any:
    if suffix == ".json":
        return json.loads(text)
    import yaml

    try:
        return yaml.load(text, Loader=yaml.BaseLoader)  # keeps names such as `no` and `on` as text
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from error


def _content_rows(content: Any) -> list[_Row]:
    """Return the classes in a JSON or YAML file, in any of the forms that tools write."""
    if isinstance(content, dict):
        keys = [
            key for key in _CONTENT_KEYS if key in ("classes", "names") or isinstance(content.get(key), dict | list)
        ]
        content = next((content[key] for key in keys if key in content), content)
    if isinstance(content, dict):
        return _sorted_by_value([_entry_row(key, value) for key, value in content.items()])
    if not isinstance(content, list):
        raise DataError(
            f"expected a list of names or a dictionary from values to names, found {type(content).__name__}"
        )
    return [_item_row(item) if isinstance(item, dict) else _Row(_name(item)) for item in content]


def _entry_row(key: str, value: Any) -> _Row:
    """Return the class of an entry of a dictionary: from a value to a name, or from a name to value or colour."""
    if (number := _number(key)) is not None:
        if _colour(value) is not None:
            raise DataError("expected names of classes, found colours by value; list the names")
        row = _item_row(value) if isinstance(value, dict) else _Row(_name(value))
        return row._replace(value=number)
    if isinstance(value, dict):
        return _item_row({"name": key, **value})
    if (colour := _colour(value)) is not None:
        return _Row(key, colour=colour)
    if (number := _number(value)) is None:
        raise ValueError(f"expected a value or a colour for the class {key!r:.100}, found {value!r:.100}")
    return _Row(key, number)


def _item_row(item: Mapping[str, Any]) -> _Row:
    """Return the class that a dictionary describes."""
    keys = {str(key).lower().replace("-", "_"): value for key, value in item.items()}
    name = next((keys[key] for key in _NAME_COLUMNS if keys.get(key) not in (None, "")), None)
    if name is None:
        raise DataError(f"expected the name of a class, found {dict(item)!r:.200}")
    colour = next((keys[key] for key in _COLOUR_COLUMNS if key in keys), None)
    value = next((_number(keys[key]) for key in _VALUE_COLUMNS if key in keys), None)
    if colour is not None and _colour(colour) is None:
        raise DataError(f"class {name} has the colour {colour!r:.100}; red, green and blue are 0 to 255")
    return _Row(_name(name), value, None if colour is None else _colour(colour))


def _sorted_by_value(rows: list[_Row]) -> list[_Row]:
    return rows if any(row.value is None for row in rows) else sorted(rows, key=lambda row: row.value or 0)


def _number(item: Any) -> int | None:
    """Return a whole number, also one written as text; `None` if it is none."""
    if isinstance(item, int) and not isinstance(item, bool):
        return item
    return int(item) if isinstance(item, str) and re.fullmatch(r"-?\d+", item.strip()) else None


def _colour(item: Any) -> Colour | None:
    """Return a colour written as three numbers or as `#rrggbb`; `None` if it is none."""
    if isinstance(item, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", item.strip()):
        code = item.strip().lstrip("#")
        return int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16)
    if isinstance(item, str) and re.fullmatch(r"[\[(]?\s*\d+(\s*[, ]\s*\d+){2}\s*[\])]?", item.strip()):
        item = re.findall(r"\d+", item)
    if not isinstance(item, list | tuple) or len(item) not in (3, 4):
        return None
    red, green, blue = (_number(channel) for channel in item[:3])
    return None if red is None or green is None or blue is None else (red, green, blue)


def _name(item: Any) -> str:
    if not isinstance(item, str | int | float) or item == "":
        raise DataError(f"expected the name of a class, found {item!r}")
    return str(item)


def _line_rows(lines: Sequence[str]) -> list[_Row]:
    """Return the classes in lines: names, with a colour before or behind, with a value before or behind."""
    lines = [line.strip() for line in lines if line.strip() and not re.match(r"#\s|#$|//", line.strip())]
    if lines and all(_CVAT_LINE.fullmatch(line) for line in lines):
        return [_Row(line.split(":")[0].strip(), colour=_colour(line.split(":")[1])) for line in lines]
    coloured = [_split_colour(line) for line in lines]
    values = _split_values([name for name, _ in coloured])
    return [_Row(name, value, colour) for (name, value), (_, colour) in zip(values, coloured, strict=True)]


def _split_colour(line: str) -> tuple[str, Colour | None]:
    """Return a line without its colour, three numbers at its end or at its beginning, and the colour."""
    words = re.sub(r"[,;:\t()\[\]]", " ", line).split()
    if len(words) > 4 and all(word.isdigit() for word in words[:4]) and not words[-1].isdigit():
        words = [f"{words[0]}:", *words[4:], *words[1:4]]  # a value, a colour and the name
    for numbers, rest in ((words[-3:], words[:-3]), (words[:3], words[3:])):
        is_colour = len(numbers) == 3 and all(word.isdigit() and int(word) < 256 for word in numbers)
        if is_colour and rest and not "".join(rest).isdigit():
            return " ".join(rest), (int(numbers[0]), int(numbers[1]), int(numbers[2]))
    return line, None


def _split_values(names: Sequence[str]) -> list[tuple[str, int | None]]:
    """Return names and the values before or behind them, where every line has one and they count, or a sign is between.

    Numbers that belong to the names, as in `1 euro` and `2 euro`, are left in them.
    """
    for pattern, is_value_first in ((_VALUE_FIRST, True), (_VALUE_LAST, False)):
        matches = [pattern.fullmatch(name) for name in names]
        if len(names) < 2 or not all(matches):
            continue
        found = [match.groups() for match in matches if match]
        rows = [
            (name if is_value_first else value, sign, value if is_value_first else name) for value, sign, name in found
        ]
        values = [int(value) for _, _, value in rows]
        counts = values == list(range(len(values))) or (is_value_first and values == list(range(1, len(values) + 1)))
        if len({name for name, _, _ in rows}) == len(rows) == len(set(values)) and (
            counts or all(sign.strip(" ") for _, sign, _ in rows)
        ):
            return [(name.strip(), int(value)) for name, _, value in rows]
    return [(name, None) for name in names]


def _header_words(line: str) -> int:
    """Return how many words of a line are names of columns."""
    known = {*_NAME_COLUMNS, *_VALUE_COLUMNS, "r", "g", "b", "red", "green", "blue"}
    words = [word.strip().lower() for word in re.split(r"[,;\t ]+", line.strip().lstrip("#"))]
    return sum(word in known for word in words) if {"r", "red", "value", "id"} & set(words) else 0


def _is_without_header(lines: Sequence[str]) -> bool:
    """Return whether the first line of a CSV file has no column of names, and numbers as the others have."""
    if not lines or _columns(lines[0])[0] is not None:
        return False
    return any(cell.strip().isdigit() for cell in re.split(r"[,;\t]", lines[0]))


def _columns(line: str) -> tuple[str | None, list[str]]:
    """Return the separator of a CSV file with a column of names, by its first line, and the columns in lower case."""
    for separator in (",", ";", "\t"):
        columns = [re.sub(r"[ -]+", "_", cell.strip().strip("\"'").lower()) for cell in line.split(separator)]
        if set(columns) & set(_NAME_COLUMNS):
            return separator, columns
    return None, [cell.strip() for cell in line.split(",")]


def _from_csv(lines: Sequence[str]) -> ClassTable:
    separator, columns = _columns(lines[0]) if lines else (None, [])
    if separator is None:
        raise DataError(f"expected a column called name, found {', '.join(filter(None, columns)) or 'nothing'}")
    reader = csv.DictReader(lines[1:], fieldnames=columns, skipinitialspace=True, delimiter=separator)
    name = next(column for column in _NAME_COLUMNS if column in columns)
    value = next((column for column in _VALUE_COLUMNS if column in columns and column != name), None)
    triple = next((names for names in (("red", "green", "blue"), ("r", "g", "b")) if set(names) <= set(columns)), None)
    single = next((column for column in _COLOUR_COLUMNS if column in columns), None)
    rows: list[_Row] = []
    for row in reader:
        try:
            number = int(row[value]) if value else None
            colour = _csv_colour(row, triple, single)
            rows.append(_Row(_name((row[name] or "").strip()), number, colour))
        except (ValueError, TypeError, DataError) as error:
            cells = ", ".join(str(row[column]) for column in columns)
            raise DataError(
                f"line {reader.line_num + 1} ({cells}) does not fit the columns {', '.join(columns)}; fix it"
            ) from error
    return _from_rows(rows)


def _csv_colour(row: Mapping[str, str], triple: tuple[str, str, str] | None, single: str | None) -> Colour | None:
    """Return the colour in a row; raises ValueError if it is none."""
    if triple:
        red, green, blue = (int(row[column]) for column in triple)
        return red, green, blue
    if single and (colour := _colour(row[single])) is None:
        raise ValueError(f"{row[single]} is no colour")
    return colour if single else None
