"""Accuracy, per-class numbers, confusion and calibration of classifiers, from counts that add up over processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twins.predictions import Prediction

BINS = 15
"""Confidence bins of the calibration error (Guo et al. 2017, arXiv 1706.04599)."""


class ClassificationMetric:
    """Counts correct predictions; implements the `Metric` contract.

    Args:
        names: class names by class id.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.reset()

    def reset(self) -> None:
        """Set all counts to 0."""
        classes = len(self.names)
        self._state = {
            "confusion": torch.zeros(classes, classes, dtype=torch.int64),
            "top5": torch.zeros((), dtype=torch.int64),
            "bin_count": torch.zeros(BINS, dtype=torch.int64),
            "bin_correct": torch.zeros(BINS, dtype=torch.int64),
            "bin_confidence": torch.zeros(BINS, dtype=torch.float64),
        }

    def update(self, predictions: Sequence[Prediction], targets: Tensor) -> None:
        """Add a batch.

        Args:
            predictions: of a classifier, one per image, with all classes in order of score.
            targets: class ids `(B,)`.
        """
        # imported here because it takes seconds, and other tasks import this file too
        from torchmetrics.functional.classification import multiclass_confusion_matrix

        labels = torch.from_numpy(np.stack([_field(p.labels)[:5] for p in predictions]))  # (B, 5 at most)
        confidence = torch.tensor([float(_field(p.scores)[0]) for p in predictions], dtype=torch.float64)
        targets = targets.cpu()
        correct = labels[:, 0] == targets
        state = self._state
        state["confusion"] += multiclass_confusion_matrix(labels[:, 0], targets, num_classes=len(self.names))
        state["top5"] += (labels == targets[:, None]).any(dim=1).sum()
        bins = (confidence * BINS).long().clamp(max=BINS - 1)
        state["bin_count"] += torch.bincount(bins, minlength=BINS)
        state["bin_correct"] += torch.bincount(bins[correct], minlength=BINS)
        state["bin_confidence"] += torch.bincount(bins, weights=confidence, minlength=BINS)

    def state(self) -> dict[str, Tensor]:
        """Return the counts that processes exchange."""
        return {key: value.clone() for key, value in self._state.items()}

    def merge(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Add the counts of other processes."""
        for state in states:
            for key, value in state.items():
                self._state[key] += value

    def compute(self) -> dict[str, float]:
        """Return `top1`, `top5` (from six classes on), `mean_class_accuracy` and `ece`, each in 0..1."""
        confusion = self._state["confusion"].double()
        total, support = confusion.sum(), confusion.sum(dim=1)
        if total == 0:
            return {}
        recall = confusion.diagonal() / support
        result = {"top1": float(confusion.diagonal().sum() / total)}
        if len(self.names) > 5:
            result["top5"] = float(self._state["top5"] / total)
        gaps = (self._state["bin_correct"] - self._state["bin_confidence"]).abs().sum()
        return result | {"mean_class_accuracy": float(recall[support > 0].mean()), "ece": float(gaps / total)}

    def details(self) -> dict[str, Any]:
        """Return `per_class`, `confusion` (rows are the ground truth) and `calibration`, JSON-ready."""
        confusion = self._state["confusion"]
        counts = (x.tolist() for x in (confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0)))
        rows = []
        for name, hits, support, predicted in zip(self.names, *counts, strict=True):
            recall, precision = _ratio(hits, support), _ratio(hits, predicted)
            f1 = _ratio(2 * hits, support + predicted)
            rows.append({"name": name, "support": support, "recall": recall, "precision": precision, "f1": f1})
        return {"per_class": rows, "confusion": confusion.tolist(), "calibration": self._calibration()}

    def _calibration(self) -> list[dict[str, float]]:
        """Return the mean confidence and the accuracy in each confidence bin that is not empty."""
        columns = (self._state[name].tolist() for name in ("bin_count", "bin_confidence", "bin_correct"))
        bins = [bin for bin in zip(*columns, strict=True) if bin[0]]
        return [{"count": n, "confidence": total / n, "accuracy": hits / n} for n, total, hits in bins]


def _field(values: Any) -> Any:
    assert values is not None, "a classifier's prediction lists labels and scores"
    return values


def _ratio(count: int, total: int) -> float | None:
    return count / total if total else None
