"""Class tables: names, mask values and colours. Those of well-known data sets come with the package."""

from __future__ import annotations

import colorsys
import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from twins.errors import DataError, NotFoundError, nearest

Colour = tuple[int, int, int]
BUILT_IN = ("ade20k", "cityscapes", "coco", "coco_panoptic", "voc")
"""Data sets whose classes come with the package: ADE20K's 150 (CSAILVision/sceneparsing), Cityscapes' 19,
COCO's 80 things and its 133 panoptic categories (cocodataset/panopticapi), VOC's 21."""
TABLE_FILES = ("classes.txt", "classes.csv", "classes.json", "classes.yaml", "classes.yml")
"""File names of a class table in a data folder, first match wins."""
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
            `classes` or `names`; `.csv`: a column `name` and, optionally, `value`, `red`, `green`, `blue`; any other
            suffix: one name per line, optionally followed by red, green and blue.

    Raises:
        NotFoundError: there is no such file.
        DataError: the file cannot be understood; the message gives the line if there is one.
    """
    if not path.is_file():
        raise NotFoundError(f"there is no file of classes {path}; check the path")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error}); save it as UTF-8") from error
    try:
        return _check_ranges(_from_text(text, path.suffix.lower()))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no list of classes ({type(error).__name__}: {error}); fix it") from error


def find_table_file(folder: Path) -> Path | None:
    """Return the file of a class table in a data folder, or `None` if there is none."""
    return next((folder / name for name in TABLE_FILES if (folder / name).is_file()), None)


def bright_table(names: Sequence[str], values: Sequence[int] | None = None) -> ClassTable:
    """Return a table in bright colours: without the dark first colour, which is for a background."""
    return build_table(names, values, distinct_colours(len(names) + 1)[1:])


def with_bright_colours(classes: ClassTable) -> ClassTable:
    """Return classes in bright colours, unless the user chose colours."""
    user_colours = classes.colours != distinct_colours(len(classes))
    return classes if user_colours else bright_table(classes.names, classes.values)


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


def _from_text(text: str, suffix: str) -> ClassTable:
    if suffix == ".csv":
        return _from_csv(text.splitlines())
    if suffix in (".json", ".yaml", ".yml"):
        return _from_content(_parse(text, suffix))
    return _from_lines(text.splitlines())


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


def _from_content(content: Any) -> ClassTable:
    if isinstance(content, dict):
        content = next((content[key] for key in ("classes", "names") if key in content), content)
    if isinstance(content, dict):
        items = sorted((int(value), _name(name)) for value, name in content.items())
        return build_table([name for _, name in items], [value for value, _ in items])
    if not isinstance(content, list):
        raise DataError(
            f"expected a list of names or a dictionary from values to names, found {type(content).__name__}"
        )
    return build_table([_name(name) for name in content])


def _name(item: Any) -> str:
    if not isinstance(item, str | int | float) or item == "":
        raise DataError(f"expected the name of a class, found {item!r}")
    return str(item)


def _from_lines(lines: Iterable[str]) -> ClassTable:
    names: list[str] = []
    colours: list[Colour] = []
    for line in filter(None, (line.strip() for line in lines)):
        words = line.replace(",", " ").split()
        if len(words) > 3 and all(word.isdigit() and int(word) < 256 for word in words[-3:]):
            colours.append((int(words[-3]), int(words[-2]), int(words[-1])))
            line = " ".join(words[:-3])
        names.append(line)
    if colours and len(colours) != len(names):
        raise DataError(f"{len(colours)} of {len(names)} classes have a colour; give one to each or to none")
    return build_table(names, colours=colours or None)


def _from_csv(lines: Sequence[str]) -> ClassTable:
    reader = csv.DictReader(lines, skipinitialspace=True)
    columns = reader.fieldnames or ()
    if "name" not in columns:
        raise DataError(f"expected a column called name, found {', '.join(columns) or 'nothing'}")
    with_colours = {"red", "green", "blue"} <= set(columns)
    names: list[str] = []
    values: list[int] = []
    colours: list[Colour] = []
    for row in reader:
        try:
            names.append(_name((row["name"] or "").strip()))
            values.append(int(row["value"]) if "value" in columns else len(values))
            colours.append((int(row["red"]), int(row["green"]), int(row["blue"])) if with_colours else (0, 0, 0))
        except (ValueError, TypeError, DataError) as error:
            cells = ", ".join(str(row[column]) for column in columns)
            raise DataError(
                f"line {reader.line_num} ({cells}) does not fit the columns {', '.join(columns)}; fix it"
            ) from error
    return build_table(names, values, colours if with_colours else None)
