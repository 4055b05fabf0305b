"""Data sets and batches: who is in which split, and randomness that is a function of what it is for."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from twins.data.base import Digits, open_classification
from twins.data.checks.classification import check_classification
from twins.data.loading.loader import EvalSamples, TrainSamples, eval_loader, train_loader
from twins.data.loading.sampler import TrainBatches
from twins.data.transforms.classification import ImageAlone, train_transform
from twins.data.transforms.config import AugmentConfig
from twins.errors import DataError
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


def test_an_unsplit_folder_is_split_by_seed_with_no_image_in_both(folder):
    first, again, other = (open_classification(folder, seed=seed) for seed in (0, 0, 1))
    assert (len(first.train), len(first.val)) == (16, 4)
    assert not set(first.train.files) & set(first.val.files)
    assert first.val.files == again.val.files
    assert first.val.files != other.val.files
    assert sorted(first.val.labels) == [0, 0, 1, 1]


def test_a_class_with_one_image_keeps_it_for_training(folder):
    write(folder, "eel", 1, shade=9)
    splits = open_classification(folder)
    assert splits.train.labels.count(2) == 1
    assert any("eel" in problem for problem in check_classification(folder).problems)


def test_classes_of_validation_are_matched_by_name(tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / "train", name, 2)
    write(tmp_path / "val", "c", 2, shade=5)
    assert open_classification(tmp_path).val.labels == [2, 2]
    write(tmp_path / "val", "z", 1)
    with pytest.raises(DataError, match=r"classes that .* has not: z"):
        open_classification(tmp_path)


@pytest.mark.parametrize("content", ["nothing", "one class", "no images", "a file"])
def test_a_folder_that_is_no_data_set_is_refused_in_one_sentence(tmp_path, content):
    root = tmp_path / "data"
    if content == "a file":
        root.write_text("")
    else:
        root.mkdir()
        for name in {"nothing": [], "one class": ["a"], "no images": ["a", "b"]}[content]:
            (root / name).mkdir()
    with pytest.raises(DataError, match="data") as caught:
        open_classification(root)
    assert "\n" not in str(caught.value)


def test_another_tasks_layout_is_recognised(tmp_path):
    write(tmp_path, "images", 3)
    (tmp_path / "instances.json").write_text("{}")
    with pytest.raises(DataError, match=r"if instances\.json lists boxes, say --task detection"):
        open_classification(tmp_path)
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "images").rename(tmp_path / "JPEGImages")
    with pytest.raises(DataError, match=r"Pascal VOC's folders .* say --task detection"):
        open_classification(tmp_path)


def test_digits_are_split_without_overlap_and_alike_each_time():
    train, val = Digits(train=True), Digits(train=False)
    names = {train.path(i) for i in range(len(train))}, {val.path(i) for i in range(len(val))}
    assert len(train) + len(val) == 1797
    assert not names[0] & names[1]
    assert np.bincount(val.labels).min() >= 34


def samples(images, augment=None):
    augment = augment or AugmentConfig()
    return TrainSamples(images, ImageAlone(train_transform(augment, PREPROCESS)), seed=3)


def test_augmentation_depends_on_epoch_image_and_copy_alone(folder):
    drawn = samples(open_classification(folder).train)
    first = drawn[(0, 4, 0)].image
    random.seed(99)
    torch.manual_seed(99)
    drawn[(7, 1, 0)]
    assert torch.equal(drawn[(0, 4, 0)].image, first)
    for other in ((1, 4, 0), (0, 4, 1)):
        assert not torch.equal(drawn[other].image, first)


def test_workers_change_nothing(folder):
    def collect(workers):
        images = open_classification(folder).train
        batches = TrainBatches(len(images), 4, seed=0)
        stream = train_loader(samples(images), batches, step=2, workers=workers, pin=False)
        return [next(stream).images for _ in range(6)]

    for alone, shared in zip(collect(0), collect(2), strict=True):
        assert torch.equal(alone, shared)


def test_an_unreadable_image_is_replaced_in_training_and_left_out_of_evaluation(folder):
    splits = open_classification(folder)
    splits.train.files[4].write_bytes(b"")
    splits.val.files[1].write_bytes(b"")
    sample = samples(splits.train)[(0, 4, 0)]
    assert sample.index == 5
    assert [skipped.path for skipped in sample.skipped] == [str(splits.train.files[4])]
    loader = eval_loader(EvalSamples(splits.val, ImageAlone(PREPROCESS)), batch=2)
    batches = list(loader)
    assert sum(len(batch.indices) for batch in batches) == 3
    assert sum(len(batch.skipped) for batch in batches) == 1


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_sees_each_image_once_over_all_processes(world):
    images = Digits(train=False)
    indices = [
        index
        for rank in range(world)
        for batch in eval_loader(EvalSamples(images, ImageAlone(PREPROCESS)), batch=50, rank=rank, world=world)
        for index in batch.indices
    ]
    assert sorted(indices) == list(range(len(images)))


def test_check_names_duplicates_across_splits(tmp_path):
    for part in ("train", "val"):
        for name, shade in (("a", 0), ("b", 1)):
            write(tmp_path / part, name, 2, shade=shade)
    report = check_classification(tmp_path)
    assert len(report.problems) == 4
    assert "in training and in evaluation" in report.problems[0]
    assert report.sizes == {"width": [40, 40, 40], "height": [40, 40, 40]}


def test_real_images_are_clean(sample_data):
    report = check_classification(sample_data / "classification" / "sign_digits")
    assert report.problems == []
    assert sum(report.counts["train"].values()) == 419
    assert sum(report.counts["val"].values()) == 100


def test_evaluation_sorts_images_by_shape_and_shows_each_once(folder):
    images = open_classification(folder).train
    samples = EvalSamples(images, ImageAlone(PREPROCESS))
    shapes = [(40, 30 + 10 * (index % 3)) for index in range(len(images))]
    found = [list(eval_loader(samples, batch=4, rank=rank, world=2, shapes=shapes)) for rank in (0, 1)]
    indices = [batch.indices for batches in found for batch in batches]
    assert sorted(index for batch in indices for index in batch) == list(range(len(images)))
    for batches in found:
        widths = [shapes[index][1] for batch in batches for index in batch.indices]
        assert widths == sorted(widths)
