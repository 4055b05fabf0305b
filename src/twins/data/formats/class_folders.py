"""Class folders: one folder of images per class."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from twins.data.base import UNSPLIT, Opened
from twins.data.config import LayoutConfig
from twins.data.formats.files import ImageFiles
from twins.data.formats.mask_names import IMAGE_FOLDERS
from twins.data.formats.source import Source, names_in
from twins.data.images import count_unread, is_hidden, is_image_file, list_images, walk
from twins.data.parts import part_of, split_part
from twins.errors import DataError, count_list, few, number_of


class LabelledFiles(ImageFiles):
    """Images in files, with one class id each."""

    def __init__(self, images: Sequence[Path], labels: Sequence[int], names: Sequence[str]) -> None:
        super().__init__(images)
        self.labels, self.names = list(labels), tuple(names)

    def target(self, index: int) -> int:
        """Return an image's class id."""
        return self.labels[index]


_MASK_NAME = re.compile(r"(.+?)[ _-](?:masks?|gt|groundtruth|segmentation)(?:[ _-]?\d+)?", re.IGNORECASE)
Groups = list[tuple[Path, list[Path]]]
"""Folders with their class folders."""


def open_class_folders(source: Source, given: Mapping[str, Sequence[Path]] | None = None) -> Opened:
    """Open class folders, in folders of the parts or unsplit; each of them may be in another folder of its own.

    Class ids follow the sorted names.

    Args:
        source: the data set.
        given: the folders of the parts; by default those of the layout settings, or by their names.

    Raises:
        DataError: there are no classes or no images; a part has a class that training lacks; or folders could be parts
            as well as classes.
    """
    base = images_folder(source)
    parts: Mapping[str, Sequence[Path]] = given or _given_parts(source)
    by_name = not parts and not source.layout.images
    parts = parts or ({UNSPLIT: [base]} if source.layout.images else _find_parts(source, base))
    without_class = _flat_test_folders(parts[UNSPLIT][0]) if by_name and UNSPLIT in parts else []
    inside = {os.path.abspath(folder) for folders in (*parts.values(), without_class) for folder in folders}
    classes: dict[str, Groups] = {
        part: [
            (folder, [entry for entry in class_folders(folder) if os.path.abspath(entry) not in inside])
            for folder in folders
        ]
        for part, folders in parts.items()
    }
    _check_links(classes)
    names, name_of = _match_names(source, classes, strict=source.layout == LayoutConfig())
    _pass_over_stray(source, [folder for folders in parts.values() for folder in folders])
    if UNSPLIT not in parts:
        source.recognise(**{part: names_in(folders, source.root) for part, folders in parts.items()})
    elif source.layout.images or parts[UNSPLIT][0] != source.root:
        source.recognise(images=names_in(parts[UNSPLIT], source.root)[0])
    source.names_from = "the folders"
    return Opened(
        {part: _collect(source, groups, names, name_of) for part, groups in classes.items()},
        "class folders",
        [folder for folders in parts.values() for folder in folders],
        {part: ", ".join(map(source.relative, folders)) for part, folders in parts.items()},
    )


def find_class_folders(source: Source) -> tuple[Path, ...]:
    """Return the folders with images that may be classes: in the folders of the parts, or in the data folder itself."""
    base = images_folder(source)
    parts = [path for paths in source.part_paths().values() for path in paths if path.is_dir()]
    parts = parts or [path for path in class_folders(base) if part_of(path.name) and not source.layout.images]
    inner = [entry for folder in parts for entry in class_folders(folder) if _holds_images(entry)]
    return tuple(inner or [entry for entry in class_folders(base) if _holds_images(entry)])


def images_folder(source: Source) -> Path:
    """Return the folder of the class folders or images; raises DataError if it is a file."""
    folder = source.path(source.layout.images) or source.root
    if not folder.is_dir():
        raise DataError(f"`layout.images` leads to the file {folder}; give the folder of the images")
    return folder


