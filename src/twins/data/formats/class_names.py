"""Class names beside annotations, in the files of labelling tools, and names that are nearly the same."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from twins.data.classes import ClassTable, bright_table, build_table, has_own_colours, read_table, with_bright_colours
from twins.data.formats.source import Source
from twins.errors import DataError

LABELMAP = "labelmap.txt"
"""CVAT's file of class names and colours."""
_BACKGROUND = "background"


def alike_problems(names: Iterable[str], where: str) -> list[str]:
    """Return a sentence if names differ by case, Unicode form, spaces or separators only; `where` is their source."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        words = unicodedata.normalize("NFKC", name).casefold().replace("_", " ").replace("-", " ").split()
        groups[" ".join(words)].append(name)
    alike = [sorted(group) for group in groups.values() if len(group) > 1]
    if not alike:
        return []
    shown = "; ".join(" and ".join(map(repr, group)) for group in alike[:3])
    return [
        f"the classes {shown} in {where} differ by case, Unicode form or separators only, and are read as different "
        "classes; give each class one spelling"
    ]


def read_labelmap(path: Path) -> ClassTable:
    """Return the classes of CVAT's `labelmap.txt` without the background, which boxes do not have.

    Raises:
        DataError: it lists no class, or one twice.
    """
    table = read_table(path)
    kept = [index for index, name in enumerate(table.names) if name.lower() != _BACKGROUND]
    names, colours = [table.names[index] for index in kept], [table.colours[index] for index in kept]
    try:
        return build_table(names, colours=colours) if has_own_colours(table) else bright_table(names)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def find_names(source: Source, folders: Sequence[Path], used: set[str]) -> ClassTable | None:
    """Return the classes of a file of names that labelling tools write, if it lists all names that objects have.

    Args:
        source: the data set.
        folders: folders that such a file may be in.
        used: the names of the objects.
    """
    for folder in dict.fromkeys(folders):
        for name in (LABELMAP, "classes.txt", "label_list.txt", "labels.txt", "predefined_classes.txt"):
            path = folder / name
            if not path.is_file():
                continue
            classes = read_labelmap(path) if name == LABELMAP else with_bright_colours(read_table(path))
            if missing := sorted(used - set(classes.names)):
                source.notes.append(f"{path} does not list the class {missing[0]!r:.100}, so it is not used")
                continue
            source.use_names(path)
            return classes
    return None
