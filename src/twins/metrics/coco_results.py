"""COCO results files: write a detector's predictions for other tools, and score such a file."""

from __future__ import annotations

import reprlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from twins.data.base import ImageSet
from twins.data.class_matching import ClassMatch
from twins.data.classes import built_in
from twins.data.formats.coco import list_categories, parse_mask, read_coco_json, read_json, record_errors, record_size
from twins.data.formats.coco_objects import box_problems, read_box, read_object, valid_annotations
from twins.data.formats.values import read_id, read_number
from twins.data.objects import Rle, encode_mask, mask_areas, mask_boxes
from twins.errors import ConfigError, DataError, number_of
from twins.files import atomic_file, json_text
from twins.metrics.coco_eval import CocoImage, Detections, GroundTruth, xywh
from twins.metrics.coco_forms import form_notes
from twins.metrics.detection import DetectionMetric
from twins.predictions import Prediction
from twins.tasks.table import facts_of, tasks_with

DIGITS = 4
"""Digits after the decimal point of boxes in pixels."""


def coco_results(
    prediction: Prediction, *, image_id: int, category_ids: Sequence[int | None] | None = None
) -> list[dict[str, Any]]:
    """Return one image's prediction as entries of a COCO results file, JSON-ready.

    Each has `image_id`, `category_id`, `bbox` (left, top, width and height in pixels, four digits after the decimal
    point), `score` and, in instance segmentation, `segmentation` (compressed run lengths). For
    the area ranges, pycocotools uses the area of an object's box if entries have both, otherwise that of its mask, as
    `DetectionMetric` does.

    Args:
        prediction: of a detector, in the image's pixels.
        image_id: id of the image in the annotations.
        category_ids: category id of each class in the annotations; objects of a class with `None` are left out.
            Without it COCO's own ids if the classes are COCO's 80, otherwise the class ids, from 0.
    """
    assert prediction.boxes is not None, "a detector's prediction has boxes"
    assert prediction.labels is not None, "a detector's prediction has labels"
    assert prediction.scores is not None, "a detector's prediction has scores"
    category_ids = _category_ids(prediction) if category_ids is None else category_ids
    boxes = xywh(prediction.boxes.astype(np.float64)).round(DIGITS).tolist()
    masks = None if prediction.masks is None else [encode_mask(mask) for mask in prediction.masks]
    entries = []
    for row, (label, score) in enumerate(zip(prediction.labels.tolist(), prediction.scores.tolist(), strict=True)):
        if (category := category_ids[label]) is None:
            continue
        entry = {"image_id": image_id, "category_id": category, "bbox": boxes[row], "score": score}
        if masks is not None:
            size, counts = masks[row]["size"], masks[row]["counts"].decode("ascii")
            entry["segmentation"] = {"size": list(size), "counts": counts}
        entries.append(entry)
    return entries


def _category_ids(prediction: Prediction) -> Sequence[int]:
    """Return the category ids of a prediction's classes: COCO's own if they are COCO's 80, else the class ids."""
    table = built_in("coco")
    values = dict(zip(table.names, table.values, strict=True))
    if set(prediction.names) == set(values):
        return [values[name] for name in prediction.names]
    assert prediction.labels is not None
    return range(int(prediction.labels.max(initial=0)) + 1)


class CocoResultsFile:
    """Collects the predictions of a detector for a COCO results file; without a path it does nothing.

    Raises:
        ConfigError: a path is set for a task without boxes, or for images whose ids are not unique.
    """

    def __init__(self, path: str | None, task: str, images: ImageSet, match: ClassMatch) -> None:
        self.path = path
        if path is None:
            return
        if "boxes" not in facts_of(task).prediction_fields:
            raise ConfigError(
                f"`results` is for {' and '.join(tasks_with('prediction_fields', 'boxes'))}, found {task}"
            )
        values = getattr(images, "category_ids", None) or images.classes.values  # type: ignore[attr-defined]
        pairs = list(zip(match.class_ids, values, strict=True))
        # of several categories of one class, the first one wins
        category_ids = {label: number for label, number in reversed(pairs) if number is not None}
        self.category_ids = [category_ids.get(class_id) for class_id in range(len(match.names))]
        _check_unique_ids(images)
        self.entries: list[dict[str, Any]] = []

    def add(self, predictions: Sequence[Prediction], targets: Sequence[Any]) -> None:
        """Add the predictions of a batch."""
        if self.path is None:
            return
        for prediction, target in zip(predictions, targets, strict=True):
            self.entries += coco_results(prediction, image_id=target.image_id, category_ids=self.category_ids)

    def write(self) -> None:
        """Write the file."""
        if self.path is None:
            return
        with atomic_file(Path(self.path)) as temporary:
            temporary.write_text(json_text(self.entries) + "\n")


