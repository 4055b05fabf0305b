"""Transforms of images and masks: both move together, and randomness depends only on the seeds."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from twins.data.formats.masks import IGNORE
from twins.data.loading.batch import stack_images
from twins.data.loading.loader import EvalSamples, TrainSamples, eval_loader, train_loader
from twins.data.loading.sampler import TrainBatches
from twins.data.seeding import seeded
from twins.data.transforms.config import SemanticConfig
from twins.data.transforms.deferred_fills import apply_fills
from twins.data.transforms.semantic import RandomCrop, WholeImage, distort
from twins.preprocess import Preprocess, pixels_of

REDS = np.array([10, 90, 170, 250])
"""Red of each class's pixels."""
PLAIN = Preprocess(size=64, fit="keep", interpolation="bilinear", longest=512, mean=(0, 0, 0), std=(1, 1, 1))


def blocks(width, height, side=24):
    """Return an image that shows four classes by its red channel, in squares with other neighbours, and its mask."""
    rows, columns = np.arange(height) // side, np.arange(width) // side
    target = ((rows[:, None] * 2 + columns[None, :]) % 4).astype(np.uint8)
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[..., 0] = REDS[target]
    picture[..., 1] = np.linspace(0, 255, width).astype(np.uint8)
    return Image.fromarray(picture), target


def cropped(image, target, key=(0,), preprocess=PLAIN, **settings):
    config = SemanticConfig(**{"crop": 64, "photometric": False} | settings)
    with seeded(*key):
        crop, classes = RandomCrop(config, preprocess)(image, target)
    return apply_fills(preprocess.normalise(crop.pixels[None]), [crop.fills])[0], classes


def visible_classes(pixels):
    """Return the classes that the red channel of `(3, H, W)` in 0..1 shows."""
    return np.abs(pixels[0].numpy()[..., None] * 255 - REDS).argmin(axis=2)


@pytest.mark.parametrize(("width", "height"), [(200, 120), (96, 160), (301, 211)])
@pytest.mark.parametrize("flips", [{}, {"hflip": 1.0}, {"hflip": 0.0}, {"hflip": 1.0, "vflip": 1.0}])
def test_image_and_mask_stay_aligned(width, height, flips):
    image, target = blocks(width, height, side=min(width, height) // 3)
    for key in range(20):
        pixels, classes = cropped(image, target, (key,), ratio=(0.6, 2.0), **flips)
        classes = classes.numpy()
        inner = classes != IGNORE
        for axis, step in ((0, -2), (0, 2), (1, -2), (1, 2)):
            inner &= np.roll(classes, step, axis) == classes
        assert inner.sum() > 500
        assert (visible_classes(pixels) == classes)[inner].all()


def test_flips_reverse_rows_and_columns():
    image, target = blocks(128, 128, side=64)
    plain, _ = cropped(image, target, ratio=(0.5, 0.5), hflip=0.0)
    hflipped, _ = cropped(image, target, ratio=(0.5, 0.5), hflip=1.0)
    vflipped, _ = cropped(image, target, ratio=(0.5, 0.5), hflip=0.0, vflip=1.0)
    assert torch.equal(hflipped[:, :32, :32], plain[:, :32, :32].flip(2))
    assert torch.equal(vflipped[:, :32, :32], plain[:, :32, :32].flip(1))


@pytest.mark.parametrize("factor", [0.7, 1.0, 2.3])
def test_resampling_a_crop_equals_resizing_the_image_and_cropping(factor):
    noise = np.random.default_rng(0).integers(0, 256, (90, 150, 3), dtype=np.uint8)
    image, target = Image.fromarray(noise), np.random.default_rng(1).integers(0, 5, (90, 150), dtype=np.uint8)
    resized = image.resize(PLAIN.kept_size(image, factor), Image.Resampling.BILINEAR)
    full = PLAIN.normalise(pixels_of(resized)[None])[0].numpy()
    nearest = np.asarray(Image.fromarray(target).resize(resized.size, Image.Resampling.NEAREST))
    for key in range(5):
        pixels, classes = cropped(image, target, (key,), crop=40, ratio=(factor, factor), hflip=0.0)
        windows = np.lib.stride_tricks.sliding_window_view(nearest, (40, 40))
        agreement = (windows == classes.numpy()).mean(axis=(2, 3))
        assert agreement.max() > 0.97  # centres that fall between two pixels may take either
        y, x = np.unravel_index(agreement.argmax(), agreement.shape)
        np.testing.assert_allclose(pixels, full[:, y : y + 40, x : x + 40], atol=1.01 / 255)


def test_crops_reach_every_edge_of_the_image():
    image, target = blocks(96, 160, side=8)
    target[0], target[-1], target[:, 0], target[:, -1] = 10, 11, 12, 13
    crops = [cropped(image, target, (key,), ratio=(1.0, 1.0))[1] for key in range(200)]
    assert all(any((classes == edge).any() for classes in crops) for edge in (10, 11, 12, 13))


def test_pixels_that_a_small_image_does_not_fill_are_ignored_and_0():
    image, target = blocks(64, 128)
    pixels, classes = cropped(image, target, preprocess=Preprocess(size=48, fit="keep"), crop=128, ratio=(1.0, 1.0))
    assert (classes[96:] == IGNORE).all()
    assert (classes[:, 48:] == IGNORE).all()
    assert (classes[:96, :48] != IGNORE).all()
    assert not pixels[:, 96:].any()
    assert not pixels[:, :, 48:].any()
    assert pixels[:, :96, :48].all(dim=0).float().mean() > 0.99


def test_crops_that_one_class_fills_are_sampled_again():
    target = np.zeros((64, 512), dtype=np.uint8)
    target[:6], target[:, :96] = 1, np.arange(96) // 4 % 2
    image = Image.new("RGB", (512, 64))

    def mixed_share(share):
        crops = [cropped(image, target, (key,), ratio=(1.0, 1.0), max_share=share)[1] for key in range(60)]
        return np.mean([(crop == 0).float().mean() <= 0.75 for crop in crops])

    assert mixed_share(1.0) < 0.25
    assert mixed_share(0.75) > 2 * mixed_share(1.0)


def test_ignored_pixels_do_not_count_in_the_share_of_a_class():
    target = np.full((64, 64), IGNORE, dtype=np.uint8)
    target[:, :8] = np.arange(8) % 2
    calls = []
    with seeded(0), pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "randint", lambda low, high: calls.append(low) or low)
        RandomCrop(SemanticConfig(crop=64, ratio=(1.0, 1.0), photometric=False), PLAIN)(
            Image.new("RGB", (64, 64)), target
        )
    assert len(calls) == 2


