"""Exported classifiers: probabilities as the network decodes them, in padded batches too, and predictions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import twins
from twins.errors import ConfigError
from twins.tasks.exports import export_of
from twins.tasks.inference import SelectionConfig

EXPORT = export_of("classification")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    result = twins.create_model("twins_svt_nano", num_classes=3, names=("a", "b", "c")).eval()
    result.info = replace(result.info, temperature=0.1)
    return result


@pytest.mark.parametrize("logits", [False, True])
def test_predictions_of_a_padded_batch_are_those_of_each_image_alone(model, logits):
    images, sizes = torch.randn(2, 3, 64, 80), [(64, 50), (33, 80)]
    with torch.inference_mode():
        outputs = EXPORT.outputs(model, images, torch.tensor(sizes), logits=logits)
        alone = [model(image[None, :, :height, :width]) for image, (height, width) in zip(images, sizes, strict=True)]
    assert list(outputs) == ["logits" if logits else "probabilities"]
    arrays = {name: values.numpy() for name, values in outputs.items()}
    found = EXPORT.predictions(model.info, arrays, sizes, [(10, 20), (30, 40)], SelectionConfig())
    expected = [model.decode(one, None, [size])[0] for one, size in zip(alone, [(10, 20), (30, 40)], strict=True)]
    for one, two in zip(found, expected, strict=True):
        assert (one.size, one.names, one.labels.tolist()) == (two.size, two.names, two.labels.tolist())
        assert one.scores == pytest.approx(two.scores, rel=1e-4)


def test_a_classifier_without_classes_is_refused(model):
    features = twins.create_model("twins_svt_nano", num_classes=0).eval()
    with pytest.raises(ConfigError, match=r"0 classes.*`features=True`"):
        EXPORT.outputs(features, torch.zeros(1, 3, 64, 64), None, logits=True)
