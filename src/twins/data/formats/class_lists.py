"""Classes from lists: CSV tables and text files that give each image its class, alone or beside class folders."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from twins.data.base import UNSPLIT, Opened
from twins.data.class_matching import fold, imagenet_synsets
from twins.data.classes import TABLE_FILES, find_table_file, read_table
from twins.data.config import PARTS
from twins.data.formats.class_folders import (
    LabelledFiles,
    check_spellings,
    class_folders,
    find_class_folders,
    images_folder,
    open_class_folders,
)
from twins.data.formats.label_tables import (
    LIST_ENDINGS,
    LabelTable,
    Row,
    is_number,
    kind_of,
    list_part,
    read_label_table,
)
from twins.data.formats.listed_images import ImageIndex, folder_part
from twins.data.formats.mask_names import IMAGE_FOLDERS
from twins.data.formats.names import read_list
from twins.data.formats.source import LISTS, Source, names_in
from twins.data.images import list_images
from twins.data.parts import group_parts
from twins.errors import DataError, few, number_of

_LIST_FOLDERS = frozenset(
    ("meta", "metadata", "annotations", "annotation", "lists", "list", "split", "splits", "labels", "label", "csv")
)
_MAX_FILES = 50
"""Number of text files in a folder from which they are taken for labels of single images."""
_READ = ("labels", "paths", "ground_truth")


@dataclass(frozen=True)
class _Labelled:
    """An image with its class, and where it is from."""

    path: Path
    label: str
    list: Path


_Parts = dict[str, list[_Labelled]]


def find_class_lists(source: Source) -> tuple[Path, ...]:
    """Return the lists that give images their classes: those of the layout settings, or by their first lines."""
    given = _given_lists(source)
    found = [path for paths in given.values() for path in paths] or [
        path for path in _text_files(source) if kind_of(path) in _READ and not _is_template(path)
    ]
    return tuple(dict.fromkeys(found))


def open_class_lists(source: Source) -> Opened | None:
    """Open images whose classes are in lists; `None` if there are none, or they say the same as class folders.

    The parts are those of the lists' names, of a column such as `split`, or of the images' folders. Parts without a
    list may be class folders, as in ImageNet with its flat validation folder.

    Raises:
        DataError: lists contradict each other, the class folders or the files.
    """
    lists = find_class_lists(source)
    if not lists:
        return None
    explicit = bool(_given_lists(source))
    groups = _given_lists(source) or _group_lists(source, lists)
    index = ImageIndex(source.root, images_folder(source))
    tables = [(part, _read(path, index)) for part, paths in groups.items() for path in paths]
    listed = _resolve(source, index, tables, explicit=explicit)
    if not listed and len(find_class_folders(source)) < 2:
        _pass_over_list(source, tables[0][1], explicit=True)
    if not listed or (not explicit and _folders_say_the_same(source, listed, lists)):
        return None
    return _open(source, index, listed, tables, explicit=explicit)


def _open(
    source: Source, index: ImageIndex, listed: _Parts, tables: Sequence[tuple[str, LabelTable]], *, explicit: bool
) -> Opened:
    folders = _open_other_parts(source, listed, explicit=explicit)
    names = _class_names(source, listed, [table for _, table in tables], folders)
    in_order = next(iter(folders.parts.values())).names if folders else tuple(names.values())
    label_of = {name: label for label, name in enumerate(in_order)}
    first = "train" if "train" in listed else next(iter(listed))
    if folders is None:
        _check_known(listed, first)
    sets = {
        part: LabelledFiles([r.path for r in rows], [label_of[names[r.label]] for r in rows], in_order)
        for part, rows in listed.items()
    }
    paths = {part: list(dict.fromkeys(row.list for row in rows)) for part, rows in listed.items()}
    used = list(dict.fromkeys(path for group in paths.values() for path in group))
    source.use(LISTS, *used)
    source.names_from = source.names_from or ", ".join(map(source.relative, used))
    _recognise(source, paths, explicit=explicit)
    source.problems += _joined_classes(used, names)
    origins = {part: ", ".join(map(source.relative, group)) for part, group in paths.items()}
    _pass_over(source, index, listed)
    if folders is None:
        return Opened(_in_order(sets), "class lists", used, origins)
    origins = dict(folders.origins) | origins
    return Opened(_in_order({**folders.parts, **sets}), "class folders and lists", used, origins)


def _joined_classes(lists: Sequence[Path], labels: Iterable[str]) -> list[str]:
    """Return a sentence if classes are several of the others, as where an image has several."""
    known = set(labels)
    joined = [label for label in known if len(parts := re.split(r"[\s|;,]+", label)) > 1 and known.issuperset(parts)]
    if not joined:
        return []
    count = number_of(len(joined), "class", "classes")
    return [f"{count} of {lists[0]} made of others, such as {min(joined)!r:.100}, taken for a class of its own"]


def _in_order(parts: Mapping[str, LabelledFiles]) -> dict[str, LabelledFiles]:
    return {part: parts[part] for part in (*PARTS, UNSPLIT) if part in parts}


def _given_lists(source: Source) -> dict[str, list[Path]]:
    """Return the lists of the layout settings by part."""
    parts = {
        part: files
        for part, paths in source.part_paths().items()
        if (files := [path for path in paths if path.is_file()])
    }
    annotations = source.path(source.layout.annotations)
    if parts or annotations is None:
        return parts
    if annotations.is_dir():
        lists = [path for path in sorted(annotations.iterdir()) if kind_of(path) in _READ]
        if not lists:
            raise DataError(
                f"`layout.annotations` leads to {annotations}, which has no list of images with classes; give a CSV or "
                "text file"
            )
        return {part: list(group) for part, group in _group_lists(source, lists).items()}
    return {list_part(annotations) or UNSPLIT: [annotations]}


def _text_files(source: Source) -> list[Path]:
    """Return the files that may be lists: in the folder, in those of annotations, and in those of the parts."""
    base = images_folder(source)
    inner = [path for path in base.iterdir() if path.is_dir()]
    folders = [path for path in inner if path.name.lower() in _LIST_FOLDERS]
    folders += [path for group in group_parts(inner).values() for path in group]
    files: list[Path] = []
    for folder in dict.fromkeys((source.root, base, *sorted(folders))):
        texts = [p for p in folder.iterdir() if p.suffix.lower() in LIST_ENDINGS and not p.name.startswith(".")]
        files += sorted(p for p in texts if p.name not in TABLE_FILES) if len(texts) <= _MAX_FILES else []
    return files


def _is_template(path: Path) -> bool:
    """Return whether a file is of a competition's submissions or of predictions, whose classes are no true ones."""
    return any(word in path.stem.lower() for word in ("submission", "prediction"))


