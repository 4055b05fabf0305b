"""Folders of images and masks: every image is paired with its mask, and its pixels get the right classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twins.data.classes import built_in
from twins.data.config import DataConfig, MaskConfig
from twins.data.formats.open import open_label_maps


@pytest.fixture
def pairs(tmp_path, save_image, save_mask):
    """Write an image and a mask for each name; the mask holds the image's number, and 0 in the last column."""

    def write(images, masks, names=("a", "b"), *, first=1, endings=("", "")):
        for number, name in enumerate(names, start=first):
            pixels = np.full((6, 8), number)
            pixels[:, -1] = 0
            save_image(tmp_path / images / f"{name}{endings[0]}.jpg")
            save_mask(tmp_path / masks / f"{name}{endings[1]}.png", pixels)
        return tmp_path

    return write


def opened(root, *, seed=0, val_share=0.2, **masks):
    return open_label_maps(DataConfig(data=str(root), seed=seed, val_share=val_share, masks=MaskConfig(**masks)))


def classes_in(images):
    """Return, by image name, the class names of the first pixel and of the last one in the first row."""
    names = (*images.names, *["ignored"] * 255)
    targets = [images.target(i) for i in range(len(images))]
    return {Path(images.path(i)).stem: (names[t[0, 0]], names[min(t[0, -1], 255)]) for i, t in enumerate(targets)}


@pytest.mark.parametrize(
    ("train", "val"),
    [
        (("images/train", "masks/train"), ("images/val", "masks/val")),
        (("images/training", "annotations/training"), ("images/validation", "annotations/validation")),
        (("images/train", "labels/training"), ("images/test", "labels/valid")),
        (("img/Train", "label/Train"), ("img/Val", "label/Val")),
        (("train/images", "train/masks"), ("val/images", "val/masks")),
        (("train/imgs", "train/gt"), ("valid/image", "valid/mask")),
    ],
)
def test_each_image_is_paired_with_the_mask_of_its_name_and_part(pairs, train, val):
    pairs(*train)
    root = pairs(*val, first=3)
    splits = opened(root)
    assert classes_in(splits.train) == {"a": ("1", "0"), "b": ("2", "0")}
    assert classes_in(splits.val) == {"a": ("3", "0"), "b": ("4", "0")}
    assert splits.train.load(0).tobytes() == Image.open(root / train[0] / "a.jpg").tobytes()


@pytest.mark.parametrize("ending", ["_mask", "-mask", "_label", "_labelIds", "_gt", "_seg"])
def test_usual_name_endings_do_not_prevent_pairing(pairs, ending):
    root = pairs("images", "masks", names=("a", "b", "deep/c"), endings=("_img", ending))
    splits = opened(root)
    assert classes_in(splits.train) | classes_in(splits.val) == {
        "a_img": ("1", "0"),
        "b_img": ("2", "0"),
        "c_img": ("3", "0"),
    }


@pytest.mark.parametrize("ending", ["_img", "_rgb", "_mask", "_image"])
def test_an_ending_that_both_have_does_not_prevent_pairing(pairs, ending):
    root = pairs("images", "masks", names=("a", "b"), endings=(ending, ending))
    splits = opened(root)
    assert classes_in(splits.train) | classes_in(splits.val) == {f"a{ending}": ("1", "0"), f"b{ending}": ("2", "0")}


def test_masks_without_an_image_are_reported(pairs, save_mask):
    root = pairs("images", "masks", names=("a", "b", "c"))
    save_mask(root / "masks" / "z.png", 1)
    assert any("1 mask in" in note and "z.png first" in note for note in opened(root).notes)


def paths(images):
    return {images.path(index) for index in range(len(images))}


@pytest.mark.parametrize("folders", [("images", "masks"), ("train/images", "train/masks"), ("img/train", "gt/train")])
def test_an_unsplit_set_is_split_by_seed_with_no_image_in_both(pairs, folders):
    root = pairs(*folders, names=[f"{i:02}" for i in range(20)])
    first, again, other = (opened(root, seed=seed) for seed in (0, 0, 1))
    assert (len(first.train), len(first.val)) == (16, 4)
    assert not paths(first.train) & paths(first.val)
    assert paths(first.val) == paths(again.val)
    assert paths(first.val) != paths(other.val)
    assert len(opened(root, val_share=0.5).val) == 10
    assert classes_in(first.train) | classes_in(first.val) == {f"{i:02}": (str(i + 1), "0") for i in range(20)}


