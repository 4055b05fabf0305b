"""Outputs of an exported file compared with those of its network: numbers, label maps, and objects one to one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twins.exporting.metadata import FileInfo, Precision
from twins.tasks.inference import SelectionConfig

Arrays = Mapping[str, NDArray[Any]]
"""Outputs by name."""
Ties = Callable[[NDArray[Any], NDArray[Any]], NDArray[np.bool_]]
"""Returns, for two label maps `(B, H, W)`, the pixels at which the network scores both classes the same."""
CLASS_SCORES = ("probabilities", "logits")
"""Outputs with a score for each class, along axis 1."""
NEAR_SCORE = 1e-4
"""Difference of two scores, or of a score and the threshold, within which rounding decides."""
NEAR_IOU = 1e-3
"""Difference of an IoU and the threshold of NMS within which rounding decides: of a box of 50 pixels, a shift of 0.05
pixels changes it by this much."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How far the outputs of a file may be from those of its network."""

    numbers: float
    """Largest difference of probabilities, logits and maps, relative to the root mean square of the output."""
    scores: float
    """Largest difference of the scores of objects, relative to their root mean square."""
    boxes: float
    """Largest difference of a box's sides in pixels."""
    masks: float
    """Largest difference of a mask's probabilities."""
    agreement: float
    """Smallest share of images or pixels with the same class, ties aside."""
    objects: float
    """Smallest share of objects that network and file both find, ties aside.

    The bounds of boxes, scores and masks leave aside as many as may be missing: two boxes of one object have nearly the
    same score, and rounding can exchange them.
    """


BOUNDS: dict[Precision, Bounds] = {
    "fp32": Bounds(numbers=1e-4, scores=1e-3, boxes=0.05, masks=1e-3, agreement=0.999, objects=0.99),
    "fp16": Bounds(numbers=0.05, scores=0.05, boxes=1.0, masks=0.1, agreement=0.98, objects=0.9),
    "bf16": Bounds(numbers=0.25, scores=0.25, boxes=5.0, masks=0.4, agreement=0.9, objects=0.75),
    "int8": Bounds(numbers=math.inf, scores=math.inf, boxes=math.inf, masks=math.inf, agreement=0.0, objects=0.0),
}
"""Bounds by precision. In fp32 only the order of sums differs, about 1e-6 after tens of layers; 1e-4 leaves room for
the largest networks, and any wrong constant is far above it. Scores and masks of objects may be read at proposed boxes,
which these sums move by thousandths of a pixel, so theirs are ten times as wide. fp16 and bf16 round each number to 11
and 8 bits. What int8 loses depends on the task, so that `data` judges it."""
RESIZED = BOUNDS["fp16"]
"""Bounds of a file that resizes its images, whose pixels may differ from Pillow's by 1 of 255."""


def bounds_of(info: FileInfo) -> Bounds:
    """Return the bounds of a file."""
    return RESIZED if info.resize_in_graph and info.precision == "fp32" else BOUNDS[info.precision]


class Mismatch(Exception):
    """Outputs that cannot be compared, or that are no numbers; the message ends a sentence about the file."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of a comparison, with its bound."""

    name: str
    """What was compared: an output, `classes`, or `objects`."""
    value: float
    """A difference, or a share of equal results."""
    bound: float
    """Largest difference, or smallest share, that is allowed."""
    is_share: bool = False
    """Whether the value is a share of equal results."""
    unit: str = "of its root mean square"
    """Unit of a difference."""

    @property
    def excess(self) -> float:
        """The error in multiples of what is allowed; above 1 it is too large."""
        error, allowed = (1 - self.value, 1 - self.bound) if self.is_share else (self.value, self.bound)
        return 0.0 if error == 0 or allowed == math.inf else error / allowed

    def describe(self) -> str:
        """Return the number and its bound as the end of a sentence."""
        if self.is_share:
            return f"{100 * self.value:.4g} % of the {self.name} are equal, the bound is {100 * self.bound:.4g} %"
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.name} differs by {self.value:.3g}{unit}, the bound is {self.bound:g}"


