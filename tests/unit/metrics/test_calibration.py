"""Temperature scaling: the temperature of distorted logits is found, judged on images that it was not fitted to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twins.errors import DataError
from twins.metrics.calibration import TemperatureFit, calibration_error, fit_temperature
from twins.metrics.classification import ClassificationMetric
from twins.predictions import Prediction


@pytest.fixture(scope="module")
def calibrated():
    """Logits of 10 classes, and class ids drawn from their probabilities."""
    random = np.random.default_rng(0)
    logits = 3 * random.normal(size=(2000, 10))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return logits, np.array([random.choice(10, p=row) for row in probabilities])


def predictions(logits):
    scores, labels = torch.tensor(logits).float().softmax(dim=1).sort(dim=1, descending=True)
    return [
        Prediction(task="classification", size=(8, 8), labels=label.numpy(), scores=score.numpy())
        for label, score in zip(labels, scores, strict=True)
    ]


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_of_distorted_logits_is_found_by_their_scores(calibrated, temperature):
    logits, labels = calibrated
    fit = TemperatureFit()
    fit.update(predictions(logits * temperature), torch.tensor(labels))
    result = fit.result()
    assert result["temperature"] == pytest.approx(temperature, rel=0.08)
    assert result["after"]["nll"] <= result["before"]["nll"] + 2e-3
    assert result["after"]["ece"] < 0.03


def test_a_fit_to_noise_is_not_called_an_improvement():
    """With labels that the logits know nothing of in each half, fitted on the same images it would be one."""
    random = np.random.default_rng(1)
    logits, labels = random.normal(size=(10, 3)), random.integers(0, 3, 10)
    fit = TemperatureFit()
    fit.update(predictions(logits), torch.tensor(labels))
    result = fit.result()
    best = logits / fit_temperature(logits, labels)
    on_itself = -np.log(np.exp(best)[np.arange(10), labels] / np.exp(best).sum(axis=1)).mean()
    assert result["after"]["nll"] > on_itself


def test_the_calibration_error_is_the_metrics(calibrated):
    logits, labels = calibrated
    metric = ClassificationMetric([str(label) for label in range(10)])
    metric.update(predictions(2 * logits), torch.tensor(labels))
    assert calibration_error(2 * logits, labels) == pytest.approx(metric.compute()["ece"], abs=1e-3)


def test_too_few_images_are_refused():
    with pytest.raises(DataError, match="at least 5 images, found 0"):
        TemperatureFit().result()
