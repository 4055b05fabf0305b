"""Lists of image names that make the parts of a set of images and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from twins.data.base import UNSPLIT
from twins.data.formats.mask_pairs import Pairs, names_any, select_listed
from twins.data.formats.names import read_list
from twins.data.formats.source import Source
from twins.data.parts import group_parts
from twins.errors import DataError

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
        DataError: two lists are of the same part, or the list of the training or validation part names no image.
    """
    given = {part: [path for path in paths if path.is_file()] for part, paths in source.part_paths().items()}
    if any(given.values()):
        return {part: paths for part, paths in given.items() if paths}
    for folder in dict.fromkeys((*(source.root / place for place in _LIST_FOLDERS), *folders)):
        files = _texts(folder)
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
            _check_lists(source, folder, lists, groups)
            grouped = {path for paths in groups.values() for path in paths}
            source.pass_over(OTHER_LIST, *(path for path in files if path not in grouped and is_voc))
            return lists
    return {}


def _check_lists(
    source: Source, folder: Path, lists: Mapping[str, Sequence[Path]], groups: Mapping[str, Sequence[Path]]
) -> None:
    """Raise DataError if a list to train or validate on names no image, or the data folder has another one."""
    for part in ("train", "val"):
        empty = [path for path in groups.get(part, ()) if part not in lists]
        if empty and "trainval" not in groups:
            raise DataError(
                f"{empty[0]} names none of the images, as {source.relative(next(iter(lists.values()))[0])} does; "
                "correct it, or remove it"
            )
    others = {} if folder == source.root else group_parts(_texts(source.root), _FILLERS)
    for part, paths in others.items():
        for path in paths:
            if part in lists and {*read_list(path)} != {line for own in lists[part] for line in read_list(own)}:
                raise DataError(
                    f"{source.relative(lists[part][0])} and {source.relative(path)} in {source.root} could each be the "
                    f"list of the {part} part; give the one to use as `layout.{part}`"
                )


def _texts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in (".txt", ".lst"))


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
