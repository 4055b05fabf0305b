"""COCO results files: what a detector found, for other tools to read, and the scores of such a file."""

from __future__ import annotations

import reprlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from twins.data.formats.coco import list_categories, parse_mask, read_coco_json, read_json, record_errors, record_size
from twins.data.formats.coco_objects import is_box, is_number, read_object, valid_annotations
from twins.data.objects import Rle, encode_mask, mask_areas, mask_boxes
from twins.errors import DataError, number_of
from twins.metrics.coco_eval import CocoImage, Detections, GroundTruth, xywh
from twins.metrics.detection import DetectionMetric
from twins.predictions import Prediction

DIGITS = 4
"""Digits after the point that boxes are written with, in pixels."""


def coco_results(prediction: Prediction, *, image_id: int, category_ids: Sequence[int | None]) -> list[dict[str, Any]]:
    """Return one image's prediction as entries of a COCO results file, JSON-ready.

    Each has `image_id`, `category_id`, `bbox` (left, top, width and height in pixels, four digits after the point),
    `score`, and of instance segmentation `segmentation`: compressed run lengths. pycocotools takes the box's area for
    an object's size where an entry has both; who wants the mask's, as `DetectionMetric` takes it, leaves out `bbox`.

    Args:
        prediction: of a detector, in the image's pixels.
        image_id: the image's id in its annotations.
        category_ids: what the annotations call each class; objects of a class that is `None` are left out.
    """
    assert prediction.boxes is not None, "a detector's prediction has boxes"
    assert prediction.labels is not None, "a detector's prediction has labels"
    assert prediction.scores is not None, "a detector's prediction has scores"
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


def score_results(results: Path, truth: Path, *, masks: bool) -> dict[str, Any]:
    """Score a COCO results file against the ground truth as pycocotools does.

    All images and categories of the ground truth count, with at most 100 results of a category in an image. As in
    pycocotools, results are small or large by their box's area where the file's first entry has a `bbox`, and by their
    mask's where not; then a box is what encloses the mask. A file without entries has scores of 0.

    Args:
        results: a JSON list of `image_id`, `category_id`, `score`, and `bbox` (left, top, width, height), or
            `segmentation` (run lengths or polygons), or both.
        truth: COCO's JSON of instances: `images`, `annotations`, `categories`.
        masks: whether masks are compared too; then each entry needs a `segmentation`.

    Returns:
        `metrics`: see `DetectionMetric.compute`; `per_class`: see `DetectionMetric.details`, by category id; `notes`:
        a sentence on the annotations that contradict the ground truth's lists, which do not count, and one where few
        images have results.

    Raises:
        DataError: a file that cannot be read, or an entry that cannot be scored; there is nothing to find.
    """
    known = _GroundTruth(truth)
    entries = read_json(results)
    if not isinstance(entries, list):
        raise DataError(f"{results} is no list of results, so it is no COCO results file; check which file it is")
    found: dict[int, list[_Entry]] = defaultdict(list)
    for entry in _read_entries(results, entries, known, masks=masks):
        found[entry.place].append(entry)
    notes = known.notes() + _coverage(len(found), len(known.sizes))
    metric = DetectionMetric(known.names, masks=masks, full=True, category_ids=known.category_ids)
    metric.add(
        CocoImage(
            image_id=place,
            size=size or (0, 0),
            truth=known.truth(place, masks=masks),
            detections=_found(found[place], masks=masks),
        )
        for place, size in enumerate(known.sizes)
    )
    metrics = metric.compute()
    if not metrics:
        first = f" ({known.faults[0]})" if known.faults else ""
        raise DataError(f"{truth} has no object to find, so nothing can be scored; check which file it is{first}")
    return {"metrics": metrics, "per_class": metric.details()["per_class"], "notes": notes}


def _coverage(covered: int, count: int) -> list[str]:
    """Return a sentence where results say nothing of more than half of the images: they may be of a part of them."""
    if not covered or 2 * covered >= count:
        return []
    return [f"{covered} of {number_of(count, 'image')} have results; in the others every object counts as missed"]


