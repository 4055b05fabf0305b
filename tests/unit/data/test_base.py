"""Sets made of others, and what is held out of a set that is not split."""

from __future__ import annotations

import pickle
from functools import partial
from operator import getitem

import pytest

from twins.data.base import Derived, Opened, hold_out, hold_out_per_class, list_images, split
from twins.data.config import DataConfig
from twins.data.formats.digits import Digits
from twins.data.formats.scenes import SceneObjects
from twins.errors import DataError


def test_a_derived_set_shows_the_images_it_was_given_and_changes_their_targets():
    digits = Digits(train=False)
    turned = Derived(digits, [7, 3], partial(getitem, tuple(range(9, -1, -1))))
    assert (len(turned), turned.names) == (2, digits.names)
    for place, index in enumerate((7, 3)):
        assert turned.target(place) == 9 - digits.target(index)
        assert turned.path(place) == digits.path(index)
        assert turned.load(place).tobytes() == digits.load(index).tobytes()
    assert len(Derived(digits)) == len(digits)
    assert Derived(digits).target(5) == digits.target(5)


def test_a_derived_set_of_objects_names_them_and_travels_to_loading_processes():
    scenes = SceneObjects(train=False, masks=True)
    some = pickle.loads(pickle.dumps(Derived(scenes, [4])))
    assert some.classes == scenes.classes
    assert (some.target(0).boxes == scenes.target(4).boxes).all()
    assert (some.shape(0), some.named(0, 1), some.without_area(0)) == ((112, 112), "object 2 of scenes/val/4", ())


@pytest.mark.parametrize(
    ("count", "share", "held"), [(10, 0.2, 2), (2, 0.01, 1), (1, 0.9, 0), (9, 0.0, 0), (0, 0.2, 0)]
)
def test_a_share_is_held_out_and_something_is_left_to_train_on(count, share, held):
    for learn, val in (hold_out(count, 3, share), hold_out_per_class([1] * count, 3, share)):
        assert sorted(learn + val) == list(range(count))
        assert len(val) == held


def test_each_class_gives_its_share():
    labels = [0] * 10 + [1] * 5 + [2]
    learn, val = hold_out_per_class(labels, 0, 0.2)
    assert sorted(learn + val) == list(range(16))
    assert [labels[i] for i in val] == [0, 0, 1]


def test_a_part_without_an_image_is_refused(tmp_path):
    config = DataConfig(data="any", val_share=0.3)
    with pytest.raises(DataError, match=r"leaves no image to evaluate on \(1 images, share 0.3 held out\); add images"):
        split(Opened([Derived(Digits(train=True), [0])]), tmp_path, config)
    with pytest.raises(DataError, match="leaves no image to train on; add images"):
        split(Opened([Derived(Digits(train=True), []), Digits(train=False)]), tmp_path, config)


def test_hidden_files_and_those_in_hidden_folders_are_no_images(tmp_path, save_image):
    shown = [save_image(tmp_path / "a.png"), save_image(tmp_path / "deep" / "b.JPG")]
    for hidden in (".c.png", ".trash/d.png", "deep/.e/f.png"):
        save_image(tmp_path / hidden)
    (tmp_path / "notes.txt").write_text("")
    assert list_images(tmp_path) == shown
