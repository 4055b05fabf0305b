"""The images of COCO's JSON files: their folders and names, the classes of several files, and the parts."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from PIL.Image import Image

from twins.data.base import UNSPLIT, Derived, Opened, join
from twins.data.classes import ClassTable
from twins.data.config import PARTS
from twins.data.formats.coco import CocoFile, record_size
from twins.data.formats.coco_files import file_part, lists_and_folders
from twins.data.formats.coco_folders import find_images, image_folder, is_listed, list_names
from twins.data.formats.names import find_listed, read_list
from twins.data.formats.source import ANNOTATIONS, LISTS, Source, names_in
from twins.data.images import image_size, is_image_file, open_image
from twins.data.parts import part_of
from twins.errors import DataError, few, number_of

UNLISTED, NOT_IN_PART = "an image that no annotation file lists", "an image that no part has"
Categories = Sequence[tuple[int, str]]
"""Category ids and names."""


class CocoImages:
    """Images of a COCO file; subclasses add `target`.

    Args:
        source: the data set.
        file: the file.
        classes: the classes of all files; the file's own categories are matched by name.
        part: the part that the file is of, whose images it lists.
    """

    def __init__(self, source: Source, file: CocoFile, classes: ClassTable, part: str = UNSPLIT) -> None:
        self.file, self.records, self.folder = file, file.images, image_folder(source, file, part)
        self.found = find_images([record["file_name"] for record in file.images], self.folder, part)
        self.classes, self.names = classes, classes.names
        labels = {name: label for label, name in enumerate(classes.names)}
        self.class_id_of = {number: labels[name] for number, name in file.categories if name in labels}

    def __len__(self) -> int:
        return len(self.records)

    def load(self, index: int) -> Image:
        """Return an image, RGB and upright; raises DataError if it cannot be read."""
        return open_image(self._existing_file(self._path(index)))

    def path(self, index: int) -> str:
        """Return an image's path."""
        return str(self._path(index))

    def notes(self) -> list[str]:
        """Return sentences on ids and names that are read otherwise than written, and on missing images."""
        return [*self.file.notes, *self.found.note(str(self.file.path)), *self._missing()]

    def _missing(self) -> list[str]:
        listings: dict[str, frozenset[str]] = {}
        missing = [path for index in range(len(self)) if not is_listed(path := self.path(index), listings)]
        if not missing:
            return []
        count = f"{len(missing)} of {number_of(len(self), 'image')} that {self.file.path} lists"
        return [f"{count} do not exist, the first {missing[0]:.250}; add them or remove their entries"]

    def _path(self, index: int) -> Path:
        name = self.records[index]["file_name"]
        return self.found.paths.get(name, self.folder / name)

    def _existing_file(self, path: Path) -> Path:
        """Return a file that a record or annotation names; raises DataError if it does not exist."""
        if not os.path.exists(path):  # never an error, also of names that no file can have
            raise DataError(f"{self.file.path} lists {path!s:.250}, which does not exist; add it or remove its record")
        return path

    def size(self, index: int) -> tuple[int, int]:
        """Return the height and width in an image's record, or those of the image if it has none.

        Raises:
            DataError: the sizes are impossible, or one of both is missing.
        """
        record = self.records[index]
        if size := record_size(record):
            return size
        if record.get("height") is None and record.get("width") is None:
            return image_size(self._existing_file(self._path(index)))
        sides = record.get("height"), record.get("width")
        raise DataError(f"{self.file.path} gives {sides} as height and width of {self.path(index)}; fix it")


def open_files(
    source: Source,
    groups: Mapping[str, Sequence[Path]],
    layout: str,
    build: Callable[[Path, str], CocoImages],
) -> Opened:
    """Return the sets of JSON files by part, several files of a part joined.

    An unsplit file has parts if the folders of its images say so, or if the layout settings list its images.

    Args:
        source: the data set.
        groups: the files by part, see `group_files`.
        layout: name of the layout, for people.
        build: function from a file and its part to its set.
    """
    others = lists_and_folders(source)
    sets: dict[Path, CocoImages] = {}
    for part, paths in groups.items():
        for path in paths:
            if path not in sets:
                sets[path] = build(path, UNSPLIT if others.get(part) else _part_of_images(source, path, part))
    source.notes += [note for images in sets.values() for note in images.notes()]
    source.use(ANNOTATIONS, *sets)
    source.names_from = source.names_from or "the annotation files"
    parts, origins = _parts(source, groups, sets)
    _pass_over_unlisted(source, list(sets.values()), list(parts.values()))
    return Opened(parts, layout, list(sets), origins)


