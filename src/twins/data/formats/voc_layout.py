"""Where VOC's XML files and their images are: folders, the image of each XML file, and lists of parts."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePath
from typing import NamedTuple

from twins.data.formats.names import FoundFiles, match_names
from twins.data.formats.source import Source
from twins.data.formats.voc_files import ROOT, read_filename
from twins.data.images import is_folder, is_image_file, list_images, walk
from twins.data.parts import group_parts
from twins.errors import DataError, number_of

_IMAGES = ("jpegimages", "images", "imgs", "image", "img", "pictures", "photos", "data")
"""Names of the folder of images, in lower case, the likeliest first; ILSVRC's is `Data`."""
_ANNOTATIONS = ("annotations", "annotation", "annots", "xmls", "xml", "labels", "label", "bbox", "bboxes")
"""Names of the folder of XML files, likewise."""
_YOLO_FOLDERS = ("labels", "label")
"""Folders that are YOLO's where a label file lies beside each XML file."""
_SEARCHED = 100
"""Subfolders in which a data set is looked for."""
_PEEKED = 5
"""XML files whose beginning is read to recognise the format."""
_BEGINNING = 4096
"""Bytes of a file in which its first element is looked for."""


class Unit(NamedTuple):
    """A folder of images and the folder of their XML files, which may be the same."""

    images: Path
    annotations: Path

    @property
    def base(self) -> Path:
        """The folder that holds both."""
        absolute = self.images.is_absolute() != self.annotations.is_absolute()
        return Path(os.path.commonpath([os.path.abspath(path) if absolute else path for path in self]))


class Pair(NamedTuple):
    """An image and its XML file; one of them may be missing."""

    image: Path
    xml: Path


@dataclass
class Pool:
    """The images and XML files of a unit, by their paths in its folders without endings, with `/` between folders."""

    unit: Unit
    images: dict[str, list[Path]] = field(default_factory=dict)
    """Images by name; two with different endings may have one name."""
    xmls: dict[str, Path] = field(default_factory=dict)
    image_names: dict[str, str] = field(default_factory=dict)
    """The image's name by that of its XML file, where they differ."""
    xml_names: dict[str, str] = field(default_factory=dict)
    """The same in the other direction."""
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def names(self) -> set[str]:
        """All names that a list may give."""
        return self.images.keys() | self.xmls.keys()

    def pair(self, name: str) -> Pair:
        """Return the image and the XML file of a name, which may be the image's or the file's."""
        xml_name = name if name in self.xmls else self.xml_names.get(name, name)
        image_name = self.image_names.get(xml_name, xml_name)
        image = self.images[image_name][0] if image_name in self.images else self.unit.images / f"{xml_name}.jpg"
        return Pair(image, self.xmls.get(xml_name, self.unit.annotations / f"{xml_name}.xml"))

    def match(self, images: Mapping[str, str]) -> None:
        """Give XML files images of other names."""
        self.image_names |= images
        self.xml_names |= {image: xml for xml, image in images.items()}

    def unannotated(self) -> list[str]:
        """Return the names of images without an XML file, sorted."""
        return sorted(self.images.keys() - self.xmls.keys() - self.xml_names.keys())

    def without_image(self) -> list[str]:
        """Return the names of XML files without an image, sorted."""
        return sorted(name for name in self.xmls if self.image_names.get(name, name) not in self.images)


def find_units(source: Source) -> dict[str | None, list[Unit]]:
    """Return the units of a data set by part; `None` stands for units whose parts are said by lists or in folders.

    Layout settings come first; then folders named as in VOC, XML files beside images, folders of parts with either,
    and a data set or several years of VOC in subfolders.
    """
    if (given := _given_unit(source)) is not None:
        return {None: [given]} if has_voc(given.annotations) else {}
    if unit := unit_in(source.root):
        return {None: [unit]}
    if parts := _part_units(source):
        return parts
    return {None: units} if (units := _nested_units(source.root)) else {}


