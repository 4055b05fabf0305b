"""An image of any number of channels is resized, cropped and normalised like a Pillow image of each channel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from twins.bands import Bands
from twins.errors import ConfigError, InputError
from twins.preprocess import Preprocess, pixels_of


def noise(width: int, height: int, channels: int):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("settings", [{}, {"fit": "squash"}, {"fit": "keep"}, {"interpolation": "nearest"}])
@pytest.mark.parametrize("size", [(90, 70), (50, 300), (900, 20)])
def test_each_channel_is_preprocessed_as_a_channel_of_rgb(settings, size):
    preprocess, pixels = Preprocess(size=48, **settings), noise(*size, 3)
    expected = preprocess.pixels(Image.fromarray(pixels))
    assert torch.equal(preprocess.pixels(Bands.from_array(pixels)), expected)
    assert torch.equal(preprocess.pixels(Image.fromarray(pixels[:, :, 1])), expected[1:2])
    five = Bands.from_array(pixels[:, :, [0, 2, 1, 1, 0]])
    assert torch.equal(preprocess.pixels(five), expected[[0, 2, 1, 1, 0]])


def test_pixels_survive_and_a_picture_shows_the_first_channels():
    pixels = noise(9, 7, 5)
    image = Bands.from_array(pixels)
    assert (image.size, image.width, image.height) == ((9, 7), 9, 7)
    assert (image.to_array() == pixels).all()
    assert torch.equal(pixels_of(image.crop((1, 2, 5, 6))), torch.from_numpy(pixels[2:6, 1:5]).permute(2, 0, 1))
    assert (np.asarray(image.to_rgb()) == pixels[:, :, :3]).all()
    assert (np.asarray(Bands.from_array(pixels[:, :, :2]).to_rgb()) == pixels[:, :, [0, 0, 0]]).all()


def test_constants_of_rgb_are_averaged_for_one_channel_and_repeated_for_more():
    rgb = Preprocess()
    assert rgb.for_channels(3) is rgb
    assert (rgb.for_channels(1).mean, rgb.for_channels(1).std) == ((0.449,), (0.226,))
    assert rgb.for_channels(5).mean == (0.485, 0.456, 0.406, 0.485, 0.456)
    assert Preprocess(mean=(0.5,), std=(0.25,)).for_channels(3).std == (0.25,) * 3
    with pytest.raises(ConfigError, match="have 2 numbers, the network takes images of 4 channels; give a number"):
        Preprocess(mean=(0.5, 0.5), std=(0.5, 0.5)).for_channels(4)


def test_images_of_another_number_of_channels_are_not_normalised():
    with pytest.raises(InputError, match="the images have 1 channel, `mean` and `std` are for 3 channels"):
        Preprocess(size=32)(Image.new("L", (40, 40)))
    grey = Preprocess(size=32, mean=(0.5,), std=(0.25,))(Image.new("L", (40, 40), 255))
    assert grey.shape == (1, 32, 32)
    assert (grey == 2.0).all()


@pytest.mark.parametrize("wrong", [{"mean": (0.5,)}, {"mean": (), "std": ()}, {"mean": (float("nan"), 0.5, 0.5)}])
def test_constants_that_are_not_one_number_per_channel_are_refused(wrong):
    with pytest.raises(ConfigError, match="must hold a number for each channel"):
        Preprocess(**wrong)
