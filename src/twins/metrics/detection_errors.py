"""What a detector gets wrong: each prediction's kind of error, and what mending a kind would give.

The kinds are those of Bolya et al. 2020, "TIDE: A General Toolbox for Identifying Object Detection Errors" (arXiv
2008.08115), section 2.2, at its overlaps of 0.5 and 0.1. Where we differ:

- A prediction is matched, and a crowd region forgiven, as COCO's evaluator does it, so that AP50 is COCO's.
- Up to 100 predictions of each class in an image are judged, as in COCO's AP; TIDE's 100 are of all classes together.
- Of several predictions that would all be mended to the same true object the surest of that kind of error counts.
- A class of which nothing is left to find once what was missed is mended has an AP50 of 1 if nothing was found wrongly.
- Counts are above a score, the one that gives the best F1 over all classes together; gains are over all scores.
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
    RECALLS,
    CocoImage,
    Detections,
    Floats,
    Kind,
    build_coco_image,
    overlaps,
)
from twins.predictions import Prediction

Verdict = Literal["right", "class", "localisation", "both", "duplicate", "background", "crowd", "unseen"]
"""What a prediction is.

`right`         it found a true object of its class, with an overlap of 0.5 at least
`class`         its place is that of an object of another class
`localisation`  it overlaps an object of its class by 0.1 to 0.5
`both`          it overlaps an object of another class by 0.1 to 0.5
`duplicate`     a surer prediction found its object
`background`    it overlaps no object by more than 0.1
`crowd`         it lies in a crowd region of its class: neither right nor wrong
`unseen`        a hundred of its class in the image are surer
"""
ErrorType = Literal["class", "localisation", "both", "duplicate", "background", "missed"]
"""Kinds of error; `missed` is a true object that nothing found and that no error of class or place aims at."""
FOREGROUND, BACKGROUND = 0.5, 0.1
"""Overlaps from which on an object is found, and up to which nothing is there."""
ERROR_TYPES: tuple[ErrorType, ...] = get_args(ErrorType)
NOTHING = -1
"""Index of no object."""


@dataclass(frozen=True)
class Judgement:
    """What is right and wrong about one image's prediction."""

    kinds: tuple[Verdict, ...]
    """Of each prediction."""
    about: tuple[int | None, ...]
    """Index of the true object that each prediction found, doubled, misplaced or took for another class."""
    found: tuple[bool, ...]
    """Whether each true object was found; always so of a crowd region, which nobody has to find."""


def judge(prediction: Prediction, objects: Objects, *, masks: bool) -> Judgement:
    """Judge one image's prediction at an overlap of 0.5 of boxes or of `masks`; see `build_coco_image`."""
    kind: Kind = "mask" if masks else "box"
    verdicts, about = _judge(build_coco_image(prediction, objects, masks=masks), kind)
    found = objects.crowd.copy()
    found[about[verdicts == "right"]] = True
    return Judgement(
        kinds=tuple(verdicts.tolist()),
        about=tuple(None if index == NOTHING else index for index in about.tolist()),
        found=tuple(found.tolist()),
    )


def _judge(example: CocoImage, kind: Kind) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Return the verdict on each prediction, and the index of the true object that it is about."""
    truth, found = example.truth, example.detections
    overlap = overlaps(example, kind)  # (R, G)
    same = found.labels[:, None] == truth.labels
    own, other = (np.where(alike & ~truth.crowd, overlap, 0.0) for alike in (same, ~same))
    (best_own, nearest_own), (best_other, nearest_other) = _nearest(own), _nearest(other)
    seen = _places(found) < MAX_DETECTIONS[-1]
    matched = _match(own, found.scores, seen)
    rules: dict[Verdict, NDArray[np.bool_]] = {  # the first that holds, as in TIDE's own code
        "unseen": ~seen,
        "right": matched != NOTHING,
        "crowd": (same & truth.crowd & (overlap >= FOREGROUND)).any(axis=1),
        "localisation": (best_own >= BACKGROUND) & (best_own < FOREGROUND),
        "class": best_other >= FOREGROUND,
        "duplicate": best_own >= FOREGROUND,
        "both": np.maximum(best_own, best_other) > BACKGROUND,
    }
    verdicts = np.select(list(rules.values()), list(rules), "background")
    aims: dict[Verdict, NDArray[np.int64]] = {
        "right": matched,
        "localisation": nearest_own,
        "class": nearest_other,
        "duplicate": nearest_own,
    }
    return verdicts, np.select([verdicts == verdict for verdict in aims], list(aims.values()), NOTHING)


def _nearest(overlap: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Return each row's largest overlap and its column, 0 where there is none."""
    if not overlap.shape[1]:
        return np.zeros(len(overlap)), np.full(len(overlap), NOTHING)
    return overlap.max(axis=1), overlap.argmax(axis=1)