def check_rivals(unit: Unit, source: Source) -> None:
    """Raise DataError if a folder beside that of the XML files has XML files too, and no setting chooses."""
    if source.layout.annotations or unit.images == unit.annotations:
        return
    for folder in _subfolders(unit.annotations.parent):
        if folder not in unit and folder.name.lower() in _ANNOTATIONS and has_voc(folder):
            raise DataError(
                f"{source.relative(unit.annotations)} and {source.relative(folder)} in {source.root} both hold XML "
                "files of VOC's; give the one to use as `layout.annotations`"
            )


def unit_in(folder: Path) -> Unit | None:
    """Return the images and XML files directly in a folder or in its folders of usual names; `None` without any."""
    folders = {path.name.lower(): path for path in _subfolders(folder)}
    images = next((folders[name] for name in _IMAGES if name in folders), None)
    annotations = next((folders[name] for name in _ANNOTATIONS if name in folders and has_voc(folders[name])), None)
    if annotations is not None and images is not None:
        return Unit(images, annotations)
    if annotations is not None and any(is_image_file(path) for path in folder.iterdir()):
        return Unit(folder, annotations)
    if images is not None and _has_direct(images):
        return Unit(images, images)
    return Unit(folder, folder) if _has_direct(folder) else None


def has_voc(folder: Path) -> bool:
    """Return whether one of the first XML files below a folder looks like VOC's."""
    xmls = (Path(folder, name) for name in walk(folder, hidden=False) if name.lower().endswith(".xml"))
    is_yolos = folder.name.lower() in _YOLO_FOLDERS
    return any(
        looks_like_voc(path) and not (is_yolos and path.with_suffix(".txt").exists()) for path in islice(xmls, _PEEKED)
    )


def looks_like_voc(path: Path, *, damaged: bool = True) -> bool:
    """Return whether an XML file begins with `<annotation>`; `damaged` is the answer for a file without elements."""
    try:
        with path.open("rb") as file:
            data = file.read(_BEGINNING)
    except OSError:
        return damaged
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "latin-1"
    text = re.sub(r"<!--.*?-->", "", data.decode(encoding, errors="replace"), flags=re.DOTALL)
    element = re.search(r"<([^\W\d][\w.:-]*)", text)
    return damaged if element is None else element[1].lower() == ROOT


def read_pool(unit: Unit) -> Pool:
    """List a unit's images and XML files and match those whose names are spelled in another way."""
    pool = Pool(unit)
    for image in list_images(unit.images):
        pool.images.setdefault(_name(image, unit.images), []).append(image)
    for name in walk(unit.annotations, hidden=False):
        if name.lower().endswith(".xml"):
            pool.xmls[os.path.splitext(name)[0]] = unit.annotations / name
    _match(pool)
    return pool


def find_lists(pool: Pool, source: Source) -> dict[str, list[Path]]:
    """Return the lists of the parts by their names, in `ImageSets/Main` and other usual folders; the first folder wins.

    Lists of one class, such as `dog_train.txt`, are those of a part where there is no other list; `default.txt`, which
    CVAT writes, lists the whole set.

    Raises:
        DataError: two lists have names of the same part.
    """
    for folder in _list_folders(pool.unit):
        lists = [path for path in sorted(folder.glob("*.txt")) if _is_list(path, pool)]
        if folder == pool.unit.base:  # label files and documents are there too
            lists = [path for path in lists if group_parts([path])]
        if groups := group_parts(lists, _LIST_WORDS):
            _pass_over_lists(source, pool.unit, [path for paths in groups.values() for path in paths])
            return source.one_each(groups)
        if whole := [path for path in lists if path.stem.lower() in _WHOLE]:
            return {"all": whole[:1]}
        if groups := _class_lists(lists):
            return {part: groups[part] for part in _without_union(groups)}
    return {}


def unused_list_notes(pool: Pool, source: Source) -> list[str]:
    """Return a sentence on lists in `ImageSets` whose names say no part, where no list does."""
    for folder in _list_folders(pool.unit):
        paths = sorted(folder.glob("*.txt")) if folder not in (pool.unit.base, pool.unit.annotations) else []
        if paths:
            shown = ", ".join(path.name for path in paths[:3])
            return [
                f"{shown:.200} in {source.relative(folder)} not read as lists, as their names say no part; give them "
                "as `layout.train` and `layout.val`"
            ]
    return []


