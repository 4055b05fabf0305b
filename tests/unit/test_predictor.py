"""`Predictor`: predictions depend on each image alone, use the inference form, and follow changes of the model."""

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
KEEP_ASPECT = Preprocess(size=64, fit="keep", longest=128, interpolation="bilinear")
SIZES = [(97, 60), (60, 97), (64, 64), (200, 31), (97, 60), (20, 300), (77, 77)]  # two are long strips


def make_images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in SIZES]


def network(padding: str = "exact", preprocess: Preprocess = KEEP_ASPECT):
    """Return a nano network in float64 whose weights are scaled up, so that its maps depend on the image."""
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
def test_predictions_do_not_depend_on_the_other_images_of_a_batch(padding, batch_size):
    predictor, images = Predictor(network(padding), device="cpu"), make_images()
    together = predictor.predict(images, batch_size=batch_size)
    assert [prediction.size for prediction in together] == [(height, width) for width, height in SIZES]
    for image, batched in zip(images, together, strict=True):
        (single,) = predictor.predict(image)
        assert batched.label_map.shape == (image.height, image.width)
        assert (batched.label_map == single.label_map).all()
    assert len(np.unique(np.concatenate([batched.label_map.ravel() for batched in together]))) > 2


def test_images_are_streamed_in_order_batch_by_batch():
    taken = []

    def sources():
        for number, image in enumerate(make_images()):
            taken.append(number)
            yield image

    stream = Predictor(network(), device="cpu").stream(sources(), batch_size=3)
    for number, (image, prediction) in enumerate(stream):
        assert image.size == SIZES[number]
        assert prediction.size == image.size[::-1]
        assert len(taken) == min(len(SIZES), 3 * (number // 3 + 1))
    with pytest.raises(ConfigError, match="batch_size"):
        Predictor(network(), device="cpu").predict(make_images(), batch_size=0)


@pytest.mark.parametrize("task", TASKS)
def test_the_inference_form_predicts_and_agrees_with_the_network(task):
    torch.manual_seed(0)
    model = twins.create_model("twins_svt_nano", task=task, num_classes=10).double()
    model.info = replace(model.info, preprocess=replace(model.info.preprocess, size=64, longest=96))
    selection = twins.SelectionConfig(score=0.0, most=20) if facts_of(task).selection else None
    predictor, image = Predictor(model, device="cpu", selection=selection), make_images()[0]
    assert is_fused(predictor._network())
    assert not is_fused(predictor.model)
    (prediction,) = predictor.predict(image)
    pixels = model.info.preprocess.pixels(image)[None]
    (expected,) = predict_batch(predictor.model, pixels, None, [(image.height, image.width)])
    for name in facts_of(task).prediction_fields:
        actual, reference = getattr(prediction, name), getattr(expected, name)
        assert actual.size
        np.testing.assert_allclose(actual, reference, atol=1e-4)


def test_evaluation_uses_the_inference_form(monkeypatch):
    forms = []

    def make_form(network, *, compile):
        forms.append(inference_form(network, compile=compile))
        return forms[-1]

    monkeypatch.setattr(twins.evaluation, "inference_form", make_form)
    model = twins.create_model("twins_svt_nano", names=tuple("0123456789"))
    twins.evaluate(model, "digits", twins.EvalConfig(size=32, crop=1.0, device="cpu"))
    assert is_fused(forms[0])


class Adapter(Linear):
    """A linear layer of another class than ours, like an adapter."""

    def forward(self, x):
        return super().forward(x) + 1.0


def test_modules_of_other_classes_are_not_fused():
    model = twins.create_model("twins_pcpvt_nano", num_classes=3).eval()
    attention = model.backbone.stages[0].blocks[1].attn
    adapter = Adapter(attention.kv.in_features, attention.kv.out_features)
    adapter.load_state_dict(attention.kv.state_dict())
    attention.kv = adapter
    predictor, image = Predictor(model, device="cpu"), make_images()[0]
    assert predictor._network() is predictor.model
    with torch.inference_mode():
        expected = model(model.info.preprocess(image)[None]).softmax(dim=1).sort(descending=True).values[0]
    np.testing.assert_allclose(predictor.predict(image)[0].scores, expected.numpy(), atol=1e-6)


def test_changes_of_the_model_take_effect():
    predictor, image = Predictor(twins.create_model("twins_svt_nano", num_classes=3), device="cpu"), make_images()[0]
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
    calls = []
    predictor.model.backbone.register_forward_hook(lambda *_: calls.append(1))
    (hooked,) = predictor.predict(image)
    assert calls == [1]
    np.testing.assert_allclose(hooked.scores, predictor.predict(image)[0].scores, atol=1e-5)


def test_evaluate_does_not_change_its_network():
    model = twins.create_model("twins_svt_nano", names=tuple("0123456789"))
    model.info = replace(model.info, preprocess=Preprocess(size=32, crop=1.0))
    result = twins.evaluate(model, "digits", twins.EvalConfig(size=48, padding="unmasked", device="cpu"))
    assert (result.protocol["size"], result.protocol["padding"]) == (48, "unmasked")
    assert (model.info.preprocess.size, model.info.padding, is_fused(model)) == (32, "exact", False)
    assert result.to_dict()["per_class"] == result.details["per_class"]


def test_inference_settings_change_the_map_and_not_its_size():
    image, model = make_images()[0], network()
    (default,) = Predictor(model, device="cpu").predict(image)
    for settings in ({"scales": (0.75, 1.5)}, {"flip": True}, {"window": 48}, {"tile": 40}):
        (prediction,) = Predictor(model, device="cpu", inference=InferenceConfig(**settings)).predict([image])
        assert prediction.label_map.shape == default.label_map.shape
        assert (prediction.label_map != default.label_map).any(), settings


def test_inference_settings_of_other_tasks_are_refused_and_named():
    model = twins.create_model("twins_svt_nano", num_classes=3)
    for name, settings, tasks in (
        ("window", {"window": 64}, "semantic"),
        ("tile", {"tile": 64}, "semantic and detection and instance"),
    ):
        with pytest.raises(ConfigError, match=f"`{name}` is for {tasks} networks, found one for classification"):
            Predictor(model, device="cpu", inference=InferenceConfig(**settings))
    assert Predictor(model, device="cpu", inference=InferenceConfig(flip=True)).inference.flip


def test_a_device_may_be_a_torch_device():
    model = twins.create_model("twins_svt_nano", num_classes=3)
    assert Predictor(model, device=torch.device("cpu")).device == torch.device("cpu")
    for device in ("cpu:x", "cpu:", "cuda:99", "gpu", torch.device("meta")):
        with pytest.raises(ConfigError, match="`device"):
            pick_device(device)


@pytest.mark.parametrize(
    ("path", "expected"), [("", "is empty"), ("x" * 300, "check the path"), ("a\0b", "check the path")]
)
def test_a_path_that_is_not_valid_raises_not_found_error(path, expected):
    for function in (expand, weights_of, twins.load):
        with pytest.raises(NotFoundError, match=expected):
            function(path)
    with pytest.raises(NotFoundError, match=expected):
        expand(["a.png", path])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"drop_rate": 2.0}, "`drop_rate` must be"),
        ({"num_classes": 2.5}, "`num_classes` must be a whole number, found 2.5"),
        ({"num_classes": "3"}, "`num_classes` must be a whole number, found '3'"),
        ({"names": "abc"}, "`names` must be a list of texts"),
        ({"names": (1, 2)}, "`names` must be a list of texts"),
        ({"names": ("a", "b", "a")}, "`names` must differ, found 'a' more than once"),
        ({"task": "detection", "anchor_scale": float("inf")}, "`anchor_scale` must be above 0 and finite"),
    ],
)
def test_settings_out_of_range_are_refused(settings, expected):
    with pytest.raises(ConfigError, match=expected):
        twins.create_model("twins_svt_nano", **settings)


def test_a_weight_path_that_is_too_long_raises_not_found_error():
    with pytest.raises(NotFoundError, match="no weight file"):
        twins.create_model("twins_svt_nano", weights="x" * 300)


def test_imagenets_repeated_class_names_are_accepted():
    from twins.data.classes import imagenet_names

    assert twins.create_model("twins_svt_nano", names=imagenet_names()).info.num_classes == 1000