def compare(
    expected: Arrays,
    actual: Arrays,
    bounds: Bounds,
    *,
    selection: SelectionConfig | None = None,
    ties: Ties | None = None,
) -> Iterator[Measure]:
    """Yield how the outputs of a file differ from those of its network, for one batch.

    Args:
        expected: outputs of the network.
        actual: outputs of the file.
        bounds: what is allowed.
        selection: how objects were selected; needed for outputs with `count`.
        ties: finds ties in label maps; `None`: there are none.

    Raises:
        Mismatch: outputs have other names, shapes or kinds, or are not finite.
    """
    _check_alike(expected, actual)
    if "count" in expected:
        assert selection is not None
        yield from compare_objects(expected, actual, bounds, selection)
        return
    for name, values in expected.items():
        if values.dtype.kind == "f":
            yield from _compare_numbers(name, values, actual[name], bounds)
        else:
            different = values != actual[name]
            if ties is not None and different.any():
                different &= ~ties(values, actual[name])
            share = 1 - float(different.mean())
            yield Measure(name=f"{name} pixels", value=share, bound=bounds.agreement, is_share=True)


def _check_alike(expected: Arrays, actual: Arrays) -> None:
    if set(expected) != set(actual):
        raise Mismatch(f"it returns {', '.join(sorted(actual))} instead of {', '.join(sorted(expected))}")
    for name, values in expected.items():
        other = actual[name]
        if values.shape != other.shape:
            raise Mismatch(f"its {name} has shape {other.shape} instead of {values.shape}")
        if (values.dtype.kind == "f") != (other.dtype.kind == "f"):
            raise Mismatch(f"its {name} is {other.dtype} instead of {values.dtype}")
        if other.dtype.kind == "f" and not np.isfinite(other).all():
            raise Mismatch(f"its {name} is not finite")


def _compare_numbers(
    name: str, expected: NDArray[np.floating], actual: NDArray[np.floating], bounds: Bounds
) -> Iterator[Measure]:
    size = rms(expected)
    yield Measure(name=name, value=float(np.abs(expected - actual).max()) / size, bound=bounds.numbers)
    if name in CLASS_SCORES:
        labels = [np.expand_dims(values.argmax(axis=1), 1) for values in (expected, actual)]
        gap = np.subtract(*(np.take_along_axis(expected, label, 1) for label in labels))
        tie = 2 * bounds.numbers * size if bounds.numbers < math.inf else 0.0
        agree = (labels[0] == labels[1]) | (gap <= tie)
        yield Measure(name="classes", value=float(agree.mean()), bound=bounds.agreement, is_share=True)


def rms(values: NDArray[np.floating]) -> float:
    """Return the root mean square of values, a little above 0 if all are 0."""
    return max(float(np.sqrt(np.square(values, dtype=np.float64).mean())) if values.size else 0.0, 1e-12)


@dataclass(frozen=True)
class Objects:
    """The objects of one image."""

    boxes: NDArray[np.floating]
    """`(R, 4)`, xyxy in pixels."""
    scores: NDArray[np.floating]
    """`(R,)`."""
    labels: NDArray[np.integer]
    """`(R,)`."""
    masks: NDArray[Any] | None
    """Probabilities inside the boxes, `(R, 28, 28)`, or pixels of the image, bool `(R, H, W)`."""

    @classmethod
    def of(cls, outputs: Arrays, index: int) -> Objects:
        """Return those of an image of a batch; raise Mismatch if something follows after the last."""
        count = int(outputs["count"][index])
        fields = {name: outputs[name][index] for name in ("boxes", "scores", "labels")}
        masks = outputs["masks"][index] if "masks" in outputs else None
        if any(values[count:].any() for values in (*fields.values(), *([] if masks is None else [masks]))):
            raise Mismatch("its outputs are not zero beyond count")
        rows = {name: values[:count] for name, values in fields.items()}
        return cls(**rows, masks=None if masks is None else masks[:count])


