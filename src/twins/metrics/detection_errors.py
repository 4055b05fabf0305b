"""TIDE's error types of detections (class, localisation, both, duplicate, background, missed) and their cost in AP50.

TIDE is Bolya et al. 2020, "TIDE: A General Toolbox for Identifying Object Detection Errors" (arXiv 2008.08115); the
types are those of its section 2.2, with its IoU thresholds 0.5 and 0.1. Differences:

- Detections are matched, and ignored in crowd regions, as in COCO's evaluator, so that AP50 is COCO's.
- Up to 100 detections of each class in an image count, as in COCO's AP; TIDE limits all classes together to 100.
- If fixing an error type could match several detections to one object, only the highest-scoring one is matched.
- If removing missed objects leaves a class without objects, its AP50 is 1 without detections, else 0.
- The counts of errors use only detections from the score with the best F1 upwards; the AP50 gains use all detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from twins.data.objects import Objects
from twins.metrics.coco_eval import (
    MAX_DETECTIONS,
    NUM_RECALLS,
    CocoImage,
    Detections,
    Floats,
    IouType,
    build_coco_image,
    pairwise_iou,
)
from twins.predictions import Prediction

Outcome = Literal["true_positive", "class", "localisation", "both", "duplicate", "background", "ignored", "excluded"]
"""Outcome of a detection, by its IoU with the objects of the image.

`true_positive`  matched to an object of its class, with an IoU of at least 0.5
`class`          an IoU of at least 0.5 with an object of another class
`localisation`   an IoU of 0.1 to 0.5 with an object of its class
`both`           an IoU of 0.1 to 0.5 with an object of another class
`duplicate`      an IoU of at least 0.5 with an object of its class that is matched to another detection
`background`     no IoU above 0.1
`ignored`        at least half inside a crowd region of its class: neither true nor false positive
`excluded`       100 detections of its class in the image have higher scores
"""
ErrorType = Literal["class", "localisation", "both", "duplicate", "background", "missed"]
"""TIDE's error types. An object is `missed` if it has no true positive, class error or localisation error."""
ERROR_TYPES: tuple[ErrorType, ...] = get_args(ErrorType)
FOREGROUND, BACKGROUND = 0.5, 0.1
"""TIDE's IoU thresholds: minimum IoU of a match, maximum IoU of a background detection."""
DIGITS = 5
"""Digits after the decimal point of curves."""
NO_OBJECT = -1
"""Object index of a detection without an object."""


@dataclass(frozen=True)
class ImageMatches:
    """Outcomes of one image's detections."""

    outcomes: tuple[Outcome, ...]
    """Outcome of each detection."""
    object_indices: tuple[int | None, ...]
    """Object of each true positive, duplicate, localisation or class error; `None` for other outcomes."""
    matched: tuple[bool, ...]
    """Whether each object has a true positive; true for crowd regions, which cannot be missed."""


def match_image(prediction: Prediction, objects: Objects, *, masks: bool) -> ImageMatches:
    """Match one image's detections to its objects by the IoU of boxes, or of masks if `masks`."""
    iou_type: IouType = "mask" if masks else "box"
    outcomes, object_indices = _match_image(build_coco_image(prediction, objects, masks=masks), iou_type)
    matched = objects.crowd.copy()
    matched[object_indices[outcomes == "true_positive"]] = True
    return ImageMatches(
        outcomes=tuple(outcomes.tolist()),
        object_indices=tuple(None if index == NO_OBJECT else index for index in object_indices.tolist()),
        matched=tuple(matched.tolist()),
    )


