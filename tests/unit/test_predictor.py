"""`Predictor`: predictions depend on each image alone, use the inference form, and follow changes of the model."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import twins
import twins.evaluation
import twins.predictor
from twins.backbone.layers import Linear
from twins.backbone.network import is_fused
from twins.engine.measure import predict_batch
from twins.errors import ConfigError, DataError, InputError, NotFoundError
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
@pytest.mark.parametrize(("batch_size", "pads"), [(2, True), (7, True), (7, False)])
def test_predictions_do_not_depend_on_the_other_images_of_a_batch(padding, batch_size, pads, monkeypatch):
    monkeypatch.setattr(twins.predictor, "pads_batches", lambda device: pads)
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
    for number, prediction in enumerate(stream):
        assert prediction.size == SIZES[number][::-1]
        assert len(taken) == min(len(SIZES), 3 * (number // 3 + 1))
    for count in (0, 2.5, None):
        with pytest.raises(ConfigError, match="batch_size"):
            Predictor(network(), device="cpu").stream(make_images(), batch_size=count)


@pytest.mark.parametrize("task", TASKS)
def test_the_inference_form_predicts_and_agrees_with_the_network(task):
    torch.manual_seed(0)
    model = twins.create_model("twins_svt_nano", task=task, num_classes=10).double()
    model.info = replace(model.info, preprocess=replace(model.info.preprocess, size=64, longest=96))
    selection = twins.SelectionConfig(score=0.0, most=20) if facts_of(task).selection else None
    predictor, image = Predictor(model, device="cpu", selection=selection), make_images()[0]
    assert is_fused(predictor.inference_network())
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
    assert predictor.inference_network() is predictor.model
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
    assert next(predictor.inference_network().parameters()).dtype == torch.float64
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


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    preprocess = Preprocess(size=32, crop=1.0, interpolation="bilinear")
    model = twins.create_model("twins_svt_nano", names=("a", "b", "c"), preprocess=preprocess)
    return Predictor(model, device="cpu")


def test_an_image_predicts_the_same_in_every_form(classifier, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    (expected,) = classifier(pixels)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    with path.open("rb") as file:
        forms = [path, str(path), Image.fromarray(pixels), path.read_bytes(), bytearray(path.read_bytes()), file]
        forms += [tensor, tensor / 255, (tensor / 255).double(), pixels / 255, tmp_path, str(tmp_path / "*.png")]
        forms += [tensor[None], pixels[None], (x for x in [pixels]), [[path]], {"a": path}.values(), iter([tmp_path])]
        for form in forms:
            (prediction,) = classifier(form)
            assert prediction == expected, type(form)
    for batch in (np.stack([pixels] * 3), torch.stack([tensor] * 3) / 255):
        for prediction in classifier(batch):
            assert (prediction.labels == expected.labels).all()
            np.testing.assert_allclose(prediction.scores, expected.scores, atol=1e-6)
    assert classifier(np.zeros((0, 8, 8, 3), np.uint8)) == classifier([]) == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "found None"),
        ({"image": 1}, "found dict"),
        (5, "found int"),
        (np.zeros((8, 8, 4), np.uint8), "of 4 channels may be RGBA or another image"),
        (np.zeros((2, 8, 8, 4), np.uint8), "of 4 channels may be RGBA or another image"),
        (torch.zeros(4, 8, 8), r"must be \(3, H, W\) or \(1, H, W\), found \(4, 8, 8\)"),
        (torch.zeros(2, 8, 8, 3), r"found \(8, 8, 3\)"),
        (np.zeros((3, 8, 8), np.uint8), r"found \(3, 8, 8\)"),
        (torch.full((2, 3, 8, 8), 200.0), "values in 0..1"),
        (torch.randn(2, 3, 8, 8), "values in 0..1; divide by 255, and do not normalise it"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "must be uint8 or float, found int64"),
        (io.StringIO("text"), "open it in the mode rb"),
    ],
)
def test_what_is_ambiguous_or_no_image_is_refused_in_a_sentence(classifier, image, message):
    with pytest.raises(InputError, match=message):
        classifier(image)


@pytest.mark.parametrize(("content", "message"), [(b"", "must have bytes"), (b"no image", "an image of 8 bytes is no")])
def test_bytes_that_are_no_image_are_refused_in_a_sentence(classifier, content, message):
    with pytest.raises(DataError, match=message):
        classifier(content)


def test_a_url_is_refused_in_a_sentence(classifier):
    with pytest.raises(NotFoundError, match=r"http://host/a\.jpg\?b is a URL, .* give its bytes"):
        classifier("http://host/a.jpg?b")


def test_half_precision_tensors_are_images(classifier):
    image = torch.randint(0, 2, (3, 40, 40), generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    assert classifier(image) == classifier(image.float())


def test_predictions_know_their_image_by_path_or_by_reference(classifier, tmp_path):
    image = make_images()[0]
    image.save(tmp_path / "a.png")
    by_path, by_reference = classifier([tmp_path / "a.png", image])
    assert (by_path.path, by_path.image) == (str(tmp_path / "a.png"), None)
    assert by_reference.path is None
    assert by_reference.image is image
    assert by_path.milliseconds == by_reference.milliseconds > 0
    assert (np.asarray(by_path.draw()) == np.asarray(by_reference.draw())).all()
    assert not {"path", "milliseconds", "image"} & set(by_path.to_dict())


def test_images_of_other_channels_can_be_drawn(tmp_path):
    model = twins.create_model("twins_svt_nano", num_classes=2, in_chans=5, preprocess=Preprocess(size=32))
    pixels = np.random.default_rng(0).integers(0, 256, (400, 400, 5), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    for image in (pixels, tmp_path / "a.npy"):
        (prediction,) = Predictor(model, device="cpu")(image)
        assert (np.asarray(prediction.draw())[:400, :400] == pixels[..., :3]).all()


@pytest.mark.parametrize("task", TASKS)
def test_features_are_the_mean_of_the_last_map_and_the_same_alone_as_in_a_batch(task, monkeypatch):
    torch.manual_seed(0)
    model = twins.create_model("twins_svt_nano", task=task, num_classes=3)
    model.info = replace(model.info, preprocess=replace(model.info.preprocess, size=64, longest=96))
    predictor, images = Predictor(model, device="cpu"), make_images()[:3]
    vectors, maps = predictor.embed(images), predictor.embed(images, maps=True)
    assert (vectors.shape, vectors.dtype) == ((3, 256), np.float32)
    assert [x.shape[0] for x in maps[0]] == [32, 64, 128, 256] == list(model.backbone.channels)
    for index, image in enumerate(images):
        np.testing.assert_allclose(predictor.embed(image)[0], vectors[index], atol=1e-5)
        with torch.inference_mode():
            x = model.info.preprocess(image)[None]
            np.testing.assert_allclose(vectors[index], model.forward_features(x).mean(dim=(2, 3))[0], atol=1e-5)
            np.testing.assert_allclose(maps[index][2], model.backbone(x)[2][0], atol=1e-4)
    assert predictor.embed([]).shape == (0, 256)
    monkeypatch.setattr(twins.predictor, "pads_batches", lambda device: True)
    np.testing.assert_allclose(predictor.embed(images), vectors, atol=1e-5)
    for padded, alone in zip(predictor.embed(images, maps=True), maps, strict=True):
        for one, other in zip(padded, alone, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("pads", [True, False])
def test_scores_and_boxes_in_float32_are_those_of_the_image_alone_to_the_documented_tolerance(pads, monkeypatch):
    torch.manual_seed(0)
    model = twins.create_model("twins_svt_nano", task="detection", num_classes=3)
    for name, values in model.named_parameters():  # scores far from each other, so that rounding changes no order
        if "cls" in name and name.endswith("weight"):
            values.data *= 5
    model.info = replace(model.info, preprocess=replace(model.info.preprocess, size=64, longest=96))
    predictor = Predictor(model, device="cpu", selection=twins.SelectionConfig(score=0.0, most=20))
    images = [*make_images()[:3], make_images()[2].rotate(90)]
    monkeypatch.setattr(twins.predictor, "pads_batches", lambda device: pads)
    for image, together in zip(images, predictor(images), strict=True):
        (alone,) = predictor(image)
        np.testing.assert_allclose(together.scores, alone.scores, atol=1e-5)
        np.testing.assert_allclose(np.sort(together.boxes, axis=0), np.sort(alone.boxes, axis=0), atol=0.01)


@pytest.mark.parametrize("bad", [3, None, 2.5, b"x", ["twins_svt_nano"], np.zeros(3)], ids=str)
def test_arguments_of_another_type_are_refused_in_a_sentence(bad):
    model = twins.create_model("twins_svt_nano", num_classes=2)
    calls = [
        lambda: twins.load(bad),
        lambda: twins.create_model(bad),
        lambda: twins.create_backbone(bad),
        lambda: twins.create_model("twins_svt_nano", task=bad),
        lambda: twins.evaluate(bad, "digits"),
        lambda: twins.evaluate(model, bad),
        lambda: twins.evaluate(model, "digits", bad),
        lambda: twins.train(bad),
        lambda: twins.load_weights(bad, "file"),
        lambda: twins.load_weights(model, bad),
        lambda: twins.save_weights(model, bad),
        lambda: twins.Predictor(bad),
        lambda: twins.Predictor(model, device=bad),
    ]
    if bad is not None:
        calls += [
            lambda: twins.create_model("twins_svt_nano", weights=bad),
            lambda: twins.Predictor(model, selection=bad),
            lambda: twins.Predictor(model, inference=bad),
        ]
    for call in calls:
        with pytest.raises(ConfigError, match=r"`\w+` must be .*, found "):
            call()


def test_thresholds_and_inference_settings_need_public_names_only(tmp_path):
    for task in ("detection", "semantic"):
        twins.save_weights(twins.create_model("twins_svt_nano", task=task), tmp_path / f"{task}.safetensors")
    selection = twins.SelectionConfig(score=0.4)
    assert twins.load(tmp_path / "detection.safetensors", selection=selection).model.selection.score == 0.4
    inference = twins.InferenceConfig(flip=True)
    assert twins.load(tmp_path / "semantic.safetensors", inference=inference).inference.flip
    with pytest.raises(ConfigError, match="`score` must be a number"):
        twins.SelectionConfig(score="0.3")
