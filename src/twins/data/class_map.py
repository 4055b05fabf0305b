"""Reads a user's map from the class names of a data set to those of a network."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from twins.errors import DataError, NotFoundError

ClassMap = dict[str, str | None]
"""The network's name for a name of the data; `None` leaves the class out."""
_MISSING = ("", "null", "none", "~")


def read_class_map(path: Path) -> ClassMap:
    """Read a map of class names.

    Args:
        path: `.json` or `.yaml` with {name in the data: name in the network}, or null to leave the class out; or
            `.csv` with both names in a line, the second one empty to leave the class out.

    Raises:
        NotFoundError: there is no such file.
        DataError: the file cannot be understood, or maps a name twice.
    """
    if not path.is_file():
        raise NotFoundError(f"there is no file {path!s:.250} for `class_map`; check the path")
    try:
        text = path.read_text(encoding="utf-8-sig")
        pairs = _PARSERS.get(path.suffix.lower(), _from_yaml)(text)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is no map of class names ({str(error).partition(chr(10))[0]}); give JSON, YAML or CSV with the "
            "data's name and the network's name, or null, for each class"
        ) from error
    class_map: ClassMap = {}
    for name, other in pairs:
        if name in class_map:
            raise DataError(f"{path} maps the class {name} twice; keep one line")
        class_map[name] = other
    if not class_map:
        raise DataError(f"{path} maps no class; give the data's name and the network's name for each class")
    return class_map


def _from_json(text: str) -> Iterable[tuple[str, str | None]]:
    pairs = json.loads(text, object_pairs_hook=list)  # keeps names that are there twice
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise ValueError("it holds no names with names")
    return [(name, _name(other)) for name, other in pairs]


def _from_yaml(text: str) -> Iterable[tuple[str, str | None]]:
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)  # keeps names such as `no` and those that are there twice
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("it holds no names with names")
    scalars = [(key, value) for key, value in node.value]
    if not all(isinstance(item, yaml.ScalarNode) for pair in scalars for item in pair):
        raise ValueError("a class must have one name in the network")
    return [
        (key.value, None if value.style is None and value.value.lower() in _MISSING else value.value)
        for key, value in scalars
    ]


def _from_csv(text: str) -> Iterable[tuple[str, str | None]]:
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if any(map(str.strip, row))]
    if wrong := [row for row in rows if len(row) != 2]:
        raise ValueError(f"the line {','.join(wrong[0]):.100} has {len(wrong[0])} cells instead of 2")
    if rows and [cell.lower() for cell in rows[0]] in _HEADS:
        del rows[0]
    return [(name, None if other.lower() in _MISSING else other) for name, other in rows]


def _name(value: Any) -> str | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise ValueError(f"{value!r:.100} is no name of a class")
    return None if value is None else str(value)


_HEADS = (["data", "network"], ["from", "to"], ["source", "target"], ["name in the data", "name in the network"])
_PARSERS = {".json": _from_json, ".csv": _from_csv}