def _match_image(image: CocoImage, iou_type: IouType) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Return the outcome of each detection `(R,)`, and the index of its object or `NO_OBJECT` `(R,)`."""
    truth, detections = image.truth, image.detections
    iou = pairwise_iou(image, iou_type)  # (R, G)
    same_class = detections.labels[:, None] == truth.labels
    class_iou, other_iou = (np.where(pairs & ~truth.crowd, iou, 0.0) for pairs in (same_class, ~same_class))
    (best_class_iou, class_object), (best_other_iou, other_object) = _best(class_iou), _best(other_iou)
    within_limit = _ranks_in_class(detections) < MAX_DETECTIONS[-1]
    matches = _match(class_iou, detections.scores, within_limit)
    rules: dict[Outcome, NDArray[np.bool_]] = {  # the first rule that applies counts, as in TIDE's code
        "excluded": ~within_limit,
        "true_positive": matches != NO_OBJECT,
        "ignored": (same_class & truth.crowd & (iou >= FOREGROUND)).any(axis=1),
        "localisation": (best_class_iou >= BACKGROUND) & (best_class_iou < FOREGROUND),
        "class": best_other_iou >= FOREGROUND,
        "duplicate": best_class_iou >= FOREGROUND,
        "both": np.maximum(best_class_iou, best_other_iou) > BACKGROUND,
    }
    outcomes = np.select(list(rules.values()), list(rules), "background")
    objects: dict[Outcome, NDArray[np.int64]] = {
        "true_positive": matches,
        "localisation": class_object,
        "class": other_object,
        "duplicate": class_object,
    }
    return outcomes, np.select([outcomes == outcome for outcome in objects], list(objects.values()), NO_OBJECT)


def _best(iou: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Return each detection's largest IoU and the object with it; 0 and `NO_OBJECT` if there are no objects."""
    if not iou.shape[1]:
        return np.zeros(len(iou)), np.full(len(iou), NO_OBJECT)
    return iou.max(axis=1), iou.argmax(axis=1)


def _ranks_in_class(detections: Detections) -> NDArray[np.int64]:
    """Return each detection's rank by score within its class, from 0; of equal scores, the earlier ranks first."""
    order = np.lexsort((-detections.scores, detections.labels))
    labels = detections.labels[order]
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order)) - np.searchsorted(labels, labels)
    return ranks


def _match(class_iou: Floats, scores: Floats, within_limit: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Match greedily in descending order of score, each detection to the unmatched object with the largest IoU."""
    matches = np.full(len(class_iou), NO_OBJECT)
    unmatched = np.ones(class_iou.shape[1], dtype=bool)
    order = np.argsort(-scores, kind="stable")
    candidates = within_limit & (class_iou >= FOREGROUND).any(axis=1)
    for row in order[candidates[order]]:
        free_iou = np.where(unmatched, class_iou[row], 0.0)
        best = len(free_iou) - 1 - free_iou[::-1].argmax()  # the last of equal ones, as in COCO's evaluator
        if free_iou[best] >= FOREGROUND:
            matches[row], unmatched[best] = best, False
    return matches


@dataclass(frozen=True, eq=False)
class Matches:
    """Outcomes of the `P` detections of all images, and the `Q` objects of all images."""

    labels: NDArray[np.int64]
    """Predicted class ids `(P,)`."""
    scores: Floats
    """`(P,)`."""
    outcomes: NDArray[np.str_]
    """`Outcome` of each detection, `(P,)`."""
    object_indices: NDArray[np.int64]
    """Index of each detection's object in `object_labels`, or `NO_OBJECT`, `(P,)`."""
    object_labels: NDArray[np.int64]
    """Class ids of the objects, `(Q,)`."""
    crowd: NDArray[np.bool_]
    """Which objects are crowd regions, `(Q,)`."""

    def with_outcome(self, *outcomes: Outcome) -> NDArray[np.bool_]:
        """Return which detections have one of these outcomes, `(P,)`."""
        return np.isin(self.outcomes, outcomes)

    def count_objects(self, num_classes: int) -> NDArray[np.int64]:
        """Return the number of objects of each class without crowd regions, `(K,)`."""
        return np.bincount(self.object_labels[~self.crowd], minlength=num_classes)


def match_images(images: Sequence[CocoImage], iou_type: IouType) -> Matches:
    """Match the detections of all images to their objects, with all scores."""
    results = [_match_image(image, iou_type) for image in images]
    starts = np.cumsum([0, *(len(image.truth.labels) for image in images)])
    object_indices = [
        np.where(indices == NO_OBJECT, NO_OBJECT, indices + start)
        for (_, indices), start in zip(results, starts, strict=False)
    ]
    return Matches(
        labels=_concatenate([image.detections.labels for image in images], np.int64),
        scores=_concatenate([image.detections.scores for image in images], np.float64),
        outcomes=_concatenate([outcomes for outcomes, _ in results], np.str_),
        object_indices=_concatenate(object_indices, np.int64),
        object_labels=_concatenate([image.truth.labels for image in images], np.int64),
        crowd=_concatenate([image.truth.crowd for image in images], np.bool_),
    )


def _concatenate(parts: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype=dtype), *parts]).astype(dtype)