def class_folders(root: Path) -> list[Path]:
    """Return the class folders, sorted by name, without hidden ones, those of archivers, and links back to the root."""
    around = {os.path.realpath(folder) for folder in (root, *Path(os.path.realpath(root)).parents)}
    return sorted(
        entry
        for entry in root.iterdir()
        if entry.is_dir()
        and not is_hidden(entry.name)
        and not (entry.is_symlink() and os.path.realpath(entry) in around)
    )


def check_spellings(names: Iterable[str], where: str, advice: str) -> None:
    """Raise DataError for two names that differ only in case, Unicode form or separators."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[_spelling(name)].append(name)
    if alike := next((group for group in groups.values() if len(set(group)) > 1), None):
        shown = " and ".join(map(ascii, sorted(set(alike))[:2]))
        raise DataError(
            f"{where} has the classes {shown}, whose names differ only in case, Unicode form or separators; {advice}"
        )


def _spelling(name: str) -> str:
    """Return a name without what may differ between systems: case, Unicode form and the kind of separators."""
    return re.sub(r"[\s_\-]+", " ", unicodedata.normalize("NFC", _composed(name).casefold())).strip()


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _match_names(source: Source, classes: Mapping[str, Groups], *, strict: bool) -> tuple[list[str], dict[str, str]]:
    """Return the sorted class names of the training part, or without one of all parts, and the class of each folder.

    Names in another Unicode form are the same class.

    Raises:
        DataError: a part has a class that training lacks, or `strict`, two classes that differ only in spelling.
    """
    first = next(iter(classes))
    chosen = [classes[first]] if first in ("train", UNSPLIT) else list(classes.values())
    folder = classes[first][0][0]
    found = [entry.name for groups in chosen for _, entries in groups for entry in entries]
    names = _class_names(folder, found, learned=first in ("train", UNSPLIT))
    if strict:
        check_spellings(names, str(folder), 'rename one, or give `layout.images="."` if both are classes')
    form_of = {_composed(name): name for name in reversed(names)} | {name: name for name in names}
    name_of: dict[str, str] = {}
    for groups in classes.values():
        for parent, entries in groups:
            folders = [entry.name for entry in entries]
            name_of |= {name: form_of.get(name, form_of.get(_composed(name), "")) for name in folders}
            if unknown := sorted(name for name in folders if not name_of[name]):
                check_spellings([*names, *unknown], f"{parent} with {folder}", "give them the same name")
                raise DataError(f"{parent} has classes that {folder} lacks: {few(unknown)}; rename or remove them")
    if others := [name for name in name_of if name != name_of[name]]:
        count = number_of(len(others), "class folder")
        source.notes.append(f"{count} matched although in another Unicode form, {others[0]} first")
    return names, name_of


def _check_links(classes: Mapping[str, Groups]) -> None:
    """Raise DataError if two class folders of a part are one folder, by a link."""
    for groups in classes.values():
        first: dict[str, Path] = {}
        for entry in (entry for _, entries in groups for entry in entries):
            other = first.setdefault(os.path.realpath(entry), entry)
            if other.name != entry.name:
                raise DataError(
                    f"{other} and {entry} are the same folder, by a link; its images can have one class only"
                )


def _pass_over_stray(source: Source, folders: Sequence[Path]) -> None:
    """Pass over images that are directly beside class folders, and say so."""
    for folder in dict.fromkeys(folders):
        stray = [path for path in folder.iterdir() if is_image_file(path) and path.is_file()]
        source.pass_over("beside the class folders, so it has no class", *stray)
        if stray:
            count = number_of(len(stray), "image")
            source.notes.append(
                f"{count} directly in {folder}, beside its class folders, passed over because no folder gives a class"
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
    nested = [path for path in others if any(map(_holds_images, class_folders(path)))]
    if labelled and (not others or ("train" in labelled and (len(labelled) > 1 or not nested))):
        unlabelled = [folder for part, folder in parts.items() if part not in labelled]
        source.pass_over("without class folders, so its images have no class", *unlabelled)
        return {part: [folder] for part, folder in labelled.items()}
    if outer == set(unlabelled := _flat_test_folders(base)) and len(others) > 1:
        names = few([path.name for path in unlabelled])
        if unlabelled:
            source.notes.append(
                f"{names} in {base} is taken for images to test on, which have no class, as there are no folders in "
                'it; give `layout.images="."` if it is a class'
            )
        source.pass_over("a test part without class folders, so its images have no class", *unlabelled)
        _check_not_parts(base, others)
        return {UNSPLIT: [base]}
    if outer and (others or any(map(_has_own_images, outer))):
        raise _ambiguous(base, sorted(outer), others)
    if len(others) == 1 and not _has_own_images(others[0]) and _holds_set(others[0]):
        return _find_parts(source, others[0])
    _check_not_parts(base, others)
    return {UNSPLIT: [base]}


def _flat_test_folders(base: Path) -> list[Path]:
    """Return the folders named like a test part that hold images and no folders."""
    folders = [path for path in class_folders(base) if part_of(path.name) == "test"]
    return [path for path in folders if _has_own_images(path) and not class_folders(path)]


def _holds_set(folder: Path) -> bool:
    """Return whether a folder holds several folders, or one named like a part."""
    entries = class_folders(folder)
    return len(entries) > 1 or any(part_of(entry.name) for entry in entries)


def _innermost(folder: Path, part: str) -> Path:
    """Return the folder of a part inside its folder, as in `training_set/training_set`, or the folder itself."""
    entries = class_folders(folder)
    if len(entries) == 1 and part_of(entries[0].name) == part and not _has_own_images(entries[0]):
        return _innermost(entries[0], part)
    return folder


def _ambiguous(base: Path, parts: Sequence[Path], others: Sequence[Path]) -> DataError:
    names, classes = few([path.name for path in parts]), few([path.name for path in others])
    if not others:
        return DataError(
            f"{base} holds {names}, named like parts of a data set, and their images are in no class folders; put the "
            "images of each class in a folder with its name, add a CSV file with a column `image` and one `label`, or "
            'give `layout.images="."` if these are the classes'
        )
    return DataError(
        f"{base} holds {names}, named like parts of a data set, beside {classes}, which may be classes; give the "
        'folders of the parts as `layout.train="..."` and `layout.val="..."`, or `layout.images="."` if all of them '
        "are classes"
    )


def _check_not_parts(base: Path, folders: Sequence[Path]) -> None:
    """Raise DataError if folders may be parts, by their names or as most of those in them have the same names."""
    _check_part_names(base, folders)
    inner = [
        frozenset() if _has_own_images(folder) else frozenset(path.name for path in class_folders(folder))
        for folder in folders
    ]
    counts = Counter(name for group in inner for name in group)
    shared = [name for name, count in counts.items() if count > 1]
    if all(inner) and len(shared) > 1 and 2 * len(shared) >= len(counts):
        names = few([folder.name for folder in folders])
        raise DataError(
            f"{names} in {base} hold folders of the same names, {few(sorted(shared))}, so either could be the "
            'classes; give the folders of the parts as `layout.train="..."` and `layout.val="..."`, or '
            f'`layout.images="."` if {names} are the classes'
        )


def _check_part_names(base: Path, folders: Sequence[Path]) -> None:
    """Raise DataError if names differ by the name of a part only, or if parts are inside the folders."""
    named: dict[str, dict[str, str]] = defaultdict(dict)
    for folder in folders:
        if found := split_part(folder.name):
            named[found[1]].setdefault(found[0], folder.name)
    if alike := next((list(group.values()) for group in named.values() if len(group) > 1), None):
        raise DataError(
            f"{few(alike)} in {base} differ only by the name of a part; give the folders of the parts as "
            '`layout.train="..."` and `layout.val="..."`, or `layout.images="."` if they are classes'
        )
    inside = {part_of(path.name): path for folder in folders for path in class_folders(folder) if _holds_images(path)}
    inside.pop(None, None)
    if len(inside) > 1:
        names = few([os.path.relpath(path, base) for path in inside.values()])
        raise DataError(
            f"{base} has folders of parts inside those of classes, {names}; move them to {next(iter(inside))}/"
            f'{folders[0].name} and so on, or give `layout.images="."` if the images of all parts are one set'
        )


def _has_own_images(folder: Path) -> bool:
    """Return whether a folder itself holds an image."""
    return any(is_image_file(path) and path.is_file() for path in folder.iterdir())


def _holds_images(folder: Path) -> bool:
    return next((True for name in walk(folder, hidden=False) if is_image_file(Path(name))), False)


def _class_names(folder: Path, names: Sequence[str], *, learned: bool) -> list[str]:
    """Return the sorted class names; raises DataError if they can be none, or too few to be `learned`."""
    names = sorted(set(names))
    if not names:
        raise DataError(f"{folder} has no class folders; put the images of each class in a folder with its name")
    if {"Annotations", "JPEGImages"} <= set(names):
        raise DataError(
            f'{folder} has Pascal VOC\'s folders instead of class folders; for its boxes use `task="detection"`'
        )
    if len(names) == 1 and (learned or names[0].lower() in IMAGE_FOLDERS):
        lists = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() == ".json")
        hint = f'; if {lists[0]} lists boxes, use `task="detection"` or `task="instance"`' if lists else ""
        raise DataError(f"{folder} has one class folder only, {names[0]}; at least two classes are needed{hint}")
    return names


def _collect(source: Source, groups: Groups, names: Sequence[str], name_of: Mapping[str, str]) -> LabelledFiles:
    """Return the images of a part; a class whose pictures cannot be read is a problem."""
    positions = {name: label for label, name in enumerate(names)}
    label_of = {name: positions[form] for name, form in name_of.items()}
    files, labels, mixed = [], [], []
    for _, entries in groups:
        for entry in sorted(entries, key=lambda path: label_of[path.name]):
            images = list_images(entry)
            mixed += [entry] if len(_inner_folders(entry, images)) > 1 else []
            if not images and (pictures := count_unread(entry)):
                source.problems.append(f"{entry} holds only pictures that Pillow cannot read, {count_list(pictures)}")
            files += images
            labels += [label_of[entry.name]] * len(images)
    if not files:
        folder = groups[0][0]
        unread = count_list(count_unread(folder))
        hint = "known endings are .jpg, .png, .webp and others"
        hint = hint if unread == "nothing" else f"Pillow cannot read its pictures ({unread}); convert them"
        raise DataError(f"{folder} holds no images in its class folders; {hint}")
    if mixed:
        inside = few([name for name in _inner_folders(mixed[0], list_images(mixed[0])) if name != "."])
        count = number_of(len(mixed), "class folder")
        source.notes.append(f"{count} with folders inside, whose images are of the class: {mixed[0]} has {inside}")
    source.problems += _masks_among(files)
    return LabelledFiles(files, labels, names)


def _inner_folders(folder: Path, images: Sequence[Path]) -> list[str]:
    """Return the folders in a class folder that hold its images by name, `.` for those directly in it."""
    inside = (path.relative_to(folder).parts for path in images)
    return sorted({parts[0] if len(parts) > 1 else "." for parts in inside})


def _masks_among(files: Sequence[Path]) -> list[str]:
    """Return a sentence if images are called like the masks of others in their folder, as `x_mask.png` of `x.jpg`."""
    stems = {(path.parent, path.stem) for path in files}
    matches = [(path, _MASK_NAME.fullmatch(path.stem)) for path in files]
    masks = [path for path, match in matches if match and (path.parent, match[1]) in stems]
    if not masks:
        return []
    count = number_of(len(masks), "image")
    return [f"{count} called like the masks of others, and read as images of the class, {masks[0]} first; remove them"]
