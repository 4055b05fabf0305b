"""Batches: which images they hold, and randomness that depends only on epoch, image and copy."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from twins.data.config import DataConfig
from twins.data.formats.digits import Digits
from twins.data.formats.open import open_class_ids
from twins.data.loading.loader import EvalSamples, TrainSamples, eval_loader, train_loader
from twins.data.loading.sampler import TrainBatches
from twins.data.transforms.classification import ImageAlone, train_transform
from twins.data.transforms.config import AugmentConfig
from twins.preprocess import Preprocess

PREPROCESS = Preprocess(size=32, crop=1.0)


def write(folder, name, count, *, shade=0):
    (folder / name).mkdir(parents=True)
    for index in range(count):
        noise = np.random.default_rng([shade, index]).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name / f"{index}.PNG")


@pytest.fixture
def folder(tmp_path):
    for shade, name in enumerate(("cat", "dog")):
        write(tmp_path, name, 10, shade=shade)
    return tmp_path


def samples(images, augment=None):
    augment = augment or AugmentConfig()
    return TrainSamples(images, ImageAlone(train_transform(augment, PREPROCESS)), seed=3)


def test_augmentation_depends_only_on_epoch_image_and_copy(folder):
    augmented = samples(open_class_ids(DataConfig(data=str(folder))).train)
    first = augmented[(0, 4, 0)].image
    random.seed(99)
    torch.manual_seed(99)
    augmented[(7, 1, 0)]
    assert torch.equal(augmented[(0, 4, 0)].image, first)
    for other in ((1, 4, 0), (0, 4, 1)):
        assert not torch.equal(augmented[other].image, first)


@pytest.mark.slow
def test_the_number_of_workers_changes_no_result(folder):
    def collect(workers):
        images = open_class_ids(DataConfig(data=str(folder))).train
        batches = TrainBatches(len(images), 4, seed=0)
        stream = train_loader(samples(images), batches, step=2, workers=workers, pin=False)
        return [next(stream).images for _ in range(6)]

    for expected, images in zip(collect(0), collect(2), strict=True):
        assert torch.equal(images, expected)


def test_an_unreadable_image_is_replaced_in_training_and_left_out_of_evaluation(folder):
    splits = open_class_ids(DataConfig(data=str(folder)))
    Path(splits.train.path(4)).write_bytes(b"")
    Path(splits.val.path(1)).write_bytes(b"")
    sample = samples(splits.train)[(0, 4, 0)]
    assert sample.index == 5
    assert [skipped.path for skipped in sample.skipped] == [splits.train.path(4)]
    loader = eval_loader(EvalSamples(splits.val, ImageAlone(PREPROCESS)), batch=2)
    batches = list(loader)
    assert sum(len(batch.indices) for batch in batches) == 3
    assert sum(len(batch.skipped) for batch in batches) == 1


@pytest.mark.parametrize("world", [1, 2, 3])
def test_all_processes_together_evaluate_each_image_once(world):
    images = Digits(train=False)
    indices = [
        index
        for rank in range(world)
        for batch in eval_loader(EvalSamples(images, ImageAlone(PREPROCESS)), batch=50, rank=rank, world=world)
        for index in batch.indices
    ]
    assert sorted(indices) == list(range(len(images)))


def test_evaluation_sorts_images_by_shape_and_reads_each_once(folder):
    images = open_class_ids(DataConfig(data=str(folder))).train
    samples = EvalSamples(images, ImageAlone(PREPROCESS))
    shapes = [(40, 30 + 10 * (index % 3)) for index in range(len(images))]
    ranks = [list(eval_loader(samples, batch=4, rank=rank, world=2, shapes=shapes)) for rank in (0, 1)]
    indices = [batch.indices for batches in ranks for batch in batches]
    assert sorted(index for batch in indices for index in batch) == list(range(len(images)))
    for batches in ranks:
        widths = [shapes[index][1] for batch in batches for index in batch.indices]
        assert widths == sorted(widths)
