"""A predictor's semantic maps: what an image gets depends on it alone, and it may be looked at in other ways."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import twins
from twins.data.preprocess import Preprocess
from twins.errors import ConfigError
from twins.predictor import Predictor
from twins.tasks.inference import InferenceConfig

CLASSES = 5
KEEPING = Preprocess(size=64, fit="keep", longest=128, interpolation="bilinear")
SIZES = [(97, 60), (60, 97), (64, 64), (200, 31), (97, 60), (20, 300), (77, 77)]  # among them strips


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in SIZES]


def network(padding: str = "exact", preprocess: Preprocess = KEEPING):
    """A nano in float64 whose maps depend on the image."""
    torch.manual_seed(0)
    settings = {"num_classes": CLASSES, "padding": padding, "preprocess": preprocess}
    model = twins.create_model("twins_svt_nano", task="semantic", **settings).double()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.startswith("backbone") and value.ndim > 1:
                value.mul_(5)
    return model


@pytest.mark.parametrize("padding", ["exact", "reference", "unmasked"])
@pytest.mark.parametrize("batch_size", [2, 7])
def test_images_of_different_sizes_get_in_a_batch_what_they_get_alone(padding, batch_size):
    predictor, images = Predictor(network(padding), device="cpu"), pictures()
    together = predictor.predict(images, batch_size=batch_size)
    assert [prediction.size for prediction in together] == [(height, width) for width, height in SIZES]
    for image, found in zip(images, together, strict=True):
        (alone,) = predictor.predict(image)
        assert found.label_map.shape == (image.height, image.width)
        assert (found.label_map == alone.label_map).all()
    assert len(np.unique(np.concatenate([found.label_map.ravel() for found in together]))) > 2


def test_images_are_streamed_in_order_a_batch_at_a_time():
    taken = []

    def sources():
        for number, image in enumerate(pictures()):
            taken.append(number)
            yield image

    stream = Predictor(network(), device="cpu").stream(sources(), batch_size=3)
    for number, (image, found) in enumerate(stream):
        assert image.size == SIZES[number]
        assert found.size == image.size[::-1]
        assert len(taken) == min(len(SIZES), 3 * (number // 3 + 1))
    with pytest.raises(ConfigError, match="batch_size"):
        Predictor(network(), device="cpu").predict(pictures(), batch_size=0)


def test_other_ways_to_look_change_the_map_and_not_its_size():
    image, model = pictures()[0], network()
    (plain,) = Predictor(model, device="cpu").predict(image)
    for settings in ({"scales": (0.75, 1.5)}, {"flip": True}, {"window": 48}, {"tile": 40}):
        (found,) = Predictor(model, device="cpu", inference=InferenceConfig(**settings)).predict([image])
        assert found.label_map.shape == plain.label_map.shape
        assert (found.label_map != plain.label_map).any(), settings


def test_classifiers_are_looked_through_once_and_whole():
    model = twins.create_model("twins_svt_nano", num_classes=3)
    with pytest.raises(ConfigError, match="found one for classification"):
        Predictor(model, device="cpu", inference=InferenceConfig(flip=True))
    assert Predictor(model, device="cpu", inference=InferenceConfig()).names == ()
