"""Folders that hold several data sets side by side: which these are, and the refusal to read one as the whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from twins.data.base import Opened
from twins.data.config import LayoutConfig
from twins.data.formats.coco_files import holds_coco
from twins.data.formats.mask_names import IMAGE_FOLDERS, MASK_FOLDERS
from twins.data.formats.source import SeveralSetsError, Source
from twins.data.parts import part_of
from twins.errors import DataError, few

_IMAGES = frozenset(map(str.lower, IMAGE_FOLDERS))
_TARGETS = frozenset((*map(str.lower, MASK_FOLDERS), "xmls", "labelmap", "panoptic"))
_MOST = 20
"""Number of such folders above which they are the scenes or images of one set."""
_FOLDERS = 100
"""Number of folders in a folder up to which those in them are looked at."""


def open_one_set(source: Source, opening: Callable[[], Opened | None]) -> Opened | None:
    """Open a folder, unless it holds several data sets of which one would be read, or none can be.

    Raises:
        DataError: it does; or the folder cannot be opened.
    """
    sets = sets_inside(source)
    if not 1 < len(sets) <= _MOST:
        return opening()
    try:
        opened = opening()
    except SeveralSetsError:
        raise
    except DataError as error:
        raise _refusal(source, sets) from error
    if opened is None or _is_of_one(opened, sets):
        raise _refusal(source, sets)
    return opened


def sets_inside(source: Source) -> list[Path]:
    """Return the folders, up to two folders deep, that are data sets of objects or masks; none if the folder is one.

    None also if layout settings or a `data.yaml` are given.
    """
    if source.layout != LayoutConfig() or source.settings_file is not None or _is_set(source.root):
        return []
    found: list[Path] = []
    for folder in _inner(source.root):
        found += [folder] if _is_set(folder) else [inner for inner in _inner(folder) if _is_set(inner)]
    return found


def _refusal(source: Source, sets: Sequence[Path]) -> SeveralSetsError:
    names = few([source.relative(path) for path in sets], limit=10)
    return SeveralSetsError(
        f"{source.root} holds several data sets, {names}; give one of these folders as the data, or say what to read "
        "with `layout.annotations`"
    )


def _is_of_one(opened: Opened, sets: Sequence[Path]) -> bool:
    """Return whether all images are in one of the data sets."""
    folders = [os.path.abspath(path) + os.sep for path in sets]
    used = {
        next((folder for folder in folders if path.startswith(folder)), "")
        for images in opened.parts.values()
        for path in (os.path.abspath(images.path(index)) for index in range(len(images)))
    }
    return len(used - {""}) == 1


def _is_set(folder: Path) -> bool:
    """Return whether a folder has images beside masks or labels, a COCO file, or a `data.yaml`."""
    names = {path.name.lower() for path in _folders(folder)}
    return (
        bool(names & _IMAGES and names & _TARGETS)
        or any((folder / name).is_file() for name in ("data.yaml", "obj.data"))
        or holds_coco(folder)
    )


def _inner(folder: Path) -> list[Path]:
    """Return the folders in a folder that may be data sets: not those of parts, images, masks or labels."""
    folders = _folders(folder)
    if len(folders) > _FOLDERS:
        return []
    return [path for path in folders if not part_of(path.name) and path.name.lower() not in _IMAGES | _TARGETS]


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(Path(item.path) for item in os.scandir(folder) if item.is_dir() and not item.name.startswith("."))
    except OSError:
        return []
