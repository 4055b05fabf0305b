"""Resizes are bit-identical to Pillow's, and normalising a batch equals normalising each image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as T

from twins.errors import ConfigError
from twins.preprocess import Preprocess, keep_shape

PREPROCESS = Preprocess(size=48)


def noise(width, height, seed=0):
    random = np.random.default_rng([seed, width, height])
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_preprocessing_equals_torchvisions():
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    image = Image.effect_noise((300, 260), 60).convert("RGB")
    torchvision_transform = Compose(
        [
            Resize(256, InterpolationMode.BICUBIC),
            CenterCrop(224),
            ToTensor(),
            Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    torch.testing.assert_close(Preprocess()(image), torchvision_transform(image))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    "size", [(500, 375), (375, 500), (300, 300), (256, 256), (640, 256), (97, 31), (33, 61), (104, 507), (121, 491)]
)
@pytest.mark.parametrize(("side", "crop"), [(224, 0.875), (64, 0.9), (48, 1.0)])
def test_the_centre_crop_is_bit_identical_to_that_of_the_whole_resize(size, side, crop, interpolation):
    image = noise(*size)
    mode = InterpolationMode(interpolation)
    expected = T.center_crop(T.resize(image, [round(side / crop)], interpolation=mode), [side, side])
    resized = Preprocess(size=side, crop=crop, interpolation=interpolation).resize(image)
    assert np.array_equal(np.asarray(resized), np.asarray(expected))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("size", [(90, 70), (70, 90), (64, 200), (64, 64)])
def test_other_resizes_are_bit_identical_to_torchvisions(size, interpolation):
    image, mode = noise(*size), InterpolationMode(interpolation)
    squashed = Preprocess(size=64, fit="squash", interpolation=interpolation).resize(image)
    assert np.array_equal(squashed, T.resize(image, [64, 64], interpolation=mode))
    kept = Preprocess(size=64, fit="keep", longest=150, interpolation=interpolation).resize(image)
    assert np.array_equal(kept, T.resize(image, [64], max_size=150, interpolation=mode))
    cut = Preprocess(size=64, crop=0.9, interpolation=interpolation).resize(image)
    assert np.array_equal(cut, T.center_crop(T.resize(image, [71], interpolation=mode), [64, 64]))


@pytest.mark.parametrize("size", [(1, 1), (20_000, 1), (1, 20_000)])
def test_images_of_extreme_sizes_are_resized(size):
    assert Preprocess(size=64)(Image.new("RGB", size)).shape == (3, 64, 64)


@pytest.mark.parametrize("fit", ["crop", "squash", "keep"])
@pytest.mark.parametrize("size", [(201, 133), (133, 201), (96, 240), (250, 8)])
def test_the_part_that_the_network_sees_is_the_part_that_is_resized(fit, size):
    """Pixels that hold their own coordinates come out of the resize with those of the part."""
    width, height = size
    preprocess = Preprocess(size=64, crop=0.9, fit=fit, interpolation="bilinear")
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    image = Image.fromarray(np.stack([columns, rows, rows], axis=2).astype(np.uint8))
    x0, y0, x1, y1 = preprocess.seen_part(width, height)
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    pixels = preprocess.pixels(image).double()
    for channel, axis, low, high in ((0, 2, x0, x1), (1, 1, y0, y1)):
        count = pixels.shape[axis]
        centres = low + (np.arange(count) + 0.5) * (high - low) / count - 0.5
        found = pixels[channel].mean(dim=2 - axis).numpy()
        inside = slice(count // 8, -count // 8)  # at its border an image has no neighbours to average with
        np.testing.assert_allclose(found[inside], centres[inside], atol=0.55)


def test_normalising_a_batch_equals_normalising_each_image():
    images = [noise(70, 60, seed) for seed in range(3)]
    pixels = torch.stack([PREPROCESS.pixels(image) for image in images])
    assert pixels.dtype == torch.uint8
    normal = PREPROCESS.normalise(pixels)
    for image, batched in zip(images, normal, strict=True):
        assert torch.equal(batched, PREPROCESS(image))
    plain = (pixels.double() / 255 - torch.tensor(PREPROCESS.mean).view(3, 1, 1)) / torch.tensor(PREPROCESS.std).view(
        3, 1, 1
    )
    torch.testing.assert_close(normal.double(), plain, rtol=0, atol=1e-6)
    assert PREPROCESS.normalise(normal) is normal


def test_padding_is_0_after_normalisation():
    preprocess = Preprocess(size=40, fit="keep", longest=80)
    images, sizes = [noise(60, 40), noise(40, 70)], torch.tensor([[40, 60], [70, 40]])
    pixels = torch.full((2, 3, 70, 60), 9, dtype=torch.uint8)
    for place, image, (height, width) in zip(pixels, images, sizes.tolist(), strict=True):
        place[:, :height, :width] = preprocess.pixels(image)
    normal = preprocess.normalise(pixels, sizes)
    for image, batched, (height, width) in zip(images, normal, sizes.tolist(), strict=True):
        assert torch.equal(batched[:, :height, :width], preprocess(image))
        assert not batched[:, height:].any()
        assert not batched[:, :, width:].any()


def test_the_error_for_a_size_above_the_longest_side_names_both_settings():
    with pytest.raises(ConfigError, match=r"`size` is the shorter side and cannot exceed `semantic.longest`, found 99"):
        keep_shape(Preprocess(), size=99, longest=64, setting="semantic.longest")


def test_a_dictionary_round_trips_and_unknown_fields_are_refused():
    assert Preprocess.from_dict(PREPROCESS.to_dict()) == PREPROCESS
    with pytest.raises(ConfigError, match="no field sise; the fields are size"):
        Preprocess.from_dict({"sise": 32})
