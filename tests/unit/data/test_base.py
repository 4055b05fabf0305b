"""Sets made of others, and the images that are held out of an unsplit set."""

from __future__ import annotations

import pickle
from functools import partial
from operator import getitem

import pytest

from twins.data.base import UNSPLIT, Derived, Opened, hold_out, hold_out_per_class
from twins.data.config import DataConfig
from twins.data.formats.digits import Digits
from twins.data.formats.scenes import SceneObjects
from twins.data.formats.source import Source, split
from twins.data.images import list_images
from twins.errors import DataError


def test_a_derived_set_has_some_images_of_another_and_changes_their_targets():
    digits = Digits(train=False)
    derived = Derived(digits, [7, 3], partial(getitem, tuple(range(9, -1, -1))))
    assert (len(derived), derived.names) == (2, digits.names)
    for position, index in enumerate((7, 3)):
        assert derived.target(position) == 9 - digits.target(index)
        assert derived.path(position) == digits.path(index)
        assert derived.load(position).tobytes() == digits.load(index).tobytes()
    assert len(Derived(digits)) == len(digits)
    assert Derived(digits).target(5) == digits.target(5)


def test_a_derived_set_of_objects_names_them_and_can_be_pickled_for_workers():
    scenes = SceneObjects(train=False, masks=True)
    derived = pickle.loads(pickle.dumps(Derived(scenes, [4])))
    assert derived.classes == scenes.classes
    assert (derived.target(0).boxes == scenes.target(4).boxes).all()
    assert (derived.shape(0), derived.describe_object(0, 1), derived.names_without_area(0)) == (
        (112, 112),
        "object 2 of scenes/val/4",
        (),
    )


@pytest.mark.parametrize(
    ("count", "share", "held_out"), [(10, 0.2, 2), (2, 0.01, 1), (1, 0.9, 0), (9, 0.0, 0), (0, 0.2, 0)]
)
def test_a_share_is_held_out_and_at_least_one_image_is_left_to_train_on(count, share, held_out):
    for train, val in (hold_out(count, 3, share), hold_out_per_class([1] * count, 3, share)):
        assert sorted(train + val) == list(range(count))
        assert len(val) == held_out


def test_the_same_share_of_each_class_is_held_out():
    labels = [0] * 10 + [1] * 5 + [2]
    train, val = hold_out_per_class(labels, 0, 0.2)
    assert sorted(train + val) == list(range(16))
    assert [labels[i] for i in val] == [0, 0, 1]


def test_a_part_without_an_image_is_refused(tmp_path):
    source = Source(DataConfig(data=str(tmp_path), val_share=0.3), "a folder")
    with pytest.raises(DataError, match=r"leaves no image to evaluate on \(1 image, share 0.3 held out\); add images"):
        split(Opened({UNSPLIT: Derived(Digits(train=True), [0])}), source).val  # noqa: B018
    parts = {"train": Derived(Digits(train=True), []), "val": Digits(train=False)}
    with pytest.raises(DataError, match="leaves no image to train on; add images"):
        split(Opened(parts), source).train  # noqa: B018


def test_hidden_files_and_those_in_hidden_folders_are_no_images(tmp_path, save_image):
    visible = [save_image(tmp_path / "a.png"), save_image(tmp_path / "deep" / "b.JPG")]
    for hidden in (".c.png", ".trash/d.png", "deep/.e/f.png"):
        save_image(tmp_path / hidden)
    (tmp_path / "notes.txt").write_text("")
    assert list_images(tmp_path) == visible
