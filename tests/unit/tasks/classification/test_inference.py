"""Classifiers on several scales and the mirrored image: the mean of the probabilities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import twins
from twins.predictor import Predictor
from twins.preprocess import Preprocess
from twins.tasks.classification.inference import infer
from twins.tasks.inference import InferenceConfig


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = twins.create_model("twins_svt_nano", num_classes=5, preprocess=Preprocess(size=64)).double().eval()
    torch.nn.init.normal_(model.head.weight)
    return model


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8))


def by_class(prediction) -> np.ndarray:
    return prediction.scores[np.argsort(prediction.labels)]


def test_probabilities_are_averaged_over_scales_and_mirror_images(network):
    image, expected = picture(), []
    for size in (32, 64, 96):
        view = Preprocess(size=size)(image)[None].double()
        expected += [network(each).detach().softmax(dim=1).float() for each in (view, view.flip(3))]
    prediction = infer(network, image, InferenceConfig(scales=(0.1, 1.0, 1.5), flip=True))  # at least 32 pixels
    np.testing.assert_allclose(by_class(prediction), torch.cat(expected).mean(dim=0).numpy(), atol=1e-3)
    assert (np.diff(prediction.scores) <= 0).all()
    assert prediction.size == (90, 130)
    assert np.abs(by_class(prediction) - expected[2].numpy()).max() > 0.01


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_the_default_settings_equal_a_predictor(network, fit):
    network.info = replace(network.info, preprocess=Preprocess(size=64, fit=fit))
    (plain,) = Predictor(network, device="cpu").predict(picture())
    np.testing.assert_allclose(by_class(infer(network, picture(), InferenceConfig())), by_class(plain), atol=1e-6)
