"""Finding COCO's JSON files: by their content, whatever they are called, and the part that each is of."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Literal
from weakref import WeakKeyDictionary

from twins.data.base import UNSPLIT
from twins.data.formats.source import LAYOUT_FILE, SeveralSetsError, Source
from twins.data.images import is_folder, subfolders
from twins.data.parts import part_of
from twins.errors import DataError, few

KEYS = ("images", "annotations", "categories")
"""The lists by which a JSON file is COCO's."""
Kind = Literal["instances", "panoptic"]
"""What the annotations of a file are: objects, or panoptic segments."""
NAME_WORDS = frozenset((
    "instances", "instance", "annotations", "annotation", "coco", "labels", "label", "default", "result", "results",
    "panoptic", "json", "gt", "bbox", "boxes", "objects", "object", "detection", "det", "segmentation", "masks", "mask",
    "export", "via", "lvis", "v", "person", "keypoints", "stuff", "file", "info",
))  # fmt: skip
"""Words beside a part's name in a file's name that say nothing of the part."""
_FOLDER_WORDS = frozenset((
    "labels", "label", "json", "jsons", "coco", "ann", "anns", "gt", "groundtruth", "images", "image", "imgs", "img",
    "data", "jpegimages",
))  # fmt: skip
"""Names of folders that hold annotation files, besides parts' names and those that begin with `annot` or `panoptic`."""
_SPECIAL = ("lvis", "keypoints", "stuff", "captions", "densepose")
"""Words in the names of files that lie beside those of the instances, in the order in which one is read alone."""
_NAMED = re.compile(r"(instances|panoptic)([ _-]*default)?|_annotations\.coco")
_FILES: WeakKeyDictionary[Source, list[Path]] = WeakKeyDictionary()
"""The JSON files of each data set that is being opened."""
_SCANNED = 16384
"""Bytes at each end of a file that must hold one of the keys."""
_SHOWN = 5
"""Number of files up to which a refusal names all."""
_SMALL = 2**20
"""Bytes up to which a file is parsed to see what it is."""
RESULTS = "a list, such as COCO's results, instead of the three lists of a COCO file"
NO_ANNOTATIONS = "a COCO file that lists images without annotations"
NO_CATEGORIES = "annotations without categories, such as captions"
DAMAGED = "no JSON, or damaged"
OF_NO_PART = "a COCO file of no part, beside files of parts"


@dataclass(frozen=True)
class JsonContent:
    """What a JSON file holds, by its keys."""

    kind: Kind | None = None
    """`None` if it is no COCO file."""
    reason: str = ""
    """Why it is none, if that is known."""
    empty: bool = False
    """Whether it is a COCO file without any annotation."""


def find_coco(source: Source, kind: Kind | None = None) -> tuple[Path, ...]:
    """Return the COCO files of a data set, those of one kind or all; empty if it has none.

    Files that the layout settings give come first. Else they are looked for in the folder itself, in folders of
    annotations, images and parts up to two folders deep, and last in a folder around all of these. A `data.yaml` that
    is given as the data is YOLO's, whatever lies beside it.
    """
    if source.settings_file and source.settings_file.name != LAYOUT_FILE:
        return ()  # the user chose YOLO's
    paths = dict.fromkeys((*_given(source), *_discovered(source)))
    return tuple(path for path in paths if _is_of(path, kind))


def holds_coco(folder: Path) -> bool:
    """Return whether a folder has a COCO file in it, or in its folders of annotations or parts.

    Of each folder, the first files are opened.
    """
    inner = [path for path in subfolders(folder) if _holds_annotations(path.name.lower()) or part_of(path.name)]
    files = (path for parent in (folder, *inner) for path in islice(_json_in(parent), _SHOWN))
    return any(inspect(path).kind for path in files)


