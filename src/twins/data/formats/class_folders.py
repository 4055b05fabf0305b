"""Class folders: one folder of images per class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from twins.data.base import UNSPLIT, Opened
from twins.data.formats.files import ImageFiles
from twins.data.formats.mask_folders import MASK_FOLDERS
from twins.data.formats.source import Source, names_in
from twins.data.images import count_unread, is_image_file, list_images, walk
from twins.data.parts import part_of
from twins.errors import DataError, count_list, few


class LabelledFiles(ImageFiles):
    """Images in files, with one class id each."""

    def __init__(self, images: Sequence[Path], labels: Sequence[int], names: Sequence[str]) -> None:
        super().__init__(images)
        self.labels, self.names = list(labels), tuple(names)

    def target(self, index: int) -> int:
        """Return an image's class id."""
        return self.labels[index]


def open_class_folders(source: Source) -> Opened:
    """Open class folders, in folders of the parts or unsplit; each of them may be in another folder of its own.

    Class ids follow the sorted names.

    Raises:
        DataError: there are no classes or no images; a part has a class that training lacks; or folders could be parts
            as well as classes.
    """
    base = source.path(source.layout.images) or source.root
    parts = _given_parts(source) or ({UNSPLIT: [base]} if source.layout.images else _find_parts(source, base))
    inside = {os.path.abspath(folder) for folders in parts.values() for folder in folders}
    classes = {
        part: [
            (folder, [entry for entry in class_folders(folder) if os.path.abspath(entry) not in inside])
            for folder in folders
        ]
        for part, folders in parts.items()
    }
    first = next(iter(parts))
    names = _class_names(parts[first][0], [entry.name for _, entries in classes[first] for entry in entries])
    for groups in classes.values():
        for folder, entries in groups:
            if unknown := sorted({entry.name for entry in entries} - set(names)):
                raise DataError(
                    f"{folder} has classes that {parts[first][0]} lacks: {few(unknown)}; rename or remove them"
                )
    if UNSPLIT not in parts:
        source.recognise(**{part: names_in(folders, source.root) for part, folders in parts.items()})
    elif parts[UNSPLIT][0] != source.root:
        source.recognise(images=names_in(parts[UNSPLIT], source.root)[0])
    source.names_from = "the folders"
    return Opened(
        {part: _collect(groups, names) for part, groups in classes.items()},
        "class folders",
        [folder for folders in parts.values() for folder in folders],
        {part: ", ".join(map(source.relative, folders)) for part, folders in parts.items()},
    )


def class_folders(root: Path) -> list[Path]:
    """Return the class folders, sorted by name, without hidden ones and those of archivers."""
    return sorted(
        entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__MACOSX", "@"))
    )


def _given_parts(source: Source) -> dict[str, list[Path]]:
    """Return the folders of the parts by the layout settings."""
    parts = source.part_paths()
    files = [path for paths in parts.values() for path in paths if not path.is_dir()]
    if files:
        raise DataError(f"{files[0]} is a file, and class folders need a folder for each part; give folders")
    return parts


def _find_parts(source: Source, base: Path) -> dict[str, list[Path]]:
    """Return the folder of each part in a folder, or the folder itself as an unsplit set.

    Raises:
        DataError: folders could be parts as well as classes.
    """
    parts = {part: _innermost(paths[0], part) for part, paths in source.part_folders(base).items()}
    outer = {path for path in class_folders(base) if part_of(path.name)}
    others = [path for path in class_folders(base) if path not in outer and _holds_images(path)]
    labelled = {part: folder for part, folder in parts.items() if any(map(_holds_images, class_folders(folder)))}
    if labelled and ("train" in labelled or not others):
        unlabelled = [folder for part, folder in parts.items() if part not in labelled]
        source.pass_over("without class folders, so its images have no class", *unlabelled)
        return {part: [folder] for part, folder in labelled.items()}
    if outer and others:
        raise _ambiguous(base, sorted(outer), others)
    if len(others) == 1 and not _has_own_images(others[0]) and len(class_folders(others[0])) > 1:
        return _find_parts(source, others[0])
    _check_not_parts(base, others)
    return {UNSPLIT: [base]}


def _innermost(folder: Path, part: str) -> Path:
    """Return the folder of a part inside its folder, as in `training_set/training_set`, or the folder itself."""
    entries = class_folders(folder)
    if len(entries) == 1 and part_of(entries[0].name) == part and not _has_own_images(entries[0]):
        return _innermost(entries[0], part)
    return folder


def _ambiguous(base: Path, parts: Sequence[Path], others: Sequence[Path]) -> DataError:
    names, classes = few([path.name for path in parts]), few([path.name for path in others])
    return DataError(
        f"{base} holds {names}, named like parts of a data set, beside {classes}, which may be classes; give the "
        'folders of the parts as `layout.train="..."` and `layout.val="..."`, or `layout.images="."` if all of them '
        "are classes"
    )


def _check_not_parts(base: Path, folders: Sequence[Path]) -> None:
    """Raise DataError if folders without images of their own all hold the same class folders."""
    inner = [
        frozenset() if _has_own_images(folder) else frozenset(path.name for path in class_folders(folder))
        for folder in folders
    ]
    if len(folders) > 1 and len(set(inner)) == 1 and len(inner[0]) > 1:
        if {path.name for path in folders} & set(MASK_FOLDERS):
            raise DataError(
                f"{few([folder.name for folder in folders])} in {base} are named like a folder of images and one of "
                'masks; choose `task="semantic"`'
            )
        names = few([folder.name for folder in folders])
        raise DataError(
            f"{names} in {base} hold folders of the same names, {few(sorted(inner[0]))}, so either could be the "
            'classes; give the folders of the parts as `layout.train="..."` and `layout.val="..."`, or '
            f'`layout.images="."` if {names} are the classes'
        )


def _has_own_images(folder: Path) -> bool:
    """Return whether a folder itself holds an image."""
    return any(is_image_file(path) and path.is_file() for path in folder.iterdir())


def _holds_images(folder: Path) -> bool:
    return next((True for name in walk(folder, hidden=False) if is_image_file(Path(name))), False)


def _class_names(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the sorted class names; raises DataError if they can be none."""
    names = sorted(set(names))
    if not names:
        raise DataError(f"{folder} has no class folders; put the images of each class in a folder with its name")
    if {"Annotations", "JPEGImages"} <= set(names):
        raise DataError(
            f'{folder} has Pascal VOC\'s folders instead of class folders; for its boxes use `task="detection"`'
        )
    if len(names) == 1:
        lists = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() == ".json")
        hint = f'; if {lists[0]} lists boxes, use `task="detection"` or `task="instance"`' if lists else ""
        raise DataError(f"{folder} has one class folder only, {names[0]}; at least two classes are needed{hint}")
    return names


def _collect(groups: Sequence[tuple[Path, Sequence[Path]]], names: Sequence[str]) -> LabelledFiles:
    label_of = {name: label for label, name in enumerate(names)}
    files, labels = [], []
    for _, entries in groups:
        for entry in sorted(entries, key=lambda path: label_of[path.name]):
            images = list_images(entry)
            files += images
            labels += [label_of[entry.name]] * len(images)
    if not files:
        folder = groups[0][0]
        unread = count_list(count_unread(folder))
        hint = "known endings are .jpg, .png, .webp and others"
        hint = hint if unread == "nothing" else f"Pillow cannot read its pictures ({unread}); convert them"
        raise DataError(f"{folder} holds no images in its class folders; {hint}")
    return LabelledFiles(files, labels, names)
