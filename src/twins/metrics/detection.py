"""Average precision of detectors by COCO's protocol, with curves, per-class numbers and kinds of error."""

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
    AT_50,
    AT_75,
    RECALLS,
    CocoImage,
    Kind,
    PrecisionRecall,
    build_coco_image,
    mean,
    numbers,
    precision_recall,
)
from twins.metrics.detection_errors import Judged, analyse_errors, best_balance, judge_all
from twins.predictions import Prediction

DIGITS = 5
"""Digits after the point that curves are kept with."""


class DetectionMetric:
    """Keeps all predictions and true objects, masks as run lengths; implements the `Metric` contract.

    The numbers do not depend on the order of the images or on how they were spread over processes: images count by
    ascending id, and of predictions with equal scores that of the earlier image, or the earlier of an image, first.
    Each image counts once: where one is seen again, with the same objects, the first prediction stands.

    Args:
        names: class names by class id.
        masks: whether masks are compared too.
        full: whether `details` tells the kinds of error and each class's best F1, which takes longer.
        category_ids: what data sets call each class, for the tables.
    """

    def __init__(
        self, names: Sequence[str], *, masks: bool = False, full: bool = False, category_ids: Sequence[int] = ()
    ) -> None:
        self.names, self.full, self.category_ids = tuple(names), full, tuple(category_ids)
        self.kinds: tuple[Kind, ...] = ("mask", "box") if masks else ("box",)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._examples: dict[int, CocoImage] = {}
        self._evaluations: dict[Kind, PrecisionRecall] = {}

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Objects]) -> None:
        """Add some images.

        Args:
            predictions: of a detector, one per image, in the image's pixels; with `masks` where masks are compared.
            targets: the true objects of each image, all of them.

        Raises:
            DataError: another image has the same id; objects without masks, or with masks of another size than the
                image, where masks are compared.
        """
        masks = "mask" in self.kinds
        self.add(
            build_coco_image(prediction, objects, masks=masks)
            for prediction, objects in zip(predictions, targets, strict=True)
        )

    def add(self, examples: Iterable[CocoImage]) -> None:
        """Add some images in COCO's form; see `update`."""
        self._evaluations = {}
        for example in examples:
            _check_same(self._examples.setdefault(example.image_id, example), example)

    def state(self) -> dict[str, Tensor]:
        """Return what processes exchange: all images, pickled into one uint8 tensor."""
        return {"examples": torch.frombuffer(bytearray(pickle.dumps(self._sorted())), dtype=torch.uint8)}

    def merge(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Add the images of other processes of the run; raises DataError where two images have the same id."""
        for state in states:
            self.add(pickle.loads(state["examples"].cpu().numpy().tobytes()))

    def compute(self) -> dict[str, float]:
        """Return COCO's twelve numbers of boxes, after those of masks where these are compared, each in 0..1.

        `box_ap` (over overlaps of 0.5 to 0.95), `box_ap50`, `box_ap75`, `box_ap_small`, `box_ap_medium`,
        `box_ap_large`, `box_ar1`, `box_ar10`, `box_ar100`, `box_ar_small`, `box_ar_medium`, `box_ar_large`, and
        `mask_ap` and so on. A number that nothing true decides is left out; with no object at all, every one.
        """
        result: dict[str, float] = {}
        for kind in self.kinds:
            result |= numbers(self._evaluate(kind), kind)
        return result

    def details(self) -> dict[str, Any]:
        """Return tables and curves, JSON-ready.

        `per_class`: of each class its `name`, its `category_id` where these were given, the number of `objects` without
        crowd regions, `ap` and `ap50` of boxes, `mask_ap` and `mask_ap50` where masks are compared, `None` where it has
        no object. With `full` the best `f1` at an overlap of 0.5, of masks where these are compared, with its
        `precision`, its `recall` and the `score` from which on predictions are taken for it.

        `curves`: of `box` and `mask` the precision at `recall` 0, 0.01, ..., 1: `iou50` and `iou75`, means over the
        classes with objects, and `per_class` at 0.5, `None` for a class without.

        `errors`, with `full`: of `box` and `mask` what `analyse_errors` returns.

        `truth`: `images`, `objects`, and what of it is kept though it can hardly be found, as in COCO's tools: `crowd`
        regions, which nobody has to find, and boxes `without_area`.
        """
        examples, classes = self._sorted(), len(self.names)
        judged = {kind: judge_all(examples, kind) for kind in self.kinds} if self.full else {}
        truths = [example.truth for example in examples]
        labels = np.concatenate([np.zeros(0, dtype=np.int64), *(truth.labels[~truth.crowd] for truth in truths)])
        objects = np.bincount(labels, minlength=classes).tolist()
        leading = judged.get(self.kinds[0])
        result: dict[str, Any] = {
            "per_class": [self._row(label, objects[label], leading) for label in range(classes)],
            "curves": {"recall": np.linspace(0.0, 1.0, RECALLS).round(DIGITS).tolist()},
        }
        result["curves"] |= {kind: _curves(self._evaluate(kind)) for kind in self.kinds}
        result["truth"] = {
            "images": len(examples),
            "objects": sum(objects),
            "crowd": sum(int(truth.crowd.sum()) for truth in truths),
            "without_area": sum(int((truth.boxes[:, 2:] <= 0).any(axis=1).sum()) for truth in truths),
        }
        if self.full:
            result["errors"] = {kind: analyse_errors(judged[kind], classes) for kind in self.kinds}
        return result

    def _row(self, label: int, objects: int, judged: Judged | None) -> dict[str, Any]:
        row: dict[str, Any] = {"name": self.names[label]}
        if self.category_ids:
            row["category_id"] = self.category_ids[label]
        row["objects"] = objects
        for kind in reversed(self.kinds):
            prefix = "mask_" if kind == "mask" else ""
            precision = self._evaluate(kind).precision[:, :, label, 0]
            row |= {f"{prefix}ap": mean(precision), f"{prefix}ap50": mean(precision[AT_50])}
        if judged is not None:
            balance = best_balance(judged, label)
            row |= asdict(balance) if balance else dict.fromkeys(("f1", "precision", "recall", "score"))
        return row

    def _sorted(self) -> list[CocoImage]:
        return [self._examples[image_id] for image_id in sorted(self._examples)]

    def _evaluate(self, kind: Kind) -> PrecisionRecall:
        """Return what the evaluator says, once for all that is known."""
        if kind not in self._evaluations:
            self._evaluations[kind] = precision_recall(self._sorted(), len(self.names), kind)
        return self._evaluations[kind]


def _check_same(known: CocoImage, example: CocoImage) -> None:
    same = (np.array_equal(getattr(known.truth, name), getattr(example.truth, name)) for name in ("boxes", "labels"))
    if not all(same):
        raise DataError(f"two images with different objects have the id {known.image_id}; number the images apart")


def _curves(evaluation: PrecisionRecall) -> dict[str, Any]:
    precision = evaluation.precision[..., 0]  # (overlaps, recalls, classes)
    present = precision[AT_50, 0] > -1
    result: dict[str, Any] = {}
    for name, overlap in (("iou50", AT_50), ("iou75", AT_75)):
        curves = precision[overlap][:, present]
        result[name] = curves.mean(axis=1).round(DIGITS).tolist() if present.any() else None
    classes = precision[AT_50].T.round(DIGITS).tolist()
    result["per_class"] = [curve if known else None for curve, known in zip(classes, present.tolist(), strict=True)]
    return result
