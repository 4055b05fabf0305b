"""COCO's JSON files, instances and panoptic, and both as semantic maps."""

from __future__ import annotations

import json
import re
import reprlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from twins.data.base import Opened
from twins.data.classes import MAX_CLASSES, ClassTable, bright_table, build_table, built_in
from twins.data.config import MaskConfig
from twins.data.formats.masks import IGNORE, check_ignored, read_values
from twins.data.images import ENDINGS, open_image
from twins.data.objects import Rle, decode_masks, encode_lengths, encode_polygons, has_pixels
from twins.errors import ConfigError, DataError

BACKGROUND = "background"
"""What pixels without an instance are called where instances are read as a semantic map."""


@dataclass(frozen=True)
class CocoFile:
    """What a JSON file says, its records as they stand."""

    path: Path
    images: list[dict[str, Any]]
    categories: list[tuple[int, str]]
    """Category id and name, by id."""
    annotations: dict[int, list[dict[str, Any]]]
    """Of instances by image id; of panoptic files each image has one, with its `segments_info`."""
    panoptic: bool


def find_coco(root: Path, kind: str) -> list[Path]:
    """Return a folder's JSON files of a kind, `instances` or `panoptic`: one for each part, or none at all.

    Files are looked for in the folder itself, in `annotations` and in `panoptic`, under names such as
    `instances_train2017.json`; one file alone, such as CVAT's `instances_default.json`, is not split.
    """
    found: dict[str, Path] = {}
    for folder in (root, root / "annotations", root / "panoptic"):
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            if match := re.fullmatch(rf"{kind}(?:_default|_?(train|val|test)\w*)?", path.stem):
                found.setdefault(match[1] or "train", path)
    return list_parts(found.get("train"), found.get("val") or found.get("test"))


def list_parts(train: Path | None, val: Path | None) -> list[Path]:
    """Return the files of a data set's parts; none where there is nothing to train on."""
    return [path for path in (train, val) if path is not None] if train else []


def read_json(path: Path) -> Any:
    """Return a JSON file's content; raises DataError where it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}; check the path") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder; name the JSON file in it") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON ({error}); copy it again") from error


def read_coco_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's content, with the lists of COCO's in it.

    Raises:
        DataError: the file is damaged, or lacks a list.
    """
    content = read_json(path)
    keys = content.keys() if isinstance(content, dict) else ()
    missing = [key for key in ("images", "annotations", "categories") if key not in keys]
    if missing:
        raise DataError(f"{path} has no {' and no '.join(missing)}, so it is no COCO file; check which file it is")
    return dict(content)


def read_coco(path: Path) -> CocoFile:
    """Read a JSON file of instances or panoptic segments.

    Raises:
        DataError: the file is damaged, lacks a part, or has a record without a key or of an unlisted category.
    """
    content = read_coco_json(path)
    annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
    with record_errors(path):
        for record in content["annotations"]:
            annotations[record["image_id"]].append(record)
        categories = list_categories(content)
        panoptic = any("segments_info" in record for record in content["annotations"][:1])
        for record in content["images"]:
            hash(record["id"]), Path(record["file_name"])
        listed = {value for value, _ in categories}
        for record in content["annotations"]:
            _check_categories(record, listed, panoptic=panoptic)
    return CocoFile(path, content["images"], categories, dict(annotations), panoptic)


@contextmanager
def record_errors(path: Path) -> Iterator[None]:
    """Raise DataError, naming the file, where a record is read that is none of COCO's."""
    try:
        yield
    except KeyError as error:
        raise DataError(f"{path} has a record without {error}; mend the file") from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path} has a record that is none of COCO's ({error}); mend the file") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def list_categories(content: dict[str, Any]) -> list[tuple[int, str]]:
    """Return category ids and names, by id."""
    return sorted((int(record["id"]), str(record["name"])) for record in content["categories"])


def record_size(record: dict[str, Any]) -> tuple[int, int] | None:
    """Return the height and width that an image's record says, `None` where no image has them."""
    sides = record.get("height"), record.get("width")
    height, width = (int(side) if isinstance(side, int | float) and 0 < side < 65536 else 0 for side in sides)
    return (height, width) if height and width else None


def _check_categories(record: dict[str, Any], categories: set[int], *, panoptic: bool) -> None:
    if panoptic:
        Path(record["file_name"])
    for part in record["segments_info"] if panoptic else (record,):
        if panoptic:
            hash(part["id"])
        if part["category_id"] not in categories:
            raise DataError(
                f"{'segment' if panoptic else 'annotation'} {part.get('id', '?')} has the category "
                f"{part['category_id']}, which is not listed; add it to the categories or remove it"
            )


