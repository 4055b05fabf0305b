"""Where the images of a COCO file are: the folder that their names begin in, and names that exporters change."""

from __future__ import annotations

import filecmp
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from twins.data.base import UNSPLIT
from twins.data.formats.coco import CocoFile
from twins.data.formats.coco_files import NAME_WORDS
from twins.data.formats.names import FoundFiles, Match, find_files, with_slashes
from twins.data.formats.source import Source
from twins.data.images import is_image_file, subfolders, walk
from twins.data.parts import part_of
from twins.errors import DataError, few

_OF_ANNOTATIONS = re.compile(r"ann|label|panoptic|json|gt|mask")
"""Beginning of the names of folders that hold annotations, in lower case."""
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
    """Find the folder that the image names in a file are relative to.

    Raises:
        DataError: the file lists no image, none of them is there, or two folders hold different images of its names.
    """
    if not file.images:
        raise DataError(f"{file.path} lists no image; check which file it is")
    every = [record["file_name"] for record in file.images]
    names = every[:: max(1, len(every) // _SAMPLE)]
    groups = _possible_folders(source, file.path, part)
    for locate in (_as_written, _with_slashes, _in_another_spelling):
        fullest = _fullest({folder: locate(folder, names, part) for group in groups for folder in group})
        if not fullest:
            continue
        group = next(group for group in groups if fullest.keys() & set(group))
        likely = {folder: fullest[folder] for folder in group if folder in fullest}
        if len(likely) > 1:
            likely = _fullest({folder: locate(folder, every, part) for folder in likely})
            _check_same_images(file, likely)
        return _fuller_folder(next(iter(likely)), source.path(source.layout.images) or source.root, names, part)
    for folder in (folder for group in groups for folder in group):
        if any(
            is_image_file(Path(name)) for name in list_names(str(folder))
        ):  # the listed images are missing, as `load` reports
            return folder
    raise _no_folder(source, file, str(every[0]))


def _no_folder(source: Source, file: CocoFile, first: str) -> DataError:
    """Return the error for a file whose images are nowhere, or in several folders of any names."""
    last = with_slashes(first).rpartition("/")[2]
    folders = [name.rpartition("/")[0] or "." for name in walk(source.root) if name.rpartition("/")[2] == last]
    if len(folders) > 1:
        return DataError(
            f"the images of {file.path}, such as {first:.250}, could be those in {few(folders)}; say where its images "
            "are with `layout.images`"
        )
    return DataError(
        f"the images of {file.path}, such as {first:.250}, are not in {source.root}; put them in "
        f"{source.root / 'images'}, or say where they are with `layout.images`"
    )


def _fullest(found: Mapping[Path, dict[str, Path]]) -> dict[Path, dict[str, Path]]:
    """Return the folders in which most names are found; empty if none is found in any."""
    most = max(map(len, found.values()), default=0)
    return {folder: paths for folder, paths in found.items() if most and len(paths) == most}


def _check_same_images(file: CocoFile, found: Mapping[Path, Mapping[str, Path]]) -> None:
    """Raise DataError if folders that are as likely hold different images of the same names."""
    (first, paths), *others = found.items()
    for folder, other_paths in others:
        for name in paths:
            if name in other_paths and not filecmp.cmp(paths[name], other_paths[name], shallow=False):
                raise DataError(
                    f"{file.path} lists {name:.100}, and {first} and {folder} each have another image of that name; "
                    "say where its images are with `layout.images`"
                )


def _possible_folders(source: Source, path: Path, part: str) -> list[list[Path]]:
    """Return the folders that may hold a file's images, in groups of equally likely ones, the likeliest first.

    Those named like the file are the likeliest, then those named like its part, the nearest first. Folders of
    annotations are the last, because they may hold masks of the images' names.
    """
    given = source.path(source.layout.images)
    bases = [given] if given else [*_parents(path, source.root)]
    rest = re.sub(r"^(annotations|instances|panoptic)[ _-]*", "", path.stem)
    last = [base for base in bases[:-1] if _OF_ANNOTATIONS.match(base.name.lower())]
    groups: list[list[Path]] = []
    for base in bases:
        containers = [*_usual_folders(base), *([] if base in last else [base])]
        same_name = [container / rest for container in containers] if rest else []
        of_part = [folder for container in containers for folder in _folders_of_part(container, part)]
        for folder in (*same_name, *of_part):
            last += [folder] if _OF_ANNOTATIONS.match(folder.name.lower()) else []
        inside = [item for folder in of_part if folder not in last for item in (*_usual_folders(folder), folder)]
        groups += [same_name, inside + containers] if part == UNSPLIT else [same_name, inside, containers]
    first_group: dict[Path, int] = {}
    for number, group in enumerate(groups):
        for folder in group:
            if folder not in last and folder.is_dir():
                first_group.setdefault(folder, number)
    unique = [[folder for folder, first in first_group.items() if first == number] for number in range(len(groups))]
    return [*unique, [folder for folder in dict.fromkeys(last) if folder.is_dir()]]


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
    names = {path.name.lower(): path.name for path in subfolders(folder)}
    return [folder / names[name] for name in _IMAGE_FOLDERS if name in names]


def _folders_of_part(folder: Path, part: str) -> list[Path]:
    """Return the folders in a folder that are named like a part; like any, for an unsplit file."""
    names = [path.name for path in subfolders(folder)]
    said = {name: part_of(name, NAME_WORDS) for name in names}
    return [folder / name for name, item in said.items() if item and (part in (UNSPLIT, item) or item == "trainval")]


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


# The files of names in a folder, by name: ways to find them, the surest first.


def _as_written(folder: Path, names: Sequence[str], part: str) -> dict[str, Path]:
    return {name: folder / name for name in names if os.path.exists(folder / name)}


def _with_slashes(folder: Path, names: Sequence[str], part: str) -> dict[str, Path]:
    return {name: path for name in names if os.path.exists(path := folder / with_slashes(name))}


def _in_another_spelling(folder: Path, names: Sequence[str], part: str) -> dict[str, Path]:
    return dict(find_images(names, folder, part).paths)
