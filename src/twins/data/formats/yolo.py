"""YOLO's text files as objects: one line per object, in fractions of the image's width and height."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twins.data.base import Opened
from twins.data.classes import TABLE_FILES, ClassTable, bright_table, read_table, with_bright_colours
from twins.data.formats.class_names import alike_problems
from twins.data.formats.files import ImageFiles
from twins.data.formats.source import ANNOTATIONS, LAYOUT, Source
from twins.data.formats.yolo_evidence import class_problems, coordinate_problems, decide_form
from twins.data.formats.yolo_layout import (
    IMAGE_FOLDERS,
    LABEL_FOLDERS,
    ImagePart,
    LabelFiles,
    child,
    find_images,
    find_labels,
    looks_like_labels,
    record_layout,
    report_labels,
)
from twins.data.formats.yolo_lines import (
    LineForm,
    OtherFormatError,
    Row,
    YoloObject,
    describe_line,
    keypoint_setting,
    read_objects,
    read_rows,
    read_yolo,
)
from twins.data.formats.yolo_settings import YoloSettings, dataset_folders, find_settings, other_names_problems
from twins.data.images import image_size, walk
from twins.data.objects import Objects, build_objects, encode_polygons, has_area, mask_areas
from twins.data.parts import group_parts
from twins.errors import DataError, number_of

_PEEKED = 20
"""Label files whose first line is read to recognise the format."""


def find_yolo(source: Source) -> tuple[Path, ...]:
    """Return the settings file and a folder of label files that show the format; empty if there are none."""
    try:
        file = find_settings(source).file
    except DataError:
        file = source.settings_file
    if source.settings_file is not None:
        return (source.settings_file,)
    for folder in _label_folders(source):
        texts = (folder / name for name in walk(folder, hidden=False) if name.lower().endswith(".txt"))
        names = (path for path in texts if path.name not in TABLE_FILES)
        if any(looks_like_labels(path, empty=False) for path in islice(names, _PEEKED)):
            return (file, folder) if file else (folder,)
    return ()


def open_yolo(source: Source, listed_classes: ClassTable | None, *, masks: bool) -> Opened | None:
    """Open a folder of images with YOLO's label files as sets with objects; `None` if it has no such layout.

    Layouts: `images/train` and `labels/train`; `train/images` and `train/labels` (`val`, `valid`, `test` likewise);
    `images` and `labels`; labels beside their images, also in CVAT's `obj_train_data`; or the folders or file lists
    that `train` and `val` of a `data.yaml` or of darknet's `obj.data` name. An image without a label file has no
    objects. Objects of unlisted classes are left out and reported. In a set for poses, with `kpt_shape` in its
    `data.yaml`, visibility after each point, or points in the box of each line, the box is read and the keypoints are
    left out.

    Args:
        source: the data set.
        listed_classes: the classes of `boxes.classes`, which win, or of the folder's class table, used if no settings
            file has names. `None` takes a `classes.txt` among the labels, else the ids or names in the label files.
        masks: whether objects need masks.

    Raises:
        DataError: a settings file is damaged or names no images, two contradict each other, no image has a label file,
            the label files are of another format, or lines could be polygons or boxes with keypoints.
    """
    settings = find_settings(source)
    parts = find_images(source, settings)
    _check_has_images(source, settings, parts)
    file = settings.file
    labels = LabelFiles(source)
    pairs = {part: [(image, labels.path(image)) for image in found.images] for part, found in parts.items()}
    if not any(os.path.isfile(label) for part in pairs.values() for _, label in part):
        if file is None:
            return None
        first = next(label for part in pairs.values() for _, label in part)
        raise DataError(f"no image of {file} has a label file, such as {first}; add them")
    labelled = {name: _LabelledPart(part) for name, part in pairs.items()}
    is_given = source.config.boxes.classes != "auto"
    classes = listed_classes if is_given else settings.classes(source) or listed_classes
    classes = classes or _classes_beside(source, list(labelled.values()))
    form = _read_lines(source, settings, labelled, classes)
    if classes is None:
        classes = _classes_from_lines(source, labelled, form)
    others = other_names_problems(source, settings, classes, _names_beside(labelled.values()))
    source.problems += [] if is_given else [*settings.problems(classes), *others]
    source.problems += alike_problems(classes.names, source.names_from or str(source.root))
    source.problems += class_problems(_values(labelled.values()), classes, _where(labelled))
    if masks:
        _check_masks(source, labelled.values())
    sets = {name: YoloObjects(part, classes, source.faults, masks=masks) for name, part in labelled.items()}
    _record(source, settings, parts, labelled)
    return Opened(
        sets,
        "YOLO's label files",
        [file] if file else list(dict.fromkeys(path for part in parts.values() for path in part.origins)),
        {name: " and ".join(map(source.relative, part.origins[:3])) for name, part in parts.items()},
    )


def _check_has_images(source: Source, settings: YoloSettings, parts: Mapping[str, ImagePart]) -> None:
    """Raise DataError if settings or label files show the format, and no images are found by them."""
    root = source.root
    if settings.file is not None and not any(part.images for part in parts.values()):
        raise DataError(
            f"{settings.file} names classes, but no images are found by it; put them in {root / 'images' / 'train'}, "
            f"and labels in {root / 'labels' / 'train'}, or say where the images are with `layout.images`"
        )
    if not parts and (folders := find_yolo(source)):
        raise DataError(
            f"{root} holds YOLO's label files in {source.relative(folders[-1])}, and no images are found for them; put "
            f"them in {root / 'images'}, or say where they are with `layout.images`"
        )


class YoloObjects(ImageFiles):
    """Images with a label file each."""

    def __init__(self, part: _LabelledPart, classes: ClassTable, faults: list[str], *, masks: bool) -> None:
        super().__init__(part.images)
        self.label_files, self.form, self.masks = part.labels, part.form, masks
        self.classes, self.names = classes, classes.names
        self.class_id_of: dict[int | str, int] = {value: label for label, value in enumerate(classes.values)}
        self._sizes: dict[int, tuple[int, int]] = {}
        self._without_area: dict[int, list[str]] = defaultdict(list)  # in an image of any size
        for index, lines in enumerate(part.lines):
            for line in self._listed_lines(index, lines, faults):
                if not has_area(line.box, (1, 1)):
                    self._without_area[index].append(describe_line(line.number, self.label_files[index]))

    def target(self, index: int) -> Objects:
        """Return an image's objects; reads the image's size from its header.

        Raises:
            DataError: a line has no form of YOLO's, or is a box although masks are needed; or the image cannot be read.
        """
        lines, size = self._lines(index), self._size(index)
        boxes = np.array([line.box for line in lines]).reshape(-1, 4) * (size[1], size[0], size[1], size[0])
        masks = [self._mask(line, size, index) for line in lines] if self.masks else None
        return build_objects(
            boxes.tolist(),
            [self.class_id_of[line.value] for line in lines],
            size=size,
            image_id=index,
            areas=None if masks is None else mask_areas(masks).tolist(),
            masks=masks,
        )

    def shape(self, index: int) -> tuple[int, int] | None:
        """Return `None`: label files do not give the image's height and width."""
        return None

    def describe_object(self, index: int, position: int) -> str:
        """Return an object's description for messages."""
        return describe_line(self._lines(index)[position].number, self.label_files[index])

    def names_without_area(self, index: int) -> Sequence[str]:
        """Describe the objects of an image whose boxes have no area inside it."""
        return self._without_area.get(index, ())

    def _lines(self, index: int) -> list[YoloObject]:
        return [line for line in read_yolo(self.label_files[index], self.form) if line.value in self.class_id_of]

    def _size(self, index: int) -> tuple[int, int]:
        if index not in self._sizes:
            self._sizes[index] = image_size(self.images[index])
        return self._sizes[index]

    def _mask(self, line: YoloObject, size: tuple[int, int], index: int) -> dict[str, Any]:
        if not line.points:
            raise DataError(
                f"{describe_line(line.number, self.label_files[index])} is a box, and instance segmentation needs "
                'polygons; add them, or choose `task="detection"`'
            )
        height, width = size
        points = np.array(line.points).reshape(-1, 2)
        return encode_polygons([(part * (width, height)).ravel().tolist() for part in _parts(points)], size)

    def _listed_lines(self, index: int, lines: Sequence[YoloObject], faults: list[str]) -> list[YoloObject]:
        """Return the lines of listed classes; the others are added to `faults`."""
        for line in lines:
            if line.value not in self.class_id_of:
                faults.append(
                    f"{describe_line(line.number, self.label_files[index])} has the class {line.value}, which is not "
                    "listed; list it or remove the line"
                )
        return [line for line in lines if line.value in self.class_id_of]