def group_files(source: Source, kind: Kind) -> dict[str, list[Path]]:
    """Return the files of a kind by part, and pass over others with a reason; the unsplit ones may be several.

    Raises:
        DataError: two files are of the same part, or a part of the layout settings has no file.
    """
    if not find_coco(source, kind):
        return {}
    parts = _given_parts(source)
    if not parts:
        return _group_by_name(source, kind)
    others = _group_by_name(source, kind) if not all(parts.values()) else {}
    for part, paths in parts.items():
        paths += [] if paths else others.get(part) or others.get(UNSPLIT) or []
        if not paths:
            raise DataError(
                f"{source.root} has no COCO file for `layout.{part}`; give it with `layout.annotations`, or give a "
                "COCO file as the part"
            )
    return parts


def lists_and_folders(source: Source) -> dict[str, list[Path]]:
    """Return what the layout settings give for parts without a COCO file: lists of images, and folders of images."""
    given = _given_parts(source)
    return {part: paths for part, paths in source.part_paths().items() if not given[part]}


def file_part(path: Path, root: Path) -> str:
    """Return the part that a file's name says, else that of the nearest folder; `UNSPLIT` if none says one."""
    stem = path.stem.lower()
    for prefix in ("annotations", "instances", "panoptic"):
        stem = stem.removeprefix(prefix)
    if part := part_of(stem, NAME_WORDS):
        return part
    inside = Path(os.path.relpath(path.parent, root))
    parts = (part_of(folder, NAME_WORDS) for folder in reversed(inside.parts) if folder != os.pardir)
    return next((part for part in parts if part), UNSPLIT)


def _given(source: Source) -> list[Path]:
    """Return the JSON files that the layout settings give."""
    annotations = source.path(source.layout.annotations)
    whole = [annotations] if annotations is not None and _is_json(annotations) else []
    return [*whole, *(path for paths in _given_parts(source).values() for path in paths)]


def _given_parts(source: Source) -> dict[str, list[Path]]:
    """Return the JSON files that the layout settings give for each part; a list or a folder without one gives none."""
    return {part: [file for path in paths for file in _json_of(path)] for part, paths in source.part_paths().items()}


def _json_of(path: Path) -> list[Path]:
    """Return a JSON file itself, or the COCO files in a folder."""
    if path.is_dir():
        return [file for file in _json_below(path) if inspect(file).kind]
    return [path] if _is_json(path) else []


def _discovered(source: Source) -> list[Path]:
    """Return the JSON files where COCO files may be, if the layout settings give none."""
    if source not in _FILES:
        annotations = source.path(source.layout.annotations)
        base = annotations or source.root
        files = _json_below(base) if base.is_dir() else []
        if annotations is None and not any(inspect(file).kind for file in files):
            files += [file for folder in subfolders(base) for file in _json_below(folder)]
        _FILES[source] = list(dict.fromkeys(files))
    return _FILES[source]


def _group_by_name(source: Source, kind: Kind) -> dict[str, list[Path]]:
    """Return the files of a kind by the part that their names and folders say."""
    annotations = source.path(source.layout.annotations)
    if annotations is not None and annotations.is_file():
        return {UNSPLIT: [annotations]}
    files = []
    for path in _discovered(source):
        content = inspect(path)
        if _is_of(path, kind):
            files.append(path)
        elif reason := content.reason or (content.kind and f"a COCO file of {_what(content.kind)}"):
            source.pass_over(reason, path)
    _check_one_folder(source, files)
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in _without_empty(source, _without_special(source, files)):
        groups[file_part(path, source.root)].append(path)
    groups = {part: _likeliest(source, paths) for part, paths in groups.items()}
    whole = groups.pop(UNSPLIT, [])
    if groups:
        source.pass_over(OF_NO_PART, *whole)
    for part, paths in groups.items():
        if len(paths) > _SHOWN:
            raise DataError(
                f"{few(list(map(source.relative, paths)))} in {source.root}, {len(paths)} files, could each be the "
                f"{part} part; join them to one, or give the one to use as `layout.{part}`"
            )
    return source.one_each(groups) or ({UNSPLIT: whole} if whole else {})


