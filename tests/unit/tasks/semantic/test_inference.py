"""Inference at several scales, with flip, by windows and by tiles, against a plain recomputation."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import twins
from twins.errors import ConfigError, WeightsError
from twins.predictor import Predictor
from twins.preprocess import Preprocess, pixels_of
from twins.tasks.inference import InferenceConfig
from twins.tasks.semantic import inference as semantic_inference
from twins.tasks.semantic.inference import infer

CLASSES = 5


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def preprocess_with(**settings) -> Preprocess:
    return Preprocess(**({"size": 64, "fit": "keep", "interpolation": "bilinear"} | settings))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    preprocess = preprocess_with(longest=256)
    model = twins.create_model("twins_svt_nano", task="semantic", num_classes=CLASSES, preprocess=preprocess).double()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.startswith("backbone") and value.ndim > 1:
                value.mul_(5)  # so that the predictions depend on the image
    return model.eval()


class Stub(torch.nn.Module):
    """The part of a network that `infer` needs; its logits are `rule(view)`."""

    task, num_classes = "semantic", CLASSES

    def __init__(self, rule, **settings) -> None:
        super().__init__()
        self.rule, self.input_sizes = rule, []
        self.info = SimpleNamespace(preprocess=preprocess_with(**settings), num_classes=CLASSES, names=(), colours=())
        self.anchor = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, images):
        assert min(images.shape[2:]) >= 32  # as in a real network
        self.input_sizes.append(tuple(images.shape[2:]))
        return {"logits": self.rule(images)}


def local_network() -> Stub:
    """A network with a receptive field of 3 x 3 pixels."""
    weight = torch.randn(CLASSES, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return Stub(lambda images: F.conv2d(images, weight, padding=1))


def label_map_of(network, image: Image.Image, **settings) -> np.ndarray:
    prediction = infer(network, image, InferenceConfig(**settings))
    assert prediction.size == prediction.label_map.shape == (image.height, image.width)
    return prediction.label_map


def view_logits(network, view: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return F.interpolate(network(view)["logits"].float(), size=view.shape[2:], mode="bilinear")


def view_of(network, image: Image.Image) -> torch.Tensor:
    return network.info.preprocess.normalise(pixels_of(image)[None]).double()


@pytest.mark.parametrize("settings", [{}, {"interpolation": "bicubic"}, {"longest": 80}])
def test_default_settings_equal_a_predictor(settings):
    torch.manual_seed(0)
    model = twins.create_model("twins_svt_nano", task="semantic", num_classes=3, preprocess=preprocess_with(**settings))
    model = model.double().eval()
    image = picture(131, 90)
    (plain,) = Predictor(model, device="cpu").predict(image)
    assert (label_map_of(model, image) == plain.label_map).all()
    assert len(np.unique(plain.label_map)) > 1


def test_scales_are_averaged_as_probabilities():
    # one scale gives class 0 a large logit, two give class 1 a small one: the mean of logits would be class 0
    logits = {32: (0, 100.0), 64: (1, 3.0), 96: (1, 3.0)}

    def rule(images):
        label, logit = logits[images.shape[2]]
        return F.one_hot(torch.full(images.shape[2:], label), CLASSES).permute(2, 0, 1)[None] * logit

    network = Stub(rule)
    assert (label_map_of(network, picture(128, 64), scales=(0.5, 1.0, 1.5)) == 1).all()
    assert network.input_sizes == [(32, 64), (64, 128), (96, 192)]


def test_with_flip_the_prediction_of_a_mirrored_image_is_mirrored(network):
    image = picture(96, 64)
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    def share_equal(**settings):
        return (label_map_of(network, mirrored, **settings)[:, ::-1] == label_map_of(network, image, **settings)).mean()

    assert share_equal(flip=True, scales=(1.0, 1.5)) > 0.999  # except for ties by rounding
    assert share_equal(flip=True, window=48) > 0.999
    assert share_equal() < 0.9


def test_a_window_larger_than_the_image_changes_nothing(network):
    image = picture(90, 70)
    expected = label_map_of(network, image, scales=(0.75, 1.0))
    assert (label_map_of(network, image, scales=(0.75, 1.0), window=200) == expected).all()
    assert (label_map_of(network, image, scales=(0.75, 1.0), window=40) != expected).any()


@pytest.mark.slow
@pytest.mark.parametrize("stride", [20, 32, 48, None])
def test_logits_of_windows_are_averaged_and_the_last_window_ends_with_the_image(network, stride):
    image = picture(107, 64)
    view = view_of(network, image)
    step, side = stride or 32, 48
    total, count = torch.zeros(1, CLASSES, 64, 107), torch.zeros(64, 107)
    for top in sorted({min(top, 64 - side) for top in range(0, 64, step)}):
        for left in sorted({min(left, 107 - side) for left in range(0, 107, step)}):
            part = (slice(top, top + side), slice(left, left + side))
            total[:, :, *part] += view_logits(network, view[:, :, *part])
            count[*part] += 1
    assert count.min() == 1
    with torch.inference_mode():
        logits = semantic_inference._logits_by_windows(network, view, InferenceConfig(window=side, stride=stride))
    torch.testing.assert_close(logits, total / count, atol=1e-5, rtol=0)
    assert (label_map_of(network, image, window=side, stride=stride) == logits[0].argmax(0).numpy()).all()


def test_a_tile_larger_than_the_image_is_the_image_at_its_own_size(network):
    image = picture(150, 101)
    expected = view_logits(network, view_of(network, image))[0].argmax(0).numpy()
    assert (label_map_of(network, image, tile=150) == expected).all()
    assert (label_map_of(network, image) != expected).mean() > 0.1  # the default resizes


@pytest.mark.parametrize("length", [1, 31, 32, 33, 63, 64, 65, 100, 257])
def test_each_pixel_comes_from_one_tile_with_a_margin_around_it(length):
    for side in (32, 33, 64):
        for overlap in (0, 1, 2, 7, 16, 31):
            spans = list(semantic_inference._owned_pixels(length, InferenceConfig(tile=side, overlap=overlap)))
            pixels = [pixel for _, (first, last) in spans for pixel in range(first, last)]
            assert pixels == list(range(length)), (side, overlap)
            for start, (first, last) in spans:
                end = min(start + side, length)
                assert 0 <= start < end
                assert end - start == min(side, length)
                assert first - start >= (overlap // 2 if start else 0)
                assert end - last >= (overlap // 2 if end < length else 0)


@pytest.mark.parametrize("overlap", [2, 3, 8, 30, None])
@pytest.mark.parametrize("size", [(100, 70), (64, 33), (33, 130)])
def test_tiles_that_overlap_by_the_receptive_field_leave_no_seams(overlap, size):
    network, image = local_network(), picture(*size)
    expected = view_logits(network, view_of(network, image))[0].argmax(0).numpy()
    network.input_sizes.clear()
    assert (label_map_of(network, image, tile=32, overlap=overlap) == expected).all()
    assert set(network.input_sizes) == {(32, 32)}
    assert (label_map_of(network, image, tile=32, overlap=0) != expected).any()


@pytest.mark.parametrize("size", [(1, 1), (31, 7), (20, 90)])
def test_images_too_small_for_the_network_are_padded_and_cropped(size):
    network, image = local_network(), picture(*size)
    assert (label_map_of(network, image, tile=32) == network.rule(view_of(network, image))[0].argmax(0).numpy()).all()
    assert label_map_of(network, image, window=32, scales=(0.1, 1.0)).max() < CLASSES


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 400), (900, 2), (600, 33)])
@pytest.mark.parametrize("settings", [{}, {"flip": True, "scales": (0.5, 2.0)}, {"window": 64}, {"tile": 64}])
def test_label_maps_of_narrow_images_have_their_size(network, size, settings):
    assert label_map_of(network, picture(*size), **settings).max() < CLASSES


CONTRADICTIONS = {
    "`scales` must list": [{"scales": ()}, {"scales": (1.0, 0.0)}, {"scales": (float("nan"),)}],
    "at least 32 pixels": [{"window": 31}, {"tile": 0}],
    "`scales` must be several numbers": [{"scales": 1}, {"scales": "1"}, {"scales": ("a",)}],
    "`flip` must be True": [{"flip": "yes"}],
    "`tile` must be a whole number": [{"tile": "64"}, {"tile": 64.5}],
    "`stride` belongs to `window`": [{"stride": 8}, {"stride": 8, "tile": 64}],
    "`overlap` belongs to `tile`": [{"overlap": 8}, {"overlap": 8, "window": 64}],
    "`stride` must be": [{"window": 64, "stride": 0}, {"window": 64, "stride": 65}],
    "`overlap` must be": [{"tile": 64, "overlap": -1}, {"tile": 64, "overlap": 64}],
    "goes with neither": [{"tile": 64, "window": 64}, {"tile": 64, "flip": True}, {"tile": 64, "scales": (2.0,)}],
}


@pytest.mark.parametrize(
    ("message", "settings"), [(message, one) for message, cases in CONTRADICTIONS.items() for one in cases]
)
def test_contradictory_settings_are_an_error_in_one_sentence(message, settings):
    with pytest.raises(ConfigError, match=message) as caught:
        InferenceConfig(**settings)
    text = str(caught.value)
    assert "None" not in text
    assert len(text.splitlines()) == 1
    assert not text.endswith(".")


def test_only_the_default_settings_are_plain():
    assert InferenceConfig().plain
    for settings in ({"scales": (2.0,)}, {"flip": True}, {"window": 64}, {"tile": 64}):
        assert not InferenceConfig(**settings).plain


@pytest.mark.parametrize("settings", [{"flip": True}, {"window": 32}, {"tile": 32}, {"scales": (1.0, 0.5)}])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_overflow_are_refused(settings, value):
    stub = Stub(lambda view: torch.full((1, CLASSES, 8, 8), value))
    with pytest.raises(WeightsError, match="the network's scores are not finite"):
        infer(stub, picture(64, 64), InferenceConfig(**settings))
