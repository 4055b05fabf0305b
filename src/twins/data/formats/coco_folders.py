"""Where the images of a COCO file are: the folder that their names begin in, and names that exporters change."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from twins.data.base import UNSPLIT
from twins.data.formats.coco import CocoFile
from twins.data.formats.coco_files import NAME_WORDS
from twins.data.formats.names import FoundFiles, Match, find_files, with_slashes
from twins.data.formats.source import Source
from twins.data.images import is_folder, is_image_file
from twins.data.parts import part_of
from twins.errors import DataError

_SAMPLE = 20
"""Number of listed images by which a file's image folder is recognised."""
_IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "data", "pictures", "photos", "frames", "rgb")
"""Usual names of image folders, likeliest first, in lower case."""


def find_images(names: Sequence[str], folder: Path, part: str = UNSPLIT) -> FoundFiles:
    """Find the images that are not in a folder as written, as `find_files` does, also by what exporters add to names.

    An image below a folder of another part is never taken.
    """
    found = find_files(names, folder)
    paths = {name: path for name, path in found.paths.items() if _is_of_part(path, folder, part)}
    matches = {name: found.matches[name] for name in paths}
    listings: dict[str, frozenset[str]] = {}
    written = {name for name in names if is_listed(os.path.join(folder, name), listings)}
    taken = {os.path.normpath(folder / name) for name in written} | set(map(os.path.normpath, paths.values()))
    missing = [name for name in names if name not in paths and name not in written]
    for spelling, change in (("an address", _decoded), ("the prefix of an upload", _without_prefix)):
        changed: dict[str, list[str]] = defaultdict(list)
        for name in missing:
            changed[change(name)].append(name)
        single = {text: group[0] for text, group in changed.items() if len(group) == 1 and text != group[0] and text}
        others = find_files(list(single), folder).paths
        for text, name in single.items():
            path = others.get(text, folder / text)
            is_free = os.path.normpath(path) not in taken and _is_of_part(path, folder, part)
            if is_free and is_listed(str(path), listings):
                paths[name], matches[name] = path, Match(os.path.relpath(path, folder), spelling)
                taken.add(os.path.normpath(path))
        missing = [name for name in missing if name not in paths]
    return FoundFiles(paths, matches)


def _decoded(name: str) -> str:
    """Return the path of an address, without percent-encoding; a name that is no address, unchanged."""
    if "%" not in name and "://" not in name and "?d=" not in name:
        return name
    try:
        parts = urlsplit(name)
        inner = parse_qs(parts.query).get("d", [""])[0]  # Label Studio's local files
        return unquote(inner or parts.path).lstrip("/")
    except ValueError:
        return name


def _without_prefix(name: str) -> str:
    """Return the last part of a name without the eight digits that Label Studio adds to uploaded files."""
    last = with_slashes(_decoded(name)).rpartition("/")[2]
    match = re.fullmatch(r"[0-9a-f]{8}-(.+)", last)
    return match[1] if match else name


def is_listed(path: str, listings: dict[str, frozenset[str]]) -> bool:
    """Return whether a file exists, with one listing for each folder."""
    parent, last = os.path.split(path)
    if parent not in listings:
        listings[parent] = list_names(parent)
    return last in listings[parent]


def list_names(folder: str) -> frozenset[str]:
    """Return the names in a folder; none if it cannot be read or its path is not valid."""
    try:
        return frozenset(os.listdir(folder or "."))
    except (OSError, ValueError):
        return frozenset()


def _is_of_part(path: Path, folder: Path, part: str) -> bool:
    """Return whether no folder of an image says another part, or that it holds masks."""
    folders = os.path.relpath(path.parent, folder).split(os.sep)
    if any(re.match(r"masks?\b|panoptic|semantic|segmentation", name.lower()) for name in folders):
        return False
    said = {item for name in folders if (item := part_of(name))} - {"trainval"}
    return part == UNSPLIT or not said or part in said


