"""Lists of image names that make the parts of a set of images and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from twins.data.base import UNSPLIT
from twins.data.formats.mask_pairs import Pairs, names_any, select_listed
from twins.data.formats.names import read_list
from twins.data.formats.source import Source
from twins.data.parts import group_parts

_FILLERS = frozenset(("list", "lists", "names", "files", "file", "ids", "id", "aug"))
_LIST_FOLDERS = ("ImageSets/Segmentation", "ImageSets/Main", "ImageSets", "splits", "split", "lists", "")
"""Folders of lists, in the order in which they are looked for; `""` is the data folder."""
NO_SUCH_NAME, OTHER_LIST = "a list that names none of these images", "a list whose name says no part"


def find_lists(
    source: Source, folders: Sequence[Path], pairs: Mapping[str, Pairs], images: Sequence[Path]
) -> dict[str, list[Path]]:
    """Return the lists of each part: those of the settings, else the first folder's with such names.

    Args:
        source: the data set.
        folders: further folders that may hold lists, such as that of the masks.
        pairs: the pairs of an unsplit set.
        images: images without a mask.

    Raises:
        DataError: two lists are of the same part.
    """
    given = {part: [path for path in paths if path.is_file()] for part, paths in source.part_paths().items()}
    if any(given.values()):
        return {part: paths for part, paths in given.items() if paths}
    for folder in dict.fromkeys((*(source.root / place for place in _LIST_FOLDERS), *folders)):
        files = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".txt", ".lst"))
        if folder.name == "Segmentation" and len(files) == 1 and not group_parts(files):
            return {UNSPLIT: files}  # CVAT's default.txt
        groups = group_parts(files, _FILLERS)
        is_voc = folder.name == "Segmentation"
        named = {
            part: [path for path in paths if is_voc or names_any(pairs[UNSPLIT], images, read_list(path))]
            for part, paths in groups.items()
        }
        source.pass_over(
            NO_SUCH_NAME, *(path for part, paths in groups.items() for path in paths if path not in named[part])
        )
        if lists := source.one_each({part: paths for part, paths in named.items() if paths}):
            grouped = {path for paths in groups.values() for path in paths}
            source.pass_over(OTHER_LIST, *(path for path in files if path not in grouped and is_voc))
            return lists
    return {}


def parts_by_lists(
    pairs: Pairs, images: Sequence[Path], lists: Mapping[str, Sequence[Path]]
) -> tuple[dict[str, Pairs], list[str]]:
    """Return the pairs that the lists of each part name, and notes.

    Raises:
        DataError: a list cannot be read, or names what is no image.
    """
    parts: dict[str, Pairs] = {}
    notes: list[str] = []
    for part, paths in lists.items():
        chosen: Pairs = []
        for path in paths:
            lines = [line for line in read_list(path) if not line.startswith("# ")]
            selected, more = select_listed(pairs, images, lines, path)
            chosen += selected
            notes += more
        parts[part] = list(dict.fromkeys(chosen))
    return parts, notes
