"""Images and masks that cannot be told apart by their names are refused or reported, never paired by chance."""

from __future__ import annotations

import numpy as np
import pytest

from twins.data.config import DataConfig
from twins.data.formats.mask_pairs import select_listed
from twins.data.formats.open import open_label_maps
from twins.errors import DataError


@pytest.fixture
def write(tmp_path, save_image, save_mask):
    """Write images and masks of 0 and 255."""

    def write(images, masks):
        for name in images:
            save_image(tmp_path / name, (8, 6))
        for name in masks:
            save_mask(tmp_path / name, np.tile([0, 255], (6, 4)))
        return DataConfig(data=str(tmp_path))

    return write


@pytest.mark.parametrize(
    ("images", "masks", "further"),
    [
        ("benign ({}).png", "benign ({})_mask.png", "benign (1)_mask_1.png"),
        ("images/{}.jpg", "masks/{}.png", "masks/1_1.png"),
        ("images/a{}.jpg", "masks/a{}_mask.png", "masks/a1_mask (2).png"),
    ],
)
def test_a_further_mask_of_an_image_is_a_problem(write, images, masks, further):
    names = range(1, 5)
    config = write([images.format(n) for n in names], [*(masks.format(n) for n in names), further])
    splits = open_label_maps(config)
    assert len(splits.train) + len(splits.val) == 4
    (problem,) = splits.problems
    assert problem.startswith("1 file that may be a further mask of an image, " + further)
    assert [(g.first, g.reason) for g in splits.plan.passed_over] == [
        (further, "a further mask of an image that has one")
    ]


@pytest.mark.parametrize("further", ["0.jpeg", "0_mask.tif"])
def test_two_images_or_masks_of_one_name_beside_each_other_are_refused(write, further):
    config = write(["0.jpg", "1.jpg"], ["0_mask.png", "1_mask.png", further])
    with pytest.raises(DataError, match="have the same name, so they cannot be paired"):
        open_label_maps(config)


def test_a_list_that_pairs_otherwise_than_the_names_is_refused(write, tmp_path):
    config = write([f"images/{n}.jpg" for n in range(4)], [f"masks/{n}.png" for n in range(4)])
    (tmp_path / "train.txt").write_text("".join(f"images/{n}.jpg masks/{3 - n}.png\n" for n in range(4)))
    with pytest.raises(DataError, match="with names of two images"):
        open_label_maps(config)


def test_lines_of_a_list_are_names_with_spaces_or_an_image_and_its_mask(tmp_path):
    pairs = [(tmp_path / f"images/{name}.jpg", tmp_path / f"masks/{name}.png") for name in ("a", "b", "a b")]
    lines = ["a b.jpg", "images/b.jpg masks/b.png", "images/a.jpg,masks/a.png", "images/a b.jpg 1"]
    for line, name in zip(lines, ("a b", "b", "a", "a b"), strict=True):
        chosen, _ = select_listed(pairs, [], [line], tmp_path / "train.txt")
        assert [image.stem for image, _ in chosen] == [name], line


def test_masks_of_another_part_are_said(write):
    images = [f"images/{part}/{part}{n}.jpg" for part in ("train", "val") for n in range(3)]
    masks = [f"masks/{'test' if part == 'val' else part}/{part}{n}.png" for part in ("train", "val") for n in range(3)]
    splits = open_label_maps(write(images, masks))
    assert "the masks of the val part are those in masks/test" in splits.notes


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train.txt": "00\n01\n", "val.txt": "2\n3\n"}, r"train\.txt names none of the images, as val\.txt does"),
        ({"train.txt": "0\n1\n", "val.txt": ""}, r"val\.txt names none of the images, as train\.txt does"),
        (
            {"train.txt": "0\n1\n", "splits/train.txt": "0\n2\n", "splits/val.txt": "3\n"},
            r"splits/train\.txt and train\.txt in .* could each be the list of the train part",
        ),
    ],
)
def test_lists_that_contradict_the_images_or_each_other_are_refused(write, tmp_path, lists, message):
    config = write([f"images/{n}.jpg" for n in range(4)], [f"masks/{n}.png" for n in range(4)])
    for name, text in lists.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        open_label_maps(config)


def test_a_list_whose_name_two_images_share_is_refused(write, tmp_path):
    config = write([f"images/{n}.jpg" for n in ("a/1", "b/1")], [f"masks/{n}.png" for n in ("a/1", "b/1")])
    (tmp_path / "train.txt").write_text("1\n")
    with pytest.raises(DataError, match=r"train\.txt lists 1, but .*images has no image of that name"):
        open_label_maps(config)
