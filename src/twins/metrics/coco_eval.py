"""COCO's evaluation of boxes and masks, by faster-coco-eval's evaluator; its numbers are pycocotools'."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval import mask as rle
from numpy.typing import NDArray

from twins.data.objects import Objects, Rle, encode_mask, mask_areas
from twins.errors import DataError
from twins.predictions import Prediction

Kind = Literal["box", "mask"]
"""What of an object is compared."""
Floats = NDArray[np.float64]
Columns = dict[str, list[Any]]
MOST = (1, 10, 100)
"""Most predictions of a class in an image that are looked at, the surest; the last is for everything but recalls."""
SIZES = ("all", "small", "medium", "large")
"""COCO's: small ends and large begins at 32 x 32 and 96 x 96 pixels of area."""
OVERLAPS, RECALLS = 10, 101
"""How many overlaps (0.5, 0.55, ..., 0.95) and recalls (0, 0.01, ..., 1) precision is measured at."""
AT_50, AT_75 = 0, 5
"""Where among the overlaps these are."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """The true objects of an image."""

    boxes: Floats
    """`(G, 4)` left, top, width and height in pixels, as COCO writes them."""
    labels: NDArray[np.int64]
    """Class ids `(G,)`."""
    areas: Floats
    """Pixels, `(G,)`, by which small is told from large."""
    crowd: NDArray[np.bool_]
    """Which are regions, `(G,)`, in which a prediction is neither right nor wrong."""
    masks: tuple[Rle, ...] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """The predicted objects of an image."""

    boxes: Floats
    """`(R, 4)` left, top, width and height in pixels."""
    labels: NDArray[np.int64]
    """Class ids `(R,)`."""
    scores: Floats
    """`(R,)`; equal ones keep their order."""
    areas: Mapping[Kind, Floats]
    """Pixels, each `(R,)`, by which small is told from large where boxes and where masks are compared."""
    masks: tuple[Rle, ...] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """What is true of an image, and what was predicted."""

    image_id: int
    size: tuple[int, int]
    """Height and width in pixels."""
    truth: Truth
    found: Found


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What the evaluator measures, in 0..1, and -1 where a class has no object of a size."""

    precision: Floats
    """`(10 overlaps, 101 recalls, K classes, 4 sizes)`."""
    recall: Floats
    """`(10 overlaps, K classes, 4 sizes, 3 numbers of predictions)`."""


def build_example(prediction: Prediction, objects: Objects, *, masks: bool) -> Example:
    """Return an image's prediction and its truth in COCO's form.

    Args:
        prediction: of a detector, in the image's pixels.
        objects: the true objects.
        masks: whether masks are to be compared too.

    Raises:
        DataError: masks are asked for and the objects have none, or the masks of an image of another size.
    """
    boxes, labels, scores = prediction.boxes, prediction.labels, prediction.scores
    assert boxes is not None, "a detector's prediction has boxes"
    assert labels is not None, "a detector's prediction has labels"
    assert scores is not None, "a detector's prediction has scores"
    if masks:
        _check_masks(prediction, objects)
    shapes = tuple(map(encode_mask, prediction.masks)) if masks and prediction.masks is not None else None
    places = _from_corners(np.asarray(boxes, dtype=np.float64))
    return Example(
        image_id=objects.image_id,
        size=prediction.size,
        truth=Truth(
            boxes=_from_corners(objects.boxes),
            labels=objects.labels,
            areas=objects.areas,
            crowd=objects.crowd,
            masks=objects.masks if masks else None,
        ),
        found=Found(
            boxes=places,
            labels=np.asarray(labels, dtype=np.int64),
            scores=np.asarray(scores, dtype=np.float64),
            areas=found_areas(places, shapes),
            masks=shapes,
        ),
    )


def found_areas(boxes: Floats, masks: Sequence[Rle] | None) -> dict[Kind, Floats]:
    """Return the areas of predictions: a box's and, where there are masks, a mask's."""
    areas: dict[Kind, Floats] = {"box": boxes[:, 2] * boxes[:, 3]}
    if masks is not None:
        areas["mask"] = mask_areas(masks)
    return areas


def _check_masks(prediction: Prediction, objects: Objects) -> None:
    assert prediction.masks is not None, "the prediction of instance segmentation has masks"
    if objects.masks is None:
        raise DataError(f"the objects of image {objects.image_id} have no masks; evaluate boxes, or add the masks")
    for mask in objects.masks:
        if tuple(mask["size"]) != prediction.size:
            theirs = "{1} x {0}".format(*mask["size"])
            height, width = prediction.size
            raise DataError(
                f"the masks of image {objects.image_id} are for {theirs} pixels, the image has {width} x {height}; "
                "mend the size in its annotations"
            )


