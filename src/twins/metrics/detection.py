"""Average precision of detectors by COCO's protocol, with curves, per-class numbers and error types."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twins.data.objects import Objects
from twins.errors import DataError
from twins.metrics.coco_eval import (
    IOU_50,
    IOU_75,
    NUM_RECALLS,
    CocoImage,
    IouType,
    PrecisionRecall,
    build_coco_image,
    mean_defined,
    precision_recall,
    summarise,
)
from twins.metrics.detection_errors import (
    DIGITS,
    Matches,
    analyse_errors,
    best_f1,
    confidence_curves,
    confusion_matrix,
    match_images,
)
from twins.predictions import Prediction


class DetectionMetric:
    """COCO's metrics of boxes and masks; implements the `Metric` contract. Keeps all objects, masks as run lengths.

    The numbers depend neither on the order of the images nor on their distribution over processes: images are sorted
    by id, and equal scores rank by image, then by position in the prediction. Each image counts once: if it is added
    again, with the same objects, its first prediction counts.

    Args:
        names: class names by class id.
        masks: also measure masks.
        full: add error types and each class's best F1 to `details`, which takes longer.
        category_ids: the data set's category id of each class, for the tables.
    """

    def __init__(
        self, names: Sequence[str], *, masks: bool = False, full: bool = False, category_ids: Sequence[int] = ()
    ) -> None:
        self.names, self.full, self.category_ids = tuple(names), full, tuple(category_ids)
        self.iou_types: tuple[IouType, ...] = ("mask", "box") if masks else ("box",)
        self.reset()

    def reset(self) -> None:
        """Remove all images."""
        self._images: dict[int, CocoImage] = {}
        self._curves: dict[IouType, PrecisionRecall] = {}

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Objects]) -> None:
        """Add images.

        Args:
            predictions: of a detector, one per image, in the image's pixels; with masks if the metric measures them.
            targets: all ground-truth objects of each image.

        Raises:
            DataError: two images with different objects have the same id; if masks are measured, the objects have
                none, or masks whose size is not the image's.
        """
        masks = "mask" in self.iou_types
        self.add(
            build_coco_image(prediction, objects, masks=masks)
            for prediction, objects in zip(predictions, targets, strict=True)
        )

    def add(self, images: Iterable[CocoImage]) -> None:
        """Add images in COCO's format; see `update`."""
        self._curves = {}
        for image in images:
            _check_same_objects(self._images.setdefault(image.image_id, image), image)

    def state(self) -> dict[str, Tensor]:
        """Return the state that processes exchange: all images, pickled into one uint8 tensor."""
        return {"images": torch.frombuffer(bytearray(pickle.dumps(self._sorted())), dtype=torch.uint8)}

    def merge(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Add the images of other processes of the run; raises DataError as `update` does."""
        for state in states:
            self.add(pickle.loads(state["images"].cpu().numpy().tobytes()))

    def compute(self) -> dict[str, float]:
        """Return COCO's twelve metrics of boxes, after those of masks if measured, in 0..1.

        `box_ap` (over IoU thresholds of 0.5 to 0.95), `box_ap50`, `box_ap75`, `box_ap_small`, `box_ap_medium`,
        `box_ap_large`, `box_ar1`, `box_ar10`, `box_ar100`, `box_ar_small`, `box_ar_medium`, `box_ar_large`, and
        `mask_ap` and so on. Metrics without any object in their area range are left out.
        """
        result: dict[str, float] = {}
        for iou_type in self.iou_types:
            result |= summarise(self._precision_recall(iou_type), iou_type)
        return result

    def details(self) -> dict[str, Any]:
        """Return tables and curves, JSON-ready.

        `per_class`: of each class its `name`, its `category_id` if known, the number of `objects` without crowd
        regions, `ap` and `ap50` of boxes, and `mask_ap` and `mask_ap50` if masks are measured; `None` without objects.
        With `full` the best `f1` at an IoU of 0.5, of masks if measured, with its `precision`, its `recall` and the
        least `score` of the detections that it counts.

        `curves`: for `box` and `mask` the precision at `recall` 0, 0.01, ..., 1: `iou50` and `iou75`, means over the
        classes with objects, and `per_class` at an IoU of 0.5, `None` for classes without objects.

        `errors`, with `full`: for `box` and `mask` the result of `analyse_errors`. `confidence` and `confusion`, with
        `full`: the results of `confidence_curves` and `confusion_matrix`, of masks if measured; the matrix is at the
        `score` of `errors`.

        `truth`: the numbers of `images` and `objects`, and of annotations that count as in COCO's tools although they
        can hardly be detected: `crowd` regions, which cannot be missed, and boxes `without_area`.
        """
        images, classes = self._sorted(), len(self.names)
        matches = {iou_type: match_images(images, iou_type) for iou_type in self.iou_types} if self.full else {}
        truths = [image.truth for image in images]
        labels = np.concatenate([np.zeros(0, dtype=np.int64), *(truth.labels[~truth.crowd] for truth in truths)])
        objects = np.bincount(labels, minlength=classes).tolist()
        first = matches.get(self.iou_types[0])
        result: dict[str, Any] = {
            "per_class": [self._row(label, objects[label], first) for label in range(classes)],
            "curves": {"recall": np.linspace(0.0, 1.0, NUM_RECALLS).round(DIGITS).tolist()},
        }
        result["curves"] |= {iou_type: _curves(self._precision_recall(iou_type)) for iou_type in self.iou_types}
        result["truth"] = {
            "images": len(images),
            "objects": sum(objects),
            "crowd": sum(int(truth.crowd.sum()) for truth in truths),
            "without_area": sum(int((truth.boxes[:, 2:] <= 0).any(axis=1).sum()) for truth in truths),
        }
        if self.full:
            result["errors"] = {iou_type: analyse_errors(matches[iou_type], classes) for iou_type in self.iou_types}
        if first is not None:
            result["confidence"] = confidence_curves(first)
            score = result["errors"][self.iou_types[0]]["score"]
            result["confusion"] = confusion_matrix(first, classes, score)
        return result

    def _row(self, label: int, objects: int, matches: Matches | None) -> dict[str, Any]:
        row: dict[str, Any] = {"name": self.names[label]}
        if self.category_ids:
            row["category_id"] = self.category_ids[label]
        row["objects"] = objects
        for iou_type in reversed(self.iou_types):
            prefix = "mask_" if iou_type == "mask" else ""
            precision = self._precision_recall(iou_type).precision[:, :, label, 0]
            row |= {f"{prefix}ap": mean_defined(precision), f"{prefix}ap50": mean_defined(precision[IOU_50])}
        if matches is not None:
            best = best_f1(matches, label)
            row |= asdict(best) if best else dict.fromkeys(("f1", "precision", "recall", "score"))
        return row

    def _sorted(self) -> list[CocoImage]:
        return [self._images[image_id] for image_id in sorted(self._images)]

    def _precision_recall(self, iou_type: IouType) -> PrecisionRecall:
        """Return precision and recall of all images, kept until images are added."""
        if iou_type not in self._curves:
            self._curves[iou_type] = precision_recall(self._sorted(), len(self.names), iou_type)
        return self._curves[iou_type]


def _check_same_objects(first: CocoImage, second: CocoImage) -> None:
    pairs = ((getattr(first.truth, name), getattr(second.truth, name)) for name in ("boxes", "labels"))
    if not all(np.array_equal(*pair) for pair in pairs):
        raise DataError(f"two images with different objects have the id {first.image_id}; give each its own id")


def _curves(curves: PrecisionRecall) -> dict[str, Any]:
    precision = curves.precision[..., 0]  # (IoU thresholds, recalls, classes)
    present = precision[IOU_50, 0] > -1  # classes with objects
    result: dict[str, Any] = {}
    for name, threshold in (("iou50", IOU_50), ("iou75", IOU_75)):
        class_curves = precision[threshold][:, present]
        result[name] = class_curves.mean(axis=1).round(DIGITS).tolist() if present.any() else None
    rows = zip(precision[IOU_50].T.round(DIGITS).tolist(), present.tolist(), strict=True)
    result["per_class"] = [row if has_objects else None for row, has_objects in rows]
    return result
