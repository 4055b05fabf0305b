"""YOLO's text files as objects: one line per object, in fractions of the image's width and height."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twins.data.base import TRAIN_NAMES, VAL_NAMES, Opened, find_subfolder, list_images
from twins.data.classes import ClassTable, bright_table, read_table, with_bright_colours
from twins.data.formats.files import ImageFiles
from twins.data.images import image_size, is_image_file
from twins.data.objects import Objects, build_objects, encode_polygons, has_area, mask_areas
from twins.errors import DataError, number_of

_MAX_COORDINATE = 2.0
"""Greatest coordinate, as a fraction of the image's side; larger ones are most likely pixels."""


@dataclass(frozen=True)
class YoloObject:
    """The object in a line of a label file."""

    number: int
    """Line number in the file, from 1."""
    value: int
    """Class id in the file."""
    box: tuple[float, float, float, float]
    """xyxy in fractions of width and height; for a polygon, the smallest box around it."""
    points: tuple[float, ...] = ()
    """Polygon around the object's parts, alternating x and y in the same fractions; empty if the line is a box."""


def open_yolo(root: Path, listed_classes: ClassTable | None, *, masks: bool) -> Opened | None:
    """Open a folder of images with YOLO's label files as sets with objects; `None` if it has no such layout.

    Layouts: `images/train` and `labels/train`; `train/images` and `train/labels` (`val`, `valid`, `test` likewise);
    `images` and `labels`; labels beside their images; or the folders or file lists that `train` and `val` of a
    `data.yaml` name. An image without a label file has no objects. Objects of unlisted classes are left out and
    reported.

    Args:
        listed_classes: the classes of the folder's class table, used if no `data.yaml` has `names`. `None` takes a
            `classes.txt` among the labels, else the class ids in the label files.
        masks: whether objects need masks.

    Raises:
        DataError: the `data.yaml` is damaged or names no images, or no image has a label file.
    """
    settings, source = _settings(root)
    parts = _find_parts(root, settings)
    if source is not None and not parts:
        raise DataError(
            f"{source} names classes, but no images are found by it; put them in {root / 'images' / 'train'}, "
            f"and labels in {root / 'labels' / 'train'}"
        )
    pairs = [[(image, _label_of(image, root)) for image in part] for part in parts]
    if not any(label.is_file() for part in pairs for _, label in part):
        if source is None:
            return None
        raise DataError(f"no image of {source} has a label file, such as {pairs[0][0][1]}; add them")
    labelled = [_LabelledPart(part) for part in pairs]
    notes = [note for part in labelled for note in part.notes()]
    classes = (
        with_bright_colours(read_table(source)) if source is not None else listed_classes or _classes_beside(labelled)
    )
    if classes is None:
        classes = _classes_from_ids(labelled)
        count = number_of(len(classes), "class", "classes")
        notes.append(f"{count} without names, called by id as in the label files; give names in data.yaml")
    faults: list[str] = []
    sets = [YoloObjects(part, classes, faults, masks=masks) for part in labelled]
    return Opened(sets, notes, faults)