class _LabelledPart:
    """A part's images with their label files, each read once; one that cannot be read has no lines here."""

    def __init__(self, pairs: Sequence[tuple[Path, Path]]) -> None:
        self.images = [image for image, _ in pairs]
        self.found = find_labels([label for _, label in pairs])
        self.labels = [self.found.paths.get(str(label), label) for _, label in pairs]
        self.form = LineForm()
        self.lines: list[list[YoloObject]] = []
        self._rows = [_attempt_rows(label) for label in self.labels]

    def rows(self) -> Iterator[Row]:
        """Yield the numbers of all lines."""
        for rows in self._rows:
            yield from rows

    def read(self, form: LineForm) -> None:
        """Read the lines as objects; a file with a line that is none has no lines."""
        self.form = form
        self.lines = [_attempt(rows, label, form) for rows, label in zip(self._rows, self.labels, strict=True)]
        self._rows = []

    def notes(self) -> list[str]:
        """Return notes on labels of another spelling, images without labels, and keypoints that are left out."""
        folder = self.images[0].parent if self.images else None
        return [*self.found.note(f"labels of the images in {folder}"), *self._unlabelled_note(), *self._keypoint_note()]

    def _unlabelled_note(self) -> list[str]:
        unlabelled = [i for i, lines in enumerate(self.lines) if not lines and not os.path.exists(self.labels[i])]
        if not unlabelled:
            return []
        first = self.images[unlabelled[0]]
        count = number_of(len(unlabelled), "image")
        return [f"{count} in {first.parent} without a label file and so without objects, {first.name:.250} first"]

    def _keypoint_note(self) -> list[str]:
        count = sum(line.keypoints for lines in self.lines for line in lines)
        if not count or self.form.keypoints is None:
            return []
        return [
            f"{number_of(count, 'line')} in {self.labels[0].parent} with {self.form.keypoints.points} keypoints after "
            f"the box, by {self.form.keypoints.source}: the box is read, the keypoints are left out"
        ]


