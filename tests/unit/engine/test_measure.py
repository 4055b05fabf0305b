"""The evaluation loop updates the metric, and stops on a signal."""

from __future__ import annotations

import pytest
import torch

from twins.data.loading.batch import Batch, Skipped
from twins.engine.measure import EvaluationStopped, measure, predict_batches
from twins.engine.signals import Stop

from .conftest import ToyMetric, ToySource, ToyTask


def test_the_metric_and_on_batch_see_each_batch_and_skipped_images_are_returned():
    unreadable = Batch(torch.empty(0), [], [], [], skipped=[Skipped("a.jpg", "cut short")])
    metric, counts = ToyMetric(), []
    metric.counts += 100  # left by an earlier data set
    task = ToyTask().train()
    predicted_batches = predict_batches(task, lambda: [*ToySource().evaluation(), unreadable])
    assert (
        measure(predicted_batches, metric, on_batch=lambda results, targets: counts.append(len(results)))
        == unreadable.skipped
    )
    assert counts == [5, 7]
    assert metric.counts[1] == 12
    assert not task.training


def test_a_signal_stops_an_evaluation_after_the_current_batch():
    stop, metric = Stop(), ToyMetric()
    stop.requested = True
    with pytest.raises(EvaluationStopped):
        measure(predict_batches(ToyTask(), ToySource().evaluation), metric, stop=stop)
    assert metric.counts[1] == 5