def read_yolo(path: Path) -> list[YoloObject]:
    """Read a label file; a missing one holds no objects.

    Lines are `class cx cy w h`, or `class x1 y1 x2 y2 ...` with three or more points. A polygon may have several
    parts: a part ends with its first point again, and the next point begins the next part. Coordinates are
    COCO's, where pixel `i` covers `i` to `i + 1`; polygons through pixel centres give masks that are half a pixel
    smaller.

    Raises:
        DataError: the file is no text, or a line has another form; the message gives its number.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error}); copy it again") from error
    return [_read_line(line, number, path) for number, line in enumerate(lines, start=1) if line.strip()]


class YoloObjects(ImageFiles):
    """Images with a label file each."""

    def __init__(self, part: _LabelledPart, classes: ClassTable, faults: list[str], *, masks: bool) -> None:
        super().__init__(part.images)
        self.labels, self.masks = part.labels, masks
        self.classes, self.names = classes, classes.names
        self.class_id_of = {value: label for label, value in enumerate(classes.values)}
        self._sizes: dict[int, tuple[int, int]] = {}
        self._without_area: dict[int, list[str]] = defaultdict(list)  # in an image of any size
        for index, lines in enumerate(part.lines):
            for line in self._listed_lines(index, lines, faults):
                if not has_area(line.box, (1, 1)):
                    self._without_area[index].append(_describe(line.number, self.labels[index]))

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
        return _describe(self._lines(index)[position].number, self.labels[index])

    def names_without_area(self, index: int) -> Sequence[str]:
        """Describe the objects of an image whose boxes have no area inside it."""
        return self._without_area.get(index, ())

    def _lines(self, index: int) -> list[YoloObject]:
        return [line for line in read_yolo(self.labels[index]) if line.value in self.class_id_of]

    def _size(self, index: int) -> tuple[int, int]:
        if index not in self._sizes:
            self._sizes[index] = image_size(self.images[index])
        return self._sizes[index]

    def _mask(self, line: YoloObject, size: tuple[int, int], index: int) -> dict[str, Any]:
        if not line.points:
            raise DataError(
                f"{_describe(line.number, self.labels[index])} is a box, and instance segmentation needs polygons; "
                'add them, or choose `task="detection"`'
            )
        height, width = size
        points = np.array(line.points).reshape(-1, 2)
        return encode_polygons([(part * (width, height)).ravel().tolist() for part in _parts(points)], size)

    def _listed_lines(self, index: int, lines: Sequence[YoloObject], faults: list[str]) -> list[YoloObject]:
        """Return the lines of listed classes; the others are added to `faults`."""
        for line in lines:
            if line.value not in self.class_id_of:
                faults.append(
                    f"{_describe(line.number, self.labels[index])} has the class {line.value}, which is not listed; "
                    "list it or remove the line"
                )
        return [line for line in lines if line.value in self.class_id_of]


class _LabelledPart:
    """A part's images with their label files, each read once; one that cannot be read has no lines here."""

    def __init__(self, pairs: Sequence[tuple[Path, Path]]) -> None:
        self.images, self.labels = [image for image, _ in pairs], [label for _, label in pairs]
        self.lines = [_attempt(label) for label in self.labels]

    def notes(self) -> list[str]:
        """Return a note if images have no label file."""
        unlabelled = [i for i, lines in enumerate(self.lines) if not lines and not self.labels[i].exists()]
        if not unlabelled:
            return []
        first = self.images[unlabelled[0]]
        count = number_of(len(unlabelled), "image")
        return [f"{count} in {first.parent} without a label file and so without objects, {first.name} first"]


def _attempt(path: Path) -> list[YoloObject]:
    try:
        return read_yolo(path)
    except DataError:
        return []  # `target` reads the file again and raises the error


def _describe(number: int, path: Path) -> str:
    return f"line {number} of {path}"


def _read_line(line: str, number: int, path: Path) -> YoloObject:
    words = line.split()
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        raise DataError(
            f"{_describe(number, path)} has {len(words)} numbers; give a class with a box (5), or with a polygon of "
            "three points or more (7, 9, ...)"
        )
    try:
        class_id, *coordinates = map(float, words)
    except ValueError as error:
        raise DataError(f"{_describe(number, path)} holds {line.strip()[:40]!r}, not numbers only; fix it") from error
    if class_id < 0 or not class_id.is_integer():
        raise DataError(f"{_describe(number, path)} has the class {words[0]}; give a whole number of at least 0")
    if too_large := [value for value in coordinates if not abs(value) <= _MAX_COORDINATE]:
        raise DataError(
            f"{_describe(number, path)} has the coordinate {too_large[0]:g}; give fractions of the image's width and "
            "height, 0 to 1"
        )
    if len(coordinates) > 4:
        box = min(coordinates[::2]), min(coordinates[1::2]), max(coordinates[::2]), max(coordinates[1::2])
        return YoloObject(number, int(class_id), box, tuple(coordinates))
    x, y, width, height = coordinates
    return YoloObject(number, int(class_id), (x - width / 2, y - height / 2, x + width / 2, y + height / 2))


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