def _group_lists(source: Source, lists: Iterable[Path]) -> dict[str, list[Path]]:
    """Return the lists by part, of their name or folder.

    Raises:
        DataError: two lists are of the same part, or some are of parts and some of the whole set.
    """
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in lists:
        folder = None if path.parent == source.root else folder_part(path.parent.name)
        groups[list_part(path) or folder or UNSPLIT].append(path)
    whole = groups.pop(UNSPLIT, [])
    chosen = source.one_each(groups) | ({UNSPLIT: whole} if whole else {})
    if len(whole) > 1 or (whole and len(chosen) > 1):
        names = few([source.relative(path) for group in chosen.values() for path in group])
        raise DataError(
            f"{names} in {source.root} all give images their classes; name one as `layout.annotations`, or those of "
            "the parts as `layout.train` and `layout.val`"
        )
    return chosen


def _read(path: Path, index: ImageIndex) -> LabelTable:
    """Read a list; one without images is of all images of its part's folder, in order.

    Raises:
        DataError: the list has no image with a class, or ids that are no class ids.
    """
    if kind_of(path) != "ground_truth":
        return read_label_table(path)
    words, images = read_list(path), index.flat_images(list_part(path))
    same = len(words) == len(images)
    if same and all(map(is_number, words)):
        raise DataError(
            f"{path} holds numbers of ImageNet's devkit, whose order is not that of the sorted synsets; give "
            "a list with a file's name and its synset in each line, as `layout.val`"
        )
    return LabelTable(path, [Row(*pair) for pair in zip(images, words, strict=True)] if same else [])


