"""YOLO's text files as objects: a line per object, in shares of the image's width and height."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twins.data.base import TRAIN_NAMES, VAL_NAMES, Opened, list_images, subfolder
from twins.data.classes import ClassTable, bright_table, read_table, with_bright_colours
from twins.data.formats.files import ImageFiles
from twins.data.images import image_size, is_image_file
from twins.data.objects import Objects, build_objects, encode_polygons, has_area, mask_areas
from twins.errors import DataError, number_of

_FAR = 2.0
"""A coordinate beyond this is no share of an image: most likely pixels were written."""


@dataclass(frozen=True)
class YoloObject:
    """What a line says."""

    number: int
    """Its place in the file, from 1."""
    value: int
    """Class id as the file has it."""
    box: tuple[float, float, float, float]
    """xyxy in shares of width and height; of a polygon the smallest box around it."""
    points: tuple[float, ...] = ()
    """Outline of the object's parts, x and y in turns, in the same shares; nothing where the line is a box."""


def open_yolo(root: Path, own_classes: ClassTable | None, *, masks: bool) -> Opened | None:
    """Return a folder's YOLO files as sets of images with objects, or `None` when it has none.

    Read are `images/train` and `labels/train`, or `train/images` and `train/labels` (`val`, `valid`, `test` alike),
    `images` and `labels`, labels beside their images, or the images that `train` and `val` of a `data.yaml` lead to:
    folders or lists of files. An image without a label file has no objects. Objects of unlisted classes are left out
    and told. Where no `data.yaml` has `names`, the classes are the folder's own.

    Raises:
        DataError: the `data.yaml` is damaged or leads nowhere, or no image has a label file.
    """
    settings, source = _settings(root)
    parts = _find_parts(root, settings)
    if source is not None and not parts:
        raise DataError(
            f"{source} names classes, but no images are found by it; put them in {root / 'images' / 'train'}, "
            f"and labels in {root / 'labels' / 'train'}"
        )
    found = [[(image, _label_of(image, root)) for image in part] for part in parts]
    if not any(label.is_file() for part in found for _, label in part):
        if source is None:
            return None
        raise DataError(f"no image of {source} has a label file, such as {found[0][0][1]}; add them")
    pages = [_Pages(part) for part in found]
    notes = [note for part in pages for note in part.notes()]
    classes = with_bright_colours(read_table(source)) if source is not None else own_classes or _listed_beside(pages)
    if classes is None:
        classes = _numbered(pages)
        what = number_of(len(classes), "class", "classes")
        notes.append(f"{what} without names, called by id as in the label files; give names in data.yaml")
    faults: list[str] = []
    sets = [YoloObjects(part, classes, faults, masks=masks) for part in pages]
    return Opened(sets, notes, faults)