def test_a_sample_depends_only_on_its_seeds():
    image, target = blocks(200, 120)
    first = cropped(image, target, (1, 2, 3), photometric=True)
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    cropped(image, target, (9,), photometric=True)
    again, other = (cropped(image, target, key, photometric=True) for key in ((1, 2, 3), (1, 2, 4)))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_colours_change_and_the_mask_does_not():
    image, target = blocks(200, 120)
    changed = 0
    for key in range(20):
        plain, coloured = (cropped(image, target, (key,), hflip=0.0, photometric=on) for on in (False, True))
        assert torch.equal(plain[1], coloured[1])
        changed += not torch.equal(plain[0], coloured[0])
    assert changed > 15


def test_colours_change_by_no_more_than_documented():
    grey = Image.new("RGB", (2, 2), (100, 100, 100))
    values = []
    for key in range(400):
        with seeded(key):
            values.append(np.asarray(distort(grey), dtype=int))
    values = np.array(values)
    assert np.ptp(values, axis=3).max() == 0  # hue and saturation do not change grey
    assert (100 - 32) * 0.5 - 1 <= values.min() < 60
    assert 150 < values.max() <= (100 + 32) * 1.5 + 1
    assert 0.15 < (values[:, 0, 0, 0] == 100).mean() < 0.35


def test_a_mask_of_another_size_is_refused(refused):
    image, target = blocks(64, 96)
    for transform in (WholeImage(PLAIN), RandomCrop(SemanticConfig(), PLAIN)):
        with refused("the mask has 96 x 64 pixels, its image 64 x 96; save both at the same size"):
            transform(image, target.T)


def test_evaluation_resizes_the_image_and_not_the_mask():
    image, target = blocks(200, 120)
    pixels, mask = WholeImage(PLAIN)(image, target)
    assert pixels.shape == (3, 64, 107)
    assert torch.equal(mask, torch.from_numpy(target))


class Shapes:
    """Images of different shapes; the mask of the third has another size."""

    names = ("0", "1", "2", "3")
    sizes = ((96, 96), (96, 160), (200, 100), (128, 64))

    def __len__(self):
        return len(self.sizes)

    def load(self, index):
        return blocks(*self.sizes[index])[0]

    def target(self, index):
        return blocks(*self.sizes[0 if index == 2 else index])[1]

    def path(self, index):
        return f"shape {index}"


def test_images_of_different_shapes_are_padded_and_their_sizes_kept():
    images = [torch.rand(3, 4, 6), torch.rand(3, 5, 3)]
    batch, sizes = stack_images(images)
    assert batch.shape == (2, 3, 5, 6)
    assert sizes.tolist() == [[4, 6], [5, 3]]
    assert torch.equal(batch[0, :, :4, :6], images[0])
    assert torch.equal(batch[1, :, :5, :3], images[1])
    assert batch.count_nonzero() == sum(image.count_nonzero() for image in images)
    assert stack_images(images[:1] * 2)[1] is None


def test_a_mask_that_does_not_fit_is_skipped_and_reported():
    batches = list(eval_loader(EvalSamples(Shapes(), WholeImage(PLAIN)), batch=2))
    assert [batch.indices for batch in batches] == [[0, 1], [3]]
    assert [target.shape for target in batches[0].targets] == [(96, 96), (160, 96)]
    assert batches[0].sizes.tolist() == [[64, 64], [107, 64]]
    assert [skipped.path for batch in batches for skipped in batch.skipped] == ["shape 2"]
    samples = TrainSamples(Shapes(), RandomCrop(SemanticConfig(crop=64), PLAIN), seed=0)
    batch = next(train_loader(samples, TrainBatches(4, 4, seed=0), step=0, workers=0, pin=False))
    assert (batch.images.shape, batch.targets.shape, batch.sizes) == ((4, 3, 64, 64), (4, 64, 64), None)
    assert sorted(batch.indices) == [0, 1, 3, 3]
    assert "save both at the same size" in batch.skipped[0].reason