def _resolve(source: Source, index: ImageIndex, tables: Sequence[tuple[str, LabelTable]], *, explicit: bool) -> _Parts:
    """Return the images of each part with their classes; notes rows that name no image."""
    listed: _Parts = defaultdict(list)
    for part, table in tables:
        folder = source.relative(table.path.parent)
        files = index.find([row.image for row in table.rows], folder, part, table.path)
        source.notes += files.note(str(table.path))
        rows = [(row, files.paths[row.image]) for row in table.rows if row.image in files.paths]
        if kind_of(table.path) == "paths":  # the class is the folder, so a path with another folder names no image
            rows = [(row, image) for row, image in rows if fold(row.label) == fold(image.parent.name)]
        if not rows or (not explicit and _is_of_one_folder(table)):
            _pass_over_list(source, table, explicit=explicit)
            continue
        source.faults += table.faults
        if missing := [row.image for row in table.rows if row.image not in files.paths]:
            count = f"{len(missing)} of {number_of(len(table.rows), 'row')}"
            source.faults.append(f"{count} in {table.path} with an image that does not exist, {missing[0]:.100} first")
        for name, group in _by_part(source, part, table.path, rows).items():
            listed[name] += [_Labelled(path, row.label, table.path) for row, path in _one_class(source, table, group)]
    return dict(listed)


def _pass_over_list(source: Source, table: LabelTable, *, explicit: bool) -> None:
    if explicit:
        first = f", such as {table.rows[0].image:.100}" if table.rows else ""
        raise DataError(
            f"{table.path} names no image that is in {source.root}{first}; give the images' folder as `layout.images`, "
            "or correct the list"
        )
    source.pass_over("a list that gives no image of this folder a class", table.path)


def _is_of_one_folder(table: LabelTable) -> bool:
    """Return whether a list of paths names images of one folder, which then is no class."""
    return kind_of(table.path) == "paths" and len({row.label for row in table.rows}) == 1


def _by_part(
    source: Source, part: str, path: Path, rows: Sequence[tuple[Row, Path]]
) -> dict[str, list[tuple[Row, Path]]]:
    """Return rows by part: that of the list, of its column, or of the images' folders if all are in some.

    Raises:
        DataError: a column has other values than parts.
    """
    groups: dict[str, list[tuple[Row, Path]]] = defaultdict(list)
    by_folder = {image: _part_of_image(source, image) for _, image in rows}
    use_folders = part == UNSPLIT and not source.layout.images and all(by_folder.values())
    for row, image in rows:
        name = row.part or (by_folder[image] if use_folders else None) or part
        name = "train" if name == "trainval" else name
        if name not in (*PARTS, UNSPLIT):
            raise DataError(f"{path} has the part {name:.50}; write train, val or test for each image")
        if row.part != "":
            groups[name].append((row, image))
    if missing := sum(row.part == "" for row, _ in rows):
        source.faults.append(f"{number_of(missing, 'image')} of {path} without a part")
    return groups


def _part_of_image(source: Source, image: Path) -> str | None:
    """Return the part of the folder that an image is in: one of the layout settings, or by its name."""
    given = {part: [p for p in paths if p.is_dir()] for part, paths in source.part_paths().items()}
    if any(given.values()):
        return next((part for part, paths in given.items() if any(image.is_relative_to(p) for p in paths)), None)
    return folder_part(source.relative(image.parent))


def _one_class(source: Source, table: LabelTable, rows: Sequence[tuple[Row, Path]]) -> list[tuple[Row, Path]]:
    """Return the rows of images with one class, each once; the others are faults.

    Raises:
        DataError: more than half of the images have several classes.
    """
    by_image: dict[Path, dict[str, Row]] = defaultdict(dict)
    for row, image in rows:
        by_image[image][row.label] = row
    several = [image for image, labels in by_image.items() if len(labels) > 1]
    if 2 * len(several) > len(by_image):
        raise DataError(f"{table.path} gives {len(several)} of {len(by_image)} images several classes; give each one")
    if several:
        text = f"{number_of(len(several), 'image')} of {table.path} with several classes"
        source.faults.append(f"{text}, {source.relative(several[0])} first")
    return [(next(iter(labels.values())), image) for image, labels in by_image.items() if len(labels) == 1]