def _check_unique_ids(images: Any) -> None:
    """Raise ConfigError if annotation files that were joined give the same ids to different images or classes."""
    sets = getattr(images, "sets", ())
    if not any(getattr(part, "image_ids", None) is not None for part in sets):
        return
    for name, key in (("image", "image_ids"), ("category", "category_ids")):
        if getattr(images, key) is None:
            raise ConfigError(
                f"`results` cannot be written: the annotation files of the measured parts give the same {name} "
                "ids to different ones; measure each file alone"
            )


def score_results(results: Path, truth: Path, *, masks: bool) -> dict[str, Any]:
    """Score a COCO results file against the ground truth as pycocotools does.

    All images and categories of the ground truth count, with at most 100 results of a category in an image. As in
    pycocotools, the area of a result is its box's if the file's first entry has a `bbox`; otherwise it is its mask's,
    and boxes enclose the masks. A file without entries has scores of 0.

    Args:
        results: a JSON list of `image_id`, `category_id`, `score`, and `bbox` (left, top, width, height), or
            `segmentation` (run lengths or polygons), or both.
        truth: JSON file of COCO instances: `images`, `annotations`, `categories`.
        masks: also measure masks; each entry then needs a `segmentation`.

    Returns:
        `metrics`: see `DetectionMetric.compute`. `per_class`: see `DetectionMetric.details`, by category id. `notes`:
        a sentence if annotations do not count because the ground truth does not list their image or category, and one
        if few images have results.

    Raises:
        DataError: a file that cannot be read, an entry that cannot be scored, or a ground truth without objects.
    """
    ground_truth = _GroundTruthFile(truth)
    entries = read_json(results)
    if not isinstance(entries, list):
        raise DataError(f"{results} is no list of results, so it is no COCO results file; check which file it is")
    by_image: dict[int, list[_Entry]] = defaultdict(list)
    for entry in _read_entries(results, entries, ground_truth, masks=masks):
        by_image[entry.image].append(entry)
    images = [
        CocoImage(
            image_id=image,
            size=size or (0, 0),
            truth=ground_truth.objects(image, masks=masks),
            detections=_detections(by_image[image], masks=masks),
        )
        for image, size in enumerate(ground_truth.sizes)
    ]
    covered = {image.image_id for image in images if len(image.detections.labels)}
    notes = [
        *ground_truth.notes(),
        *_coverage_note(covered, ground_truth),
        *(_entry_notes(by_image, ground_truth.sizes, results) or form_notes(images, results)),
    ]
    metric = DetectionMetric(ground_truth.names, masks=masks, full=True, category_ids=ground_truth.category_ids)
    metric.add(images)
    metrics = metric.compute()
    if not metrics:
        first = f" ({ground_truth.faults[0]})" if ground_truth.faults else ""
        raise DataError(f"{truth} has no object to find, so nothing can be scored; check which file it is{first}")
    return {"metrics": metrics, "per_class": metric.details()["per_class"], "notes": notes}


def _coverage_note(covered: Set[int], ground_truth: _GroundTruthFile) -> list[str]:
    """Return a sentence if images with objects, or most images, have no results: the file may cover a part of them."""
    count = len(ground_truth.sizes)
    with_objects = {ground_truth.images[image_id] for image_id in ground_truth.annotations}
    if not covered or (with_objects <= covered and 2 * len(covered) >= count):
        return []
    return [f"{len(covered)} of {number_of(count, 'image')} have results; in the others every object counts as missed"]


def _entry_notes(
    by_image: Mapping[int, Sequence[_Entry]], sizes: Sequence[tuple[int, int] | None], path: Path
) -> list[str]:
    """Return sentences if results are repeated, or their boxes look like fractions, corners or centres."""
    pairs = [(entry.box, sizes[image]) for image, group in by_image.items() for entry in group if entry.box is not None]
    notes = box_problems(pairs, path)
    keys = [
        (image, entry.label, entry.score, *(entry.box or (str(entry.mask),)))
        for image, group in by_image.items()
        for entry in group
    ]
    if repeated := len(keys) - len(set(keys)):
        entries = number_of(repeated, "entry", "entries")
        notes.append(f"{entries} of {path} repeat another, and count as wrong detections; remove them")
    return notes


