"""The one evaluation loop."""

from __future__ import annotations

import pytest
import torch

from twins.data.loading.batch import Batch, Skipped
from twins.engine.measure import EvaluationStopped, measure, predict_batches
from twins.engine.signals import Stop

from .conftest import ToyMetric, ToySource, ToyTask


def test_a_metric_and_the_hook_see_each_batch_and_skipped_images_are_returned():
    lost = Batch(torch.empty(0), [], [], [], skipped=[Skipped("a.jpg", "cut short")])
    metric, seen = ToyMetric(), []
    metric.counts += 100  # of an earlier set
    task = ToyTask().train()
    found = predict_batches(task, lambda: [*ToySource().evaluation(), lost])
    assert measure(found, metric, each=lambda results, targets: seen.append(len(results))) == lost.skipped
    assert seen == [5, 7]
    assert metric.counts[1] == 12
    assert not task.training


def test_an_evaluation_ends_after_the_batch_in_which_a_signal_came():
    stop, metric = Stop(), ToyMetric()
    stop.requested = True
    with pytest.raises(EvaluationStopped):
        measure(predict_batches(ToyTask(), ToySource().evaluation), metric, stop=stop)
    assert metric.counts[1] == 5
