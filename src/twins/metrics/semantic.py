"""IoU, accuracy and boundary F1 of semantic maps, from counts that add up over images and processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twins.data.formats.masks import IGNORE
from twins.errors import ConfigError
from twins.predictions import Prediction

TOLERANCE = 0.0075
"""Largest distance between matching boundary pixels, as a share of the image's diagonal (Csurka et al., BMVC 2013)."""
Absent = Literal["left_out", "zero"]
"""How mean IoU treats classes that neither ground truth nor predictions contain: left out, as in torchmetrics and
mmsegmentation, or an IoU of 0, as in the ADE20K toolkit."""


class SemanticMetric:
    """Counts pixels; implements the `Metric` contract. Memory does not grow with the data set.

    Args:
        names: class names by class id.
        absent: how mean IoU treats classes that neither ground truth nor predictions contain.
        boundary: also measure boundary F1, which takes longer.

    Raises:
        ConfigError: an unknown value of `absent`.
    """

    def __init__(self, names: Sequence[str], *, absent: Absent = "left_out", boundary: bool = False) -> None:
        if absent not in ("left_out", "zero"):
            raise ConfigError(f"absent classes are left_out or count as zero, found {absent!r}")
        self.names, self.absent, self.boundary = tuple(names), absent, boundary
        self.reset()

    def reset(self) -> None:
        """Set all counts to 0."""
        classes = len(self.names)
        self._state = {"confusion": torch.zeros(classes, classes, dtype=torch.int64)}
        if self.boundary:
            self._state["boundary_sum"] = torch.zeros(classes, dtype=torch.float64)
            self._state["boundary_count"] = torch.zeros(classes, dtype=torch.int64)

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Any]) -> None:
        """Add images.

        Args:
            predictions: of a semantic network, one per image, at the size of the target.
            targets: class ids `(H, W)` of each image, 255 is ignored; tensors or arrays.
        """
        for prediction, target in zip(predictions, targets, strict=True):
            assert prediction.label_map is not None, "a semantic prediction has a label map"
            truth = np.asarray(target)
            self._state["confusion"] += torch.from_numpy(self._count(prediction.label_map, truth))
            if self.boundary:
                self._compare_boundaries(prediction.label_map, truth)

    def state(self) -> dict[str, Tensor]:
        """Return the counts that processes exchange."""
        return {key: value.clone() for key, value in self._state.items()}

    def merge(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Add the counts of other processes."""
        for state in states:
            for key, value in state.items():
                self._state[key] += value

    def compute(self) -> dict[str, float]:
        """Return `miou`, `pixel_accuracy`, `mean_class_accuracy` and, with `boundary`, `boundary_f1`, each in 0..1."""
        confusion = self._state["confusion"].double()
        if not float(confusion.sum()):
            return {}
        union = self._union()
        ious, accuracies = confusion.diagonal() / union, confusion.diagonal() / confusion.sum(dim=1)
        counted = union > 0 if self.absent == "left_out" else torch.ones_like(union, dtype=torch.bool)
        result = {
            "miou": float(ious.nan_to_num(0.0)[counted].mean()),
            "pixel_accuracy": float(confusion.diagonal().sum() / confusion.sum()),
            "mean_class_accuracy": float(accuracies[confusion.sum(dim=1) > 0].mean()),
        }
        if self.boundary:
            count = self._state["boundary_count"]
            scores = self._state["boundary_sum"][count > 0] / count[count > 0]
            result |= {"boundary_f1": float(scores.mean())} if len(scores) else {}
        return result

    def details(self) -> dict[str, Any]:
        """Return `per_class` and `confusion` (in pixels, rows are the ground truth), JSON-ready."""
        confusion, union = self._state["confusion"], self._union()
        rows = []
        for label, name in enumerate(self.names):
            hits, pixels = int(confusion[label, label]), int(confusion[label].sum())
            row = {
                "name": name,
                "pixels": pixels,
                "iou": hits / int(union[label]) if union[label] else None,
                "accuracy": hits / pixels if pixels else None,
            }
            if self.boundary:
                count = int(self._state["boundary_count"][label])
                row["boundary_f1"] = float(self._state["boundary_sum"][label]) / count if count else None
            rows.append(row)
        return {"per_class": rows, "confusion": confusion.tolist()}

    def _union(self) -> Tensor:
        confusion = self._state["confusion"]
        return (confusion.sum(dim=0) + confusion.sum(dim=1) - confusion.diagonal()).double()

    def _count(self, predicted: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.int64]:
        """Return the confusion matrix of an image in pixels; rows are the ground truth."""
        classes = len(self.names)
        valid = truth != IGNORE
        pairs = truth[valid].astype(np.int64) * classes + predicted[valid]
        return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)

    def _compare_boundaries(self, predicted: NDArray[Any], truth: NDArray[Any]) -> None:
        """Add the boundary F1 of each class in an image."""
        ignored = truth == IGNORE
        distance = max(1.0, TOLERANCE * float(np.hypot(*truth.shape)))
        for label in np.unique(truth[~ignored]):
            score = boundary_f1((predicted == label) & ~ignored, truth == label, distance)
            if score is not None:
                self._state["boundary_sum"][label] += score
                self._state["boundary_count"][label] += 1


def boundary_f1(predicted: NDArray[np.bool_], truth: NDArray[np.bool_], distance: float) -> float | None:
    """Return the F1 of two masks' boundaries, 0..1; pixels within `distance` pixels of the other boundary match.

    Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013. `None` if the ground truth
    has no boundary because the class fills the image.
    """
    from scipy.spatial import KDTree

    true_pixels, predicted_pixels = _boundary(truth), _boundary(predicted)
    if not len(true_pixels):
        return None
    if not len(predicted_pixels):
        return 0.0
    recall = _share_within(distance, true_pixels, KDTree(predicted_pixels))
    precision = _share_within(distance, predicted_pixels, KDTree(true_pixels))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _share_within(distance: float, pixels: NDArray[np.int64], others: Any) -> float:
    """Return the share of pixels whose nearest one in the tree `others` is within a distance."""
    return float((others.query(pixels, distance_upper_bound=distance + 1e-9)[0] <= distance).mean())


def _boundary(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the pixels `(N, 2)` of a mask with a side neighbour outside it; the image's border is no boundary."""
    from scipy.ndimage import binary_erosion

    return np.argwhere(mask & ~binary_erosion(mask, border_value=1))
