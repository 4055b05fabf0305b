"""Batches stay uint8 until they are normalised on the network's device, and deferred fills follow."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from twins.data.formats.class_folders import LabelledFiles
from twins.data.formats.digits import Digits
from twins.data.loading.batch import collate, normalise_batch
from twins.data.loading.loader import EvalSamples, TrainSamples, eval_loader, train_loader
from twins.data.loading.sampler import TrainBatches
from twins.data.transforms.classification import ImageAlone, train_transform
from twins.data.transforms.config import AugmentConfig, SemanticConfig
from twins.data.transforms.deferred_fills import DeferredFill, PixelsWithFills, apply_fills
from twins.data.transforms.semantic import RandomCrop
from twins.preprocess import Preprocess, pixels_of
from twins.tasks.table import facts_of

CPU = torch.device("cpu")
PREPROCESS = Preprocess(size=48)


def noise(width, height, seed=0):
    random = np.random.default_rng([seed, width, height])
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_the_padding_of_a_small_image_in_a_crop_is_0_after_normalisation():
    samples = TrainSamples(
        Masks(), RandomCrop(SemanticConfig(crop=96, ratio=(1.0, 1.0)), Preprocess(size=48, fit="keep")), seed=0
    )
    stream = train_loader(samples, TrainBatches(2, 2, seed=0), step=0, workers=0, pin=False)
    batch = next(stream)
    normal = normalise_batch(batch, Preprocess(size=48, fit="keep"), CPU)
    assert (batch.images.dtype, normal.images.dtype) == (torch.uint8, torch.float32)
    assert not normal.images[:, :, 48:].any()
    assert not normal.images[:, :, :, 64:].any()
    assert (normal.images[:, :, :48, :64] != 0).float().mean() > 0.99


class Masks:
    """Two images of 64 x 48 with a mask."""

    names = ("0", "1")

    def __len__(self):
        return 2

    def load(self, index):
        return noise(64, 48, index)

    def target(self, index):
        return np.indices((48, 64)).sum(axis=0).astype(np.uint8) % 2

    def path(self, index):
        return str(index)


def test_noise_depends_only_on_its_seed():
    fill, other = DeferredFill(2, 3, 10, 20, noise_seed=7), DeferredFill(5, 1, 10, 20, noise_seed=8)
    alone = apply_fills(torch.zeros(1, 3, 32, 32), [[fill]])
    torch.manual_seed(5)
    channels_last = torch.zeros(2, 32, 32, 3).permute(0, 3, 1, 2)
    both = apply_fills(channels_last, [[other], [fill]])
    assert torch.equal(both[1], alone[0])
    assert not torch.equal(both[0, :, 5:15, 1:21], both[1, :, 2:12, 3:23])
    assert alone.count_nonzero() == 3 * 10 * 20
    assert abs(alone[0, :, 2:12, 3:23].std().item() - 1) < 0.1


def test_normalising_does_not_change_its_batch():
    samples = TrainSamples(
        Digits(train=True), ImageAlone(train_transform(AugmentConfig(erasing=1.0), PREPROCESS)), seed=0
    )
    batch = next(train_loader(samples, TrainBatches(8, 8, seed=0), step=0, workers=0, pin=False))
    first, second = (normalise_batch(batch, PREPROCESS, CPU) for _ in range(2))
    assert batch.images.dtype == torch.uint8
    assert torch.equal(first.images, second.images)
    assert torch.equal(normalise_batch(first, PREPROCESS, CPU).images, first.images)


@pytest.mark.parametrize("workers", [1, 2])
def test_augmentation_is_the_same_with_any_number_of_workers(workers):
    transform = ImageAlone(train_transform(AugmentConfig(erasing=0.5), PREPROCESS))

    def collect(worker_count):
        samples = TrainSamples(Digits(train=True), transform, seed=3)
        stream = train_loader(samples, TrainBatches(30, 5, seed=0), step=4, workers=worker_count, pin=False)
        return [normalise_batch(next(stream), PREPROCESS, CPU).images for _ in range(5)]

    for expected, images in zip(collect(0), collect(workers), strict=True):
        assert torch.equal(images, expected)


@pytest.mark.parametrize("settings", [{}, {"rand_augment": None}, {"shift_pixels": 3}])
def test_transforms_can_be_pickled_for_spawned_processes(settings):
    transform = pickle.loads(pickle.dumps(train_transform(AugmentConfig(**settings), PREPROCESS)))
    result = transform(noise(60, 50))
    pixels = result.pixels if isinstance(result, PixelsWithFills) else result
    assert (pixels.shape, pixels.dtype) == ((3, 48, 48), torch.uint8)


def test_every_kind_of_image_file_looks_the_same_in_training_and_evaluation(tmp_path):
    red = np.zeros((40, 60, 3), dtype=np.uint8)
    red[:, :, 0], red[20:] = 255, 30
    turned = Image.Exif()
    turned[0x0112] = 3
    upright = Image.fromarray(red)
    files = {
        "plain.png": upright,
        "grey.png": upright.convert("L"),
        "clear.png": upright.convert("RGBA"),
        "inks.jpg": upright.convert("CMYK"),
        "deep.png": Image.fromarray(np.asarray(upright.convert("L")).astype(np.uint16) * 257),
        "turned.jpg": upright.transpose(Image.Transpose.ROTATE_180),
    }
    for name, image in files.items():
        image.save(tmp_path / name, **({"exif": turned} if name == "turned.jpg" else {}))
    images = LabelledFiles([tmp_path / name for name in files], [0] * len(files), ("any",))
    plain = Preprocess(size=32, crop=1.0, fit="squash")
    (batch,) = eval_loader(EvalSamples(images, ImageAlone(plain.pixels)), batch=len(files))
    no_change = AugmentConfig(
        scale=(1.0, 1.0), ratio=(1.5, 1.5), hflip=0.0, rand_augment=None, color_jitter=0.0, erasing=0.0
    )
    learn = TrainSamples(images, ImageAlone(train_transform(no_change, plain)), seed=0)
    for index, name in enumerate(files):
        truth = upright.convert("L").convert("RGB") if name in ("grey.png", "deep.png") else upright
        expected = pixels_of(truth.resize((32, 32), Image.Resampling.BICUBIC)).int()
        for image in (batch.images[index], learn[(0, index, 0)].image):
            assert (image.int() - expected).abs().float().mean() < 3, name
    assert not batch.skipped


def test_a_dense_networks_batch_is_uint8_too():
    preprocess = facts_of("detection").preprocess
    samples = EvalSamples(Masks(), lambda image, target: (preprocess.pixels(image), target))
    batch = collate([samples[i] for i in range(2)])
    assert batch.images.dtype == torch.uint8
    assert batch.images.permute(0, 2, 3, 1).is_contiguous()