def test_images_without_a_mask_are_left_out_and_counted(pairs, save_image):
    root = pairs("images", "masks", names=("a", "b", "c"))
    save_image(root / "images" / "z.png")
    splits = opened(root)
    assert len(splits.train) + len(splits.val) == 3
    assert any("1 image in" in note and "z.png first" in note for note in splits.notes)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "x\ny\nz\n"),
        ("classes.csv", "value,name\n2,z\n1,y\n0,x\n"),
        ("classes.json", '["x", "y", "z"]'),
        ("classes.yaml", "{0: x, 1: y, 2: z}"),
        ("classes.yml", "names: [x, y, z]"),
    ],
)
def test_classes_come_from_a_list_in_the_data_folder(pairs, name, content):
    root = pairs("images", "masks")
    (root / name).write_text(content)
    splits = opened(root)
    assert classes_in(splits.train) | classes_in(splits.val) == {"a": ("y", "x"), "b": ("z", "x")}


def test_classes_that_the_user_names_come_before_those_of_the_folder(pairs, tmp_path, refused):
    root = pairs("images", "masks")
    (root / "classes.txt").write_text("x\ny\nz\n")
    (tmp_path / "mine.txt").write_text("p\nq\nr\n")
    assert opened(root, classes=str(tmp_path / "mine.txt")).train.names == ("p", "q", "r")
    assert opened(root, classes="voc").train.names == built_in("voc").names
    with refused(r"no class table is called 'vox', and no file; did you mean voc\?"):
        opened(root, classes="vox")


@pytest.mark.parametrize("sign", ["ADEChallengeData2016", "objectInfo150.txt", "objectInfo150.csv"])
def test_ade20k_ignores_0_and_has_1_as_its_first_class(pairs, tmp_path, sign):
    root = tmp_path / sign if sign.startswith("ADE") else tmp_path
    for part in ("training", "validation"):
        pairs(root / "images" / part, root / "annotations" / part)
    if root == tmp_path:
        (root / sign).write_text("")
    for part in (opened(root).train, opened(root).val):
        assert part.names == built_in("ade20k").names
        assert classes_in(part) == {"a": ("wall", "ignored"), "b": ("building", "ignored")}
        assert part.target(1)[0, 0] == 1


def test_voc_is_read_by_its_lists_with_palettes_and_borders(tmp_path, save_image, refused):
    lists = tmp_path / "ImageSets" / "Segmentation"
    (tmp_path / "SegmentationClass").mkdir()
    lists.mkdir(parents=True)
    for number, name in enumerate(("2007_1", "2007_2", "2007_3", "unlisted"), start=1):
        save_image(tmp_path / "JPEGImages" / f"{name}.jpg")
        mask = Image.fromarray(np.full((6, 8), number, dtype=np.uint8))
        mask.putpixel((7, 0), 255)
        mask.putpalette([channel for colour in built_in("voc").colours for channel in colour])
        mask.save(tmp_path / "SegmentationClass" / f"{name}.png")
    (lists / "train.txt").write_text("2007_3\n2007_1\n")
    (lists / "val.txt").write_text("2007_2\n")
    splits = opened(tmp_path)
    assert classes_in(splits.train) == {"2007_3": ("bird", "ignored"), "2007_1": ("aeroplane", "ignored")}
    assert classes_in(splits.val) == {"2007_2": ("bicycle", "ignored")}
    (lists / "val.txt").write_bytes(b"2007_2 2007_9 \xff")
    with refused(r"val\.txt lists 2007_9, but .* has no image of that name with a mask; 2 such names"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "kinds", [("labelIds",), ("labelIds", "labelTrainIds", "color", "instanceIds"), ("labelTrainIds",)]
)
def test_cityscapes_is_read_from_its_label_ids_or_its_training_ids(tmp_path, save_image, save_mask, kinds):
    values_of = {
        "labelIds": [7, 0, 3, 33],
        "labelTrainIds": [0, 255, 255, 18],
        "color": [9] * 4,
        "instanceIds": [8] * 4,
    }
    for part, city in (("train", "aachen"), ("val", "bonn")):
        name = f"{city}/{city}_000000_000019"
        save_image(tmp_path / "leftImg8bit" / part / f"{name}_leftImg8bit.png")
        for kind in kinds:
            save_mask(tmp_path / "gtFine" / part / f"{name}_gtFine_{kind}.png", [values_of[kind]])
    splits = opened(tmp_path)
    assert splits.train.names == built_in("cityscapes").names
    assert splits.train.target(0).tolist() == splits.val.target(0).tolist() == [[0, 255, 255, 18]]
    assert "bonn" in splits.val.path(0)