def read_yolo(path: Path) -> list[YoloObject]:
    """Read a label file; nothing where there is none.

    Lines are `class cx cy w h`, or `class x1 y1 x2 y2 ...` with three points or more. Of the latter a part that comes
    back to its first point ends there, and the next point begins another. Points are read as COCO's, where a pixel
    reaches from its number to the next; outlines that join the middles of pixels give masks half a pixel smaller.

    Raises:
        DataError: the file is no text, or a line of something else; says which.
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

    def __init__(self, pages: _Pages, classes: ClassTable, faults: list[str], *, masks: bool) -> None:
        super().__init__(pages.images)
        self.labels, self.masks = pages.labels, masks
        self.classes, self.names = classes, classes.names
        self.class_id_of = {value: label for label, value in enumerate(classes.values)}
        self._sizes: dict[int, tuple[int, int]] = {}
        self._flat: dict[int, list[str]] = defaultdict(list)  # lines whose boxes have no area in an image of any size
        for index, lines in enumerate(pages.lines):
            for line in self._known(index, lines, faults):
                if not has_area(line.box, (1, 1)):
                    self._flat[index].append(_called(line.number, self.labels[index]))

    def target(self, index: int) -> Objects:
        """Return an image's objects; opens the image's header for its size.

        Raises:
            DataError: a line is none of YOLO's, or a box where masks are wanted; or the image cannot be read.
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
        """Return `None`: label files do not say an image's height and width."""
        return None

    def describe_object(self, index: int, place: int) -> str:
        """Return what to call one of an image's objects."""
        return _called(self._lines(index)[place].number, self.labels[index])

    def without_area(self, index: int) -> Sequence[str]:
        """Name the objects of an image whose boxes have no area in it."""
        return self._flat.get(index, ())

    def _lines(self, index: int) -> list[YoloObject]:
        return [line for line in read_yolo(self.labels[index]) if line.value in self.class_id_of]

    def _size(self, index: int) -> tuple[int, int]:
        if index not in self._sizes:
            self._sizes[index] = image_size(self.images[index])
        return self._sizes[index]

    def _mask(self, line: YoloObject, size: tuple[int, int], index: int) -> dict[str, Any]:
        if not line.points:
            raise DataError(
                f"{_called(line.number, self.labels[index])} is a box, and instance segmentation needs polygons; "
                'add them, or choose `task="detection"`'
            )
        height, width = size
        points = np.array(line.points).reshape(-1, 2)
        return encode_polygons([(part * (width, height)).ravel().tolist() for part in _parts(points)], size)

    def _known(self, index: int, lines: Sequence[YoloObject], faults: list[str]) -> list[YoloObject]:
        """Return the lines that are of a class; the others are added to the faults."""
        for line in lines:
            if line.value not in self.class_id_of:
                faults.append(
                    f"{_called(line.number, self.labels[index])} has the class {line.value}, which is not listed; "
                    "list it or remove the line"
                )
        return [line for line in lines if line.value in self.class_id_of]


class _Pages:
    """A part's images and label files, which are read once, broken ones passed over: their target will say so."""

    def __init__(self, pairs: Sequence[tuple[Path, Path]]) -> None:
        self.images, self.labels = [image for image, _ in pairs], [label for _, label in pairs]
        self.lines = [_attempt(label) for label in self.labels]

    def notes(self) -> list[str]:
        """Return a sentence where images have no label file."""
        lonely = [i for i, lines in enumerate(self.lines) if not lines and not self.labels[i].exists()]
        if not lonely:
            return []
        first = self.images[lonely[0]]
        what = number_of(len(lonely), "image")
        return [f"{what} in {first.parent} without a label file and so without objects, {first.name} first"]


def _attempt(path: Path) -> list[YoloObject]:
    try:
        return read_yolo(path)
    except DataError:
        return []


def _called(number: int, path: Path) -> str:
    return f"line {number} of {path}"


def _read_line(line: str, number: int, path: Path) -> YoloObject:
    words = line.split()
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        raise DataError(
            f"{_called(number, path)} has {len(words)} numbers; give a class with a box (5), or with a polygon of "
            "three points or more (7, 9, ...)"
        )
    try:
        value, *shares = map(float, words)
    except ValueError as error:
        raise DataError(f"{_called(number, path)} holds {line.strip()[:40]!r}, not numbers alone; mend it") from error
    if value < 0 or not value.is_integer():
        raise DataError(f"{_called(number, path)} has the class {words[0]}; give a whole number of at least 0")
    if wrong := [share for share in shares if not abs(share) <= _FAR]:
        raise DataError(
            f"{_called(number, path)} has the coordinate {wrong[0]:g}; give shares of the image's width and height, "
            "0 to 1"
        )
    if len(shares) > 4:
        box = min(shares[::2]), min(shares[1::2]), max(shares[::2]), max(shares[1::2])
        return YoloObject(number, int(value), box, tuple(shares))
    x, y, width, height = shares
    return YoloObject(number, int(value), (x - width / 2, y - height / 2, x + width / 2, y + height / 2))