def part_folders_in(unit: Unit, source: Source) -> dict[str, list[Path]]:
    """Return the folders of the parts below those of XML files or of images, also below ILSVRC's `CLS-LOC`, `DET`."""
    for folder in dict.fromkeys((unit.annotations, unit.images)):
        while len(inside := _subfolders(folder)) == 1 and not group_parts(inside):
            folder = inside[0]
        if parts := source.part_folders(folder):
            return parts
    return {}


_LIST_WORDS = frozenset(("cls", "loc", "list", "file"))
_WHOLE = ("default", "all")


def _given_unit(source: Source) -> Unit | None:
    images, annotations = source.path(source.layout.images), source.path(source.layout.annotations)
    if (images is None and annotations is None) or not all(
        path is None or path.is_dir() for path in (images, annotations)
    ):
        return None
    if images is not None and annotations is not None:
        return Unit(images, annotations)
    given = images or annotations
    assert given is not None
    if unit := next((unit for folder in (source.root, given.parent) if (unit := unit_in(folder))), None):
        return Unit(images or unit.images, annotations or unit.annotations)
    return Unit(given, given)


def _part_units(source: Source) -> dict[str | None, list[Unit]]:
    folders = {part: [path for path in paths if path.is_dir()] for part, paths in source.part_paths().items()}
    if not any(folders.values()):
        if not any(unit_in(path) for paths in group_parts(_subfolders(source.root)).values() for path in paths):
            return {}
        folders = source.part_folders(source.root)
    units = {part: [unit for path in paths if (unit := unit_in(path))] for part, paths in folders.items()}
    return {part: group for part, group in units.items() if group}


def _nested_units(root: Path) -> list[Unit]:
    """Return the units one or two folders down: named as in VOC, or the whole folder if XML is beside images."""
    inside = _subfolders(root)
    for _ in range(2):
        units = [unit for folder in inside[:_SEARCHED] if (unit := unit_in(folder))]
        if named := [unit for unit in units if unit.images != unit.annotations]:
            return named
        if any(_has_image_beside(unit.annotations) for unit in units):
            return [Unit(root, root)]
        inside = [path for folder in inside for path in _subfolders(folder)]
    return []


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    entries = (entry for entry in os.scandir(folder) if not entry.name.startswith(".") and is_folder(entry))
    return sorted(folder / entry.name for entry in entries)


def _has_image_beside(folder: Path) -> bool:
    """Return whether an image of the same name lies beside one of the first XML files in a folder."""
    stems = {path.stem for path in folder.iterdir() if is_image_file(path)}
    xmls = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".xml")
    return any(path.stem in stems for path in xmls[:_PEEKED])


def _has_direct(folder: Path) -> bool:
    names = (name for name in os.listdir(folder) if name.lower().endswith(".xml") and not name.startswith("."))
    return any(looks_like_voc(folder / name, damaged=False) for name in sorted(names)[:_PEEKED])


def _name(path: Path, folder: Path) -> str:
    return os.path.splitext(path.relative_to(folder).as_posix())[0]


def _match(pool: Pool) -> None:
    """Match names that differ: in folders that all XML files are in, in spelling, or in folders."""
    names, images = pool.without_image(), pool.unannotated()
    prefix = os.path.commonpath([os.path.dirname(name) for name in pool.xmls]) if names else ""
    if prefix:
        inside = {name: PurePath(name).relative_to(prefix).as_posix() for name in names}
        pool.match({name: image for name, image in inside.items() if image in pool.images})
        names, images = pool.without_image(), pool.unannotated()
    matches = match_names(names, images)
    pool.match({name: match.file for name, match in matches.items()})
    found = FoundFiles({name: pool.images[match.file][0] for name, match in matches.items()}, matches)
    pool.notes += found.note(f"images of {pool.unit.annotations}")
    _match_by_content(pool)
    _choose_images(pool)


