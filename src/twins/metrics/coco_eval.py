"""COCO's evaluation of boxes and masks, by faster-coco-eval; the numbers equal pycocotools'."""

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

IouType = Literal["box", "mask"]
"""Whether the IoU is that of boxes or of masks."""
Floats = NDArray[np.float64]
MAX_DETECTIONS = (1, 10, 100)
"""Limits on the detections of a class in an image, highest scores first: AR has each limit, AP the last one."""
AREA_RANGES = ("all", "small", "medium", "large")
"""COCO's ranges of object area: small is below 32 x 32 pixels, large above 96 x 96."""
NUM_IOUS, NUM_RECALLS = 10, 101
"""Number of IoU thresholds (0.5, 0.55, ..., 0.95) and of recalls (0, 0.01, ..., 1) at which precision is measured."""
IOU_50, IOU_75 = 0, 5
"""Indices of the IoU thresholds 0.5 and 0.75."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GroundTruth:
    """The ground-truth objects of an image."""

    boxes: Floats
    """`(G, 4)` left, top, width and height in pixels, COCO's format."""
    labels: NDArray[np.int64]
    """Class ids `(G,)`."""
    areas: Floats
    """Pixels `(G,)`, for the area ranges."""
    crowd: NDArray[np.bool_]
    """Which are crowd regions, `(G,)`: detections in them are neither true nor false positives."""
    masks: tuple[Rle, ...] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """The predicted objects of an image."""

    boxes: Floats
    """`(R, 4)` left, top, width and height in pixels."""
    labels: NDArray[np.int64]
    """Class ids `(R,)`."""
    scores: Floats
    """`(R,)`; equal scores keep their order."""
    areas: Mapping[IouType, Floats]
    """Pixels `(R,)` by IoU type, for the area ranges."""
    masks: tuple[Rle, ...] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class CocoImage:
    """An image's ground truth and detections in COCO's format."""

    image_id: int
    size: tuple[int, int]
    """Height and width in pixels."""
    truth: GroundTruth
    detections: Detections


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Precision and recall in 0..1; -1 for a class without objects in an area range."""

    precision: Floats
    """`(10 IoU thresholds, 101 recalls, K classes, 4 area ranges)`."""
    recall: Floats
    """`(10 IoU thresholds, K classes, 4 area ranges, 3 limits on detections)`."""


def build_coco_image(prediction: Prediction, objects: Objects, *, masks: bool) -> CocoImage:
    """Return an image's ground truth and detections in COCO's format.

    Args:
        prediction: of a detector, in the image's pixels.
        objects: the ground truth.
        masks: include masks, for their IoU.

    Raises:
        DataError: with `masks`, the objects have none, or masks whose size is not the image's.
    """
    boxes, labels, scores = prediction.boxes, prediction.labels, prediction.scores
    assert boxes is not None, "a detector's prediction has boxes"
    assert labels is not None, "a detector's prediction has labels"
    assert scores is not None, "a detector's prediction has scores"
    if masks:
        _check_masks(prediction, objects)
    encoded = tuple(map(encode_mask, prediction.masks)) if masks and prediction.masks is not None else None
    predicted_boxes = xywh(np.asarray(boxes, dtype=np.float64))
    areas: dict[IouType, Floats] = {"box": predicted_boxes[:, 2] * predicted_boxes[:, 3]}
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
            boxes=predicted_boxes,
            labels=np.asarray(labels, dtype=np.int64),
            scores=np.asarray(scores, dtype=np.float64),
            areas=areas if encoded is None else areas | {"mask": mask_areas(encoded)},
            masks=encoded,
        ),
    )


def _check_masks(prediction: Prediction, objects: Objects) -> None:
    assert prediction.masks is not None, "the prediction of instance segmentation has masks"
    if objects.masks is None:
        raise DataError(f"the objects of image {objects.image_id} have no masks; evaluate boxes, or add the masks")
    for mask in objects.masks:
        if tuple(mask["size"]) != prediction.size:
            mask_size = "{1} x {0}".format(*mask["size"])
            height, width = prediction.size
            raise DataError(
                f"the masks of image {objects.image_id} are for {mask_size} pixels, the image has {width} x {height}; "
                "fix the size in its annotations"
            )


def xywh(boxes: Floats) -> Floats:
    """Convert xyxy boxes `(R, 4)` to left, top, width and height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def pairwise_iou(image: CocoImage, iou_type: IouType) -> Floats:
    """Return the IoU of each detection and each ground-truth object, `(R, G)`.

    With a crowd region it is the share of the detection inside the region, as in COCO.
    """
    truth, detections = image.truth, image.detections
    if not len(detections.labels) or not len(truth.labels):
        return np.zeros((len(detections.labels), len(truth.labels)))
    crowd = truth.crowd.astype(int).tolist()
    return np.asarray(rle.iou(_boxes_or_masks(detections, iou_type), _boxes_or_masks(truth, iou_type), crowd))