def image_folder(source: Source, file: CocoFile, part: str) -> Path:
    """Find the folder that the image names in a file are relative to."""
    if not file.images:
        raise DataError(f"{file.path} lists no image; check which file it is")
    first = str(file.images[0]["file_name"])
    folders = list(dict.fromkeys(_possible_folders(source, file.path, part)))
    names = [record["file_name"] for record in file.images[:: max(1, len(file.images) // _SAMPLE)]]
    counts = {folder: _count(folder, names) for folder in folders if folder.is_dir()}
    best = max(counts, key=lambda folder: counts[folder], default=None)
    if best is None or not counts[best]:
        tests = ((holds, folder) for holds in (_holds_with_slashes, _holds_another_spelling) for folder in counts)
        best = next((folder for holds, folder in tests if holds(folder, names, part)), None)
    if best is not None:
        return _fuller_folder(best, source.path(source.layout.images) or source.root, names, part)
    for folder in counts:
        if any(
            is_image_file(Path(name)) for name in list_names(str(folder))
        ):  # the listed images are missing, as `load` reports
            return folder
    raise DataError(
        f"the images of {file.path}, such as {first:.250}, are not in {source.root}; put them in "
        f"{source.root / 'images'}, or say where they are with `layout.images`"
    )


def _possible_folders(source: Source, path: Path, part: str) -> Iterator[Path]:
    """Yield the folders that may hold a file's images, likeliest first: those named like its part, nearest first."""
    given = source.path(source.layout.images)
    bases = [given] if given else [*_parents(path, source.root)]
    rest = re.sub(r"^(annotations|instances|panoptic)[ _-]*", "", path.stem)
    named = re.compile(r"ann|label|panoptic|json|gt|mask")
    last = [base for base in bases[:-1] if named.match(base.name.lower())]
    for base in bases:
        containers = [*_usual_folders(base), *([] if base in last else [base])]
        for container in containers:
            yield from [container / rest] if rest else []
        for container in containers:
            for folder in _folders_of_part(container, part):
                yield from (*_usual_folders(folder), folder)
        yield from containers
    yield from last  # folders of annotations may hold masks of the images' names


def _parents(path: Path, root: Path) -> Iterator[Path]:
    """Yield the folder of a file and those around it, up to the data folder, which always is the last."""
    for folder in path.parents:
        if folder == root or not folder.is_relative_to(root):
            break
        yield folder
    if not path.is_relative_to(root):
        yield path.parent
    yield root


def _usual_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that have the usual names of image folders."""
    names = {name.lower(): name for name in _list_folders(folder)}
    return [folder / names[name] for name in _IMAGE_FOLDERS if name in names]


def _folders_of_part(folder: Path, part: str) -> list[Path]:
    """Return the folders in a folder that are named like a part; like any, for an unsplit file."""
    said = {name: part_of(name, NAME_WORDS) for name in _list_folders(folder)}
    return [folder / name for name, item in said.items() if item and (part in (UNSPLIT, item) or item == "trainval")]


def _list_folders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if is_folder(entry))
    except OSError:
        return []


def _fuller_folder(folder: Path, everywhere: Path, names: Sequence[str], part: str) -> Path:
    """Return the folder around all others instead of one in which fewer of the names are found."""
    count = _count(folder, names)
    if count < len(names) and everywhere.is_dir():
        count += len(find_images(names, folder, part).paths)
        whole = _count(everywhere, names) + len(find_images(names, everywhere, part).paths)
        return everywhere if whole > count else folder
    return folder


def _count(folder: Path, names: Sequence[str]) -> int:
    return sum(os.path.exists(folder / name) for name in names)


# What makes a folder that of a file's images although it holds none of the names as written, surest first.


def _holds_with_slashes(folder: Path, names: Sequence[str], part: str) -> bool:
    return any(os.path.exists(folder / with_slashes(name)) for name in names)


def _holds_another_spelling(folder: Path, names: Sequence[str], part: str) -> bool:
    return bool(find_images(names, folder, part).paths)