def _likeliest(source: Source, paths: Sequence[Path]) -> list[Path]:
    """Return the files that are called `instances`, else those called `annotations`, else all; say so if others are."""
    names = ("instances", "panoptic"), ("annotations", "_annotations")
    for beginning in names:
        taken = [path for path in paths if path.stem.lower().startswith(beginning)]
        if others := [path for path in paths if taken and path not in taken]:
            read, left = few(list(map(source.relative, taken))), few(list(map(source.relative, others)))
            source.notes.append(f"{read} is read by its name, and not {left}; `layout.annotations` decides otherwise")
            source.pass_over(f"a COCO file beside {read}", *others)
        if taken:
            return taken
    return list(paths)


def _is_of(path: Path, kind: Kind | None) -> bool:
    """Return whether a file is a COCO file of a kind; `None` means of any.

    A file that is called `instances` and holds panoptic segments counts as both, so that it is refused as instances.
    """
    content = inspect(path).kind
    return content is not None and (kind in (None, content) or (kind == "instances" == _kind_by_name(path)))


def _check_one_folder(source: Source, files: Sequence[Path]) -> None:
    """Raise DataError if files are in several folders whose names say nothing: these are several data sets."""
    inside = [Path(os.path.relpath(path, source.root)).parts for path in files]
    tops = sorted(
        {parts[0] for parts in inside if len(parts) > 1 and not _is_usual(parts[0]) and parts[0] != os.pardir}
    )
    if len(tops) > 1:
        raise SeveralSetsError(
            f"{source.root} has COCO files in {few(tops)}, which may be several data sets; give one of these folders "
            "as the data, or the files as `layout.train` and `layout.val`"
        )


def _what(kind: Kind) -> str:
    return "panoptic segments" if kind == "panoptic" else "instances"


def _without_special(source: Source, files: Sequence[Path]) -> list[Path]:
    """Leave out files of keypoints and their like beside others; if there is nothing else, take one kind and say so."""
    kinds = {path: next((word for word in _SPECIAL if word in path.stem.lower()), "") for path in files}
    taken = min(kinds.values(), key=("", *_SPECIAL).index, default="")
    for path, kind in kinds.items():
        if kind != taken:
            source.pass_over(f"{kind}, beside {taken or 'other'} annotations", path)
    if taken in ("keypoints", "densepose", "captions"):
        names = ", ".join(source.relative(path) for path, kind in kinds.items() if kind == taken)
        source.notes.append(f"of {names}, named after {taken}, the boxes and masks of the objects are read")
    return [path for path, kind in kinds.items() if kind == taken]


def _without_empty(source: Source, files: Sequence[Path]) -> list[Path]:
    """Leave out files without any annotation, except for training and validation or where there is no other."""
    empty = [path for path in files if inspect(path).empty and file_part(path, source.root) not in ("train", "val")]
    if len(empty) == len(files):
        return list(files)
    source.pass_over(NO_ANNOTATIONS, *empty)
    return [path for path in files if path not in empty]


# Where files are


def _json_below(folder: Path) -> list[Path]:
    """Return the JSON files in a folder, and in those of annotations, images and parts up to two folders deep."""
    parents, files = [folder], []
    for depth in range(3):
        files += [file for parent in parents for file in _json_in(parent)]
        parents = (
            [child for parent in parents for child in subfolders(parent) if _is_usual(child.name)] if depth < 2 else []
        )
    return files


def _json_in(folder: Path) -> Iterator[Path]:
    try:
        entries = (entry for entry in os.scandir(folder) if entry.name.lower().endswith(".json"))
        names = sorted(entry.name for entry in entries if not is_folder(entry))
    except OSError:
        return
    yield from (folder / name for name in names if _is_json(Path(name)) and not name.startswith("."))


def _is_usual(name: str) -> bool:
    lower = name.lower()
    return _holds_annotations(lower) or part_of(lower, NAME_WORDS) is not None


def _holds_annotations(lower: str) -> bool:
    return lower.startswith(("annot", "panoptic")) or lower in _FOLDER_WORDS


def _is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json"