class _GroundTruthFile:
    """A COCO file of instances; its images are numbered from 0 by ascending id."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content, self.id_notes = read_coco_json(path)
        with record_errors(path):
            categories = list_categories(content)
            images = {record["id"]: record for record in content["images"]}  # some files list images twice
            self.ids = sorted(images)
            self.images = {image_id: image for image, image_id in enumerate(self.ids)}
            self.sizes = [record_size(images[image_id]) for image_id in self.ids]
            annotations = list(content["annotations"])
            _check_ids(content["images"], "file_name")
            _check_ids(content["categories"], "name")
        self.category_ids = [category_id for category_id, _ in categories]
        self.names = [name for _, name in categories]
        self.labels = {category_id: label for label, category_id in enumerate(self.category_ids)}
        self.faults: list[str] = []
        """A sentence on each annotation that is left out, here as in training."""
        self.annotations = valid_annotations(path, annotations, set(self.ids), set(self.category_ids), self.faults)

    def notes(self) -> list[str]:
        """Return sentences on ids that are written otherwise, and on annotations that are left out."""
        count = number_of(len(self.faults), "annotation")
        left_out = [f"{count} of the ground truth left out, the first: {fault}" for fault in self.faults[:1]]
        pairs = [
            (box, self.sizes[self.images[image_id]])
            for image_id, records in self.annotations.items()
            for record in records
            if (box := read_box(record)) is not None
        ]
        return [*self.id_notes, *left_out, *box_problems(pairs, self.path)]

    def objects(self, image: int, *, masks: bool) -> GroundTruth:
        """Return an image's objects; raises DataError for a malformed annotation."""
        records = self.annotations.get(self.ids[image], ())
        objects = [read_object(record, self.path, self.sizes[image], masks=masks) for record in records]
        return GroundTruth(
            boxes=np.array([item.box for item in objects], dtype=np.float64).reshape(-1, 4),
            labels=np.array([self.labels[record["category_id"]] for record in records], dtype=np.int64),
            areas=np.array([item.area for item in objects], dtype=np.float64),
            crowd=np.array([item.crowd for item in objects], dtype=np.bool_),
            masks=tuple(item.mask for item in objects if item.mask is not None) if masks else None,
        )


def _check_ids(records: Sequence[Any], key: str) -> None:
    """Raise DataError if two images or categories have the same id and different names."""
    names: dict[Any, Any] = {}
    for record in records:
        first, name = names.setdefault(record["id"], record.get(key)), record.get(key)
        if first != name:
            raise DataError(f"the id {record['id']} is given to {first} and to {name}; give each its own")


class _Entry(NamedTuple):
    """An entry of a results file, with the image's number and the class id; it has a box, a mask or both."""

    image: int
    label: int
    score: float
    box: list[float] | None
    mask: Rle | None


def _read_entries(path: Path, entries: list[Any], ground_truth: _GroundTruthFile, *, masks: bool) -> Iterator[_Entry]:
    boxes = bool(entries) and isinstance(entries[0], dict) and entries[0].get("bbox", []) != []
    for number, record in enumerate(entries, start=1):
        try:
            if not isinstance(record, dict):
                raise ValueError(f"{reprlib.repr(record)} where image_id, category_id, score and what was found belong")
            image = _listed_id(record, "image_id", ground_truth.images)
            label = _listed_id(record, "category_id", ground_truth.labels)
            score = float(_field(record, "score", read_number(record.get("score")), "which is no number"))
            box = _field(record, "bbox", read_box(record), "not left, top, width and height") if boxes else None
            mask = _mask(record, ground_truth.sizes[image]) if masks or not boxes else None
        except ValueError as error:
            raise DataError(f"{path}: entry {number} of {len(entries)} has {error}; fix the file") from error
        yield _Entry(image, label, score, box, mask)


def _detections(entries: Sequence[_Entry], *, masks: bool) -> Detections:
    encoded = [entry.mask for entry in entries if entry.mask is not None]
    file_boxes = [entry.box for entry in entries if entry.box is not None]
    boxes = np.array(file_boxes if file_boxes else mask_boxes(encoded), dtype=np.float64).reshape(-1, 4)
    areas = mask_areas(encoded) if encoded and not file_boxes else boxes[:, 2] * boxes[:, 3]
    return Detections(
        boxes=boxes,
        labels=np.array([entry.label for entry in entries], dtype=np.int64),
        scores=np.array([entry.score for entry in entries], dtype=np.float64),
        areas={"box": areas, "mask": areas},
        masks=tuple(encoded) if masks else None,
    )


# Fields of an entry; a ValueError names the invalid value, for the end of a sentence "entry N has ...".


def _listed_id(record: dict[str, Any], key: str, numbers: Mapping[Any, int]) -> int:
    """Return the number of an id that the ground truth lists."""
    value = read_id(record.get(key))
    number = numbers.get(value)
    if number is None and isinstance(value, str) and value.isascii() and value.isdigit():  # such as "007"
        number = numbers.get(int(value))
    return int(_field(record, key, number, "which the ground truth does not list"))


def _field(record: dict[str, Any], key: str, value: Any, fault: str) -> Any:
    """Return the value that was read from a field; raises ValueError, with what is written, if it is `None`."""
    if value is None:
        raise ValueError(f"the {key} {reprlib.repr(record[key])}, {fault}" if key in record else f"no {key}")
    return value


def _mask(record: dict[str, Any], size: tuple[int, int] | None) -> Rle:
    if not record.get("segmentation"):
        raise ValueError("no segmentation")
    if size is None:
        raise ValueError("a segmentation in an image whose height and width are not in the ground truth")
    return parse_mask(record["segmentation"], size)
