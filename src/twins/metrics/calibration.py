"""Temperature scaling of a classifier's scores (Guo et al. 2017, arXiv 1706.04599), judged by cross-fitting."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from twins.errors import DataError
from twins.metrics.classification import BINS
from twins.predictions import Prediction

FOLDS = 5
"""Folds of the cross-fitting."""
LOWEST, HIGHEST = 0.05, 20.0
"""Range of temperatures."""
Floats = NDArray[np.float64]


class TemperatureFit:
    """Collects log-probabilities and class ids, then fits the temperature that divides the logits.

    A temperature changes no order of classes, only the scores: above 1 they are less sure, below 1 more.
    """

    def __init__(self) -> None:
        self._log_probabilities: list[Floats] = []
        self._labels: list[int] = []

    def update(self, predictions: list[Prediction], targets: Any) -> None:
        """Add a batch.

        Args:
            predictions: of a classifier without temperature, with all classes in order of score.
            targets: class ids `(B,)`.
        """
        for prediction, label in zip(predictions, targets.tolist(), strict=True):
            assert prediction.labels is not None
            assert prediction.scores is not None
            scores = np.empty(len(prediction.labels))
            scores[prediction.labels] = prediction.scores
            self._log_probabilities.append(np.log(scores.clip(min=1e-38)))
            self._labels.append(label)

    def result(self) -> dict[str, Any]:
        """Return the fitted `temperature` and how it was judged, JSON-ready.

        `before` and `after` have `ece` and `nll` (mean negative log-likelihood) without temperature, and by
        cross-fitting: the images of each of `folds` parts are scaled with a temperature fitted on the other parts. The
        temperature itself is fitted on all `images`.

        Raises:
            DataError: fewer images than folds.
        """
        logits, labels = np.array(self._log_probabilities), np.array(self._labels)
        if len(labels) < FOLDS:
            raise DataError(f"a temperature needs at least {FOLDS} images, found {len(labels)}; measure more")
        fold = np.arange(len(labels)) % FOLDS
        scaled = logits.copy()
        for part in range(FOLDS):
            held_out = fold == part
            scaled[held_out] /= fit_temperature(logits[~held_out], labels[~held_out])
        return {
            "temperature": fit_temperature(logits, labels),
            "images": len(labels),
            "folds": FOLDS,
            "before": {"ece": calibration_error(logits, labels), "nll": _nll(logits, labels)},
            "after": {"ece": calibration_error(scaled, labels), "nll": _nll(scaled, labels)},
        }


def fit_temperature(logits: Floats, labels: NDArray[np.int64]) -> float:
    """Return the temperature with the least negative log-likelihood, from `LOWEST` to `HIGHEST`.

    Args:
        logits: `(N, K)`, up to a constant for each image.
        labels: class ids `(N,)`.
    """
    from scipy.optimize import minimize_scalar

    bounds = (np.log(LOWEST), np.log(HIGHEST))  # the likelihood has a single maximum
    found = minimize_scalar(lambda x: _nll(logits / np.exp(x), labels), bounds=bounds, method="bounded")
    return float(np.exp(found.x))


def calibration_error(logits: Floats, labels: NDArray[np.int64]) -> float:
    """Return the expected calibration error of logits `(N, K)`, over the bins of `ClassificationMetric`."""
    confidence = np.exp(logits.max(axis=1) - _log_sum(logits))
    correct = (logits.argmax(axis=1) == labels).astype(np.float64)
    bins = (confidence * BINS).astype(np.int64).clip(max=BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))


def _nll(logits: Floats, labels: NDArray[np.int64]) -> float:
    """Return the mean negative log-likelihood."""
    return float((_log_sum(logits) - logits[np.arange(len(labels)), labels]).mean())


def _log_sum(logits: Floats) -> Floats:
    highest = logits.max(axis=1)
    total: Floats = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
    return total
