"""The part of a data set that a name says."""

from __future__ import annotations

from pathlib import Path

import pytest

from twins.data.parts import group_parts, part_of


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("train", "train Train TRAIN training training_set seg_train train2017 train_images img-train trainImages trn"),
        ("val", "val valid VALID validation val2017 validation_set dev minival valSet eval ValidationData images.val"),
        ("test", "test testing test_set seg_test TestSet test-2 tst"),
        ("trainval", "trainval trainval2012 train_val train-val TrainVal"),
        (None, "cat test_tube training_shoes trained validated contest train_test test-dev 2017 images data a_train"),
    ],
)
def test_a_name_says_its_part_in_any_case_with_digits_and_words_that_say_nothing(part, names):
    assert {name: part_of(name) for name in names.split()} == dict.fromkeys(names.split(), part)
    assert part_of("") is None


def test_a_format_may_add_words_that_say_nothing():
    assert part_of("instances_train2017") is None
    assert part_of("instances_train2017", {"instances"}) == "train"


def test_paths_are_grouped_without_the_endings_of_files(tmp_path):
    (tmp_path / "test.v2").mkdir()
    paths = [Path("b/val.txt"), Path("train"), Path("a/valid.txt"), Path("cats.txt"), tmp_path / "test.v2"]
    assert group_parts(paths) == {"val": [Path("a/valid.txt"), Path("b/val.txt")], "train": [Path("train")]}
