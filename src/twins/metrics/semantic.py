"""Intersection over union and its kin for semantic maps, as counts that add over images and processes."""

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
"""How far a boundary may be off and still count, as a share of the image's diagonal (Csurka et al., BMVC 2013)."""
Absent = Literal["left_out", "zero"]
"""What a class counts that neither the truth nor any prediction has: nothing (torchmetrics' and mmsegmentation's
convention), or an intersection over union of 0 (the ADE20K toolkit's)."""


class SemanticMetric:
    """Counts pixels; implements the `Metric` contract. Memory does not grow with the set.

    Args:
        names: class names by class id.
        absent: what a class counts that neither truth nor prediction has.
        boundary: whether to compare boundaries too, which takes longer.

    Raises:
        ConfigError: an unknown convention.
    """

    def __init__(self, names: Sequence[str], *, absent: Absent = "left_out", boundary: bool = False) -> None:
        if absent not in ("left_out", "zero"):
            raise ConfigError(f"absent classes are left_out or count as zero, found {absent!r}")
        self.names, self.absent, self.boundary = tuple(names), absent, boundary
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        classes = len(self.names)
        self._state = {"confusion": torch.zeros(classes, classes, dtype=torch.int64)}
        if self.boundary:
            self._state["boundary_sum"] = torch.zeros(classes, dtype=torch.float64)
            self._state["boundary_count"] = torch.zeros(classes, dtype=torch.int64)

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Any]) -> None:
        """Count some images.

        Args:
            predictions: of a semantic network, one per image, at the size of the truth.
            targets: true class ids `(H, W)` of each image, 255 where ignored; tensors or arrays.
        """
        for prediction, target in zip(predictions, targets, strict=True):
            assert prediction.label_map is not None, "a semantic prediction has a label map"
            truth = np.asarray(target)
            self._state["confusion"] += torch.from_numpy(self._count(prediction.label_map, truth))
            if self.boundary:
                self._compare_boundaries(prediction.label_map, truth)

    def state(self) -> dict[str, Tensor]:
        """Return what processes exchange."""
        return {key: value.clone() for key, value in self._state.items()}

    def merge(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Add the counts of other processes."""
        for state in states:
            for key, value in state.items():
                self._state[key] += value

    def compute(self) -> dict[str, float]:
        """Return `miou`, `pixel_accuracy`, `mean_class_accuracy` and, where asked for, `boundary_f1`, each in 0..1."""
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
        """Return `per_class` and `confusion` (rows are the truth, in pixels), JSON-ready."""
        confusion, union = self._state["confusion"], self._union()
        rows = []
        for label, name in enumerate(self.names):
            hits, truth = int(confusion[label, label]), int(confusion[label].sum())
            row = {
                "name": name,
                "pixels": truth,
                "iou": hits / int(union[label]) if union[label] else None,
                "accuracy": hits / truth if truth else None,
            }
            if self.boundary:
                count = int(self._state["boundary_count"][label])
                row["boundary_f1"] = float(self._state["boundary_sum"][label]) / count if count else None
            rows.append(row)
        return {"per_class": rows, "confusion": confusion.tolist()}

    def _union(self) -> Tensor:
        confusion = self._state["confusion"]
        return (confusion.sum(dim=0) + confusion.sum(dim=1) - confusion.diagonal()).double()

    def _count(self, said: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.int64]:
        """Return how many pixels of each class (rows) were said to be of each class (columns)."""
        classes = len(self.names)
        valid = truth != IGNORE
        pairs = truth[valid].astype(np.int64) * classes + said[valid]
        return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)

    def _compare_boundaries(self, said: NDArray[Any], truth: NDArray[Any]) -> None:
        """Add each class's boundary score in one image: F1 of the boundary pixels that have a partner nearby."""
        ignored = truth == IGNORE
        distance = max(1.0, TOLERANCE * float(np.hypot(*truth.shape)))
        for label in np.unique(truth[~ignored]):
            found = boundary_score((said == label) & ~ignored, truth == label, distance)
            if found is not None:
                self._state["boundary_sum"][label] += found
                self._state["boundary_count"][label] += 1


def boundary_score(said: NDArray[np.bool_], truth: NDArray[np.bool_], distance: float) -> float | None:
    """Return the F1 score of boundary pixels within `distance` pixels of one of the other mask, in 0..1.

    Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013. `None` when the truth
    has no boundary: the class fills the image.
    """
    from scipy.spatial import KDTree

    wanted, found = _boundary(truth), _boundary(said)
    if not len(wanted):
        return None
    if not len(found):
        return 0.0
    recall = float((KDTree(found).query(wanted, distance_upper_bound=distance + 1e-9)[0] <= distance).mean())
    precision = float((KDTree(wanted).query(found, distance_upper_bound=distance + 1e-9)[0] <= distance).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _boundary(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the pixels `(N, 2)` of a mask that touch, by a side, a pixel outside it; the image's edge is none."""
    from scipy.ndimage import binary_erosion

    return np.argwhere(mask & ~binary_erosion(mask, border_value=1))