def _places(found: Detections) -> NDArray[np.int64]:
    """Return how many predictions of its class in the image are surer than each; of equal ones, the earlier is."""
    order = np.lexsort((-found.scores, found.labels))
    labels = found.labels[order]
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order)) - np.searchsorted(labels, labels)
    return places


def _match(own: Floats, scores: Floats, seen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the true object that each prediction finds: the surest chooses first, of what overlaps it most."""
    matched = np.full(len(own), NOTHING)
    free = np.ones(own.shape[1], dtype=bool)
    order = np.argsort(-scores, kind="stable")
    able = seen & (own >= FOREGROUND).any(axis=1)
    for row in order[able[order]]:
        candidates = np.where(free, own[row], 0.0)
        best = len(candidates) - 1 - candidates[::-1].argmax()  # of equal ones the last, as COCO's evaluator does
        if candidates[best] >= FOREGROUND:
            matched[row], free[best] = best, False
    return matched


@dataclass(frozen=True, eq=False)
class Judged:
    """What is right and wrong about all images' predictions, `(P,)`, and the true objects, `(Q,)`."""

    labels: NDArray[np.int64]
    scores: Floats
    verdicts: NDArray[np.str_]
    about: NDArray[np.int64]
    """Index of a true object, or `NOTHING`."""
    true_labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]

    def are(self, *verdicts: Verdict) -> NDArray[np.bool_]:
        """Return which predictions have one of these verdicts, `(P,)`."""
        return np.isin(self.verdicts, verdicts)

    def objects(self, classes: int) -> NDArray[np.int64]:
        """Return how many objects of each class there are to find, `(K,)`."""
        return np.bincount(self.true_labels[~self.crowd], minlength=classes)


def judge_all(examples: Sequence[CocoImage], kind: Kind) -> Judged:
    """Judge the predictions of all images at an overlap of 0.5, whatever their score."""
    judged = [_judge(example, kind) for example in examples]
    starts = np.cumsum([0, *(len(example.truth.labels) for example in examples)])
    about = [
        np.where(index == NOTHING, NOTHING, index + start) for (_, index), start in zip(judged, starts, strict=False)
    ]
    return Judged(
        labels=_joined([example.detections.labels for example in examples], np.int64),
        scores=_joined([example.detections.scores for example in examples], np.float64),
        verdicts=_joined([verdicts for verdicts, _ in judged], np.str_),
        about=_joined(about, np.int64),
        true_labels=_joined([example.truth.labels for example in examples], np.int64),
        crowd=_joined([example.truth.crowd for example in examples], np.bool_),
    )


def _joined(parts: list[NDArray[Any]], kind: type) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype=kind), *parts]).astype(kind)


@dataclass(frozen=True)
class Balance:
    """The score at which precision and recall are balanced best, at an overlap of 0.5."""

    f1: float
    precision: float
    recall: float
    score: float | None
    """Predictions from this score on are taken; `None` where no score finds anything."""


