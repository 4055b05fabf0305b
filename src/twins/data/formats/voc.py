"""Pascal VOC's XML files as objects: one file per image, with boxes only."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from twins.data.base import UNSPLIT, Opened
from twins.data.classes import ClassTable, bright_table, build_table, built_in
from twins.data.formats.files import ImageFiles
from twins.data.formats.names import find_listed, match_stems, read_list
from twins.data.formats.source import ANNOTATIONS, LISTS, Source
from twins.data.formats.values import fraction_problems, read_number
from twins.data.images import image_size, list_images
from twins.data.objects import Objects, build_objects, has_area
from twins.data.parts import group_parts
from twins.errors import DataError, nearest, number_of

_IMAGES = ("JPEGImages", "images", "imgs")
_ANNOTATIONS = ("Annotations", "annotations", "xmls")
_SIDES = ("xmin", "ymin", "xmax", "ymax")


class VocObject(NamedTuple):
    """An object in an XML file."""

    number: int
    """Position in the file, from 1."""
    name: str
    """Class name."""
    box: tuple[float, ...]
    """xyxy in pixels, continuous coordinates."""


class VocFile(NamedTuple):
    """The content of an XML file."""

    size: tuple[int, int] | None
    """Height and width of the image in pixels; `None` if the file has none."""
    objects: tuple[VocObject, ...]


def open_voc(source: Source, listed_classes: ClassTable | None, *, masks: bool) -> Opened | None:
    """Open a folder of images with VOC's XML files as sets with objects; `None` if it has no such layout.

    Layouts: `JPEGImages` and `Annotations` (also `images` and `annotations`), with the parts by the lists in
    `ImageSets/Main`; and `train` and `valid` with the XML files beside the images. Objects marked `difficult`,
    `truncated` or `occluded` are ordinary objects, as in COCO's evaluation.

    Args:
        source: the data set.
        listed_classes: the classes of the folder's class table; objects of other names are left out and reported.
            `None` takes all names in the files, in VOC's order if all are VOC's, else sorted.
        masks: whether objects need masks; these files have none.

    Raises:
        DataError: no file can be read, no file has an object, or masks are needed.
    """
    parts = _find_parts(source)
    if not parts:
        return None
    if masks:
        raise DataError(
            f'{source.root} holds VOC\'s XML files, which have boxes and no masks; choose `task="detection"`, or give '
            "masks in COCO's JSON"
        )
    annotated = {part: _read_part(folders, source.notes) for part, folders in parts.items()}
    files = [file for part in annotated.values() for file in part.files]
    source.names_from = source.names_from or "the XML files"
    classes = listed_classes or _classes_of(files, source.root)
    sets = {name: VocObjects(part, classes, source.faults) for name, part in annotated.items()}
    boxes = [item.box for file in files if isinstance(file, VocFile) for item in file.objects]
    folders = next(iter(parts.values()))
    source.problems += fraction_problems(np.array(boxes).reshape(-1, 4), str(folders.annotations), ", ".join(_SIDES))
    for part in annotated.values():
        source.use(ANNOTATIONS, *part.paths)
    source.use(LISTS, *(part.listed for part in parts.values() if part.listed))
    return Opened(
        sets,
        "Pascal VOC's XML files",
        [path for part in parts.values() for path in (part.images, part.annotations)],
        {name: source.relative(part.listed or part.annotations) for name, part in parts.items()},
    )


def read_voc(path: Path) -> VocFile:
    """Read an XML file.

    VOC counts pixels from 1, and both corner pixels are inside the box, so left and top are one less in continuous
    coordinates. Equal or reversed coordinates are not changed: such a box is an annotator's mistake, and subtracting 1
    would give it area.

    Raises:
        DataError: the file is missing or damaged, or an object lacks a name or a box of four finite numbers.
    """
    try:
        # safe for untrusted files: expat limits the growth of entities, and ElementTree opens no other file
        top = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        if not os.path.exists(path):
            message = f"there is no file of annotations {path!s:.250}; add it or remove its image"
            raise DataError(message) from error
        raise DataError(f"{path} is no XML ({error}); copy it again") from error
    return VocFile(
        _size(top), tuple(_object(element, i, path) for i, element in enumerate(top.findall("object"), start=1))
    )


class VocObjects(ImageFiles):
    """Images with an XML file each; objects of unlisted classes are left out."""

    def __init__(self, part: _AnnotatedPart, classes: ClassTable, faults: list[str]) -> None:
        super().__init__(part.images)
        self.paths = part.paths
        self.classes, self.names = classes, classes.names
        self.class_id_of = {name: label for label, name in enumerate(classes.names)}
        self.files = [
            self._listed_objects(path, file, faults) for path, file in zip(part.paths, part.files, strict=True)
        ]

    def target(self, index: int) -> Objects:
        """Return an image's objects; raises DataError if its XML file cannot be read."""
        file = self._file(index)
        size = file.size or image_size(self.images[index])
        labels = [self.class_id_of[item.name] for item in file.objects]
        return build_objects([item.box for item in file.objects], labels, size=size, image_id=index)

    def shape(self, index: int) -> tuple[int, int] | None:
        """Return an image's height and width from its XML file; `None` if it has none."""
        file = self.files[index]
        return file.size if isinstance(file, VocFile) else None

    def describe_object(self, index: int, position: int) -> str:
        """Return an object's description for messages."""
        return f"object {self._file(index).objects[position].number} of {self.paths[index]}"

    def _file(self, index: int) -> VocFile:
        file = self.files[index]
        if isinstance(file, DataError):
            raise DataError(str(file))
        return file

    def _listed_objects(self, path: Path, file: VocFile | DataError, faults: list[str]) -> VocFile | DataError:
        """Return a file without objects of unlisted classes; those are added to `faults`."""
        if isinstance(file, DataError):
            return file
        for number, name, _ in file.objects:
            if name not in self.class_id_of:
                hint = nearest(name, self.names) or "; add it to the classes or remove the object"
                faults.append(f"object {number} of {path} is of the class {name!r}, which is not listed{hint}")
        return VocFile(file.size, tuple(item for item in file.objects if item.name in self.class_id_of))

    def names_without_area(self, index: int) -> list[str]:
        """Describe the objects of an image whose boxes have no area inside it."""
        file = self.files[index]
        if isinstance(file, DataError):
            return []
        return [
            self.describe_object(index, i) for i, item in enumerate(file.objects) if not has_area(item.box, file.size)
        ]