# What a file holds


def inspect(path: Path) -> JsonContent:
    """Return what a JSON file holds; a large file is searched for its keys instead of being parsed.

    A damaged file that seems to have been COCO's is one, so that opening it says what is wrong.
    """
    try:
        state = path.stat()
        return _inspect(str(path), state.st_mtime_ns, state.st_size)
    except (OSError, ValueError):
        return JsonContent(_kind_by_name(path), "a file that cannot be read")


@lru_cache(maxsize=1024)
def _inspect(name: str, _changed: int, size: int) -> JsonContent:
    path = Path(name)
    by_name = _kind_by_name(path)
    with path.open("rb") as file:
        ends = file.read(_SCANNED)
        if size > 2 * _SCANNED:
            file.seek(-_SCANNED, os.SEEK_END)
        ends += file.read(_SCANNED)
    is_usual = by_name or path.stem.lower().startswith("annotation")
    if ends.startswith((b"\xff\xfe", b"\xfe\xff")) or (is_usual and size <= _SMALL):
        return _by_parsing(path, by_name)
    if not any(f'"{key}"'.encode() in ends for key in KEYS):
        return JsonContent(by_name, RESULTS if ends.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[") else "")
    return _by_parsing(path, by_name) if size <= _SMALL else _by_searching(path)


def _kind_by_name(path: Path) -> Kind | None:
    """Return the kind that is certain by a file's name, whatever it holds, so that a damaged file is never ignored."""
    stem = path.stem.lower()
    named = re.match(r"instances|panoptic", stem)
    certain = _NAMED.fullmatch(stem) or (named and file_part(path, path.parent) != UNSPLIT)
    return None if not certain else "panoptic" if stem.startswith("panoptic") else "instances"


def _by_parsing(path: Path, by_name: Kind | None) -> JsonContent:
    data = path.read_bytes()
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        has_two_keys = sum(f'"{key}"'.encode() in data for key in KEYS) > 1
        is_usual = path.stem.lower().startswith("annotation")
        return JsonContent(by_name or ("instances" if has_two_keys or is_usual else None), DAMAGED)
    if not isinstance(content, dict):
        return JsonContent(by_name, RESULTS)
    annotations = content.get("annotations")
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    segments = isinstance(first, dict) and "segments_info" in first
    return _describe(path, set(KEYS) & content.keys(), segments=segments, empty=annotations == [])


def _by_searching(path: Path) -> JsonContent:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        after = {key: start for key in KEYS if (start := _after_key(view, key)) is not None}
        if view[-_SCANNED:].rstrip()[-1:] != b"}":
            return JsonContent("instances" if len(after) > 1 else None, DAMAGED)
        start = after.get("annotations", 0)
        empty = bool(re.match(rb"\s*\[\s*\]", view[start : start + 64]))
        return _describe(path, set(after), segments=view.find(b'"segments_info"') >= 0, empty=empty)


def _after_key(view: mmap.mmap, key: str) -> int | None:
    """Return the position after the colon of a key whose value is a list; `None` if there is none."""
    text, start = f'"{key}"'.encode(), 0
    while (start := view.find(text, start)) >= 0:
        start += len(text)
        if match := re.match(rb"\s*:(?=\s*\[)", view[start : start + 64]):
            return start + match.end()
    return None


def _describe(path: Path, keys: set[str], *, segments: bool, empty: bool) -> JsonContent:
    is_usual = path.stem.lower().startswith("annotation") and len(keys) > 1
    by_name = _kind_by_name(path) or ("instances" if is_usual else None)
    is_test = file_part(path, path.parent) == "test"
    if keys == set(KEYS):
        kind: Kind = "panoptic" if segments or (empty and by_name == "panoptic") else "instances"
        return JsonContent(kind, empty=empty)
    if keys == {"images", "categories"}:
        return JsonContent(None if is_test else by_name, NO_ANNOTATIONS)
    return JsonContent(by_name, NO_CATEGORIES if keys == {"images", "annotations"} else "")
