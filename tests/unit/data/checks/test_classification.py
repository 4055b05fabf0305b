"""`twins check` of class folders: it names every fault that would spoil a run, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from twins.data.config import DataConfig
from twins.errors import DataError
from twins.tasks.classification.spec import SPEC


def check(root):
    return SPEC.check(DataConfig(data=str(root)))


def save(path, number):
    """Write noise of 40 x 40 pixels that depends on the number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def data(tmp_path):
    """A clean set of two classes, each with two images in each part."""
    for number in range(8):
        part, name = ("train", "val")[number // 4], ("a", "b")[number // 2 % 2]
        save(tmp_path / part / name / f"{number}.png", number)
    return tmp_path


def test_a_clean_set_has_no_problem_and_the_right_counts(data):
    report = check(data)
    assert report.problems == []
    assert report.notes == ["top-5 accuracy has no meaning with fewer than six classes and is left out"]
    assert report.counts == {"train": {"a": 2, "b": 2}, "val": {"a": 2, "b": 2}}
    assert (report.images, report.shares) == ({"train": 4, "val": 4}, {})
    assert report.sizes == {"width": [40, 40, 40], "height": [40, 40, 40]}


def test_the_same_image_in_both_parts_is_named_once_for_all_its_copies(data):
    paths = save(data / "train" / "a" / "0.png", 99), save(data / "train" / "b" / "2.png", 99)
    copy = save(data / "val" / "a" / "4.png", 99)
    assert check(data).problems == [
        f"the same image is in training and in evaluation: {paths[0]}, {paths[1]}, {copy}; keep it in one"
    ]


def test_the_same_image_in_the_val_and_the_test_part_is_said(data):
    save(data / "test" / "a" / "8.png", 98), save(data / "test" / "b" / "9.png", 97)
    copies = save(data / "val" / "a" / "4.png", 99), save(data / "test" / "a" / "10.png", 99)
    report = check(data)
    assert report.problems == []
    expected = f"1 image with the same pixels in both the val and the test part; {copies[0]}, {copies[1]} first"
    assert expected in report.notes


def test_the_same_image_in_two_classes_is_named(data):
    paths = save(data / "val" / "a" / "4.png", 99), save(data / "val" / "b" / "6.png", 99)
    assert check(data).problems == [f"the same image is in two classes: {paths[0]}, {paths[1]}; keep it in one"]


def test_an_image_that_cannot_be_read_is_named_and_counted_in_its_class(data):
    (data / "train" / "a" / "0.png").write_bytes(b"")
    report = check(data)
    (problem,) = report.problems
    assert "0.png is empty (0 bytes)" in problem
    assert report.counts["train"] == {"a": 2, "b": 2}


def test_classes_with_too_few_images_are_named(data):
    (data / "train" / "a" / "0.png").unlink()
    for number in (6, 7):
        (data / "val" / "b" / f"{number}.png").unlink()
    (data / "train" / "eel").mkdir()
    assert check(data).problems == [
        "class a has a single training image; add more",
        "class b has 2 images to train on and none to evaluate on; move some",
        "class eel has no image; remove its folder or add images",
    ]


def test_a_rare_class_is_worth_a_note(data):
    for number in range(100, 121):
        save(data / "train" / "a" / f"{number}.png", number)
    assert check(data).notes[0] == (
        'the largest class has 23 training images, the smallest 2; consider `class_weights="balanced"`'
    )


def test_real_images_are_clean(sample_data):
    report = check(sample_data / "classification" / "sign_digits")
    assert report.problems == []
    assert sum(report.counts["train"].values()) == 419
    assert sum(report.counts["val"].values()) == 100


def test_pictures_that_cannot_be_read_are_counted(data):
    for number in range(3):
        (data / "train" / "a" / f"{number}.HEIC").write_bytes(b"ftypheic")
    assert check(data).notes[0] == (
        f"3 pictures in {data} passed over, because Pillow cannot read them (3 × .heic); convert them"
    )


def test_pixels_without_a_value_are_counted(data):
    pixels = np.random.default_rng(9).uniform(0.2, 0.8, (40, 40)).astype(np.float32)
    pixels[:2, :2] = np.nan
    Image.fromarray(pixels).save(data / "train" / "a" / "x.tif")
    report = check(data)
    assert report.problems == []
    assert report.notes[0].startswith("1 image with 4 pixels without a value (NaN), which are read as black; ")


def test_a_folder_of_pictures_that_cannot_be_read_is_refused_with_their_endings(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.heic").write_bytes(b"ftypheic")
    with pytest.raises(DataError, match=r"holds no images .*; Pillow cannot read its pictures \(2 × \.heic\)"):
        check(tmp_path)


def test_pixels_of_more_than_8_bits_are_a_note_with_counts_and_factors(data):
    for name, top in (("train/a/0", 60000), ("train/a/1", 300), ("val/a/4", 900)):
        pixels = np.random.default_rng(top).integers(0, top, (40, 40)).astype(np.uint16)
        Image.fromarray(pixels).save(data / f"{name}.png")
    for name, top in (("train/b/2", 1.0), ("train/b/3", 200.0)):
        (data / f"{name}.png").unlink()
        Image.fromarray(np.random.default_rng(9).uniform(0, top, (40, 40)).astype(np.float32)).save(
            data / f"{name}.tif"
        )
    notes = [note for note in check(data).notes if "scaled to 8 bits" in note]
    first = data / "train" / "b" / "2.tif"
    assert notes == [
        f"3 images are 16-bit grey; they are scaled to 8 bits by 1/257; {data / 'train' / 'a' / '0.png'} first",
        f"2 images are of floats; they are scaled to 8 bits by different factors, 1 by 255, 1 by 1; {first} first",
    ]


def test_a_folder_of_images_and_one_of_masks_are_no_two_classes_even_without_pairs(tmp_path):
    for name in ("images/a", "images/b", "masks/c", "masks/d"):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(len(name)).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    with pytest.raises(DataError, match=r"has masks \(images, masks\) instead of class folders; .*task=.semantic"):
        check(tmp_path)