@dataclass(frozen=True)
class _Part:
    """The folders of a part."""

    images: Path
    annotations: Path
    listed: Path | None = None
    """Text file with the image names of the part; `None` if all images belong to it."""


@dataclass(frozen=True)
class _AnnotatedPart:
    """A part's images with their XML files."""

    images: list[Path]
    paths: list[Path]
    """XML files."""
    files: list[VocFile | DataError]
    """Their contents, or the reason why a file cannot be read."""


def _find_parts(source: Source) -> dict[str, _Part]:
    folders = _folders(source.root)
    if folders is not None:
        lists = sorted((source.root / "ImageSets" / "Main").glob("*.txt"))
        parts = {part: paths[0] for part, paths in source.one_each(group_parts(lists)).items()}
        return {part: _Part(*folders, path) for part, path in parts.items()} or {UNSPLIT: _Part(*folders)}
    return {
        part: _Part(*pair)
        for part, paths in source.part_folders(source.root).items()
        if (pair := _folders(paths[0]) or _beside(paths[0]))
    }


def _folders(root: Path) -> tuple[Path, Path] | None:
    """Return the folders of images and of XML files below a folder."""
    images = next((root / name for name in _IMAGES if (root / name).is_dir()), None)
    annotations = next((root / name for name in _ANNOTATIONS if any((root / name).glob("*.xml"))), None)
    return None if images is None or annotations is None else (images, annotations)


def _beside(part: Path) -> tuple[Path, Path] | None:
    """Return a part's folder as that of images and of XML files; `None` if it holds no XML file."""
    return (part, part) if any(part.glob("*.xml")) else None


def _read_part(part: _Part, notes: list[str]) -> _AnnotatedPart:
    """Read a part's XML files; images without one are left out, unless the part has a list."""
    image_of = {path.stem: path for path in list_images(part.images)}
    xml_of = {path.stem: path for path in part.annotations.glob("*.xml")}
    if part.listed is None:
        stems = sorted(xml_of)
    else:
        stems, spellings = find_listed(read_list(part.listed), part.listed, image_of.keys() | xml_of.keys())
        notes += spellings
    images, xmls = (match_stems(stems, files) for files in (image_of, xml_of))
    notes += [*images.note(f"images of {part.annotations}"), *xmls.note(f"XML files of {part.images}")]
    unannotated = sorted(image_of.keys() - set(stems) - {path.stem for path in images.paths.values()})
    if unannotated and part.listed is None:
        notes.append(
            f"{number_of(len(unannotated), 'image')} in {part.images} without an XML file in {part.annotations}, "
            f"left out; {image_of[unannotated[0]].name} first"
        )
    image_of, xml_of = image_of | dict(images.paths), xml_of | dict(xmls.paths)
    paths = [xml_of.get(stem, part.annotations / f"{stem}.xml") for stem in stems]
    return _AnnotatedPart(
        [image_of.get(stem, part.images / f"{stem}.jpg") for stem in stems], paths, [_attempt(path) for path in paths]
    )


def _attempt(path: Path) -> VocFile | DataError:
    try:
        return read_voc(path)
    except DataError as error:
        return DataError(str(error))  # a new error: the caught one would keep its stack frames alive


def _classes_of(files: Sequence[VocFile | DataError], root: Path) -> ClassTable:
    """Return the classes in XML files, in VOC's order and colours if all are VOC's."""
    names = {item.name for file in files if isinstance(file, VocFile) for item in file.objects}
    if not names:
        error = next((file for file in files if isinstance(file, DataError)), None)
        raise DataError(str(error) if error else f"no XML file in {root} has an object; add objects")
    voc = built_in("voc")
    if not names <= set(voc.names):
        return bright_table(sorted(names))
    rows = zip(voc.names, voc.values, voc.colours, strict=True)
    return build_table(*zip(*(row for row in rows if row[0] in names), strict=True))


def _object(element: ElementTree.Element, number: int, path: Path) -> VocObject:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise DataError(f"object {number} of {path} has no name; add it or remove the object")
    return VocObject(number, name, _box(element, f"object {number} of {path}"))


def _box(element: ElementTree.Element, description: str) -> tuple[float, ...]:
    box = element.find("bndbox")
    texts = [None if box is None else box.findtext(side) for side in _SIDES]
    values = [value for text in texts if (value := read_number(text)) is not None]
    if len(values) < len(_SIDES):
        shown = ", ".join(str(text).strip() for text in texts)
        raise DataError(f"{description} has the bndbox {shown}; give finite numbers as {', '.join(_SIDES)}")
    left, top, right, bottom = values
    return left - (right > left), top - (bottom > top), right, bottom


def _size(top: ElementTree.Element) -> tuple[int, int] | None:
    """Return height and width; `None` if they are missing, or 0 as labelling tools write for an unknown size."""
    height, width = (read_number(top.findtext(f"size/{side}")) or 0 for side in ("height", "width"))
    return (int(height), int(width)) if 1 <= height < 65536 and 1 <= width < 65536 else None