@dataclass(frozen=True)
class BestF1:
    """The best F1 over all score thresholds, at an IoU of 0.5."""

    f1: float
    precision: float
    recall: float
    score: float | None
    """The threshold: detections with at least this score count; `None` if no detection is a true positive."""


def best_f1(matches: Matches, label: int | None = None) -> BestF1 | None:
    """Return the best F1 of a class, or of all classes together; `None` without objects."""
    counted, objects = ~matches.with_outcome("ignored", "excluded"), ~matches.crowd
    if label is not None:
        counted, objects = counted & (matches.labels == label), objects & (matches.object_labels == label)
    num_objects = int(objects.sum())
    if not num_objects:
        return None
    scores, true_positive = matches.scores[counted], matches.with_outcome("true_positive")[counted]
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(true_positive[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + num_objects)
    f1[:-1][scores[1:] == scores[:-1]] = 0.0  # a threshold keeps or drops equal scores together
    if not f1.any():
        return BestF1(0.0, 0.0, 0.0, None)
    best = int(f1.argmax())
    return BestF1(float(f1[best]), float(hits[best] / (best + 1)), float(hits[best] / num_objects), float(scores[best]))


def confidence_curves(matches: Matches) -> dict[str, list[float | None]]:
    """Return `score` thresholds of 0, 0.01, ..., 1, and `precision`, `recall` and `f1` of all classes together at each.

    Detections with at least the score count, at an IoU of 0.5. Without detections the precision is `None`.
    """
    counted = ~matches.with_outcome("ignored", "excluded")
    thresholds = np.linspace(0.0, 1.0, NUM_RECALLS)
    scores, hits = matches.scores[counted], matches.with_outcome("true_positive")[counted]
    kept = len(scores) - np.searchsorted(np.sort(scores), thresholds)
    right = hits.sum() - np.searchsorted(np.sort(scores[hits]), thresholds)
    objects = int((~matches.crowd).sum())
    rows = {
        "score": thresholds,
        "precision": right / np.where(kept > 0, kept, np.nan),
        "recall": right / max(objects, 1),
        "f1": 2 * right / np.maximum(kept + objects, 1),
    }
    rounded = {name: values.round(DIGITS).tolist() for name, values in rows.items()}
    return {name: [None if np.isnan(x) else x for x in values] for name, values in rounded.items()}


def confusion_matrix(matches: Matches, num_classes: int, score: float) -> list[list[int]]:
    """Return counts `[truth][prediction]` of the detections with at least a score; the last class is background.

    An object is counted once: as its class if it has a true positive, else as the class of the surest detection with
    an IoU of at least 0.5, else as background, which means missed. Every other detection is counted once too, as an
    object that is none.
    """
    counted = (matches.scores >= score) & ~matches.with_outcome("ignored", "excluded")
    shown = replace(matches, outcomes=np.where(counted, matches.outcomes, "excluded"))
    right = np.flatnonzero(shown.with_outcome("true_positive"))
    confused = _highest_per_object(shown, shown.with_outcome("class"))
    paired = np.concatenate([right, confused])
    table = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    np.add.at(table, (matches.object_labels[matches.object_indices[paired]], matches.labels[paired]), 1)
    missed = ~matches.crowd
    missed[matches.object_indices[paired]] = False
    table[:, num_classes] += np.bincount(matches.object_labels[missed], minlength=num_classes + 1)
    counted[paired] = False
    table[num_classes] += np.bincount(matches.labels[counted], minlength=num_classes + 1)
    result: list[list[int]] = table.tolist()
    return result


def analyse_errors(matches: Matches, num_classes: int) -> dict[str, Any]:
    """Return the errors of each type and the AP50 gained by fixing them, JSON-ready.

    Args:
        matches: all images' detections.
        num_classes: number of classes.

    Returns:
        `score`, the threshold with the best F1 (0 without a true positive): only detections with at least this score
        are counted; `objects`, the number of objects without crowd regions; `right`, the number of true positives;
        `ap50`, in 0..1; `types`, for each error type its `count`, and `ap50_gain`: how much AP50, which is over all
        scores, rises if only this type is fixed.
    """
    best = best_f1(matches)
    score = best.score or 0.0 if best else 0.0
    counted = matches.scores >= score
    classes = np.flatnonzero(matches.count_objects(num_classes)[:num_classes])
    ap50 = _ap50(matches, classes)
    types = {}
    for error in ERROR_TYPES:
        wrong = _missed(matches, counted) if error == "missed" else counted & matches.with_outcome(error)
        gain = max(0.0, _ap50(_fix(matches, error), classes) - ap50)
        types[error] = {"count": int(wrong.sum()), "ap50_gain": gain}
    return {
        "score": score,
        "objects": int((~matches.crowd).sum()),
        "right": int((counted & matches.with_outcome("true_positive")).sum()),
        "ap50": ap50,
        "types": types,
    }


def _missed(matches: Matches, counted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which objects are missed if only the `counted` detections exist, `(Q,)`."""
    missed = ~matches.crowd
    missed[matches.object_indices[counted & matches.with_outcome("true_positive", "class", "localisation")]] = False
    return missed


def _fix(matches: Matches, error: ErrorType) -> Matches:
    """Return the matches with one error type fixed, like TIDE's oracles.

    If objects are missed, they are removed. If an object without a true positive has detections with this class or
    localisation error, the highest-scoring one becomes its true positive. All other detections with this error are
    removed.
    """
    if error == "missed":
        # crowd regions are not counted as objects
        return replace(matches, crowd=matches.crowd | _missed(matches, np.ones(len(matches.scores), dtype=bool)))
    wrong = matches.with_outcome(error)
    outcomes, labels = np.where(wrong, "excluded", matches.outcomes), matches.labels.copy()
    if error in ("class", "localisation"):
        fixable = _highest_per_object(matches, wrong)
        outcomes[fixable] = "true_positive"
        labels[fixable] = matches.object_labels[matches.object_indices[fixable]]
    return replace(matches, outcomes=outcomes, labels=labels)


def _highest_per_object(matches: Matches, rows: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the highest-scoring detection in `rows` of each object without a true positive."""
    matched = np.zeros(len(matches.crowd), dtype=bool)
    matched[matches.object_indices[matches.with_outcome("true_positive")]] = True
    order = np.argsort(-matches.scores, kind="stable")
    order = order[rows[order]]
    order = order[~matched[matches.object_indices[order]]]
    return order[np.unique(matches.object_indices[order], return_index=True)[1]]


def _ap50(matches: Matches, classes: NDArray[np.int64]) -> float:
    """Return the mean AP at an IoU of 0.5 over these classes; 0 without classes."""
    order = np.argsort(-matches.scores, kind="stable")
    order = order[~matches.with_outcome("ignored", "excluded")[order]]
    labels, true_positive = matches.labels[order], matches.with_outcome("true_positive")[order]
    objects = matches.count_objects(max(classes, default=0) + 1)
    values = [_average_precision(true_positive[labels == label], int(objects[label])) for label in classes]
    return float(np.mean(values)) if values else 0.0


def _average_precision(true_positive: NDArray[np.bool_], objects: int) -> float:
    """Return COCO's average precision over 101 recalls, of detections in descending order of score.

    Without objects it is 1 without detections, else 0.
    """
    if not objects:
        return float(not len(true_positive))
    hits = np.cumsum(true_positive)
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    reached = np.searchsorted(hits / objects, np.linspace(0.0, 1.0, NUM_RECALLS))
    return float(np.append(precision, 0.0)[reached].mean())