def _part_of_images(source: Source, path: Path, part: str) -> str:
    """Return the part whose images a file lists: by its name, as a test file may be given as the validation part."""
    said = file_part(path, source.root)
    return UNSPLIT if said == "trainval" else part if said == UNSPLIT else said


def _parts(
    source: Source, groups: Mapping[str, Sequence[Path]], sets: Mapping[Path, CocoImages]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the images of each part, and where they come from."""
    names = {part: ", ".join(map(source.relative, paths)) for part, paths in groups.items()}
    if UNSPLIT in groups:
        return _parts_by_folders(source, [sets[path] for path in groups[UNSPLIT]])
    parts, others = {}, lists_and_folders(source)
    for part, paths in groups.items():
        images = join([sets[path] for path in paths])
        if others.get(part):
            images = _select(source, images, part, others[part], names[part])
            names[part] = f"{', '.join(map(source.relative, others[part]))}, with {names[part]}"
        parts[part] = images
    _recognise(source, groups, {path for part in others for path in groups[part]})
    return parts, names


def _parts_by_folders(source: Source, sets: Sequence[CocoImages]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the parts of unsplit files, by the folders of their images.

    Raises:
        DataError: several files are of the same part, or of none.
    """
    rows: dict[str, dict[str, tuple[CocoImages, list[int]]]] = defaultdict(dict)
    for images in sets:
        for part, indices in _indices_by_folder(source, images).items():
            rows[part][source.relative(images.file.path)] = images, indices
    clash = next((list(group) for group in rows.values() if len(group) > 1), [])
    if clash or (UNSPLIT in rows and len(rows) > 1):
        files = clash or [source.relative(images.file.path) for images in sets]
        raise DataError(
            f"{few(files)} in {source.root} could each be the whole set; give the one to use as `layout.annotations`, "
            "or each as `layout.train`, `layout.val` or `layout.test`"
        )
    parts, origins = {}, {}
    for part, group in rows.items():
        ((name, (images, indices)),) = group.items()
        parts[part] = images if len(indices) == len(images) else Derived(images, indices)
        folder = "" if part == UNSPLIT else f", the images in {_folder_of(source, images, indices[0])}"
        origins[part] = name + folder
    groups = {part: [images.file.path for images, _ in group.values()] for part, group in rows.items()}
    _recognise(source, groups, {images.file.path for images in sets})
    return parts, origins


def _indices_by_folder(source: Source, images: CocoImages) -> dict[str, list[int]]:
    """Return the indices of a file's images by the part that their folders say; all as one if a folder says none."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index in range(len(images)):
        groups[_part_of_folder(source, images.path(index))].append(index)
    if "trainval" in groups and not {"train", "val"} & groups.keys():
        groups["train"] = groups.pop("trainval")
    return dict(groups) if groups.keys() <= set(PARTS) else {UNSPLIT: list(range(len(images)))}


def _part_of_folder(source: Source, path: str) -> str:
    inside = os.path.relpath(path, source.root).split(os.sep)[:-1]
    return next((part for name in reversed(inside) if (part := part_of(name))), UNSPLIT)


def _folder_of(source: Source, images: CocoImages, index: int) -> str:
    return source.relative(Path(images.path(index)).parent)


def _select(source: Source, images: Any, part: str, paths: Sequence[Path], files: str) -> Any:
    """Return the images that lists name or that are in folders.

    Raises:
        DataError: there is none.
    """
    indices: set[int] = set()
    for path in paths:
        if path.is_dir():
            inside = os.path.abspath(path) + os.sep
            indices |= {i for i in range(len(images)) if os.path.abspath(images.path(i)).startswith(inside)}
        else:
            source.use(LISTS, path)
            indices |= _listed_indices(source, images, path, files)
    if not indices:
        raise DataError(f"{few(paths)} names no image of {files}; check `layout.{part}`")
    return Derived(images, sorted(indices))


def _listed_indices(source: Source, images: Any, path: Path, files: str) -> set[int]:
    """Return the indices of the images that a list names, with or without folders and endings."""
    lines = read_list(path)
    flat = not any("/" in line or "\\" in line for line in lines)
    stems: dict[str, list[int]] = defaultdict(list)
    for index in range(len(images)):
        name = os.path.splitext(os.path.relpath(images.path(index), source.root))[0].replace(os.sep, "/")
        stems[name.rpartition("/")[2] if flat else name].append(index)
    names, notes = find_listed(lines, path, stems.keys())
    source.notes += notes
    if missing := [name for name in names if name not in stems]:
        count = f"{len(missing)} of {number_of(len(names), 'name')} in {path}"
        source.notes.append(f"{count} without an image in {files}, {missing[0]:.100} first")
    return {index for name in names for index in stems.get(name, ())}


def _recognise(source: Source, groups: Mapping[str, Sequence[Path]], whole: Set[Path]) -> None:
    """Record the settings that open the same images again.

    Args:
        source: the data set.
        groups: files by part.
        whole: files whose images are not all of one part.
    """
    images, annotations = source.path(source.layout.images), source.path(source.layout.annotations)
    if images is not None:
        source.recognise(images=names_in([images], source.root)[0])
    others, files = lists_and_folders(source), {path for paths in groups.values() for path in paths}
    if len(files) == 1 and whole:
        source.recognise(annotations=names_in(files, source.root)[0])
    elif annotations is not None:
        source.recognise(annotations=names_in([annotations], source.root)[0])
    if others or len(files) > 1 or not whole:
        named = {part: others.get(part) or paths for part, paths in groups.items()}
        source.recognise(**{part: names_in(paths, source.root) for part, paths in named.items()})


def _pass_over_unlisted(source: Source, sets: Sequence[Any], parts: Sequence[Any]) -> None:
    """Give the images on disk that no file lists, and those that no part has, their reason."""
    listed, used = _all_paths(sets), _all_paths(parts)
    source.pass_over(NOT_IN_PART, *map(Path, listed - used))
    for folder in {os.path.dirname(path) for path in listed}:
        unlisted = (path for name in list_names(folder) if (path := os.path.join(folder, name)) not in listed)
        source.pass_over(UNLISTED, *(path for path in map(Path, unlisted) if is_image_file(path)))


def _all_paths(sets: Sequence[Any]) -> set[str]:
    return {os.path.abspath(images.path(index)) for images in sets for index in range(len(images))}


def repeated_images(file: CocoFile) -> list[str]:
    """Return a sentence if images are listed several times with different ids, each with some of the objects."""
    counts = Counter(record["file_name"] for record in file.images)
    if not (repeated := [name for name, count in counts.items() if count > 1]):
        return []
    count = number_of(len(repeated), "image")
    return [
        f"{file.path} lists {count} several times with different ids, {repeated[0]:.100} first; give all objects of an "
        "image the same image_id"
    ]


# Classes of several files


def join_categories(lists: Sequence[tuple[Path, Categories]], notes: list[str]) -> list[tuple[int, str]]:
    """Return the categories of all files, matched by name, with the ids of the first file that lists each.

    Args:
        lists: each file with its categories.
        notes: gets a sentence on each difference.

    Raises:
        DataError: two files have no name in common, or names that differ only by case.
    """
    first, categories = lists[0]
    joined = list(categories)
    for path, others in lists[1:]:
        _check_names(first, path, [name for _, name in joined], [name for _, name in others])
        ids = {name: number for number, name in joined}
        if changed := [name for number, name in others if ids.get(name, number) != number]:
            notes.append(f"{path} has other ids than {first} for {few(changed)}; classes are matched by name")
        if added := [(number, name) for number, name in others if name not in ids]:
            notes.append(f"{path} has classes that {first} lacks: {few([name for _, name in added])}")
        if absent := [name for name in ids if name not in {other for _, other in others}]:
            notes.append(f"{path} lacks classes of other files: {few(absent)}")
        for number, name in added:
            taken = {other for other, _ in joined}
            joined.append((number if number not in taken else max(taken) + 1, name))
    return joined


def unique_categories(file: CocoFile) -> list[tuple[int, str]]:
    """Return the categories, without unused ones whose name another category has.

    Roboflow lists the only class of a set twice: once as the parent of all classes.
    """
    names = [name for _, name in file.categories]
    doubled = {name for name in names if names.count(name) > 1}
    if not doubled:
        return list(file.categories)
    used = {item.get("category_id") for group in file.annotations.values() for item in group}
    kept = {name for number, name in file.categories if number in used}
    last = {name: number for number, name in file.categories}
    return [
        (number, name)
        for number, name in file.categories
        if name not in doubled or number in used or (name not in kept and last[name] == number)
    ]


def _check_names(first: Path, path: Path, names: Sequence[str], others: Sequence[str]) -> None:
    if names and others and not set(names) & set(others):
        raise DataError(
            f"{first} and {path} list different categories, {few(names)} and {few(others)}; give both the same, or the "
            "files to use as `layout.train` and `layout.val`"
        )
    spellings = {_spelling(name): name for name in names}
    for name in others:
        other = spellings.get(_spelling(name), name)
        if name not in names and other not in others:
            raise DataError(f"{first} lists {other!r} and {path} {name!r}; give both the same name")


def _spelling(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().replace("_", " ").replace("-", " ").split())
