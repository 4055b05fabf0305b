"""Pascal VOC's XML files as objects: one file per image, boxes only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from twins.data.base import TRAIN_NAMES, VAL_NAMES, Opened, list_images, subfolder
from twins.data.classes import ClassTable, bright_table, build_table, built_in
from twins.data.formats.files import ImageFiles
from twins.data.images import image_size
from twins.data.objects import Objects, build_objects, has_area
from twins.errors import DataError, nearest, number_of

_IMAGES = ("JPEGImages", "images", "imgs")
_ANNOTATIONS = ("Annotations", "annotations", "xmls")
_SIDES = ("xmin", "ymin", "xmax", "ymax")


class VocObject(NamedTuple):
    """An object of an XML file."""

    number: int
    """Its place in the file, from 1."""
    name: str
    """Of its class."""
    box: tuple[float, ...]
    """xyxy in pixels, continuous coordinates."""


class VocFile(NamedTuple):
    """An XML file."""

    size: tuple[int, int] | None
    """Height and width of the image in pixels, where the file says them."""
    objects: tuple[VocObject, ...]


def open_voc(root: Path, own_classes: ClassTable | None, *, masks: bool) -> Opened | None:
    """Return a folder's VOC files as sets of images with objects, or `None` when it has none.

    Read are `JPEGImages` and `Annotations` (`images` and `annotations` too), split by `ImageSets/Main/train.txt` and
    `val.txt` where these are, of the first alone what it lists; and `train` and `valid` with XML files beside the
    images. Objects that are `difficult`, `truncated` or `occluded` are objects like others: COCO's evaluation knows
    no such thing.

    Args:
        own_classes: classes as the folder has them; without them they are the names in the files, sorted, or in VOC's
            order where all are VOC's. Objects of other names are left out and told.
        masks: whether objects must have masks, which these files do not hold.

    Raises:
        DataError: none of its files can be read, or none has an object, or masks are wanted.
    """
    parts = _find_parts(root)
    if parts is None:
        return None
    if masks:
        raise DataError(
            f'{root} holds VOC\'s XML files, which have boxes and no masks; choose `task="detection"`, or give masks '
            "in COCO's JSON"
        )
    notes: list[str] = []
    read = [_read_all(part, notes) for part in parts]
    files = [file for part in read for file in part.files]
    classes = own_classes or _classes_of(files, root)
    faults: list[str] = []
    sets = [VocObjects(part, classes, faults) for part in read]
    return Opened(sets, notes, faults)


def read_voc(path: Path) -> VocFile:
    """Read an XML file.

    A box's corners are pixels counted from 1 and both inside the box, so its left and top are one less in continuous
    coordinates. Where two corners coincide or are reversed they stay as they are written: such a box is a slip of the
    annotator, and would otherwise become one of a single pixel.

    Raises:
        DataError: the file is missing or damaged, or an object lacks a name or a box of four finite numbers.
    """
    try:
        # expat bounds what entities may grow to, and ElementTree opens no other file
        top = ElementTree.parse(path).getroot()
    except FileNotFoundError as error:
        raise DataError(f"there is no file of annotations {path}; add it or remove its image") from error
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        raise DataError(f"{path} is no XML ({error}); copy it again") from error
    return VocFile(_size(top), tuple(_object(one, i, path) for i, one in enumerate(top.findall("object"), start=1)))


class VocObjects(ImageFiles):
    """Images with an XML file each; those objects that are of a class."""

    def __init__(self, part: _Read, classes: ClassTable, faults: list[str]) -> None:
        super().__init__(part.images)
        self.paths = part.paths
        self.classes, self.names = classes, classes.names
        self.class_id_of = {name: label for label, name in enumerate(classes.names)}
        self.files = [self._known(path, file, faults) for path, file in zip(part.paths, part.files, strict=True)]

    def target(self, index: int) -> Objects:
        """Return an image's objects; raises DataError where its file cannot be read."""
        file = self._file(index)
        size = file.size or image_size(self.images[index])
        labels = [self.class_id_of[one.name] for one in file.objects]
        return build_objects([one.box for one in file.objects], labels, size=size, image_id=index)

    def shape(self, index: int) -> tuple[int, int] | None:
        """Return an image's height and width where its file says them."""
        file = self.files[index]
        return file.size if isinstance(file, VocFile) else None

    def describe_object(self, index: int, place: int) -> str:
        """Return what to call one of an image's objects."""
        return f"object {self._file(index).objects[place].number} of {self.paths[index]}"

    def _file(self, index: int) -> VocFile:
        file = self.files[index]
        if isinstance(file, DataError):
            raise DataError(str(file))
        return file

    def _known(self, path: Path, file: VocFile | DataError, faults: list[str]) -> VocFile | DataError:
        """Return a file without the objects that are of no class, which are added to the faults."""
        if isinstance(file, DataError):
            return file
        for number, name, _ in file.objects:
            if name not in self.class_id_of:
                hint = nearest(name, self.names) or "; add it to the classes or remove the object"
                faults.append(f"object {number} of {path} is of the class {name!r}, which is not listed{hint}")
        return VocFile(file.size, tuple(one for one in file.objects if one.name in self.class_id_of))

    def without_area(self, index: int) -> list[str]:
        """Name the objects of an image whose boxes have no area inside it."""
        file = self.files[index]
        if isinstance(file, DataError):
            return []
        return [
            self.describe_object(index, place)
            for place, one in enumerate(file.objects)
            if not has_area(one.box, file.size)
        ]


