"""Metrics of classifiers against numbers computed by hand, and over processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twins.metrics.classification import ClassificationMetric
from twins.predictions import Prediction

NAMES = ("a", "b", "c")


def predicted(label: int, score: float) -> Prediction:
    labels = np.array([label, *(i for i in range(3) if i != label)])
    scores = np.array([score, (1 - score) / 2, (1 - score) / 2], dtype=np.float32)
    return Prediction(task="classification", size=(8, 8), names=NAMES, labels=labels, scores=scores)


PREDICTIONS = [predicted(0, 0.9), predicted(0, 0.8), predicted(1, 0.7), predicted(1, 0.6)]
TARGETS = torch.tensor([0, 1, 1, 1])


def test_metrics_equal_those_computed_by_hand():
    metric = ClassificationMetric(NAMES)
    metric.update(PREDICTIONS, TARGETS)
    metrics = metric.compute()
    assert metrics["top1"] == 0.75
    assert "top5" not in metrics  # three classes
    assert metrics["mean_class_accuracy"] == pytest.approx((1 + 2 / 3) / 2)  # class c has no image
    assert metrics["ece"] == pytest.approx((0.1 + 0.8 + 0.3 + 0.4) / 4, abs=1e-6)
    rows = {row["name"]: row for row in metric.details()["per_class"]}
    assert rows["b"]["recall"] == pytest.approx(2 / 3)
    assert rows["a"]["precision"] == 0.5
    assert rows["c"] == {"name": "c", "support": 0, "recall": None, "precision": None, "f1": None}
    assert metric.details()["confusion"] == [[1, 0, 0], [1, 2, 0], [0, 0, 0]]


def test_merged_states_equal_one_process():
    single = ClassificationMetric(NAMES)
    single.update(PREDICTIONS, TARGETS)
    parts = [ClassificationMetric(NAMES) for _ in range(2)]
    parts[0].update(PREDICTIONS[:3], TARGETS[:3])
    parts[1].update(PREDICTIONS[3:], TARGETS[3:])
    merged = ClassificationMetric(NAMES)
    merged.merge([part.state() for part in parts])
    assert merged.compute() == pytest.approx(single.compute())
    assert merged.details()["confusion"] == single.details()["confusion"]


def test_without_images_there_are_no_metrics():
    assert ClassificationMetric(NAMES).compute() == {}