class _GroundTruth:
    """What a COCO file of instances says; images are called by their place, by ascending id."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content = read_coco_json(path)
        with record_errors(path):
            categories = list_categories(content)
            images = {record["id"]: record for record in content["images"]}  # some files list an image twice
            self.ids = sorted(images)
            self.places = {value: place for place, value in enumerate(self.ids)}
            self.sizes = [record_size(images[value]) for value in self.ids]
            annotations = list(content["annotations"])
        self.category_ids, self.names = [value for value, _ in categories], [name for _, name in categories]
        self.labels = {value: label for label, value in enumerate(self.category_ids)}
        self.faults: list[str] = []
        """What is wrong with each annotation that contradicts the file; they are left out here as in training."""
        self.annotations = valid_annotations(path, annotations, set(self.ids), set(self.category_ids), self.faults)

    def notes(self) -> list[str]:
        """Return a sentence where annotations are left out."""
        what = number_of(len(self.faults), "annotation")
        return [f"{what} of the ground truth left out, the first: {fault}" for fault in self.faults[:1]]

    def truth(self, place: int, *, masks: bool) -> GroundTruth:
        """Return an image's objects; raises DataError where a record is damaged."""
        records = self.annotations.get(self.ids[place], ())
        found = [read_object(record, self.path, self.sizes[place], masks=masks) for record in records]
        return GroundTruth(
            boxes=np.array([one.box for one in found], dtype=np.float64).reshape(-1, 4),
            labels=np.array([self.labels[record["category_id"]] for record in records], dtype=np.int64),
            areas=np.array([one.area for one in found], dtype=np.float64),
            crowd=np.array([one.crowd for one in found], dtype=np.bool_),
            masks=tuple(one.mask for one in found if one.mask is not None) if masks else None,
        )


class _Entry(NamedTuple):
    """A result: the image's place, the class id, the score, and the box, the mask or both."""

    place: int
    label: int
    score: float
    box: list[float] | None
    mask: Rle | None


def _read_entries(path: Path, entries: list[Any], known: _GroundTruth, *, masks: bool) -> Iterator[_Entry]:
    boxes = bool(entries) and isinstance(entries[0], dict) and entries[0].get("bbox", []) != []
    for number, record in enumerate(entries, start=1):
        try:
            if not isinstance(record, dict):
                raise ValueError(f"{reprlib.repr(record)} where image_id, category_id, score and what was found belong")
            place = _known(record, "image_id", known.places)
            label = _known(record, "category_id", known.labels)
            score = float(_field(record, "score", is_number, "which is no number"))
            box = _field(record, "bbox", is_box, "not left, top, width and height") if boxes else None
            mask = _mask(record, known.sizes[place]) if masks or not boxes else None
        except ValueError as error:
            raise DataError(f"{path}: entry {number} of {len(entries)} has {error}; mend the file") from error
        yield _Entry(place, label, score, box, mask)


def _found(entries: Sequence[_Entry], *, masks: bool) -> Detections:
    shapes = [entry.mask for entry in entries if entry.mask is not None]
    given = [entry.box for entry in entries if entry.box is not None]
    boxes = np.array(given if given else mask_boxes(shapes), dtype=np.float64).reshape(-1, 4)
    areas = mask_areas(shapes) if shapes and not given else boxes[:, 2] * boxes[:, 3]
    return Detections(
        boxes=boxes,
        labels=np.array([entry.label for entry in entries], dtype=np.int64),
        scores=np.array([entry.score for entry in entries], dtype=np.float64),
        areas={"box": areas, "mask": areas},
        masks=tuple(shapes) if masks else None,
    )


# what a record has, or a ValueError that says what it has instead


def _known(record: dict[str, Any], key: str, known: Mapping[Any, int]) -> int:
    """Return the number of an id that the ground truth lists."""

    def listed(value: Any) -> bool:
        return isinstance(value, int | str) and not isinstance(value, bool) and value in known

    return known[_field(record, key, listed, "which the ground truth does not list")]


def _field(record: dict[str, Any], key: str, sound: Callable[[Any], bool], fault: str) -> Any:
    value = record.get(key)
    if not sound(value):
        raise ValueError(f"the {key} {reprlib.repr(value)}, {fault}" if key in record else f"no {key}")
    return value


def _mask(record: dict[str, Any], size: tuple[int, int] | None) -> Rle:
    if not record.get("segmentation"):
        raise ValueError("no segmentation")
    if size is None:
        raise ValueError("a segmentation in an image whose height and width are not in the ground truth")
    return parse_mask(record["segmentation"], size)
