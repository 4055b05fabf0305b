"""COCO's JSON files of instances or panoptic segments, and both as label maps."""

from __future__ import annotations

import json
import os
import re
import reprlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from twins.data.base import UNSPLIT, Opened, join
from twins.data.classes import MAX_CLASSES, ClassTable, bright_table, build_table, built_in
from twins.data.config import MaskConfig
from twins.data.formats.masks import IGNORE, check_ignored, read_values
from twins.data.formats.names import find_files, with_slashes
from twins.data.formats.source import ANNOTATIONS, MASKS, Source, names_in
from twins.data.formats.values import read_id, read_number, read_whole
from twins.data.images import is_image_file, open_image
from twins.data.objects import Rle, decode_masks, encode_lengths, encode_polygons, has_pixels
from twins.data.parts import part_of
from twins.errors import ConfigError, DataError, number_of

_SAMPLE = 20
"""Number of listed images by which a file's image folder is recognised."""
BACKGROUND = "background"
"""Class name of pixels without an instance when instances are read as a label map."""


@dataclass(frozen=True)
class CocoFile:
    """The content of a JSON file, its entries unchanged."""

    path: Path
    images: list[dict[str, Any]]
    """The records of the images: `id`, `file_name`, `height`, `width`."""
    categories: list[tuple[int, str]]
    """Category ids and names, sorted by id."""
    annotations: dict[int, list[dict[str, Any]]]
    """Annotations by image id; a panoptic file has one per image, with its `segments_info`."""
    panoptic: bool
    """Whether the annotations are panoptic segments instead of instances."""
    notes: list[str] = field(default_factory=list)
    """Values that are read otherwise than written, a sentence each."""


def find_coco(source: Source, kind: str) -> dict[str, list[Path]]:
    """Return the JSON files of a data set whose names begin with `kind`, such as `instances`, by part; or none.

    The files are those of the layout settings; else they are in the folder itself, in `annotations` or in `panoptic`,
    named like `instances_train2017.json`. A single file, such as CVAT's `instances_default.json`, is an unsplit set.

    Raises:
        DataError: two files are of the same part.
    """
    if given := given_files(source):
        return given
    root = source.root
    paths = [
        path for folder in (root, root / "annotations", root / "panoptic") for path in sorted(folder.glob("*.json"))
    ]
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        rest = path.stem.lower().removeprefix(kind)
        if rest != path.stem.lower() and (part := UNSPLIT if rest in ("", "_default") else part_of(rest)):
            groups[part].append(path)
    if len(groups) > 1:
        groups.pop(UNSPLIT, None)
    return source.one_each(groups)


def given_files(source: Source) -> dict[str, list[Path]]:
    """Return the JSON files that the layout settings give for each part, or for the whole set."""
    parts = {
        part: files
        for part, paths in source.part_paths().items()
        if (files := [path for path in paths if path.suffix.lower() == ".json"])
    }
    annotations = source.path(source.layout.annotations)
    if not parts and annotations is not None and annotations.suffix.lower() == ".json":
        return {UNSPLIT: [annotations]}
    return parts


def open_parts(
    source: Source, files: Mapping[str, Sequence[Path]], layout: str, build: Callable[[Path], Any]
) -> Opened:
    """Return the sets of JSON files by part, several files of a part joined; `build` makes the set of a file."""
    for paths in files.values():
        source.use(ANNOTATIONS, *paths)
    source.names_from = source.names_from or "the annotation files"
    if UNSPLIT in files:
        source.recognise(annotations=names_in(files[UNSPLIT], source.root)[0])
    else:
        source.recognise(**{part: names_in(paths, source.root) for part, paths in files.items()})
    return Opened(
        {part: join([build(path) for path in paths]) for part, paths in files.items()},
        layout,
        [path for paths in files.values() for path in paths],
        {part: ", ".join(map(source.relative, paths)) for part, paths in files.items()},
    )


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; raises DataError if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}; check the path") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder; name the JSON file in it") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON ({error}); copy it again") from error