def _folders_say_the_same(source: Source, listed: _Parts, lists: Sequence[Path]) -> bool:
    """Return whether the class folders of the listed images give them the same classes and at least as many parts.

    If only the parts are missing there, the classes are taken from the folders and the parts from the lists.

    Raises:
        DataError: images have another class in the list than by their folder.
    """
    folder_of = {row.path: _class_folder(source, row.path) for rows in listed.values() for row in rows}
    classes = {path.name for path in find_class_folders(source)}
    classes = classes if len(classes) > 1 else set()
    if not all(folder_of.values()) or (len(set(folder_of.values())) < 2 and not classes & set(folder_of.values())):
        return False
    rows = [row for group in listed.values() for row in group]
    if (other := _first_difference(rows, folder_of, classes)) is None:
        return False
    if other and source.layout.images:
        source.pass_over("a list, where `layout.images` chooses the class folders", *lists)
        return True
    if other:
        raise DataError(
            f"{other[0].list} gives {source.relative(other[0].path)} the class {other[0].label}, and its folder is of "
            f'another; name the list as `layout.annotations="{source.relative(other[0].list)}"`, or the folders as '
            '`layout.images="."`'
        )
    in_folders = any(_part_of_image(source, row.path) for row in rows)
    if in_folders or (set(listed) <= {UNSPLIT, "train"} and not _leaves_out(source, listed)):
        _check_parts(source, listed)
        names = few([source.relative(path) for path in lists])
        source.notes.append(f"{names} and the class folders give the images the same classes; the folders are read")
        source.pass_over("a list that gives images the classes of their folders", *lists)
        return True
    listed |= {
        part: [_Labelled(row.path, folder_of[row.path] or row.label, row.list) for row in group]
        for part, group in listed.items()
    }
    return False


def _leaves_out(source: Source, listed: _Parts) -> bool:
    """Return whether class folders hold images that lists give no class."""
    paths = {os.path.abspath(row.path) for rows in listed.values() for row in rows}
    return any(os.path.abspath(path) not in paths for path in list_images(images_folder(source)))


def _check_parts(source: Source, listed: _Parts) -> None:
    for part, rows in listed.items():
        for row in rows:
            folder = _part_of_image(source, row.path)
            if part != UNSPLIT and folder not in (part, None, "trainval"):
                raise DataError(
                    f"{row.list} is of the {part} part and names {source.relative(row.path)}, in a folder of the "
                    f"{folder} part; give the parts as `layout.train` and `layout.val`"
                )


def _class_folder(source: Source, image: Path) -> str | None:
    """Return the class by an image's folder: the first below the folders of sets, parts and images."""
    for folder in Path(source.relative(image.parent)).parts:
        if not (folder_part(folder) or folder in IMAGE_FOLDERS or folder in (".", "..", "data", "dataset")):
            return folder
    return None