def _attempt_rows(path: Path) -> list[Row]:
    try:
        return read_rows(path)
    except OtherFormatError:
        raise
    except DataError:
        return []  # `target` reads the file again and raises the error


def _attempt(rows: Sequence[Row], path: Path, form: LineForm) -> list[YoloObject]:
    try:
        return read_objects(rows, path, form)
    except DataError:
        return []  # as above


def _parts(points: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Split points `(P, 2)` into parts, each up to its return to its first point."""
    parts = []
    first = 0
    while first < len(points):
        returns = np.flatnonzero((points[first + 3 :] == points[first]).all(axis=1))
        last = first + 3 + int(returns[0]) if len(returns) else len(points)
        parts.append(points[first:last])
        first = last + 1
    return parts


def _classes_beside(source: Source, labelled: Sequence[_LabelledPart]) -> ClassTable | None:
    """Return the classes of a `classes.txt` among the label files, where labelImg writes it."""
    paths = _names_beside(labelled)
    if not paths:
        return None
    source.use_names(paths[0])
    return with_bright_colours(read_table(paths[0]))


def _check_masks(source: Source, labelled: Iterable[_LabelledPart]) -> None:
    """Raise DataError if all lines are boxes, which are no masks."""
    lines = [line for part in labelled for lines in part.lines for line in lines]
    if lines and not any(line.points for line in lines):
        raise DataError(
            f'{source.root} holds YOLO\'s label files, which have boxes and no masks; choose `task="detection"`, or '
            "add polygons"
        )


def _names_beside(labelled: Iterable[_LabelledPart]) -> list[Path]:
    """Return the `classes.txt` among and above the label files."""
    folders = dict.fromkeys(label.parent for part in labelled for label in part.labels)
    candidates = dict.fromkeys(parent / "classes.txt" for folder in folders for parent in (folder, folder.parent))
    return [path for path in candidates if path.is_file()]


def _read_lines(
    source: Source, settings: YoloSettings, labelled: Mapping[str, _LabelledPart], classes: ClassTable | None
) -> LineForm:
    """Decide the form of all lines, read them as objects, and note what is odd about them."""
    rows, where = [row for part in labelled.values() for row in part.rows()], _where(labelled)
    keypoints = keypoint_setting(settings.content, settings.file)
    form, notes = decide_form(rows, keypoints, settings.task, where)
    if any(row.name for row in rows):
        names = classes.names if classes else sorted({row.name for row in rows if row.name})
        ids = dict(zip(names, classes.values if classes else range(len(names)), strict=True))
        form = replace(form, ids=ids)
        count = number_of(sum(bool(row.name) for row in rows), "line")
        notes.append(f"{count} in {where} with the name of a class in place of its id")
    problems = coordinate_problems(rows, form, where)
    source.notes += notes
    source.problems += problems
    for name, part in labelled.items():
        part.read(form)
        source.notes += part.notes()
        if name != "test" and not any(map(os.path.exists, part.labels)):  # those of a test part are often kept back
            source.problems.append(
                f"no image of the {name} part has a label file, such as {part.labels[0]}, so it is without objects; "
                "add the files"
            )
    if classes is None and problems and not any(lines for part in labelled.values() for lines in part.lines):
        raise DataError(problems[0])
    return form


def _where(labelled: Mapping[str, _LabelledPart]) -> str:
    """Return the folder of all label files, for messages."""
    folders = {str(label.parent) for part in labelled.values() for label in part.labels}
    return os.path.commonpath(folders) if len({os.path.isabs(folder) for folder in folders}) == 1 else min(folders)


def _record(
    source: Source,
    settings: YoloSettings,
    parts: Mapping[str, ImagePart],
    labelled: Mapping[str, _LabelledPart],
) -> None:
    """Record the files that are read, the layout, and what is left out."""
    if settings.file is not None:
        source.use(LAYOUT, settings.file)
        if source.names_from == source.relative(settings.file):
            source.use_names(settings.file)
    record_layout(source, parts)
    labels = [label for part in labelled.values() for label in part.labels]
    report_labels(source, labels, [image for part in labelled.values() for image in part.images])
    source.use(ANNOTATIONS, *labels)
    source.notes[:] = dict.fromkeys(source.notes)  # one entry may name both parts


def _label_folders(source: Source) -> list[Path]:
    """Return the folders that label files may be in."""
    if (given := source.path(source.layout.annotations)) is not None:
        return [given] if given.is_dir() else []
    folders = []
    for root in dataset_folders(source.root):
        inside = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        parts = [path for paths in group_parts(inside, {"obj"}).values() for path in paths]
        folders += [*filter(None, (child(folder, LABEL_FOLDERS) for folder in (root, *parts))), *parts]
        folders += [*filter(None, [child(root, IMAGE_FOLDERS)]), root]
    return list(dict.fromkeys(folders))


def _values(labelled: Iterable[_LabelledPart]) -> list[int | str]:
    return [line.value for part in labelled for lines in part.lines for line in lines]


def _classes_from_lines(source: Source, labelled: Mapping[str, _LabelledPart], form: LineForm) -> ClassTable:
    """Return the classes in the label files, by their names if lines have them, else named after their ids."""
    if form.ids:
        source.names_from = "the names in the label files"
        return bright_table(list(form.ids))
    values = sorted({int(value) for value in _values(labelled.values())})
    if not values:
        label = next(iter(labelled.values())).labels[0]
        raise DataError(f"no label file such as {label} has an object that can be read; add objects")
    count = number_of(len(values), "class", "classes")
    source.notes.append(f"{count} without names, called by id as in the label files; give names in data.yaml")
    return bright_table([str(value) for value in values], values)