class CocoImages:
    """Images of a COCO file."""

    def __init__(self, root: Path, file: CocoFile, classes: ClassTable) -> None:
        self.file, self.records, self.folder = file, file.images, _image_folder(root, file)
        self.classes, self.names = classes, classes.names
        self.class_id_of = {value: label for label, value in enumerate(classes.values)}

    def __len__(self) -> int:
        return len(self.records)

    def load(self, index: int) -> Image:
        """Return an image, RGB and upright; raises DataError where it cannot be read."""
        return open_image(self._listed(self.folder, self.records[index]))

    def path(self, index: int) -> str:
        """Return an image's path."""
        return str(self.folder / self.records[index]["file_name"])

    def _listed(self, folder: Path, record: dict[str, Any]) -> Path:
        """Return the file that a record names; raises DataError where it does not exist."""
        path = folder / record["file_name"]
        if not path.exists():
            raise DataError(f"{self.file.path} lists {path}, which does not exist; add it or remove its record")
        return path

    def size(self, index: int) -> tuple[int, int]:
        """Return the height and width that a record says; raises DataError where no image has them."""
        record = self.records[index]
        if size := record_size(record):
            return size
        sides = record.get("height"), record.get("width")
        raise DataError(f"{self.file.path} says {sides} for height and width of {self.path(index)}; mend it")


class PanopticMaps(CocoImages):
    """Panoptic segments as a semantic map: each segment's category; what belongs to none is ignored."""

    def __init__(self, root: Path, file: CocoFile, masks: MaskConfig) -> None:
        super().__init__(root, file, _classes(file, masks))
        self.maps = _map_folder(file)

    def target(self, index: int) -> NDArray[np.uint8]:
        """Return class ids `(H, W)`; raises DataError where the PNG cannot be read or holds a segment of no record."""
        records = self.file.annotations.get(self.records[index]["id"])
        if not records:
            raise DataError(f"{self.file.path} has no segments for {self.path(index)}; add them or remove its record")
        path = self._listed(self.maps, records[0])
        pixels = read_values(path, palette=True).astype(np.int64)
        bytes_ = np.array([1, 256, 65536])  # in panopticapi's order; in a grey PNG all three are equal
        codes = pixels * bytes_.sum() if pixels.ndim == 2 else pixels @ bytes_
        segments = {0: IGNORE} | {
            segment["id"]: self.class_id_of.get(segment["category_id"], IGNORE)
            for segment in records[0]["segments_info"]
        }
        ids, places = np.unique(codes, return_inverse=True)
        if unknown := [int(code) for code in ids if int(code) not in segments]:
            raise DataError(f"{path} holds segment {unknown[0]}, which {self.file.path} has not; mend one of them")
        return np.array([segments[int(code)] for code in ids], dtype=np.uint8)[places].reshape(codes.shape)


class InstanceMaps(CocoImages):
    """Instances as a semantic map: their categories, `background` elsewhere; pixels of two categories are ignored."""

    def __init__(self, root: Path, file: CocoFile, masks: MaskConfig) -> None:
        super().__init__(root, file, _classes(file, masks, background=True))

    def target(self, index: int) -> NDArray[np.uint8]:
        """Return class ids `(H, W)`; raises DataError where a mask is damaged or of another size."""
        size = self.size(index)
        found = np.zeros(size, dtype=np.uint8)
        for annotation in self.file.annotations.get(self.records[index]["id"], ()):
            mask = decode_masks([read_mask(annotation, size, self.file.path)], size)[0]
            label = self.class_id_of.get(annotation["category_id"], IGNORE)
            clash = mask & (found != 0) & (found != label)
            found[mask] = label
            found[clash] = IGNORE
        return found


def open_coco_maps(root: Path, kind: Literal["panoptic", "instances"], masks: MaskConfig) -> Opened | None:
    """Return a folder's COCO files as semantic maps, or `None` when it has none.

    Raises:
        ConfigError: settings of masks other than what is ignored, which say nothing here.
        DataError: a file is damaged, or its images cannot be found.
    """
    paths = find_coco(root, kind)
    if not paths:
        return None
    if masks.classes != "auto" or masks.values != "auto" or masks.reduce_zero_label is not None:
        raise ConfigError(
            f"{paths[0]} says itself which classes its masks have; of `masks.classes`, `masks.values` and "
            "`masks.reduce_zero_label` leave out what was given here or for the run"
        )
    files = [read_coco(path) for path in paths]
    for file in files:
        if file.annotations and file.panoptic != (kind == "panoptic"):
            what = "panoptic segments" if file.panoptic else "instances"
            raise DataError(f"{file.path} holds {what}; give it a name that says so")
    reader = PanopticMaps if kind == "panoptic" else InstanceMaps
    sets = [reader(root, file, masks) for file in files]
    if sets[0].names != sets[-1].names:
        raise DataError(f"{paths[0]} and {paths[1]} list different categories; give both the same")
    return Opened(sets)


def describe(annotation: dict[str, Any], source: Path) -> str:
    """Return what to call an annotation of a file."""
    return f"annotation {annotation.get('id', '?')} of {source}"


