"""Sets made of others, and the images that are held out of an unsplit set."""

from __future__ import annotations

import pickle
from functools import partial
from operator import getitem

import pytest

from twins.data.base import UNSPLIT, Derived, Joined, Opened, Splits, hold_out, hold_out_per_class, join
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


def test_joined_sets_are_one_set_in_their_order():
    train, val = SceneObjects(train=True, masks=True), SceneObjects(train=False, masks=True)
    some = Derived(train, [2, 5])
    joined = pickle.loads(pickle.dumps(join([some, val])))
    assert isinstance(joined, Joined)
    assert (len(joined), joined.names, joined.classes) == (2 + len(val), val.names, val.classes)
    for index, (images, inside) in {1: (some, 1), 2: (val, 0), len(joined) - 1: (val, len(val) - 1)}.items():
        assert joined.path(index) == images.path(inside)
        assert joined.shape(index) == images.shape(inside)
        assert joined.load(index).tobytes() == images.load(inside).tobytes()
        assert (joined.target(index).boxes == images.target(inside).boxes).all()
        assert joined.target(index).image_id == index
        assert joined.describe_object(index, 0) == images.describe_object(inside, 0)
        assert joined.names_without_area(index) == images.names_without_area(inside)
    assert join([some]) is some


def test_joined_class_ids_keep_their_labels_and_are_held_out_by_class():
    digits = Digits(train=False)
    joined = join([Derived(digits, range(40)), Derived(digits, range(40, 90))])
    assert joined.labels == [digits.target(index) for index in range(90)]
    assert joined.target(41) == digits.target(41)
    splits = split(Opened({UNSPLIT: joined}), Source(DataConfig(data="."), "a folder"))
    assert sorted(splits.train.labels + splits.val.labels) == sorted(joined.labels)
    assert set(splits.val.labels) == set(range(10))


def test_what_is_measured_is_a_part_or_all_images_once():
    train, val, test = (Derived(Digits(train=False), indices) for indices in ([0, 1, 2], [3, 4], [5]))

    def selected(part, **parts):
        splits = Splits(parts, "somewhere")
        images = splits.select(part)
        return [images.target(index) for index in range(len(images))], splits.count

    targets = [Digits(train=False).target(index) for index in range(6)]
    assert selected("val", train=train, val=val, test=test) == (targets[3:5], 6)
    assert selected("test", train=train, val=val, test=test) == (targets[5:], 6)
    assert selected("all", train=train, val=val, test=test) == (targets, 6)
    assert selected("all", train=train, val=test, test=test) == ([*targets[:3], targets[5]], 4)
    assert selected("val", test=test) == (targets[5:], 1)
    assert selected("all", val=val, test=test) == (targets[3:], 3)
    assert selected("all", train=Derived(Digits(train=False), []), val=val) == (targets[3:5], 2)
    with pytest.raises(DataError, match="somewhere has no val part, found train; add one, or say where it is with"):
        selected("val", train=train)
    with pytest.raises(DataError, match="leaves no image to train on"):
        selected("all", train=Derived(Digits(train=False), []))


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