def _settings(root: Path) -> tuple[dict[str, Any], Path | None]:
    """Return the content and path of a `data.yaml`, or of another YAML file with `names`; `{}, None` without one."""
    import yaml

    paths = sorted((*root.glob("*.yaml"), *root.glob("*.yml")), key=lambda path: (path.stem != "data", path.name))
    for path in paths:
        try:
            content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise DataError(f"{path} is no YAML ({str(error).partition(chr(10))[0]}); fix it") from error
        if isinstance(content, dict) and "names" in content:
            return content, path
    return {}, None


def _find_parts(root: Path, settings: Mapping[str, Any]) -> list[list[Path]]:
    """Return the images of each part: one part if the set is unsplit, none if there are no images."""
    parts = []
    for keys in (TRAIN_NAMES, VAL_NAMES):
        entry = next((settings[key] for key in keys if settings.get(key)), None)
        images = _listed_images(root, settings, entry) if entry else []
        parts.append(images or _images_in(_part_folder(root, keys)))
        if entry and parts[0] and not parts[-1]:
            raise DataError(f"the data.yaml of {root} leads to {entry}, which has no images; fix that entry")
    if parts[0]:
        return [part for part in parts if part]
    images = _images_in(root / "images") or [path for path in sorted(root.iterdir()) if is_image_file(path)]
    return [images] if images else []


def _part_folder(root: Path, names: Sequence[str]) -> Path | None:
    """Return the image folder of a part, such as `images/train`, `train/images` or `train`."""
    images = root / "images"
    inside = find_subfolder(images, names) if images.is_dir() else None
    part = inside or find_subfolder(root, names)
    return part / "images" if part is not None and (part / "images").is_dir() else part


def _images_in(folder: Path | None) -> list[Path]:
    return list_images(folder) if folder is not None and folder.is_dir() else []


def _listed_images(root: Path, settings: Mapping[str, Any], entry: Any) -> list[Path]:
    """Return the images that an entry of a `data.yaml` names, by folders or by text files that list images."""
    images: list[Path] = []
    for item in entry if isinstance(entry, list) else [entry]:
        base = root / str(settings.get("path") or "")
        inside = re.sub(r"^(\.\.?/)+", "", str(item))  # Roboflow writes ../train/images for a folder beside the file
        for path in (base / str(item), root / str(item), root / inside):
            if path.is_dir():
                images += list_images(path)
                break
            if path.is_file():
                lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
                images += [path.parent / line.strip().removeprefix("./") for line in lines if line.strip()]
                break
    return images


def _label_of(image: Path, root: Path) -> Path:
    """Return an image's label file: below `labels` if the image is below `images`, else beside it."""
    parts = list(image.parts)
    depth = len(root.parts) if image.is_relative_to(root) else 0
    positions = [i for i, part in enumerate(parts[:-1]) if part == "images" and i >= depth]
    if positions:
        parts[positions[-1]] = "labels"
    label = Path(*parts).with_suffix(".txt")
    return label if label.parent.is_dir() else image.with_suffix(".txt")


def _classes_beside(labelled: Sequence[_LabelledPart]) -> ClassTable | None:
    """Return the classes of a `classes.txt` among the label files, where labelImg writes it."""
    folders = [label.parent for part in labelled for label in part.labels[:1]]
    candidates = [parent / "classes.txt" for folder in folders for parent in (folder, folder.parent)]
    path = next((path for path in candidates if path.is_file()), None)
    return with_bright_colours(read_table(path)) if path else None


def _classes_from_ids(labelled: Sequence[_LabelledPart]) -> ClassTable:
    """Return the classes in the label files, named after their ids."""
    values = sorted({line.value for part in labelled for lines in part.lines for line in lines})
    if not values:
        raise DataError(f"no label file such as {labelled[0].labels[0]} has an object that can be read; add objects")
    return bright_table([str(value) for value in values], values)