def _first_difference(
    rows: Sequence[_Labelled], folder_of: Mapping[Path, str | None], classes: Set[str]
) -> tuple[_Labelled] | tuple[()] | None:
    """Return the first image whose folder is of another class than the list says, or nothing.

    `None` if the folders are no classes: they share classes, and are not called like them.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[folder_of[row.path] or ""][row.label] += 1
    labels = {fold(label): label for count in counts.values() for label in count}
    of_folders = bool(labels.keys() & set(map(fold, classes)))
    usual = {
        folder: labels.get(fold(folder), folder if of_folders else count.most_common(1)[0][0])
        for folder, count in counts.items()
    }
    named = sum(fold(folder) in labels or (of_folders and folder in classes) for folder in counts)
    pure = sum(count[usual[folder]] for folder, count in counts.items())
    alike = len(set(usual.values())) == len(usual) and 2 * pure >= len(rows)
    if not alike and 2 * named < len(counts):
        return None
    different = [row for row in rows if row.label != usual[folder_of[row.path] or ""]]
    return (different[0],) if different else ()


def _open_other_parts(source: Source, listed: _Parts, *, explicit: bool) -> Opened | None:
    """Open the class folders of a training part that has no list."""
    given = {
        part: folders
        for part, paths in source.part_paths().items()
        if (folders := [path for path in paths if path.is_dir()]) and part not in listed
    }
    if not given and not explicit and not {"train", UNSPLIT} & listed.keys():
        folders = group_parts(class_folders(source.root)).get("train", [])
        given = {"train": folders} if folders and any(map(list_images, class_folders(folders[0]))) else {}
    return open_class_folders(source, given) if given else None


def _class_names(
    source: Source, listed: _Parts, tables: Sequence[LabelTable], folders: Opened | None
) -> dict[str, str]:
    """Return the class name of each label in the lists, in order of class id.

    Raises:
        DataError: there are fewer than two classes, or names that differ only in spelling.
    """
    labels = {row.label for rows in listed.values() for row in rows}
    labels |= {name for table in tables for name in table.names}
    known = next(iter(folders.parts.values())).names if folders else None
    where = tables[0].path
    names = _name_numbers(source, labels, listed, known) if all(map(is_number, labels)) else None
    if names is not None and (unknown := sorted(labels - names.keys())):
        raise DataError(f"{where} has classes that the class folders lack: {few(unknown)}; rename or remove them")
    if names is None:
        names = {label: label for label in sorted(labels, key=lambda label: (is_number(label) and int(label), label))}
        if known is not None and (unknown := sorted(labels - set(known))):
            raise DataError(f"{where} has classes that the class folders lack: {few(unknown)}; rename or remove them")
    if len(names) < 2 and {"train", UNSPLIT} & listed.keys():
        raise DataError(f"{where} has one class only, {few(list(names))}; at least two classes are needed")
    check_spellings(names.values(), str(where), "correct the list")
    return names


def _name_numbers(
    source: Source, labels: set[str], listed: _Parts, known: Sequence[str] | None
) -> dict[str, str] | None:
    """Return names for labels that are numbers: of the class folders or ImageNet's synsets in order, or of a file."""
    numbers, first = {int(label) for label in labels}, next(iter(listed.values()))[0]
    by_value = {int(name): name for name in known or () if name.isascii() and name.isdigit()}
    if known and (len(by_value) == len(known) or set(known) >= labels):
        return None if set(known) >= labels else {str(value): name for value, name in by_value.items()}
    flat_imagenet = first.path.name.startswith("ILSVRC2012_val_")
    if known is not None or flat_imagenet:
        names, what = (
            (known, "the sorted class folders") if known else (imagenet_synsets(), "ImageNet's sorted synsets")
        )
        if max(numbers) >= len(names):
            raise DataError(
                f"{first.list} has the class {max(numbers)}, and {what} are {len(names)}, from 0; give names instead"
            )
        source.notes.append(
            f"the numbers in {source.relative(first.list)} are positions in {what}, from 0: {min(numbers)} is "
            f"{names[min(numbers)]}"
        )
        return {str(number): name for number, name in enumerate(names)}
    if (file := find_table_file(source.root)) is None:
        source.notes.append(
            f"the classes in {source.relative(first.list)} are numbers without names; classes.txt can name them"
        )
        return None
    table = read_table(file)
    if numbers - set(table.values):
        missing = few(sorted(numbers - set(table.values)))
        raise DataError(f"{first.list} has the classes {missing}, which {file} does not name; add them")
    source.use_names(file)
    least = min(numbers)
    source.notes.append(
        f"the numbers in {source.relative(first.list)} are those of {source.relative(file)}: {least} is "
        f"{table.names[table.values.index(least)]}"
    )
    return {str(value): name for value, name in zip(table.values, table.names, strict=True)}


def _check_known(listed: _Parts, first: str) -> None:
    """Raise DataError if another part has a class that the first one lacks."""
    labels = {row.label for row in listed[first]}
    for part, rows in listed.items():
        if "train" in listed and (unknown := sorted({row.label for row in rows} - labels)):
            raise DataError(
                f"{rows[0].list} has classes of the {part} part that the {first} part lacks: {few(unknown)}; rename or "
                "remove them"
            )


def _recognise(source: Source, paths: Mapping[str, Sequence[Path]], *, explicit: bool) -> None:
    """Record the layout: the settings that were given, or the lists by part."""
    if explicit:
        given = {name: value for name, value in vars(source.layout).items() if value}
        source.recognise(**given)
        return
    images = {"images": source.layout.images} if source.layout.images else {}
    if len({path for group in paths.values() for path in group}) == 1:
        source.recognise(**images, annotations=names_in(next(iter(paths.values())), source.root)[0])
    else:
        source.recognise(**images, **{part: names_in(group, source.root) for part, group in paths.items()})


def _pass_over(source: Source, index: ImageIndex, listed: _Parts) -> None:
    """Give the reasons for images without a class, and for files that are no lists of classes."""
    used = {os.path.abspath(row.path) for rows in listed.values() for row in rows}
    unlisted = [path for path in index.paths if os.path.abspath(path) not in used]
    source.pass_over("an image that no list gives a class", *unlisted)
    for path in _text_files(source):
        if _is_template(path):
            source.pass_over("submissions or predictions, which are no true classes", path)
        elif kind_of(path) == "unlabelled":
            source.pass_over("a list of images without classes", path)