def test_a_path_that_is_no_folder_is_refused(tmp_path, refused):
    (tmp_path / "file").write_text("")
    with refused("file is a file; give a folder with images and masks, or scenes"):
        opened(tmp_path / "file")
    with refused("gone does not exist; give a folder"):
        opened(tmp_path / "gone")


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        (
            [],
            [],
            r"no images with masks in a known layout; put images in .*images and masks of .*masks",
        ),
        (["images/a.png"], [], r"holds no images with masks"),
        (["images/a.png"], ["masks/b.png"], r"no image in .*a\.png first; give both the same name"),
        (["images/a.png"], ["masks/a.png"], r"leaves no image to evaluate on .*; add images"),
        (["images/train/a.png", "images/val/a.png"], ["masks/train/a.png"], r"masks has no folder val .*; add it"),
        (["train/images/a.png", "val/images/b.png"], ["train/masks/a.png"], r"val needs a folder of images and one of"),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused(tmp_path, save_image, save_mask, refused, images, masks, message):
    for name in images:
        save_image(tmp_path / name)
    for name in masks:
        save_mask(tmp_path / name, 0)
    with refused(message):
        assert opened(tmp_path).val


@pytest.mark.parametrize("extra", ["masks/a_mask.png", "images/a.png"])
def test_two_files_for_one_half_of_a_pair_are_refused(pairs, save_image, refused, extra):
    root = pairs("images", "masks")
    save_image(root / extra)
    with refused("have the same name, so they cannot be paired; keep one of them"):
        opened(root)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"seed": -1}, "`seed` must be at least 0"), ({"val_share": 1.0}, "`val_share` must be at least 0 and below 1")],
)
def test_settings_out_of_range_are_refused(refused, settings, message):
    with refused(message):
        DataConfig(data="scenes", **settings)


def test_masks_in_another_unicode_form_or_case_are_those_of_their_images(pairs):
    root = pairs("images", "masks", names=("Ba\u0308ume", "b", "c"))
    for name, other in (("Ba\u0308ume", "B\u00e4ume"), ("b", "B")):
        (root / "masks" / f"{name}.png").rename(root / "masks" / f"{other}.png")
    splits = opened(root)
    assert len(splits.train) + len(splits.val) == 3
    note = f"masks of {root / 'images'}: 2 names found although spelled otherwise, in Unicode form (1), case (1); "
    assert sum(line.startswith(note) for line in splits.notes) == 1


def test_masks_that_differ_by_case_are_not_confused(pairs):
    root = pairs("images", "masks", names=("a", "A", "b"))
    (root / "masks" / "A.png").unlink()
    splits = opened(root)
    assert len(splits.train) + len(splits.val) == 2
    assert not any("spelled" in note for note in splits.notes)


def test_a_list_of_names_in_another_unicode_form_names_its_images(tmp_path, save_image, save_mask):
    composed, decomposed = "B\u00e4ume", "Ba\u0308ume"
    for name in (decomposed, "b"):
        save_image(tmp_path / "JPEGImages" / f"{name}.jpg")
        save_mask(tmp_path / "SegmentationClass" / f"{name}.png", 1)
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text(f"JPEGImages\\{composed}.jpg\n", encoding="utf-16")
    (lists / "val.txt").write_text("b.jpg\n")
    splits = opened(tmp_path)
    assert [len(splits.train), len(splits.val)] == [1, 1]
    assert splits.train.path(0) == str(tmp_path / "JPEGImages" / f"{decomposed}.jpg")
    assert any("train.txt: 1 name found although spelled otherwise" in note for note in splits.notes)