def _match_by_content(pool: Pool) -> None:
    """Give XML files without an image of their own name the image that they name themselves."""
    free = {pool.images[name][0].name: name for name in pool.unannotated()}
    by_stem = {os.path.splitext(name)[0]: image for name, image in free.items()}
    matches: dict[str, str] = {}
    for name in pool.without_image() if free else ():
        filename = read_filename(pool.xmls[name])
        image = free.get(filename) or by_stem.get(os.path.splitext(filename)[0])
        if image is not None and image not in matches.values():
            matches[name] = image
    pool.match(matches)
    if matches:
        first = next(iter(matches))
        pool.notes.append(
            f"{number_of(len(matches), 'XML file')} in {pool.unit.annotations} of other names than their images, which "
            f"they name themselves; {first:.100} is that of {pool.images[matches[first]][0].name:.100}"
        )


def _choose_images(pool: Pool) -> None:
    """Of several images of one name and different endings, choose the one that the XML file names."""
    undecided = []
    for name, images in pool.images.items():
        xml = pool.xmls.get(pool.xml_names.get(name, name))
        if len(images) > 1 and xml is not None:
            filename = read_filename(xml)
            undecided += [name] if all(image.name != filename for image in images) else []
            images.sort(key=lambda image: image.name != filename)
    if undecided:
        shown = " and ".join(image.name for image in pool.images[undecided[0]])
        pool.problems.append(
            f"{number_of(len(undecided), 'XML file')} in {pool.unit.annotations} could belong to two images, such as "
            f"{shown:.200}, and the first is taken; remove the other"
        )


def _list_folders(unit: Unit) -> Iterator[Path]:
    """Yield the folders in which lists may be, the likeliest first."""
    sets = next((path for path in _subfolders(unit.base) if path.name.lower() == "imagesets"), unit.base / "ImageSets")
    inside = {path.name.lower(): path for path in _subfolders(sets)}
    yield from (inside[name] for name in ("main",) if name in inside)
    if "main" not in inside:
        yield sets
        yield from (inside[name] for name in ("layout", "segmentation") if name in inside)
    yield unit.base
    if unit.annotations != unit.base:
        yield unit.annotations


def _is_list(path: Path, pool: Pool) -> bool:
    """Return whether a text file may be a list: it is no label file of an image, or is where lists are."""
    return path.stem not in pool.names or path.parent not in (pool.unit.base, pool.unit.images)


def _class_lists(lists: Iterable[Path]) -> dict[str, list[Path]]:
    """Return lists of one class, such as `dog_train.txt`, by part."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in lists:
        last = path.stem.rpartition("_")[2]
        for part in group_parts([Path(last)]):
            groups[part].append(path)
    return dict(groups)


def _without_union(groups: dict[str, list[Path]]) -> list[str]:
    """Return the parts without `trainval`, which becomes `train` where it is the only training part."""
    if (union := groups.pop("trainval", None)) and "train" not in groups and "val" not in groups:
        groups["train"] = union
    return [part for part in ("train", "val", "test") if part in groups]


def _pass_over_lists(source: Source, unit: Unit, used: Sequence[Path]) -> None:
    """Give the reason why the other lists of a data set are not used."""
    for folder in _list_folders(unit):
        if folder in (unit.base, unit.annotations):
            continue
        for path in sorted(folder.glob("*.txt")):
            if path in used:
                continue
            one_class = bool(_class_lists([path])) and "_" in path.stem
            source.pass_over(
                "a list of one class, with flags; the lists of the parts are used"
                if one_class
                else "a list that names no part, or a part that another list names",
                path,
            )


def choose(units: Sequence[Unit], source: Source) -> list[Unit]:
    """Return the units to read: one, or those of the lists and folders that the layout settings give.

    Raises:
        DataError: there are several, and no setting chooses.
    """
    paths = [path for group in source.part_paths().values() for path in group]
    if len(units) < 2:
        return list(units)
    chosen = [unit for unit in units if any(_is_in(path, unit.base) for path in paths)]
    if chosen:
        return chosen
    bases = " and ".join(source.relative(unit.base) for unit in units)
    first = source.relative(units[0].base)
    raise DataError(
        f"{source.root} holds several data sets with VOC's XML files, {bases:.200}; give one of them as the data, or "
        f"the lists to read, of one or of several, as `layout.train` and `layout.val`, such as "
        f"{first}/ImageSets/Main/train.txt"
    )


def _is_in(path: Path, folder: Path) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))
