"""Class folders and digits: each image is in the right part and has the right class."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from twins.data.config import DataConfig
from twins.data.formats.digits import Digits
from twins.data.formats.open import open_class_ids
from twins.errors import DataError


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


def paths(images):
    return {images.path(index) for index in range(len(images))}


def test_an_unsplit_folder_is_split_by_seed_with_no_image_in_both(folder):
    first, again, other = (open_class_ids(DataConfig(data=str(folder), seed=seed)) for seed in (0, 0, 1))
    assert (len(first.train), len(first.val)) == (16, 4)
    assert not paths(first.train) & paths(first.val)
    assert paths(first.val) == paths(again.val)
    assert paths(first.val) != paths(other.val)
    assert sorted(first.val.labels) == [0, 0, 1, 1]


def test_a_class_with_one_image_keeps_it_for_training(folder):
    write(folder, "eel", 1, shade=9)
    splits = open_class_ids(DataConfig(data=str(folder)))
    assert splits.train.labels.count(2) == 1


def test_classes_of_validation_are_matched_by_name(tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / "train", name, 2)
    write(tmp_path / "val", "c", 2, shade=5)
    assert open_class_ids(DataConfig(data=str(tmp_path))).val.labels == [2, 2]
    write(tmp_path / "val", "z", 1)
    with pytest.raises(DataError, match=r"classes that .* lacks: z"):
        open_class_ids(DataConfig(data=str(tmp_path)))


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
        open_class_ids(DataConfig(data=str(root)))
    assert "\n" not in str(caught.value)


def test_another_tasks_layout_is_recognised(tmp_path):
    write(tmp_path, "images", 3)
    (tmp_path / "instances.json").write_text("{}")
    with pytest.raises(DataError, match=r"if instances\.json lists boxes, use `task=\"detection\"`"):
        open_class_ids(DataConfig(data=str(tmp_path)))
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "images").rename(tmp_path / "JPEGImages")
    with pytest.raises(DataError, match=r"Pascal VOC's folders .* use `task=\"detection\"`"):
        open_class_ids(DataConfig(data=str(tmp_path)))


def test_digits_are_split_without_overlap_and_the_same_each_time():
    train, val = Digits(train=True), Digits(train=False)
    names = {train.path(i) for i in range(len(train))}, {val.path(i) for i in range(len(val))}
    assert len(train) + len(val) == 1797
    assert not names[0] & names[1]
    assert np.bincount(val.labels).min() >= 34
