"""COCO's JSON files of instances or panoptic segments: their records, ids and masks."""

from __future__ import annotations

import json
import reprlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twins.data.classes import ClassTable, bright_table, build_table, built_in
from twins.data.formats.coco_files import KEYS
from twins.data.formats.values import read_id, read_number, read_whole
from twins.data.objects import Rle, encode_lengths, encode_polygons, has_pixels
from twins.errors import DataError, number_of


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


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; raises DataError if it cannot be read."""
    try:
        return _parse(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}; check the path") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder; name the JSON file in it") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON ({error}); copy it again") from error


def _parse(data: bytes) -> Any:
    """Return the content of JSON in UTF-8, UTF-16 or UTF-32; raises ValueError also if one of COCO's lists is twice."""
    content = json.loads(data)
    if any(data.count(f'"{key}"'.encode()) > 1 for key in KEYS):
        json.loads(data, object_pairs_hook=_check_repeated)
    return content


def _check_repeated(pairs: list[tuple[str, Any]]) -> None:
    counts = Counter(key for key, _ in pairs if key in KEYS)
    if repeated := [key for key, count in counts.items() if count > 1]:
        raise ValueError(f"it has {repeated[0]} twice, of which one would be ignored")


def read_coco_json(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the content of a JSON file that has COCO's keys, with whole numbers as ids, and notes if some were not.

    The keys are `images`, `annotations` and `categories`.

    Raises:
        DataError: the file is damaged, or lacks a key.
    """
    content = read_json(path)
    keys = content.keys() if isinstance(content, dict) else ()
    missing = [key for key in KEYS if key not in keys]
    if missing:
        raise DataError(f"{path} has no {' and no '.join(missing)}, so it is no COCO file; check which file it is")
    counts = {'1.0 or "1"': _read_ids(content), '"007"': _read_padded_ids(content)}
    return dict(content), [
        f"{number_of(count, 'id')} in {path}, written as {form}, read as whole numbers"
        for form, count in counts.items()
        if count
    ]


def read_image_list(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the content of a COCO file as `read_coco_json` does, with a name for each image.

    Raises:
        DataError: the file is damaged, or lacks a key.
    """
    content, notes = read_coco_json(path)
    _name_images(content["images"])
    return content, notes


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


def _read_padded_ids(content: dict[str, Any]) -> int:
    """Make whole numbers of the ids of images and categories such as `"000123"`; return their number.

    They stay texts if two of them would get the same number, or if another id is no number.
    """
    count = 0
    for owner, key in (("images", "image_id"), ("categories", "category_id")):
        ids = {record.get("id") for record in _records(content[owner]) if _is_id(record.get("id"))}
        texts = {text: int(text) for text in ids if isinstance(text, str) and text.isascii() and text.isdigit()}
        numbers = {number for number in ids if isinstance(number, int)}
        wholes = numbers | set(texts.values())
        if texts and len(ids) == len(texts) + len(numbers) == len(wholes):
            count += sum(_replace_text(record, "id", texts) for record in _records(content[owner]))
            count += sum(_replace_text(record, key, texts) for record in _records(content["annotations"]))
    return count


def _replace_text(record: dict[str, Any], key: str, numbers: dict[str, int]) -> bool:
    if not isinstance(text := record.get(key), str) or text not in numbers:
        return False
    record[key] = numbers[text]
    return True


def _records(value: Any) -> list[dict[str, Any]]:
    return [record for record in value if isinstance(record, dict)] if _is_list(value) else []


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


_NAME_KEYS = ("filename", "file", "path", "coco_url", "flickr_url")
"""Keys of an image's name in records without `file_name`, as in LVIS."""


def _name_images(images: Any) -> None:
    """Give records without `file_name` the name in another key; of an address, its last folder and name."""
    for record in images if _is_list(images) else ():
        if isinstance(record, dict) and "file_name" not in record:
            name = next((value for key in _NAME_KEYS if isinstance(value := record.get(key), str) and value), None)
            if name is not None:
                record["file_name"] = "/".join(urlsplit(name).path.split("/")[-2:]) if "://" in name else name


def read_coco(path: Path) -> CocoFile:
    """Read a JSON file of instances or panoptic segments.

    Raises:
        DataError: the file is damaged, lacks a list, or has an entry that lacks a key or has an unlisted category.
    """
    content, notes = read_image_list(path)
    annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
    with record_errors(path):
        for annotation in content["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
        categories = list_categories(content)
        panoptic = any("segments_info" in annotation for annotation in content["annotations"][:1])
        images = _unique_images(content["images"], notes, path)
        category_ids = {category_id for category_id, _ in categories}
        for annotation in content["annotations"]:
            _check_categories(annotation, category_ids, panoptic=panoptic)
    return CocoFile(path, images, categories, dict(annotations), panoptic, notes)


def _unique_images(records: Sequence[dict[str, Any]], notes: list[str], path: Path) -> list[dict[str, Any]]:
    """Return the records of images, each once; raises DataError if two images have the same id."""
    by_id: dict[Any, dict[str, Any]] = {}
    for record in records:
        Path(name := record["file_name"])
        first = by_id.setdefault(record["id"], record)["file_name"]
        if first != name:
            raise DataError(f"image id {record['id']} is given to {first} and to {name}; give each its own")
    if repeated := len(records) - len(by_id):
        notes.append(f"{number_of(repeated, 'image')} of {path} listed twice with the same id, and used once")
    return list(by_id.values())


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
    categories = [(read_whole(record["id"]), record["name"]) for record in content["categories"]]
    if unnamed := [number for number, name in categories if not isinstance(name, str | int | float)]:
        raise ValueError(f"the name of category {unnamed[0]} is no text")
    if unnumbered := [name for number, name in categories if number is None]:
        raise ValueError(f"the id of category {unnumbered[0]} is no whole number")
    return sorted((number, str(name)) for number, name in categories if number is not None)


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
