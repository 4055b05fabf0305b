"""A predictor's semantic maps: what an image gets depends on it alone, and it may be looked at in other ways."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import twins
import twins.evaluation
from twins.backbone.layers import Linear
from twins.backbone.network import is_fused
from twins.engine.measure import predict_batch
from twins.errors import ConfigError, NotFoundError
from twins.predictor import Predictor, expand, inference_form, pick_device
from twins.preprocess import Preprocess
from twins.run_folder import weights_of
from twins.tasks.inference import InferenceConfig
from twins.tasks.table import TASKS, facts_of

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


@pytest.mark.slow
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


@pytest.mark.parametrize("task", TASKS)
def test_the_inference_form_predicts_and_agrees_with_the_network(task):
    torch.manual_seed(0)
    model = twins.create_model("twins_svt_nano", task=task, num_classes=10).double()
    model.info = replace(model.info, preprocess=replace(model.info.preprocess, size=64, longest=96))
    chosen = twins.SelectionConfig(score=0.0, most=20) if facts_of(task).selection else None
    predictor, image = Predictor(model, device="cpu", selection=chosen), pictures()[0]
    assert is_fused(predictor._network())
    assert not is_fused(predictor.model)
    (prediction,) = predictor.predict(image)
    pixels = model.info.preprocess.pixels(image)[None]
    (expected,) = predict_batch(predictor.model, pixels, None, [(image.height, image.width)])
    for name in facts_of(task).holds:
        one, other = getattr(prediction, name), getattr(expected, name)
        assert one.size
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_evaluation_uses_the_inference_form(monkeypatch):
    made = []

    def make(network, *, compile):
        made.append(inference_form(network, compile=compile))
        return made[-1]

    monkeypatch.setattr(twins.evaluation, "inference_form", make)
    model = twins.create_model("twins_svt_nano", names=tuple("0123456789"))
    twins.evaluate(model, "digits", twins.EvalConfig(size=32, crop=1.0, device="cpu"))
    assert is_fused(made[0])


class Adapter(Linear):
    """A layer of another class than ours, as adapters are."""

    def forward(self, x):
        return super().forward(x) + 1.0


def test_parts_of_other_classes_than_ours_compute_as_they_do():
    model = twins.create_model("twins_pcpvt_nano", num_classes=3).eval()
    attention = model.backbone.stages[0].blocks[1].attn
    adapter = Adapter(attention.kv.in_features, attention.kv.out_features)
    adapter.load_state_dict(attention.kv.state_dict())
    attention.kv = adapter
    predictor, image = Predictor(model, device="cpu"), pictures()[0]
    assert predictor._network() is predictor.model
    with torch.inference_mode():
        expected = model(model.info.preprocess(image)[None]).softmax(dim=1).sort(descending=True).values[0]
    np.testing.assert_allclose(predictor.predict(image)[0].scores, expected.numpy(), atol=1e-6)


def test_what_is_done_to_the_model_counts():
    predictor, image = Predictor(twins.create_model("twins_svt_nano", num_classes=3), device="cpu"), pictures()[0]
    predictor.predict(image)
    with torch.no_grad():
        predictor.model.head.bias.copy_(torch.tensor([0.0, 9.0, 0.0]))
    assert predictor.predict(image)[0].labels[0] == 1
    predictor.model.info = replace(predictor.model.info, names=("a", "b", "c"))
    assert predictor.predict(image)[0].name(1) == "b"
    predictor.model.double()
    assert next(predictor._network().parameters()).dtype == torch.float64
    predictor.model.float().reset_classifier(2)
    assert predictor.predict(image)[0].labels.shape == (2,)
    seen = []
    predictor.model.backbone.register_forward_hook(lambda *_: seen.append(1))
    (watched,) = predictor.predict(image)
    assert seen == [1]
    np.testing.assert_allclose(watched.scores, predictor.predict(image)[0].scores, atol=1e-5)


def test_an_evaluation_leaves_the_network_that_it_is_given_as_it_is():
    model = twins.create_model("twins_svt_nano", names=tuple("0123456789"))
    model.info = replace(model.info, preprocess=Preprocess(size=32, crop=1.0))
    result = twins.evaluate(model, "digits", twins.EvalConfig(size=48, padding="unmasked", device="cpu"))
    assert (result.protocol["size"], result.protocol["padding"]) == (48, "unmasked")
    assert (model.info.preprocess.size, model.info.padding, is_fused(model)) == (32, "exact", False)
    assert result.to_dict()["per_class"] == result.details["per_class"]


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


def test_a_device_may_be_torchs_own():
    model = twins.create_model("twins_svt_nano", num_classes=3)
    assert Predictor(model, device=torch.device("cpu")).device == torch.device("cpu")
    for device in ("cpu:x", "cpu:", "cuda:99", "gpu", torch.device("meta")):
        with pytest.raises(ConfigError, match="`device"):
            pick_device(device)


@pytest.mark.parametrize(
    ("path", "said"), [("", "is empty"), ("x" * 300, "check the path"), ("a\0b", "check the path")]
)
def test_a_path_that_no_file_can_have_leads_to_nothing(path, said):
    for look in (expand, weights_of, twins.load):
        with pytest.raises(NotFoundError, match=said):
            look(path)
    with pytest.raises(NotFoundError, match=said):
        expand(["a.png", path])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"drop_rate": 2.0}, "`drop_rate` must be"),
        ({"num_classes": 2.5}, "num_classes must be a whole number, found 2.5"),
        ({"num_classes": "3"}, "num_classes must be a whole number, found '3'"),
        ({"names": "abc"}, "names must be a list of texts"),
        ({"names": (1, 2)}, "names must be a list of texts"),
        ({"names": ("a", "b", "a")}, "names must differ, found 'a' more than once"),
        ({"task": "detection", "anchor_scale": float("inf")}, "`anchor_scale` must be above 0 and finite"),
    ],
)
def test_settings_that_no_network_has_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        twins.create_model("twins_svt_nano", **settings)


def test_a_weight_file_that_no_file_can_be_is_not_there():
    with pytest.raises(NotFoundError, match="no weight file"):
        twins.create_model("twins_svt_nano", weights="x" * 300)


def test_imagenets_names_have_two_cranes():
    from twins.data.classes import imagenet_names

    assert twins.create_model("twins_svt_nano", names=imagenet_names()).info.num_classes == 1000
