"""Class folders and digits: each image is in the right part and has the right class."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from twins.data.config import DataConfig, LayoutConfig
from twins.data.formats.digits import Digits
from twins.data.formats.open import open_class_ids
from twins.errors import DataError


def write(folder, name, count, *, shade=0):
    (folder / name).mkdir(parents=True, exist_ok=True)
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
    with pytest.raises(DataError, match=r"COCO's JSON \(instances\.json\) instead .* `task=\"detection\"`"):
        open_class_ids(DataConfig(data=str(tmp_path)))
    (tmp_path / "instances.json").unlink()
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


def write_all(root, *names, count=3):
    for shade, name in enumerate(names):
        write(root, name, count, shade=shade)


def open_folder(root, **layout):
    """Open class folders; every file is used or passed over with a reason, and the written layout opens the same."""
    splits = open_class_ids(DataConfig(data=str(root), layout=LayoutConfig(**layout)))
    plan = splits.plan
    assert sum(plan.used.values()) + sum(group.count for group in plan.passed_over) == plan.files
    again = open_class_ids(DataConfig(data=str(root), layout=splits.layout))
    assert {part: paths(images) for part, images in again.parts.items()} == {
        part: paths(images) for part, images in splits.parts.items()
    }
    return splits


def sizes(splits):
    return {part: len(images) for part, images in splits.parts.items()}


@pytest.mark.parametrize(
    ("folders", "train"),
    [
        (("training_set/training_set/cat", "training_set/training_set/dog", "test_set/test_set/dog"), 6),
        (("seg_train/seg_train/cat", "seg_train/seg_train/dog", "seg_test/seg_test/dog"), 6),
        (("archive/Train/cat", "archive/Train/dog", "archive/Validation/cat"), 6),
        (("data/train/cat", "data/train/dog"), 4),
        (("test_tube", "beaker"), 4),
    ],
)
def test_parts_and_classes_are_what_their_names_say(tmp_path, folders, train):
    write_all(tmp_path, *folders)
    splits = open_folder(tmp_path)
    assert splits.names == (("beaker", "test_tube") if "test_tube" in folders else ("cat", "dog"))
    assert len(splits.train) == train


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train", "bus", "car"), "holds train, named like parts .* beside bus, car"),
        (("train", "test"), "images are in no class folders"),
        (("train/freight", "train/fast", "bus/city", "bus/coach"), "holds train, .* beside bus"),
        (
            ("one/cat", "one/dog", "one/eel", "two/cat", "two/dog"),
            "one, two .* hold folders of the same names, cat, dog",
        ),
        (("Cat", "cat"), "'Cat' and 'cat', whose names differ only in case"),
        (("polar_bear", "polar bear", "dog"), "'polar bear' and 'polar_bear'"),
        (("caf\u00e9", "cafe\u0301"), r"'cafe\\u0301' and 'caf\\xe9'"),
        (("asl_train/asl_train/cat", "asl_train/asl_train/dog", "asl_test"), "asl_test, asl_train .* name of a part"),
        (("train_ill", "train_well", "test_ill", "test_well"), "differ only by the name of a part"),
        (("cat/train", "cat/val", "dog/train", "dog"), "folders of parts inside those of classes, .*cat/val"),
        (("train/Cat", "train/dog", "val/cat"), "'Cat' and 'cat'.*give them the same name"),
    ],
)
def test_what_may_mean_two_things_is_refused(tmp_path, refused, folders, message):
    write_all(tmp_path, *folders)
    with refused(message):
        open_folder(tmp_path)


def test_settings_decide_where_names_do_not(tmp_path):
    write_all(tmp_path, "train", "bus", "car", "Bus")
    assert open_folder(tmp_path, images=".").names == ("Bus", "bus", "car", "train")
    write_all(tmp_path / "sets", "one/cat", "one/dog", "two/cat", "two/eel", "three/eel")
    splits = open_folder(tmp_path / "sets", train=("one", "two"), val=("three",))
    assert (splits.names, sizes(splits)) == (("cat", "dog", "eel"), {"train": 12, "val": 3})


@pytest.mark.parametrize("split", [True, False])
def test_a_flat_test_folder_is_passed_over_with_its_reason(tmp_path, split):
    write_all(tmp_path, *(("train/cat", "train/dog", "val/cat") if split else ("cat", "dog")), "test")
    splits = open_folder(tmp_path)
    assert splits.names == ("cat", "dog")
    (group,) = splits.plan.passed_over
    assert (group.folder, group.count) == ("test", 3)
    assert "without class folders" in group.reason
    assert split or 'give `layout.images="."` if it is a class' in splits.notes[0]


def test_a_name_in_another_unicode_form_is_the_same_class_in_another_part(tmp_path):
    write_all(tmp_path, "train/caf\u00e9", "train/bar", "val/cafe\u0301")
    splits = open_folder(tmp_path)
    assert splits.val.labels == [1, 1, 1]
    assert "another Unicode form" in splits.notes[0]


def test_links_are_followed_but_not_in_circles(tmp_path):
    write_all(tmp_path / "data", "cat", "dog")
    write_all(tmp_path / "elsewhere", "eel")
    (tmp_path / "data" / "eel").symlink_to(tmp_path / "elsewhere" / "eel")
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "cat" / "again").symlink_to(tmp_path / "data" / "cat")
    (tmp_path / "data" / "nowhere").symlink_to("nothing")
    splits = open_folder(tmp_path / "data")
    assert (splits.names, splits.count) == (("cat", "dog", "eel"), 9)


def test_one_folder_is_not_read_as_two_classes(tmp_path, refused):
    write_all(tmp_path, "cat", "dog")
    (tmp_path / "eel").symlink_to("cat")
    with refused("cat and .*eel are the same folder, by a link"):
        open_folder(tmp_path)


def test_images_beside_the_folders_and_unreadable_classes_are_said(tmp_path):
    write_all(tmp_path, "cat", "dog")
    write(tmp_path, "eel/..", 1)
    (tmp_path / "eel" / "x.dng").write_bytes(b"x")
    splits = open_folder(tmp_path)
    assert splits.count == 6
    assert "1 image directly in" in splits.notes[0]
    assert "only pictures that Pillow cannot read, 1 × .dng" in splits.problems[0]
    assert {group.first: group.reason for group in splits.plan.passed_over} == {
        "0.PNG": "beside the class folders, so it has no class",
        "eel/x.dng": "a picture that Pillow cannot read",
    }


def test_a_set_to_measure_on_has_the_classes_of_all_its_parts(tmp_path):
    write_all(tmp_path, "val/cat", "val/dog", "test/dog", "test/eel")
    splits = open_folder(tmp_path)
    assert splits.names == ("cat", "dog", "eel")
    assert splits.parts["test"].labels == [1, 1, 1, 2, 2, 2]


def test_folders_that_systems_write_are_no_classes_and_hold_no_images_of_classes(tmp_path):
    write_all(tmp_path, "cat", "dog", "cat/@eaDir/0.PNG", "$RECYCLE.BIN", "lost+found", "__MACOSX")
    splits = open_folder(tmp_path)
    assert (splits.names, splits.count) == (("cat", "dog"), 6)
    assert sum(group.count for group in splits.plan.passed_over) == 12


def test_folders_and_masks_in_class_folders_are_said(tmp_path):
    write_all(tmp_path, "cat", "cat/thumbs", "dog", "dog/one")
    (tmp_path / "cat" / "0.PNG").rename(tmp_path / "cat" / "1_mask.png")
    splits = open_folder(tmp_path)
    (note,) = splits.notes
    assert note.startswith("2 class folders with folders inside, whose images are of the class")
    assert "cat has thumbs" in note
    (problem,) = splits.problems
    assert problem.startswith("1 image called like the masks of others")


def test_one_class_is_enough_to_measure_on(tmp_path):
    write_all(tmp_path, "val/cat")
    splits = open_folder(tmp_path)
    assert (splits.names, sizes(splits)) == (("cat",), {"val": 3})
