"""Pascal VOC's XML files as objects: one file per image, with boxes only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from twins.data.base import Opened
from twins.data.classes import ClassTable, bright_table, build_table, built_in
from twins.data.formats.class_names import alike_problems, find_names
from twins.data.formats.files import ImageFiles
from twins.data.formats.source import ANNOTATIONS, Source
from twins.data.formats.values import fraction_problems
from twins.data.formats.voc_files import (
    SIDES,
    VocFile,
    VocObject,
    all_corners,
    attempt_voc,
    count_from_0,
    first_pixel,
    read_voc,
    shape_notes,
)
from twins.data.formats.voc_layout import Pair, find_units
from twins.data.formats.voc_parts import VocPart, find_parts
from twins.data.images import image_size
from twins.data.objects import Objects, build_objects, has_area
from twins.errors import DataError, nearest, number_of

__all__ = ["VocFile", "VocObject", "VocObjects", "find_voc", "open_voc", "read_voc"]


def find_voc(source: Source) -> tuple[Path, ...]:
    """Return the folders of images and of VOC's XML files; empty if there are none."""
    units = [unit for group in find_units(source).values() for unit in group]
    return tuple(dict.fromkeys(path for unit in units for path in unit))


def open_voc(source: Source, listed_classes: ClassTable | None, *, masks: bool) -> Opened | None:
    """Open a folder of images with VOC's XML files as sets with objects; `None` if it has no such layout.

    Layouts: `JPEGImages` and `Annotations` (also `images` and `annotations`, with subfolders), with the parts by the
    lists in `ImageSets`; one of several years in subfolders; XML files beside their images, in one folder or in `train`
    and `valid`. Objects marked `difficult`, `truncated` or `occluded` are ordinary objects, as in COCO's evaluation.

    Args:
        source: the data set.
        listed_classes: the classes of the folder's class table; objects of other names are left out and reported.
            `None` takes CVAT's `labelmap.txt` or its like, else all names in the files, in VOC's order if all are
            VOC's, else sorted.
        masks: whether objects need masks; these files have none.

    Raises:
        DataError: no file can be read, no file has an object, or masks are needed; two lists are of one part, or there
            are several data sets.
    """
    folders = find_voc(source)
    if not folders:
        return None
    if masks:
        raise DataError(
            f'{source.root} holds VOC\'s XML files, which have boxes and no masks; choose `task="detection"`, or give '
            "masks in COCO's JSON"
        )
    parts = find_parts(source)
    annotated = {name: _read_part(part, source) for name, part in parts.items()}
    _count_pixels(annotated.values(), source, str(folders[-1]))
    files = [file for part in annotated.values() for file in part.files]
    classes = listed_classes or _classes_of(files, source, folders)
    source.names_from = source.names_from or "the XML files"
    used = {item.name for file in files if isinstance(file, VocFile) for item in file.objects}
    source.problems += alike_problems([*classes.names, *sorted(used)], source.names_from)
    sets = {name: VocObjects(part, classes, source.faults) for name, part in annotated.items()}
    for part in annotated.values():
        source.use(ANNOTATIONS, *part.paths)
    return Opened(
        sets,
        "Pascal VOC's XML files",
        folders,
        {name: " and ".join(map(source.relative, part.origins[:3])) for name, part in parts.items()},
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
        for number, name, *_ in file.objects:
            if name not in self.class_id_of:
                hint = nearest(name, self.names) or "; add it to the classes or remove the object"
                faults.append(f"object {number} of {path} is of the class {name!r}, which is not listed{hint}")
        return file._replace(objects=tuple(item for item in file.objects if item.name in self.class_id_of))

    def names_without_area(self, index: int) -> list[str]:
        """Describe the objects of an image whose boxes have no area inside it."""
        file = self.files[index]
        if isinstance(file, DataError):
            return []
        return [
            self.describe_object(index, i) for i, item in enumerate(file.objects) if not has_area(item.box, file.size)
        ]


@dataclass
class _AnnotatedPart:
    """A part's images with their XML files."""

    images: list[Path]
    paths: list[Path]
    """XML files."""
    files: list[VocFile | DataError]
    """Their contents, or the reason why a file cannot be read."""


def _read_part(part: VocPart, source: Source) -> _AnnotatedPart:
    """Read a part's XML files; those of another format are passed over."""
    rows: list[tuple[Pair, VocFile | DataError]] = []
    for pair in part.pairs:
        file = attempt_voc(pair.xml)
        if isinstance(file, VocFile) and not file.is_voc:
            source.pass_over("an XML file of another format than VOC's", pair.xml)
            source.pass_over("an image without an XML file of VOC's", pair.image)
        else:
            rows.append((pair, file))
    source.notes += _other_image_notes(part, rows)
    return _AnnotatedPart([pair.image for pair, _ in rows], [pair.xml for pair, _ in rows], [file for _, file in rows])


def _other_image_notes(part: VocPart, rows: Sequence[tuple[Pair, VocFile | DataError]]) -> list[str]:
    """Return a sentence on files whose `filename` is another image of the set than that of their own name."""
    images = {image.name for pool in part.pools for group in pool.images.values() for image in group}
    others = [
        (pair, file.filename)
        for pair, file in rows
        if isinstance(file, VocFile) and file.filename in images and Path(file.filename).stem != pair.image.stem
    ]
    if not others:
        return []
    pair, filename = others[0]
    return [
        f"{number_of(len(others), 'XML file')} with another image of the set as filename, such as {filename:.100} in "
        f"{pair.xml}; the image of the file's own name is used, {pair.image.name:.100}"
    ]


def _count_pixels(parts: Iterable[_AnnotatedPart], source: Source, where: str) -> None:
    """Decide for the whole set whether pixels are counted from 1, as in VOC, or from 0, and report odd boxes."""
    parts = list(parts)
    files = [file for part in parts for file in part.files if isinstance(file, VocFile)]
    first, notes, problems = first_pixel(files, where)
    source.notes += [*shape_notes(files, where), *notes]
    source.problems += [*problems, *fraction_problems(all_corners(files), where, ", ".join(SIDES))]
    if first == 0:
        for part in parts:
            part.files = [count_from_0(file) if isinstance(file, VocFile) else file for file in part.files]


def _classes_of(files: Sequence[VocFile | DataError], source: Source, folders: Sequence[Path]) -> ClassTable:
    """Return the classes of a file of names, else those in XML files, in VOC's order and colours if all are VOC's."""
    names = {item.name for file in files if isinstance(file, VocFile) for item in file.objects}
    if not names:
        error = next((file for file in files if isinstance(file, DataError)), None)
        reason = next(iter(source.problems), f"no XML file in {source.root} has an object; add objects")
        raise DataError(str(error) if error else reason)
    if listed := find_names(source, [source.root, *(folder.parent for folder in folders), *folders], names):
        return listed
    voc = built_in("voc")
    if not names <= set(voc.names):
        return bright_table(sorted(names))
    rows = zip(voc.names, voc.values, voc.colours, strict=True)
    return build_table(*zip(*(row for row in rows if row[0] in names), strict=True))