def best_balance(judged: Judged, label: int | None = None) -> Balance | None:
    """Return the best F1 of a class, or over all classes together; `None` where there is no object to find."""
    chosen = ~judged.are("crowd", "unseen")
    wanted = ~judged.crowd
    if label is not None:
        chosen, wanted = chosen & (judged.labels == label), wanted & (judged.true_labels == label)
    total = int(wanted.sum())
    if not total:
        return None
    scores, right = judged.scores[chosen], judged.are("right")[chosen]
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(right[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + total)
    f1[:-1][scores[1:] == scores[:-1]] = 0.0  # equal scores are taken together
    if not f1.any():
        return Balance(0.0, 0.0, 0.0, None)
    best = int(f1.argmax())
    return Balance(float(f1[best]), float(hits[best] / (best + 1)), float(hits[best] / total), float(scores[best]))


def analyse_errors(judged: Judged, classes: int) -> dict[str, Any]:
    """Return what is wrong, and what mending it would give, JSON-ready.

    Args:
        judged: all images' predictions.
        classes: how many there are.

    Returns:
        `score`: what is counted has this score at least; 0 where no score finds anything. `objects`, `right`: how many
        there are to find, and were found. `ap50` in 0..1, and of each of `types` its `count` and its `ap50_gain`: by
        how much the AP50 would rise if errors of this kind alone were mended, over all scores.
    """
    balance = best_balance(judged)
    score = balance.score or 0.0 if balance else 0.0
    above = judged.scores >= score
    present = np.flatnonzero(judged.objects(classes)[:classes])
    now = _ap50(judged, present)
    types = {}
    for error in ERROR_TYPES:
        wrong = _missed(judged, above) if error == "missed" else above & judged.are(error)
        gain = max(0.0, _ap50(_mended(judged, error), present) - now)
        types[error] = {"count": int(wrong.sum()), "ap50_gain": gain}
    return {
        "score": score,
        "objects": int((~judged.crowd).sum()),
        "right": int((above & judged.are("right")).sum()),
        "ap50": now,
        "types": types,
    }


def _missed(judged: Judged, seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which true objects nothing that was seen found or aimed at, `(Q,)`."""
    missed = ~judged.crowd
    missed[judged.about[seen & judged.are("right", "class", "localisation")]] = False
    return missed


def _mended(judged: Judged, error: ErrorType) -> Judged:
    """Return how it would be without errors of a kind: what cannot be made right is not seen, or not asked for."""
    if error == "missed":
        return replace(judged, crowd=judged.crowd | _missed(judged, np.ones(len(judged.scores), dtype=bool)))
    wrong = judged.are(error)
    verdicts, labels = np.where(wrong, "unseen", judged.verdicts), judged.labels.copy()
    if error in ("class", "localisation"):
        best = _surest_about(judged, wrong)
        verdicts[best], labels[best] = "right", judged.true_labels[judged.about[best]]
    return replace(judged, verdicts=verdicts, labels=labels)


def _surest_about(judged: Judged, rows: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return, of the predictions in `rows`, the surest about each true object that nothing found."""
    taken = np.zeros(len(judged.crowd), dtype=bool)
    taken[judged.about[judged.are("right")]] = True
    order = np.argsort(-judged.scores, kind="stable")
    order = order[rows[order]]
    order = order[~taken[judged.about[order]]]
    return order[np.unique(judged.about[order], return_index=True)[1]]


def _ap50(judged: Judged, present: NDArray[np.int64]) -> float:
    """Return the mean AP at an overlap of 0.5 over these classes, 0 with none."""
    order = np.argsort(-judged.scores, kind="stable")
    order = order[~judged.are("crowd", "unseen")[order]]
    labels, right = judged.labels[order], judged.are("right")[order]
    objects = judged.objects(max(present, default=0) + 1)
    values = [_average_precision(right[labels == label], int(objects[label])) for label in present]
    return float(np.mean(values)) if values else 0.0


def _average_precision(right: NDArray[np.bool_], objects: int) -> float:
    """Return COCO's average over 101 recalls, the surest prediction first; of no object 1 if nothing was found."""
    if not objects:
        return float(not len(right))
    hits = np.cumsum(right)
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    reached = np.searchsorted(hits / objects, np.linspace(0.0, 1.0, RECALLS))
    return float(np.append(precision, 0.0)[reached].mean())