def read_coco_json(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the content of a JSON file that has COCO's keys, with whole numbers as ids, and a note if some were not.

    The keys are `images`, `annotations` and `categories`.

    Raises:
        DataError: the file is damaged, or lacks a key.
    """
    content = read_json(path)
    keys = content.keys() if isinstance(content, dict) else ()
    missing = [key for key in ("images", "annotations", "categories") if key not in keys]
    if missing:
        raise DataError(f"{path} has no {' and no '.join(missing)}, so it is no COCO file; check which file it is")
    if not (count := _read_ids(content)):
        return dict(content), []
    return dict(content), [f'{number_of(count, "id")} in {path}, written as 1.0 or "1", read as whole numbers']


_IDS = {"images": ("id",), "annotations": ("id", "image_id", "category_id"), "categories": ("id",)}
"""The keys of ids by list."""


def _read_ids(content: dict[str, Any]) -> int:
    """Make whole numbers of ids that are written in another form; return their number."""
    count = 0
    for name, keys in _IDS.items():
        for record in content[name] if isinstance(content[name], list) else ():
            if isinstance(record, dict):
                count += _replace_ids(record, keys)
                segments = record.get("segments_info")
                for segment in segments if isinstance(segments, list) else ():
                    count += _replace_ids(segment, ("id", "category_id")) if isinstance(segment, dict) else 0
    return count


def _replace_ids(record: dict[str, Any], keys: Sequence[str]) -> int:
    count = 0
    for key in keys:
        if type(value := record.get(key)) in (float, str) and type(whole := read_id(value)) is int:
            record[key] = whole
            count += 1
    return count


def read_coco(path: Path) -> CocoFile:
    """Read a JSON file of instances or panoptic segments.

    Raises:
        DataError: the file is damaged, lacks a list, or has an entry that lacks a key or has an unlisted category.
    """
    content, notes = read_coco_json(path)
    annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
    with record_errors(path):
        for annotation in content["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
        categories = list_categories(content)
        panoptic = any("segments_info" in annotation for annotation in content["annotations"][:1])
        for record in content["images"]:
            hash(record["id"]), Path(record["file_name"])
        category_ids = {category_id for category_id, _ in categories}
        for annotation in content["annotations"]:
            _check_categories(annotation, category_ids, panoptic=panoptic)
    return CocoFile(path, content["images"], categories, dict(annotations), panoptic, notes)


@contextmanager
def record_errors(path: Path) -> Iterator[None]:
    """Turn the errors of reading malformed entries into a DataError that names the file."""
    try:
        yield
    except KeyError as error:
        raise DataError(f"{path} has a record without {error}; fix the file") from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path} has a record that is none of COCO's ({error}); fix the file") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def list_categories(content: dict[str, Any]) -> list[tuple[int, str]]:
    """Return category ids and names, sorted by id."""
    categories = [(read_whole(record["id"]), str(record["name"])) for record in content["categories"]]
    if unnumbered := [name for number, name in categories if number is None]:
        raise ValueError(f"the id of category {unnumbered[0]} is no whole number")
    return sorted((number, name) for number, name in categories if number is not None)


def record_size(record: dict[str, Any]) -> tuple[int, int] | None:
    """Return the height and width in an image's record; `None` if they are missing or impossible."""
    sides = read_number(record.get("height")) or 0, read_number(record.get("width")) or 0
    height, width = (int(side) if 0 < side < 65536 else 0 for side in sides)
    return (height, width) if height and width else None


def _check_categories(annotation: dict[str, Any], category_ids: set[int], *, panoptic: bool) -> None:
    """Raise an error if an annotation, or one of its segments, lacks a key or has an unlisted category."""
    if panoptic:
        Path(annotation["file_name"])
    for item in annotation["segments_info"] if panoptic else (annotation,):
        if panoptic:
            hash(item["id"])
        if item["category_id"] not in category_ids:
            raise DataError(
                f"{'segment' if panoptic else 'annotation'} {item.get('id', '?')} has the category "
                f"{item['category_id']}, which is not listed; add it to the categories or remove it"
            )


class CocoImages:
    """Images of a COCO file; subclasses add `target`."""

    def __init__(self, source: Source, file: CocoFile, classes: ClassTable) -> None:
        self.file, self.records, self.folder = file, file.images, _image_folder(source, file)
        self.found = find_files([record["file_name"] for record in file.images], self.folder)
        self.classes, self.names = classes, classes.names
        self.class_id_of = {category_id: label for label, category_id in enumerate(classes.values)}

    def __len__(self) -> int:
        return len(self.records)

    def load(self, index: int) -> Image:
        """Return an image, RGB and upright; raises DataError if it cannot be read."""
        return open_image(self._existing_file(self._path(index)))

    def path(self, index: int) -> str:
        """Return an image's path."""
        return str(self._path(index))

    def notes(self) -> list[str]:
        """Return sentences on ids and names that are read otherwise than written."""
        return [*self.file.notes, *self.found.note(str(self.file.path))]

    def _path(self, index: int) -> Path:
        name = self.records[index]["file_name"]
        return self.found.paths.get(name, self.folder / name)

    def _existing_file(self, path: Path) -> Path:
        """Return a file that a record or annotation names; raises DataError if it does not exist."""
        if not os.path.exists(path):  # never an error, also of names that no file can have
            raise DataError(f"{self.file.path} lists {path!s:.250}, which does not exist; add it or remove its record")
        return path

    def size(self, index: int) -> tuple[int, int]:
        """Return the height and width in an image's record; raises DataError if they are missing or impossible."""
        record = self.records[index]
        if size := record_size(record):
            return size
        sides = record.get("height"), record.get("width")
        raise DataError(f"{self.file.path} gives {sides} as height and width of {self.path(index)}; fix it")


class PanopticMaps(CocoImages):
    """Panoptic segments as label maps: the category of each segment; pixels without a segment are ignored."""

    def __init__(self, source: Source, file: CocoFile, masks: MaskConfig) -> None:
        super().__init__(source, file, _classes(file, masks))
        self.maps = _map_folder(file)
        names = [group[0]["file_name"] for group in file.annotations.values()]
        self.found_maps = find_files(names, self.maps)

    def notes(self) -> list[str]:
        """Return sentences on ids and names that are read otherwise than written."""
        return [*super().notes(), *self.found_maps.note(f"the annotations of {self.file.path}")]

    def target(self, index: int) -> NDArray[np.uint8]:
        """Return the label map `(H, W)`; raises DataError if the PNG cannot be read or holds an unlisted segment."""
        annotations = self.file.annotations.get(self.records[index]["id"])
        if not annotations:
            raise DataError(f"{self.file.path} has no segments for {self.path(index)}; add them or remove its record")
        name = annotations[0]["file_name"]
        path = self._existing_file(self._map_path(name))
        pixels = read_values(path, palette=True).astype(np.int64)
        factors = np.array([1, 256, 65536])  # in panopticapi's order; in a grey PNG all three bytes are equal
        segment_ids = pixels * factors.sum() if pixels.ndim == 2 else pixels @ factors
        label_of = {0: IGNORE} | {
            segment["id"]: self.class_id_of.get(segment["category_id"], IGNORE)
            for segment in annotations[0]["segments_info"]
        }
        ids, inverse = np.unique(segment_ids, return_inverse=True)
        if unknown := [int(i) for i in ids if int(i) not in label_of]:
            raise DataError(f"{path} holds segment {unknown[0]}, which {self.file.path} does not list; fix one of them")
        return np.array([label_of[int(i)] for i in ids], dtype=np.uint8)[inverse].reshape(segment_ids.shape)

    def map_paths(self) -> list[Path]:
        """Return the PNG files of the images."""
        return [self._map_path(group[0]["file_name"]) for group in self.file.annotations.values()]

    def _map_path(self, name: str) -> Path:
        return self.found_maps.paths.get(name, self.maps / name)


class InstanceMaps(CocoImages):
    """Instances as label maps: their categories, `background` elsewhere; pixels of two categories are ignored."""

    def __init__(self, source: Source, file: CocoFile, masks: MaskConfig) -> None:
        super().__init__(source, file, _classes(file, masks, background=True))

    def target(self, index: int) -> NDArray[np.uint8]:
        """Return the label map `(H, W)`; raises DataError if a mask is damaged or of another size."""
        size = self.size(index)
        label_map = np.zeros(size, dtype=np.uint8)
        for annotation in self.file.annotations.get(self.records[index]["id"], ()):
            mask = decode_masks([read_mask(annotation, size, self.file.path)], size)[0]
            label = self.class_id_of.get(annotation["category_id"], IGNORE)
            overlap = mask & (label_map != 0) & (label_map != label)
            label_map[mask] = label
            label_map[overlap] = IGNORE
        return label_map


def open_coco_maps(source: Source, kind: Literal["panoptic", "instances"]) -> Opened | None:
    """Open a folder's COCO files as sets of images with label maps; `None` if it has none.

    Raises:
        ConfigError: settings of masks other than `ignore`, which do not apply here.
        DataError: a file is damaged, its images cannot be found, or two files have different categories.
    """
    paths, masks = find_coco(source, kind), source.config.masks
    if not paths:
        return None
    files = {path: read_coco(path) for group in paths.values() for path in group}
    for path, file in files.items():
        if file.annotations and file.panoptic != (kind == "panoptic"):
            if given_files(source):
                return None  # the settings give files of the other kind
            content = "panoptic segments" if file.panoptic else "instances"
            raise DataError(f"{path} holds {content}; give it a name that says so")
    if masks.classes != "auto" or masks.values != "auto" or masks.reduce_zero_label is not None:
        raise ConfigError(
            f"{next(iter(files))} lists the classes of its masks itself; leave out those of `masks.classes`, "
            "`masks.values` and `masks.reduce_zero_label` that are given here or for the run"
        )
    maps = PanopticMaps if kind == "panoptic" else InstanceMaps
    sets = {path: maps(source, file, masks) for path, file in files.items()}
    check_same([(path, images.names) for path, images in sets.items()])
    source.notes += [note for images in sets.values() for note in images.notes()]
    for images in sets.values():
        if isinstance(images, PanopticMaps):
            source.use(MASKS, *images.map_paths())
    return open_parts(source, paths, f"COCO's {kind} files", sets.__getitem__)


def check_same(categories: Sequence[tuple[Path, Any]]) -> None:
    """Raise DataError if files list different categories."""
    for path, names in categories[1:]:
        if names != categories[0][1]:
            raise DataError(f"{categories[0][0]} and {path} list different categories; give both the same")


def describe(annotation: dict[str, Any], source: Path) -> str:
    """Return the description of an annotation for messages."""
    return f"annotation {annotation.get('id', '?')} of {source}"


def read_mask(annotation: dict[str, Any], size: tuple[int, int], source: Path) -> Rle:
    """Return an annotation's mask as compressed run lengths; see `parse_mask`.

    Raises:
        DataError: there is no mask, or it is damaged or of another size.
    """
    if not (segmentation := annotation.get("segmentation")):
        raise DataError(f"{describe(annotation, source)} has no mask; add it or remove the annotation")
    try:
        return parse_mask(segmentation, size)
    except ValueError as error:
        raise DataError(f"{describe(annotation, source)} has {error}; fix it") from error


def parse_mask(segmentation: Any, size: tuple[int, int]) -> Rle:
    """Return a mask as compressed run lengths, from polygons or run lengths, compressed or not.

    Args:
        segmentation: a list of polygons, each `[x, y, x, y, ...]` in pixels (fewer than three points cover nothing); or
            a dictionary of `size` (height, width) and `counts`, a list or a text.
        size: height and width of the image in pixels.

    Raises:
        ValueError: the segmentation has another form, or another size; the message shows it.
    """
    if isinstance(segmentation, list) and segmentation:
        return encode_polygons(segmentation, size)
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise ValueError(f"the segmentation {reprlib.repr(segmentation)}, neither polygons nor run lengths")
    sides = segmentation["size"]
    if not isinstance(sides, list) or [read_whole(side) for side in sides] != list(size):
        shown = reprlib.repr(segmentation["size"])
        raise ValueError(f"a mask of {shown} on an image of {list(size)} pixels")
    return _compress(segmentation["counts"], size)


def _compress(counts: Any, size: tuple[int, int]) -> Rle:
    """Return run lengths, a list or a compressed text, as a mask; raises ValueError if they do not fill the image."""
    height, width = size
    pixels, description = height * width, f"the run lengths {reprlib.repr(counts)}"
    if isinstance(counts, str):
        encoded = {"size": [height, width], "counts": counts.encode("ascii", errors="ignore")}
        if counts.isascii() and has_pixels(encoded, pixels):
            return encoded
    elif (lengths := _whole_numbers(counts)) is None:
        raise ValueError(f"{description}, which must be a text, or a list of whole numbers of at least 0")
    elif sum(lengths) == pixels:
        return encode_lengths(lengths, size)
    raise ValueError(f"{description}, which do not make {height} x {width} pixels")


def _whole_numbers(counts: Any) -> list[int] | None:
    """Return whole numbers of at least 0; `None` if a value is none."""
    if not isinstance(counts, list):
        return None
    numbers = (read_whole(count) for count in counts if not isinstance(count, bool))
    lengths = [number for number in numbers if number is not None and number >= 0]
    return lengths if len(lengths) == len(counts) else None


def class_table(categories: Sequence[tuple[int, str]]) -> ClassTable:
    """Return categories as a class table: in COCO's colours if all are COCO's, else in bright ones."""
    coco = built_in("coco_panoptic")
    colours = dict(zip(zip(coco.values, coco.names, strict=True), coco.colours, strict=True))
    coco_colours = [colours[category] for category in categories if category in colours]
    names, values = [name for _, name in categories], [category_id for category_id, _ in categories]
    return (
        build_table(names, values, coco_colours)
        if len(coco_colours) == len(categories)
        else bright_table(names, values)
    )


def _classes(file: CocoFile, masks: MaskConfig, *, background: bool = False) -> ClassTable:
    """Return the classes of label maps, without ignored ones, optionally after a background class."""
    check_ignored(masks.ignored_names, [name for _, name in file.categories])
    categories = [
        (category_id, name)
        for category_id, name in file.categories
        if category_id not in masks.ignored_values and name not in masks.ignored_names
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


def _image_folder(source: Source, file: CocoFile) -> Path:
    """Find the folder that the image names in a file are relative to."""
    root, given = source.root, source.path(source.layout.images)
    if not file.images:
        raise DataError(f"{file.path} lists no image; check which file it is")
    part = re.sub(r"^(annotations|instances|panoptic)_?", "", file.path.stem)
    first, beside = str(file.images[0]["file_name"]), file.path.parent
    folders = [root / "images" / part, root / part, root / part / "images"] if part else []
    folders += [root / "images", root, root / "train2017", root / "val2017", beside, beside / "images"]
    folders = [given] if given else folders
    names = [record["file_name"] for record in file.images[:: max(1, len(file.images) // _SAMPLE)]]
    for holds in (_holds_first, _holds_some, _holds_with_slashes, _holds_another_spelling, _holds_images):
        for folder in folders:
            if folder.is_dir() and holds(folder, names):
                return folder
    raise DataError(
        f"the images of {file.path}, such as {first:.250}, are not in {root}; put them in {root / 'images'}"
    )


# What makes a folder that of a file's images, surest first.


def _holds_first(folder: Path, names: Sequence[str]) -> bool:
    return os.path.exists(folder / names[0])


def _holds_some(folder: Path, names: Sequence[str]) -> bool:
    return any(os.path.exists(folder / name) for name in names)


def _holds_with_slashes(folder: Path, names: Sequence[str]) -> bool:
    return any(os.path.exists(folder / with_slashes(name)) for name in names)


def _holds_another_spelling(folder: Path, names: Sequence[str]) -> bool:
    return bool(find_files(names, folder).paths)


def _holds_images(folder: Path, names: Sequence[str]) -> bool:
    """Return whether a folder holds images at all: the listed ones are missing, which `load` reports."""
    return any(is_image_file(path) for path in folder.iterdir())


def _map_folder(file: CocoFile) -> Path:
    """Find the folder with the PNG files of a panoptic file."""
    if not file.annotations:
        raise DataError(f"{file.path} lists no annotation; check which file it is")
    first = next(iter(file.annotations.values()))[0]["file_name"]
    folders = (file.path.with_suffix(""), file.path.parent / "png", file.path.parent)
    for holds in (_holds_first, _holds_another_spelling):
        for folder in folders:
            if folder.is_dir() and holds(folder, [first]):
                return folder
    raise DataError(
        f"the PNG files of {file.path}, such as {first:.250}, are not in {folders[0]} or {folders[1]}; put them there"
    )