def read_mask(annotation: dict[str, Any], size: tuple[int, int], source: Path) -> Rle:
    """Return an annotation's mask as compressed run lengths; see `parse_mask`.

    Raises:
        DataError: it has none, or one that is damaged or of another size.
    """
    if not (segmentation := annotation.get("segmentation")):
        raise DataError(f"{describe(annotation, source)} has no mask; add it or remove the annotation")
    try:
        return parse_mask(segmentation, size)
    except ValueError as error:
        raise DataError(f"{describe(annotation, source)} has {error}; mend it") from error


def parse_mask(segmentation: Any, size: tuple[int, int]) -> Rle:
    """Return a mask as compressed run lengths, from polygons or run lengths of either kind.

    Args:
        segmentation: a list of polygons, each `[x, y, x, y, ...]` in pixels, of which those of less than three points
            cover nothing; or a dictionary of `size` (height, width) and `counts`, a list or text.
        size: height and width of the image in pixels.

    Raises:
        ValueError: it is none of these, or not of an image of this size; says what it is.
    """
    if isinstance(segmentation, list) and segmentation:
        return encode_polygons(segmentation, size)
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise ValueError(f"the segmentation {reprlib.repr(segmentation)}, neither polygons nor run lengths")
    if segmentation["size"] != list(size):
        found = reprlib.repr(segmentation["size"])
        raise ValueError(f"a mask of {found} on an image of {list(size)} pixels")
    return _compressed(segmentation["counts"], size)


def _compressed(counts: Any, size: tuple[int, int]) -> Rle:
    """Return run lengths of either kind compressed; raises ValueError where they do not fill the mask."""
    height, width = size
    pixels, said = height * width, f"the run lengths {reprlib.repr(counts)}"
    if isinstance(counts, str):
        encoded = {"size": [height, width], "counts": counts.encode("ascii", errors="ignore")}
        if counts.isascii() and has_pixels(encoded, pixels):
            return encoded
    elif not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError(f"{said}, which must be a text, or a list of whole numbers of at least 0")
    elif sum(counts) == pixels:
        return encode_lengths(counts, size)
    raise ValueError(f"{said}, which do not make {height} x {width} pixels")


def class_table(categories: Sequence[tuple[int, str]]) -> ClassTable:
    """Return categories as classes, in COCO's own colours where they are COCO's; none has the background's."""
    known = built_in("coco_panoptic")
    colours = dict(zip(zip(known.values, known.names, strict=True), known.colours, strict=True))
    theirs = [colours[category] for category in categories if category in colours]
    names, values = [name for _, name in categories], [value for value, _ in categories]
    return build_table(names, values, theirs) if len(theirs) == len(categories) else bright_table(names, values)


def _classes(file: CocoFile, masks: MaskConfig, *, background: bool = False) -> ClassTable:
    """Return the classes of a semantic map, behind a background where wanted."""
    check_ignored(masks.ignored_names, [name for _, name in file.categories])
    categories = [
        (value, name)
        for value, name in file.categories
        if value not in masks.ignored_values and name not in masks.ignored_names
    ]
    try:
        classes = class_table(categories)
        if background:
            dark = build_table((BACKGROUND,)).colours
            classes = ClassTable((BACKGROUND, *classes.names), (-1, *classes.values), dark + classes.colours)
    except DataError as error:
        raise DataError(f"{file.path}: {error}") from error
    if len(classes) > MAX_CLASSES:
        raise DataError(
            f"{file.path}: semantic maps have at most {MAX_CLASSES} classes, found {len(classes)}; join some"
        )
    return classes


def _image_folder(root: Path, file: CocoFile) -> Path:
    """Return the folder that a file's image names are relative to."""
    if not file.images:
        raise DataError(f"{file.path} lists no image; check which file it is")
    part = re.sub(r"^(annotations|instances|panoptic)_?", "", file.path.stem)
    first, beside = file.images[0]["file_name"], file.path.parent
    places = [root / "images" / part, root / part, root / part / "images"] if part else []
    places += [root / "images", root, root / "train2017", root / "val2017", beside, beside / "images"]
    for folder in places:
        if (folder / first).exists():
            return folder
    for folder in places:
        if folder.is_dir() and any(path.suffix.lower() in ENDINGS for path in folder.iterdir()):
            return folder  # the first record's image is missing, which its reading will say
    raise DataError(f"the images of {file.path}, such as {first}, are not in {root}; put them in {root / 'images'}")


def _map_folder(file: CocoFile) -> Path:
    if not file.annotations:
        raise DataError(f"{file.path} lists no annotation; check which file it is")
    first = next(iter(file.annotations.values()))[0]["file_name"]
    places = (file.path.with_suffix(""), file.path.parent / "png", file.path.parent)
    for folder in places:
        if (folder / first).exists():
            return folder
    raise DataError(
        f"the PNG files of {file.path}, such as {first}, are not in {places[0]} or {places[1]}; put them there"
    )
