"""COCO's evaluation of boxes and masks, by faster-coco-eval's evaluator; its numbers are pycocotools'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
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
MAX_DETECTIONS = (1, 10, 100)
"""Most predictions of a class in an image that are looked at, the surest; the last is for everything but recalls."""
SIZES = ("all", "small", "medium", "large")
"""COCO's: small ends and large begins at 32 x 32 and 96 x 96 pixels of area."""
OVERLAPS, RECALLS = 10, 101
"""How many overlaps (0.5, 0.55, ..., 0.95) and recalls (0, 0.01, ..., 1) precision is measured at."""
AT_50, AT_75 = 0, 5
"""Where among the overlaps these are."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GroundTruth:
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
class Detections:
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
class CocoImage:
    """What is true of an image, and what was predicted."""

    image_id: int
    size: tuple[int, int]
    """Height and width in pixels."""
    truth: GroundTruth
    detections: Detections


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """What the evaluator measures, in 0..1, and -1 where a class has no object of a size."""

    precision: Floats
    """`(10 overlaps, 101 recalls, K classes, 4 sizes)`."""
    recall: Floats
    """`(10 overlaps, K classes, 4 sizes, 3 numbers of predictions)`."""


def build_coco_image(prediction: Prediction, objects: Objects, *, masks: bool) -> CocoImage:
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
    found = xywh(np.asarray(boxes, dtype=np.float64))
    areas: dict[Kind, Floats] = {"box": found[:, 2] * found[:, 3]}
    return CocoImage(
        image_id=objects.image_id,
        size=prediction.size,
        truth=GroundTruth(
            boxes=xywh(objects.boxes),
            labels=objects.labels,
            areas=objects.areas,
            crowd=objects.crowd,
            masks=objects.masks if masks else None,
        ),
        detections=Detections(
            boxes=found,
            labels=np.asarray(labels, dtype=np.int64),
            scores=np.asarray(scores, dtype=np.float64),
            areas=areas if shapes is None else areas | {"mask": mask_areas(shapes)},
            masks=shapes,
        ),
    )


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


def xywh(boxes: Floats) -> Floats:
    """Return xyxy boxes `(R, 4)` as left, top, width and height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def overlaps(example: CocoImage, kind: Kind) -> Floats:
    """Return the intersection over union of each prediction and each true object, `(R, G)`.

    Of a crowd region it is the share of the prediction that lies in it.
    """
    truth, found = example.truth, example.detections
    if not len(found.labels) or not len(truth.labels):
        return np.zeros((len(found.labels), len(truth.labels)))
    return np.asarray(rle.iou(_shapes(found, kind), _shapes(truth, kind), truth.crowd.astype(int).tolist()))


def _shapes(part: GroundTruth | Detections, kind: Kind) -> list[Any]:
    """Return what of each object is compared: its box, or its mask's run lengths."""
    if kind == "box":
        return part.boxes.tolist()
    assert part.masks is not None, "masks are compared where both sides have them"
    return list(part.masks)


def precision_recall(examples: Sequence[CocoImage], classes: int, kind: Kind) -> PrecisionRecall:
    """Measure precision and recall as COCO does.

    Args:
        examples: one per image; among equal scores the earlier image's prediction counts first.
        classes: how many there are; others' predictions and objects are not looked at.
        kind: what is compared.
    """
    if not examples or not classes:
        nothing = np.full((OVERLAPS, RECALLS, classes, len(SIZES)), -1.0)
        return PrecisionRecall(nothing, np.full((OVERLAPS, classes, len(SIZES), len(MAX_DETECTIONS)), -1.0))
    truth = _listed([_annotations(n, one.truth, kind) for n, one in enumerate(examples)], examples, classes)
    found = _listed([_annotations(n, one.detections, kind) for n, one in enumerate(examples)], examples, classes)
    evaluator = COCOeval_faster(truth, found, iouType={"box": "bbox", "mask": "segm"}[kind])
    evaluator.evaluate()
    evaluator.accumulate()
    precision, recall = (np.asarray(evaluator.eval[name], dtype=np.float64) for name in ("precision", "recall"))
    return PrecisionRecall(precision[..., -1], recall)


def _annotations(image: int, part: GroundTruth | Detections, kind: Kind) -> list[dict[str, Any]]:
    """Return one image's objects as COCO writes them, without their ids."""
    columns = {"category_id": part.labels.tolist(), "bbox": part.boxes.tolist()}
    if isinstance(part, GroundTruth):
        columns |= {"area": part.areas.tolist(), "iscrowd": part.crowd.astype(int).tolist()}
    else:
        columns |= {"area": part.areas[kind].tolist(), "score": part.scores.tolist()}
    if kind == "mask":
        columns["segmentation"] = _shapes(part, kind)
    rows = zip(*columns.values(), strict=True)
    return [{"image_id": image, **dict(zip(columns, row, strict=True))} for row in rows]


def _listed(annotations: Sequence[list[dict[str, Any]]], examples: Sequence[CocoImage], classes: int) -> COCO:
    """Return all images' objects as the evaluator takes them; it needs ids above 0."""
    listed = COCO()
    listed.dataset = {
        "images": [{"id": n, "height": one.size[0], "width": one.size[1]} for n, one in enumerate(examples)],
        "annotations": [{"id": n, **record} for n, record in enumerate(chain(*annotations), start=1)],
        "categories": [{"id": label} for label in range(classes)],
    }
    listed.createIndex()
    return listed


def numbers(evaluation: PrecisionRecall, kind: Kind) -> dict[str, float]:
    """Return COCO's twelve numbers in 0..1, those without a value left out: `box_ap`, `box_ap50`, ..., `box_ar_large`.

    `ap` is the average precision over overlaps of 0.5 to 0.95, `ap50` and `ap75` those at one, `ar` the average recall
    with so many predictions of a class in an image; a size stands for objects of that size alone.
    """
    precision, recall = evaluation.precision, evaluation.recall
    values = {"ap": precision[..., 0], "ap50": precision[AT_50, ..., 0], "ap75": precision[AT_75, ..., 0]}
    values |= {f"ap_{size}": precision[..., index] for index, size in enumerate(SIZES) if index}
    values |= {f"ar{most}": recall[:, :, 0, index] for index, most in enumerate(MAX_DETECTIONS)}
    values |= {f"ar_{size}": recall[:, :, index, -1] for index, size in enumerate(SIZES) if index}
    named = ((f"{kind}_{name}", mean(value)) for name, value in values.items())
    return {name: value for name, value in named if value is not None}


def mean(values: Floats) -> float | None:
    """Return the mean of the values that there are, `None` where there is none."""
    present = values[values > -1]
    return float(present.mean()) if len(present) else None