def _boxes_or_masks(objects: GroundTruth | Detections, iou_type: IouType) -> list[Any]:
    """Return the box of each object, or the run lengths of its mask."""
    if iou_type == "box":
        return objects.boxes.tolist()
    assert objects.masks is not None, "the IoU of masks needs masks on both sides"
    return list(objects.masks)


def precision_recall(images: Sequence[CocoImage], num_classes: int, iou_type: IouType) -> PrecisionRecall:
    """Measure precision and recall as COCO does.

    Args:
        images: among equal scores, the detections of earlier images rank first.
        num_classes: number of classes; larger class ids are left out.
        iou_type: IoU of boxes or of masks.
    """
    if not images or not num_classes:
        precision = np.full((NUM_IOUS, NUM_RECALLS, num_classes, len(AREA_RANGES)), -1.0)
        return PrecisionRecall(precision, np.full((NUM_IOUS, num_classes, len(AREA_RANGES), len(MAX_DETECTIONS)), -1.0))
    truth = _dataset([_annotations(n, image.truth, iou_type) for n, image in enumerate(images)], images, num_classes)
    detections = [_annotations(n, image.detections, iou_type) for n, image in enumerate(images)]
    results = _dataset(detections, images, num_classes)
    evaluator = COCOeval_faster(truth, results, iouType={"box": "bbox", "mask": "segm"}[iou_type])
    evaluator.evaluate()
    evaluator.accumulate()
    precision, recall = (np.asarray(evaluator.eval[name], dtype=np.float64) for name in ("precision", "recall"))
    return PrecisionRecall(precision[..., -1], recall)


def _annotations(image_id: int, objects: GroundTruth | Detections, iou_type: IouType) -> list[dict[str, Any]]:
    """Return one image's objects as COCO annotations without ids."""
    columns = {"category_id": objects.labels.tolist(), "bbox": objects.boxes.tolist()}
    if isinstance(objects, GroundTruth):
        columns |= {"area": objects.areas.tolist(), "iscrowd": objects.crowd.astype(int).tolist()}
    else:
        columns |= {"area": objects.areas[iou_type].tolist(), "score": objects.scores.tolist()}
    if iou_type == "mask":
        columns["segmentation"] = _boxes_or_masks(objects, iou_type)
    rows = zip(*columns.values(), strict=True)
    return [{"image_id": image_id, **dict(zip(columns, row, strict=True))} for row in rows]


def _dataset(annotations: Sequence[list[dict[str, Any]]], images: Sequence[CocoImage], num_classes: int) -> COCO:
    """Return all images' annotations as the evaluator's data set; it needs annotation ids above 0."""
    dataset = COCO()
    dataset.dataset = {
        "images": [{"id": n, "height": image.size[0], "width": image.size[1]} for n, image in enumerate(images)],
        "annotations": [{"id": n, **record} for n, record in enumerate(chain(*annotations), start=1)],
        "categories": [{"id": label} for label in range(num_classes)],
    }
    dataset.createIndex()
    return dataset


def summarise(curves: PrecisionRecall, iou_type: IouType) -> dict[str, float]:
    """Return COCO's twelve metrics in 0..1 without undefined ones: `box_ap`, `box_ap50`, ..., `box_ar_large`.

    `ap` is the average precision over IoU thresholds of 0.5 to 0.95, `ap50` and `ap75` that at 0.5 and 0.75; `ar1`,
    `ar10` and `ar100` are the average recall with at most 1, 10 and 100 detections of a class in an image; `_small`,
    `_medium` and `_large` are restricted to objects in that area range.
    """
    precision, recall = curves.precision, curves.recall
    values = {"ap": precision[..., 0], "ap50": precision[IOU_50, ..., 0], "ap75": precision[IOU_75, ..., 0]}
    values |= {f"ap_{area}": precision[..., index] for index, area in enumerate(AREA_RANGES) if index}
    values |= {f"ar{limit}": recall[:, :, 0, index] for index, limit in enumerate(MAX_DETECTIONS)}
    values |= {f"ar_{area}": recall[:, :, index, -1] for index, area in enumerate(AREA_RANGES) if index}
    means = ((f"{iou_type}_{name}", mean_defined(value)) for name, value in values.items())
    return {name: value for name, value in means if value is not None}


def mean_defined(values: Floats) -> float | None:
    """Return the mean of the values that are not -1, or `None` if all are."""
    defined = values[values > -1]
    return float(defined.mean()) if len(defined) else None