@dataclass(frozen=True)
class _Part:
    """Where a part's images and XML files are."""

    images: Path
    annotations: Path
    listed: Path | None = None
    """A file that lists the names of this part's images."""


@dataclass(frozen=True)
class _Read:
    """A part's images, and what their XML files say or why they say nothing."""

    images: list[Path]
    paths: list[Path]
    files: list[VocFile | DataError]


def _find_parts(root: Path) -> list[_Part] | None:
    folders = _folders(root)
    if folders is not None:
        lists = [root / "ImageSets" / "Main" / f"{name}.txt" for name in ("train", "val", "test")]
        if not lists[0].is_file():
            return [_Part(*folders)]
        return [_Part(*folders, lists[0]), *(_Part(*folders, path) for path in lists[1:] if path.is_file())][:2]
    parts = [subfolder(root, names) for names in (TRAIN_NAMES, VAL_NAMES)]
    found = [_Part(*folders) for part in parts if part is not None and (folders := _folders(part) or _beside(part))]
    return found if found and parts[0] is not None else None


def _folders(root: Path) -> tuple[Path, Path] | None:
    """Return the folders of images and of XML files."""
    images = next((root / name for name in _IMAGES if (root / name).is_dir()), None)
    annotations = next((root / name for name in _ANNOTATIONS if any((root / name).glob("*.xml"))), None)
    return None if images is None or annotations is None else (images, annotations)


def _beside(part: Path) -> tuple[Path, Path] | None:
    return (part, part) if any(part.glob("*.xml")) else None


def _read_all(part: _Part, notes: list[str]) -> _Read:
    """Read a part's XML files; images without one are left out, unless they are listed."""
    found = {path.stem: path for path in list_images(part.images)}
    if part.listed is None:
        stems = sorted(path.stem for path in part.annotations.glob("*.xml"))
        if lonely := sorted(found.keys() - set(stems)):
            notes.append(
                f"{number_of(len(lonely), 'image')} in {part.images} without an XML file in {part.annotations}, left "
                f"out; {found[lonely[0]].name} first"
            )
    else:
        lines = part.listed.read_text(encoding="utf-8", errors="replace").splitlines()
        stems = [_stem(line.strip(), part, found) for line in lines if line.strip()]
    images = [found.get(stem, part.images / f"{stem}.jpg") for stem in stems]
    paths = [part.annotations / f"{stem}.xml" for stem in stems]
    return _Read(images, paths, [_attempt(path) for path in paths])


def _stem(line: str, part: _Part, images: Mapping[str, Path]) -> str:
    """Return the name that a line of a list gives: all of it where a file has it, for names may hold spaces, else its
    first word, for lists of one class say after it whether the image has the class.
    """
    return line if line in images or (part.annotations / f"{line}.xml").is_file() else line.split()[0]


def _attempt(path: Path) -> VocFile | DataError:
    try:
        return read_voc(path)
    except DataError as error:
        return DataError(str(error))  # without the frames that a raised one holds on to


def _classes_of(files: Sequence[VocFile | DataError], root: Path) -> ClassTable:
    """Return the classes that files name, in VOC's order and colours where all are VOC's."""
    names = {one.name for file in files if isinstance(file, VocFile) for one in file.objects}
    if not names:
        broken = next((file for file in files if isinstance(file, DataError)), None)
        raise DataError(str(broken) if broken else f"no XML file in {root} has an object; add objects")
    known = built_in("voc")
    if not names <= set(known.names):
        return bright_table(sorted(names))
    rows = zip(known.names, known.values, known.colours, strict=True)
    return build_table(*zip(*(row for row in rows if row[0] in names), strict=True))


def _object(one: ElementTree.Element, number: int, path: Path) -> VocObject:
    name = (one.findtext("name") or "").strip()
    if not name:
        raise DataError(f"object {number} of {path} has no name; add it or remove the object")
    return VocObject(number, name, _box(one, f"object {number} of {path}"))


def _box(one: ElementTree.Element, what: str) -> tuple[float, ...]:
    box = one.find("bndbox")
    written = [None if box is None else box.findtext(side) for side in _SIDES]
    values = [_number(text) for text in written]
    if not all(map(math.isfinite, values)):
        found = ", ".join(str(text).strip() for text in written)
        raise DataError(f"{what} has the bndbox {found}; give finite numbers as {', '.join(_SIDES)}")
    left, top, right, bottom = values
    return left - (right > left), top - (bottom > top), right, bottom


def _size(top: ElementTree.Element) -> tuple[int, int] | None:
    """Return height and width; labelling tools write 0 where they do not know."""
    height, width = (_number(top.findtext(f"size/{side}")) for side in ("height", "width"))
    return (int(height), int(width)) if 1 <= height < 65536 and 1 <= width < 65536 else None


def _number(text: str | None) -> float:
    """Return a number, or NaN where a text is none."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