def compare_objects(expected: Arrays, actual: Arrays, bounds: Bounds, selection: SelectionConfig) -> Iterator[Measure]:
    """Yield how the objects of a batch differ, matched one to one; see `compare`.

    Masks are probabilities, or pixels of the image, bool.
    """
    images = [(Objects.of(expected, index), Objects.of(actual, index)) for index in range(len(expected["count"]))]
    matches = [(ours, theirs, *match(ours, theirs, bounds.boxes)) for ours, theirs in images]
    missed = sum(_missed(a, b, i, selection) + _missed(b, a, j, selection) for a, b, i, j in matches)
    share = 1 - missed / max(1, sum(len(objects.scores) for pair in images for objects in pair))
    yield Measure(name="objects", value=share, bound=bounds.objects, is_share=True)
    aside = 1 - bounds.objects if bounds.boxes < math.inf else 0.0
    boxes = [np.abs(a.boxes[i] - b.boxes[j]).max(axis=1, initial=0) for a, b, i, j in matches]
    yield Measure(name="boxes", value=_largest(boxes, aside), bound=bounds.boxes, unit="pixels")
    scores = [np.abs(a.scores[i] - b.scores[j]) for a, b, i, j in matches]
    strength = rms(np.concatenate([ours.scores for ours, _ in images]))
    yield Measure(name="scores", value=_largest(scores, aside) / strength, bound=bounds.scores)
    masks = [(a.masks[i], b.masks[j]) for a, b, i, j in matches if a.masks is not None and b.masks is not None]
    if masks and masks[0][0].dtype == bool:
        common, either = (sum(int(f(a, b).sum()) for a, b in masks) for f in (np.logical_and, np.logical_or))
        share = common / either if either else 1.0
        yield Measure(name="mask pixels", value=share, bound=bounds.objects, is_share=True)
    elif masks:
        differences = [np.abs(a - b).max(axis=(1, 2), initial=0) for a, b in masks]
        yield Measure(name="masks", value=_largest(differences, aside), bound=bounds.masks, unit="in probability")


def match(first: Objects, second: Objects, reach: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows of objects of one class that belong to each other, one to one, by the smallest total difference.

    Their boxes differ by at most a tenth of the longer side, or by `reach` pixels, of which no more than 100 count.
    """
    from scipy.optimize import linear_sum_assignment

    distance = np.abs(first.boxes[:, None] - second.boxes[None]).max(axis=2)  # (N, M) pixels
    sides = (first.boxes[:, 2:] - first.boxes[:, :2]).max(axis=1)
    apart = distance > np.maximum(0.1 * sides, min(reach, 100.0))[:, None]
    apart |= first.labels[:, None] != second.labels[None]
    difference = distance + np.abs(first.scores[:, None] - second.scores[None])  # scores decide between equal boxes
    rows, columns = linear_sum_assignment(np.where(apart, 1e9, difference))
    matched = ~apart[rows, columns]
    return rows[matched], columns[matched]


def _missed(objects: Objects, others: Objects, matched: NDArray[np.intp], selection: SelectionConfig) -> int:
    """Return the number of unmatched objects whose absence among the others is no tie."""
    rows = np.setdiff1d(np.arange(len(objects.scores)), matched)
    return sum(not _is_tie(objects, others, row, selection) for row in rows)


def _is_tie(objects: Objects, others: Objects, row: int, selection: SelectionConfig) -> bool:
    """Return whether rounding may decide on an object: its score, or its overlap, is at a threshold."""
    score, box, label = objects.scores[row], objects.boxes[row], objects.labels[row]
    weakest = others.scores.min() if len(others.scores) >= selection.most else 0.0
    if score - max(selection.score, weakest) < NEAR_SCORE:
        return True
    rivals = [(boxes_iou(box, x.boxes), x.scores, (x.labels == label) | selection.agnostic) for x in (objects, others)]
    overlap, scores, is_rival = (np.concatenate(values) for values in zip(*rivals, strict=True))
    at_threshold = np.abs(overlap - selection.nms) < NEAR_IOU
    as_sure = (overlap > selection.nms) & (overlap < 1) & (np.abs(scores - score) < NEAR_SCORE)
    return bool((is_rival & (at_threshold | as_sure)).any())


def boxes_iou(box: NDArray[np.floating], boxes: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the IoU of a box `(4,)` with others `(N, 4)`, xyxy."""
    inside = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    common = inside.clip(0).prod(axis=1)
    areas = [np.prod(x[..., 2:] - x[..., :2], axis=-1) for x in (box, boxes)]
    return common / np.maximum(areas[0] + areas[1] - common, 1e-9)


def _largest(values: list[NDArray[np.floating]], aside: float) -> float:
    """Return the largest value, a share `aside` of them left out; 0 if there is none."""
    ordered = np.sort(np.concatenate(values))
    left_out = int(aside * len(ordered) + 1e-6)  # 1 - 0.9 is a little less than 0.1
    return float(ordered[-1 - left_out]) if len(ordered) else 0.0
