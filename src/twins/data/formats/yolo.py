"""YOLO's text files as objects: one line per object, in fractions of the image's width and height."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twins.data.base import UNSPLIT, Opened
from twins.data.classes import ClassTable, bright_table, read_table, with_bright_colours
from twins.data.config import PARTS
from twins.data.formats.files import ImageFiles
from twins.data.formats.names import FoundFiles, Match, find_files, read_list
from twins.data.formats.source import ANNOTATIONS, Source
from twins.data.formats.yolo_lines import (
    Keypoints,
    Row,
    YoloObject,
    describe_line,
    infer_keypoints,
    keypoint_setting,
    read_objects,
    read_rows,
    read_yolo,
)
from twins.data.images import image_size, is_image_file, list_images
from twins.data.objects import Objects, build_objects, encode_polygons, has_area, mask_areas
from twins.data.parts import part_of
from twins.errors import DataError, number_of


def open_yolo(source: Source, listed_classes: ClassTable | None, *, masks: bool) -> Opened | None:
    """Open a folder of images with YOLO's label files as sets with objects; `None` if it has no such layout.

    Layouts: `images/train` and `labels/train`; `train/images` and `train/labels` (`val`, `valid`, `test` likewise);
    `images` and `labels`; labels beside their images; or the folders or file lists that `train` and `val` of a
    `data.yaml` name. An image without a label file has no objects. Objects of unlisted classes are left out and
    reported. In a set for poses, with `kpt_shape` in its `data.yaml` or visibility after each point, the box of a line
    is read and its keypoints are left out.

    Args:
        source: the data set.
        listed_classes: the classes of the folder's class table, used if no `data.yaml` has `names`. `None` takes a
            `classes.txt` among the labels, else the class ids in the label files.
        masks: whether objects need masks.

    Raises:
        DataError: the `data.yaml` is damaged or names no images, or no image has a label file.
    """
    settings, file = _settings(source)
    root, notes = source.root, source.notes
    parts = _find_parts(source, settings)
    if file is not None and not parts:
        raise DataError(
            f"{file} names classes, but no images are found by it; put them in {root / 'images' / 'train'}, "
            f"and labels in {root / 'labels' / 'train'}"
        )
    pairs = {part: [(image, _label_of(image, root)) for image in images] for part, images in parts.items()}
    if not any(os.path.isfile(label) for part in pairs.values() for _, label in part):
        if file is None:
            return None
        raise DataError(f"no image of {file} has a label file, such as {next(iter(pairs.values()))[0][1]}; add them")
    labelled = {name: _LabelledPart(part) for name, part in pairs.items()}
    rows = (row for part in labelled.values() for row in part.rows())
    keypoints = keypoint_setting(settings, file) or infer_keypoints(rows)
    for part in labelled.values():
        part.read(keypoints)
        notes += part.notes()
    if file is not None:
        source.use_names(file)
        classes: ClassTable | None = with_bright_colours(read_table(file))
    else:
        classes = listed_classes or _classes_beside(source, list(labelled.values()))
    if classes is None:
        classes = _classes_from_ids(list(labelled.values()))
        count = number_of(len(classes), "class", "classes")
        notes.append(f"{count} without names, called by id as in the label files; give names in data.yaml")
    sets = {name: YoloObjects(part, classes, source.faults, masks=masks) for name, part in labelled.items()}
    source.notes[:] = dict.fromkeys(notes)  # one entry may name both parts
    for part in labelled.values():
        source.use(ANNOTATIONS, *part.labels)
    folders = {name: part.images[0].parent for name, part in labelled.items() if part.images}
    return Opened(
        sets,
        "YOLO's label files",
        [file] if file else list(folders.values()),
        {name: source.relative(folder) for name, folder in folders.items()},
    )


class YoloObjects(ImageFiles):
    """Images with a label file each."""

    def __init__(self, part: _LabelledPart, classes: ClassTable, faults: list[str], *, masks: bool) -> None:
        super().__init__(part.images)
        self.label_files, self.keypoints, self.masks = part.labels, part.keypoints, masks
        self.classes, self.names = classes, classes.names
        self.class_id_of = {value: label for label, value in enumerate(classes.values)}
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
        return [line for line in read_yolo(self.label_files[index], self.keypoints) if line.value in self.class_id_of]

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
        self.found = _find_labels([label for _, label in pairs])
        self.labels = [self.found.paths.get(str(label), label) for _, label in pairs]
        self.keypoints: Keypoints | None = None
        self.lines: list[list[YoloObject]] = []
        self._rows = [_attempt_rows(label) for label in self.labels]

    def rows(self) -> Iterator[Row]:
        """Yield the numbers of all lines."""
        for rows in self._rows:
            yield from rows

    def read(self, keypoints: Keypoints | None) -> None:
        """Read the lines as objects; a file with a line that is none has no lines."""
        self.keypoints = keypoints
        self.lines = [_attempt(rows, label, keypoints) for rows, label in zip(self._rows, self.labels, strict=True)]
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
        if not count or self.keypoints is None:
            return []
        return [
            f"{number_of(count, 'line')} in {self.labels[0].parent} with {self.keypoints.points} keypoints after the "
            f"box, by {self.keypoints.source}: the box is read, the keypoints are left out"
        ]


def _find_labels(labels: Sequence[Path]) -> FoundFiles:
    """Find label files whose names are spelled in another way than those of their images."""
    names_in: dict[Path, list[str]] = defaultdict(list)
    for label in labels:
        names_in[label.parent].append(label.name)
    paths: dict[str, Path] = {}
    matches: dict[str, Match] = {}
    for folder, names in names_in.items():
        found = find_files(names, folder, by_last_part=False)
        paths |= {str(folder / name): path for name, path in found.paths.items()}
        matches |= {str(folder / name): match for name, match in found.matches.items()}
    return FoundFiles(paths, matches)


def _attempt_rows(path: Path) -> list[Row]:
    try:
        return read_rows(path)
    except DataError:
        return []  # `target` reads the file again and raises the error


def _attempt(rows: Sequence[Row], path: Path, keypoints: Keypoints | None) -> list[YoloObject]:
    try:
        return read_objects(rows, path, keypoints)
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


def _settings(source: Source) -> tuple[dict[str, Any], Path | None]:
    """Return the content and path of a `data.yaml`, or of another YAML file with `names`; `{}, None` without one."""
    import yaml

    root, given = source.root, source.settings_file
    paths = sorted((*root.glob("*.yaml"), *root.glob("*.yml")), key=lambda path: (path.stem != "data", path.name))
    for path in [given] if given else paths:
        try:
            content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise DataError(f"{path} is no YAML ({str(error).partition(chr(10))[0]}); fix it") from error
        if isinstance(content, dict) and "names" in content:
            return content, path
        if given:
            raise DataError(f"{path} has no `names`, so it is no data.yaml; give the data folder, or another file")
    return {}, None


def _find_parts(source: Source, settings: Mapping[str, Any]) -> dict[str, list[Path]]:
    """Return the images of each part: one part if the set is unsplit, none if there are no images."""
    root, parts = source.root, {}
    folders = source.part_folders(root / "images") or source.part_folders(root)
    for part in PARTS:
        entry = next((value for key, value in settings.items() if value and part_of(str(key)) == part), None)
        images = _listed_images(root, settings, entry, source.notes) if entry else []
        if not images and part in folders and (images := _images_of(folders[part])) and entry:
            shown = ", ".join(map(str, folders[part]))
            source.notes.append(f"the data.yaml of {root} leads to {entry}, where no image is; {shown} is read instead")
        if images:
            parts[part] = images
        elif entry and "train" in parts and part != "test" and "test" not in folders:
            raise DataError(f"the data.yaml of {root} leads to {entry}, which has no images; fix that entry")
    if parts:
        return parts
    images = _images_in(root / "images") or [path for path in sorted(root.iterdir()) if is_image_file(path)]
    return {UNSPLIT: images} if images else {}


def _images_of(folders: Sequence[Path]) -> list[Path]:
    """Return the images of a part, in its folders or in their `images`."""
    return [
        image
        for folder in folders
        for image in _images_in(folder / "images" if (folder / "images").is_dir() else folder)
    ]


def _images_in(folder: Path | None) -> list[Path]:
    return list_images(folder) if folder is not None and folder.is_dir() else []


def _listed_images(root: Path, settings: Mapping[str, Any], entry: Any, notes: list[str]) -> list[Path]:
    """Return the images that an entry of a `data.yaml` names, by folders or by text files that list images."""
    images: list[Path] = []
    for item in entry if isinstance(entry, list) else [entry]:
        path = _find_entry(root, str(settings.get("path") or ""), str(item), notes)
        if path is not None and path.is_dir():
            images += list_images(path)
        elif path is not None:
            names = [line.removeprefix("./") for line in read_list(path)]
            found = find_files(names, path.parent, search=root)
            notes += found.note(str(path))
            images += [found.paths.get(name, path.parent / name) for name in names]
    return images


def _find_entry(root: Path, base: str, item: str, notes: list[str]) -> Path | None:
    """Return the folder or file that an entry names: relative to `path` or the root, else by its last folders.

    Entries of another machine lead to `C:\\data\\images\\train` or `/content/data/images/train`; then the longest end
    that exists below the root is taken. Roboflow writes `../train/images` for a folder beside the file.
    """
    inside = re.sub(r"^(\.\.?/)+", "", item)
    for path in (root / base / item, root / item, root / inside):
        if os.path.exists(path):
            return path
    folders = [part for part in item.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    ends = (root.joinpath(*folders[first:]) for first in range(len(folders)))
    end = next((path for path in ends if os.path.exists(path)), None)
    if end is not None:
        notes.append(f"the data.yaml of {root} leads to {item:.250}, which does not exist; {end} is read instead")
    return end


def _label_of(image: Path, root: Path) -> Path:
    """Return an image's label file: below `labels` if the image is below `images`, else beside it."""
    parts = list(image.parts)
    depth = len(root.parts) if image.is_relative_to(root) else 0
    positions = [i for i, part in enumerate(parts[:-1]) if part == "images" and i >= depth]
    if positions:
        parts[positions[-1]] = "labels"
    label = Path(*parts).with_suffix(".txt")
    return label if os.path.isdir(label.parent) else image.with_suffix(".txt")


def _classes_beside(source: Source, labelled: Sequence[_LabelledPart]) -> ClassTable | None:
    """Return the classes of a `classes.txt` among the label files, where labelImg writes it."""
    folders = [label.parent for part in labelled for label in part.labels[:1]]
    candidates = [parent / "classes.txt" for folder in folders for parent in (folder, folder.parent)]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        return None
    source.use_names(path)
    return with_bright_colours(read_table(path))


def _classes_from_ids(labelled: Sequence[_LabelledPart]) -> ClassTable:
    """Return the classes in the label files, named after their ids."""
    values = sorted({line.value for part in labelled for lines in part.lines for line in lines})
    if not values:
        raise DataError(f"no label file such as {labelled[0].labels[0]} has an object that can be read; add objects")
    return bright_table([str(value) for value in values], values)