def _from_corners(boxes: Floats) -> Floats:
    """Return xyxy boxes as left, top, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def overlaps(example: Example, kind: Kind) -> Floats:
    """Return the intersection over union of each prediction and each true object, `(R, G)`.

    Of a crowd region it is the share of the prediction that lies in it.
    """
    truth, found = example.truth, example.found
    if not len(found.labels) or not len(truth.labels):
        return np.zeros((len(found.labels), len(truth.labels)))
    crowd = truth.crowd.astype(int).tolist()
    if kind == "box":
        return np.asarray(rle.iou(found.boxes.tolist(), truth.boxes.tolist(), crowd))
    assert found.masks is not None, "masks are compared where both sides have them"
    assert truth.masks is not None, "masks are compared where both sides have them"
    return np.asarray(rle.iou(list(found.masks), list(truth.masks), crowd))


def evaluate(examples: Sequence[Example], classes: int, kind: Kind) -> Evaluation:
    """Measure precision and recall as COCO does.

    Args:
        examples: one per image; among equal scores the earlier image's prediction counts first.
        classes: how many there are; others' predictions and objects are not looked at.
        kind: what is compared.
    """
    if not examples or not classes:
        nothing = np.full((OVERLAPS, RECALLS, classes, len(SIZES)), -1.0)
        return Evaluation(nothing, np.full((OVERLAPS, classes, len(SIZES), len(MOST)), -1.0))
    images = [
        {"id": index, "height": example.size[0], "width": example.size[1]} for index, example in enumerate(examples)
    ]
    truth = _listed(images, classes, [_true_columns(example.truth, kind) for example in examples])
    found = _listed(images, classes, [_found_columns(example.found, kind) for example in examples])
    evaluator = COCOeval_faster(truth, found, iouType={"box": "bbox", "mask": "segm"}[kind])
    evaluator.evaluate()
    evaluator.accumulate()
    precision, recall = (np.asarray(evaluator.eval[name], dtype=np.float64) for name in ("precision", "recall"))
    return Evaluation(precision[..., -1], recall)


def _true_columns(truth: Truth, kind: Kind) -> Columns:
    columns = {
        "category_id": truth.labels,
        "bbox": truth.boxes,
        "area": truth.areas,
        "iscrowd": truth.crowd.astype(int),
    }
    return {name: column.tolist() for name, column in columns.items()} | _mask_column(truth.masks, kind)


def _found_columns(found: Found, kind: Kind) -> Columns:
    columns = {"category_id": found.labels, "bbox": found.boxes, "area": found.areas[kind], "score": found.scores}
    return {name: column.tolist() for name, column in columns.items()} | _mask_column(found.masks, kind)


def _mask_column(masks: tuple[Rle, ...] | None, kind: Kind) -> Columns:
    if kind == "box":
        return {}
    assert masks is not None, "masks are compared where both sides have them"
    return {"segmentation": list(masks)}


def _listed(images: list[dict[str, Any]], classes: int, parts: Sequence[Columns]) -> COCO:
    """Return each image's records as the evaluator takes them; it needs ids above 0."""
    ids = itertools.count(1)
    listed = COCO()
    listed.dataset = {
        "images": images,
        "annotations": [
            {"id": next(ids), "image_id": index, **dict(zip(columns, values, strict=True))}
            for index, columns in enumerate(parts)
            for values in zip(*columns.values(), strict=True)
        ],
        "categories": [{"id": label} for label in range(classes)],
    }
    listed.createIndex()
    return listed


def numbers(evaluation: Evaluation, kind: Kind) -> dict[str, float]:
    """Return COCO's twelve numbers in 0..1, those without a value left out: `box_ap`, `box_ap50`, ..., `box_ar_large`.

    `ap` is the average precision over overlaps of 0.5 to 0.95, `ap50` and `ap75` those at one, `ar` the average recall
    with so many predictions of a class in an image; a size stands for objects of that size alone.
    """
    precision, recall = evaluation.precision, evaluation.recall
    values = {"ap": precision[..., 0], "ap50": precision[AT_50, ..., 0], "ap75": precision[AT_75, ..., 0]}
    values |= {f"ap_{size}": precision[..., index] for index, size in enumerate(SIZES) if index}
    values |= {f"ar{most}": recall[:, :, 0, index] for index, most in enumerate(MOST)}
    values |= {f"ar_{size}": recall[:, :, index, -1] for index, size in enumerate(SIZES) if index}
    named = ((f"{kind}_{name}", mean(value)) for name, value in values.items())
    return {name: value for name, value in named if value is not None}


def mean(values: Floats) -> float | None:
    """Return the mean of the values that there are, `None` where there is none."""
    present = values[values > -1]
    return float(present.mean()) if len(present) else None