def _parts(points: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Cut points `(P, 2)` where a part comes back to its first point."""
    parts = []
    first = 0
    while first < len(points):
        back = np.flatnonzero((points[first + 3 :] == points[first]).all(axis=1))
        last = first + 3 + int(back[0]) if len(back) else len(points)
        parts.append(points[first:last])
        first = last + 1
    return parts


def _settings(root: Path) -> tuple[dict[str, Any], Path | None]:
    """Return the content and path of a `data.yaml`, or of another YAML file with `names`; nothing where none is."""
    import yaml

    paths = sorted((*root.glob("*.yaml"), *root.glob("*.yml")), key=lambda path: (path.stem != "data", path.name))
    for path in paths:
        try:
            content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise DataError(f"{path} is no YAML ({str(error).partition(chr(10))[0]}); mend it") from error
        if isinstance(content, dict) and "names" in content:
            return content, path
    return {}, None


def _find_parts(root: Path, settings: Mapping[str, Any]) -> list[list[Path]]:
    """Return the images of each part; one part where the set is not split, and none where nothing is found."""
    parts = []
    for keys in (TRAIN_NAMES, VAL_NAMES):
        said = next((settings[key] for key in keys if settings.get(key)), None)
        images = _images_of(root, settings, said) if said else []
        parts.append(images or _images_in(_part_folder(root, keys)))
        if said and parts[0] and not parts[-1]:
            raise DataError(f"the data.yaml of {root} leads to {said}, where no image is; mend that entry")
    if parts[0]:
        return [part for part in parts if part]
    whole = _images_in(root / "images") or [path for path in sorted(root.iterdir()) if is_image_file(path)]
    return [whole] if whole else []


def _part_folder(root: Path, names: Sequence[str]) -> Path | None:
    images = root / "images"
    inside = subfolder(images, names) if images.is_dir() else None
    part = inside or subfolder(root, names)
    return part / "images" if part is not None and (part / "images").is_dir() else part


def _images_in(folder: Path | None) -> list[Path]:
    return list_images(folder) if folder is not None and folder.is_dir() else []


def _images_of(root: Path, settings: Mapping[str, Any], said: Any) -> list[Path]:
    """Return the images that an entry of a `data.yaml` leads to: folders, or text files that list images."""
    images: list[Path] = []
    for entry in said if isinstance(said, list) else [said]:
        base = root / str(settings.get("path") or "")
        inside = re.sub(r"^(\.\.?/)+", "", str(entry))  # Roboflow writes ../train/images of folders beside the file
        for path in (base / str(entry), root / str(entry), root / inside):
            if path.is_dir():
                images += list_images(path)
                break
            if path.is_file():
                lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
                images += [path.parent / line.strip().removeprefix("./") for line in lines if line.strip()]
                break
    return images


def _label_of(image: Path, root: Path) -> Path:
    """Return an image's label file: below `labels` where the image is below `images`, else beside it."""
    parts = list(image.parts)
    above = len(root.parts) if image.is_relative_to(root) else 0
    places = [i for i, part in enumerate(parts[:-1]) if part == "images" and i >= above]
    if places:
        parts[places[-1]] = "labels"
    label = Path(*parts).with_suffix(".txt")
    return label if label.parent.is_dir() else image.with_suffix(".txt")


def _listed_beside(pages: Sequence[_Pages]) -> ClassTable | None:
    """Return the classes of a `classes.txt` among the labels, where labelImg puts it."""
    folders = [label.parent for part in pages for label in part.labels[:1]]
    places = [place / "classes.txt" for folder in folders for place in (folder, folder.parent)]
    found = next((path for path in places if path.is_file()), None)
    return with_bright_colours(read_table(found)) if found else None


def _numbered(pages: Sequence[_Pages]) -> ClassTable:
    """Return the classes whose ids label files hold, called by them."""
    values = sorted({line.value for part in pages for lines in part.lines for line in lines})
    if not values:
        raise DataError(f"no label file such as {pages[0].labels[0]} has an object that can be read; add objects")
    return bright_table([str(value) for value in values], values)
