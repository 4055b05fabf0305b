"""The settings that decide how a folder is read, and the record of what is read."""

from __future__ import annotations

import os
import unicodedata

import pytest

from twins.data.base import UNSPLIT, Opened
from twins.data.config import DataConfig, LayoutConfig
from twins.data.formats.files import ImageFiles
from twins.data.formats.open import open_class_ids, open_label_maps, open_objects
from twins.data.formats.source import ANNOTATIONS, Source, layout_text, names_in, read_layout, split
from twins.data.images import list_images
from twins.errors import DataError

EVERY_SETTING = LayoutConfig(
    images="pictures", annotations="gt.json", train=("a", "lists/ü 1.txt"), val=("b",), test=("c/d",)
)


class Pictures(ImageFiles):
    """A set of images with names of classes and no targets."""

    def __init__(self, images, names=("cat", "dog")):
        super().__init__(images)
        self.names = names


def source_of(root, **layout):
    return Source(DataConfig(data=str(root), layout=LayoutConfig(**layout)), "a folder with images")


def write_settings(root, text):
    (root / "twins.yaml").write_text(text, encoding="utf-8")
    return root / "twins.yaml"


@pytest.fixture
def folder(tmp_path):
    for name in ("images/train", "images/val", "masks", "more"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


# twins.yaml


def test_settings_are_written_and_read_without_loss(tmp_path):
    assert read_layout(write_settings(tmp_path, layout_text(EVERY_SETTING))) == EVERY_SETTING
    assert read_layout(write_settings(tmp_path, layout_text(LayoutConfig()))) == LayoutConfig()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("layout: {train: a}", LayoutConfig(train=("a",))),
        ("layout:\n  train:\n  - a\n  - b c\n  val: null\n", LayoutConfig(train=("a", "b c"))),
        ("format: 1\nlayout: {images: '', test: ~}", LayoutConfig()),
        ("layout: {train: 2017, images: [yes]}", LayoutConfig(train=("2017",), images="yes")),
        ("\ufefflayout: {val: größe}", LayoutConfig(val=("größe",))),
    ],
)
def test_one_path_or_several_are_read_as_text(tmp_path, text, expected):
    assert read_layout(write_settings(tmp_path, text)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", r"twins\.yaml cannot be read as YAML .*; fix it"),
        ("[" * 500, "cannot be read as YAML"),
        ("", "has no settings under `layout`; give images, annotations, train, val, test there"),
        ("train: a", "has no settings under `layout`"),
        ("layout: [a]", "has no settings under `layout`"),
        ("layout: {imags: a}", "has the unknown setting `imags`; did you mean images?"),
        ("layout: {colour: a}", "the unknown setting `colour`; the settings are images, annotations, train, val, test"),
        ("layout: {train: a}\nmasks: {values: index}", "the unknown setting `masks`; the settings are format, layout"),
        ("layout: {train: {a: b}}", "has the value .* for `train`; give a path"),
        ("layout: {train: [a, [b]]}", "has the value .* for `train`; give a path"),
        ("layout: {train: ['']}", "has the value .* for `train`; give a path"),
        ("layout: {images: [a, b]}", "has the value .* for `images`; give a path"),
        ("format: 2\nlayout: {train: a}", "is of format '2', and this version reads format 1; update twins"),
        ("layout: {train: imges}", r"`train` of .*twins\.yaml leads to imges, which does not exist in .* mean images?"),
        ('layout: {val: "a\\0b"}', "`val` of .* leads to a.b, which does not exist"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(folder, refused, text, message):
    write_settings(folder, text)
    with refused(message):
        source_of(folder)


def test_a_file_that_cannot_be_read_is_refused(folder, refused):
    (folder / "twins.yaml").write_bytes(b"layout: {train: \xff}")
    with refused("cannot be read as YAML"):
        source_of(folder)
    (folder / "twins.yaml").unlink()
    (folder / "twins.yaml").symlink_to(folder / "nothing")
    with refused("cannot be read as YAML .*No such file"):
        source_of(folder)
    (folder / "twins.yaml").unlink()
    (folder / "twins.yaml").mkdir()
    with refused("cannot be read as YAML .*directory"):
        source_of(folder)


# settings


def test_flags_win_over_the_file_setting_by_setting(folder):
    write_settings(folder, "layout: {images: images, train: images/train, val: nowhere}")
    layout = source_of(folder, val=("more",), train=("images/val", "masks")).layout
    assert layout == LayoutConfig(images="images", train=("images/val", "masks"), val=("more",))


@pytest.mark.parametrize("name", ["images", "annotations", "train", "val", "test"])
def test_a_setting_that_leads_to_nothing_is_refused(folder, refused, name):
    value = ("more", "mask") if name in ("train", "val", "test") else "mask"
    with refused(
        rf"`layout\.{name}` leads to mask, which does not exist in .*; did you mean masks, images\?; give a path"
    ):
        source_of(folder, **{name: value})
    with refused(rf"`layout\.{name}` leads to x+, which does not exist"):
        source_of(folder, **{name: ("x" * 5000,) if isinstance(value, tuple) else "x" * 5000})


def test_the_images_must_be_a_folder(folder, refused):
    (folder / "images.txt").touch()
    with refused(r"`layout.images` leads to the file images\.txt; give the folder of the images"):
        source_of(folder, images="images.txt")


@pytest.mark.parametrize(
    ("layout", "setting"),
    [
        ({"annotations": "masks"}, "annotations"),
        ({"images": "more"}, "images"),
        ({"val": ("more",)}, "val"),
        ({"test": ("b",)}, "test"),
        ({"train": ("b",)}, "train"),
        ({"train": ("a", "more")}, "train"),
        ({"val": ("b/1.png", "list.txt")}, "val"),
    ],
)
def test_a_setting_that_a_layout_does_not_follow_is_refused(folder, save_image, refused, layout, setting):
    sets = {part: Pictures([save_image(folder / name / "1.png")]) for part, name in (("train", "a"), ("val", "b"))}
    (folder / "list.txt").touch()
    with refused(rf"`layout\.{setting}` gives .*, of which nothing is used as such: .* is read as images; correct"):
        split(Opened(sets), source_of(folder, **layout))


def test_settings_that_a_layout_follows_are_accepted(folder, save_image):
    sets = {part: Pictures([save_image(folder / name / "1.png")]) for part, name in (("train", "a"), ("val", "b"))}
    for name in ("list.txt", "masks/1.png"):
        (folder / name).touch()
    source = source_of(folder, images=".", annotations="masks", train=("a", "list.txt"), val=(str(folder / "b"),))
    source.use(ANNOTATIONS, folder / "list.txt", folder / "masks" / "1.png")
    assert split(Opened(sets), source).plan.used == {"images": 2, "annotation files": 2}


def test_separators_and_unicode_forms_of_other_systems_are_understood(folder):
    composed = unicodedata.normalize("NFC", "größe")
    decomposed = unicodedata.normalize("NFD", composed)
    (folder / "images" / decomposed).mkdir()
    write_settings(folder, f"layout:\n  train: images\\train\n  val: images\\{composed}\n")
    assert source_of(folder).layout == LayoutConfig(train=("images/train",), val=(f"images/{decomposed}",))
    assert source_of(folder, test=("images\\val",)).layout.test == ("images/val",)


def test_absolute_paths_and_paths_outside_are_allowed(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    source = source_of(folder, train=(str(outside),), val=(os.path.relpath(outside, folder),))
    assert [path.resolve() for paths in source.part_paths().values() for path in paths] == [outside, outside]
    assert source.relative(outside) == str(outside)
    assert names_in([folder / "images" / "train", outside], folder) == (
        "images/train",
        os.path.relpath(outside, folder),
    )


def test_data_may_be_given_by_a_yaml_file_in_its_folder(folder, refused):
    (folder / "data.yaml").write_text("names: [a]")
    write_settings(folder, "layout: {images: images}")
    source = Source(DataConfig(data=str(folder / "data.yaml")), "a folder")
    assert (source.root, source.settings_file, source.layout.images) == (folder, folder / "data.yaml", "images")
    source = Source(DataConfig(data=str(folder / "twins.yaml")), "a folder")
    assert (source.root, source.settings_file, source.layout.images) == (folder, None, "images")
    with refused(r"the data folder .*missing\.yaml does not exist; give a folder"):
        Source(DataConfig(data=str(folder / "missing.yaml")), "a folder")


def test_a_yaml_file_that_the_layout_does_not_use_is_refused(tmp_path, save_image, refused):
    for name in ("a/1", "a/2", "b/1", "b/2"):
        save_image(tmp_path / f"{name}.png")
    (tmp_path / "data.yaml").write_text("names: [a, b]")
    with refused(r"data\.yaml is not used: .* is read as class folders; give the folder, or choose another `task`"):
        open_class_ids(DataConfig(data=str(tmp_path / "data.yaml")))
    assert open_class_ids(DataConfig(data=str(tmp_path))).names == ("a", "b")


# parts


def test_the_folders_of_the_parts_are_those_of_the_settings_else_found_by_name(folder):
    assert source_of(folder).part_folders(folder / "images") == {
        "train": [folder / "images" / "train"],
        "val": [folder / "images" / "val"],
    }
    source = source_of(folder, train=("images/val", "more"), val=("masks",))
    assert source.part_folders(folder / "images") == {"train": [folder / "images" / "val"]}
    assert source.part_folders(folder) == {
        "train": [folder / "images" / "val", folder / "more"],
        "val": [folder / "masks"],
    }
    assert source_of(folder, val=("masks",)).part_folders(folder / "images").keys() == {"train", "val"}
    assert source_of(folder).part_folders(folder / "nowhere") == {}


def test_two_folders_of_one_part_are_refused_with_the_setting_that_decides(folder, refused):
    (folder / "train2017").mkdir()
    (folder / "training").mkdir()
    (folder / ".train").mkdir()
    with refused("train2017 and training in .* could each be the train part; .* as `layout.train`"):
        source_of(folder).part_folders(folder)
    assert source_of(folder, train=("training",)).part_folders(folder) == {"train": [folder / "training"]}


@pytest.mark.parametrize(
    ("names", "parts", "passed"),
    [
        ("trainval", ["train"], 0),
        ("trainval test", ["train", "test"], 0),
        ("trainval train val", ["train", "val"], 1),
        ("train_val val", ["val"], 1),
        ("test val train", ["train", "val", "test"], 0),
    ],
)
def test_a_union_of_parts_is_the_training_part_where_there_is_no_other(tmp_path, save_image, names, parts, passed):
    for name in names.split():
        save_image(tmp_path / name / "a.png")
    source = source_of(tmp_path)
    folders = source.part_folders(tmp_path)
    assert list(folders) == parts
    opened = Opened({part: Pictures(list_images(paths[0])) for part, paths in folders.items()})
    plan = source.plan(opened, opened.parts, dict.fromkeys(parts, ""))
    unions = [group for group in plan.passed_over if group.reason.startswith("the union of other parts")]
    assert sum(group.count for group in unions) == passed


# the account


def test_images_by_a_link_or_another_way_to_the_folder_count_as_used(tmp_path, save_image):
    root, link = tmp_path / "root", tmp_path / "link"
    images = [save_image(root / f"{name}.png") for name in "abc"]
    link.symlink_to(root)
    elsewhere = save_image(tmp_path / "elsewhere.png")
    source = source_of(link)
    source.use(ANNOTATIONS, tmp_path / "gt.json")
    plan = split(Opened({UNSPLIT: Pictures([images[0], link / "b.png", elsewhere])}), source).plan
    assert (plan.used, plan.outside, plan.files) == ({"images": 2}, 2, 3)
    assert [group.first for group in plan.passed_over] == ["c.png"]


def test_a_test_part_that_serves_as_validation_is_counted_once(tmp_path, save_image):
    train, test = ([save_image(tmp_path / part / f"{name}.png") for name in "abc"] for part in ("train", "test"))
    opened = Opened({"train": Pictures(train), "test": Pictures(test)}, origins={"train": "train", "test": "test"})
    splits = split(opened, source_of(tmp_path))
    assert list(splits.parts) == ["train", "val", "test"]
    assert splits.val is splits.parts["test"]
    assert (splits.count, splits.plan.images, splits.plan.used, len(splits.select("all"))) == (6, 6, {"images": 6}, 6)
    assert splits.plan.parts["val"]["same_as"] == "test"
    assert splits.plan.parts["val"]["origin"] == "test, as there is no validation part"
    assert splits.plan.short() == [
        "images, read as images: 3 train (train), 3 val (test, as there is no validation part), 3 test (test)"
    ]


def test_an_image_in_two_parts_is_a_problem_where_one_is_learned_and_said_otherwise(tmp_path, save_image):
    a, b, c, d = (save_image(tmp_path / f"{name}.png") for name in "abcd")
    splits = split(
        Opened({"train": Pictures([a, b]), "val": Pictures([b, c]), "test": Pictures([c, d])}), source_of(tmp_path)
    )
    advice = "keep each in one of them, as metrics of learned images say nothing"
    assert splits.problems == (f"1 image in both the train and the val part, b.png first; {advice}",)
    assert splits.notes == ("1 image in both the val and the test part, c.png first",)
    splits = split(Opened({"train": Pictures([a, b]), "val": Pictures([b, a])}), source_of(tmp_path))
    assert splits.problems == (f"the train and the val part of {tmp_path} are the same images; {advice}",)


def test_an_image_of_two_parts_is_once_in_the_whole(tmp_path, save_image):
    a, b, c = (save_image(tmp_path / f"{name}.png") for name in "abc")
    splits = split(Opened({"train": Pictures([a, b]), "val": Pictures([b, c])}), source_of(tmp_path))
    whole = splits.select(UNSPLIT)
    assert [whole.path(index) for index in range(len(whole))] == [str(a), str(b), str(c)]
    assert splits.count == 3
    assert len(splits.val) == 2


def test_an_image_that_is_in_a_part_twice_is_a_problem_and_a_setting_given_twice_is_one(tmp_path, save_image):
    a, b = (save_image(tmp_path / "images" / f"{name}.png") for name in "ab")
    splits = split(
        Opened({"train": Pictures([a, b, a]), "val": Pictures([save_image(tmp_path / "c.png")])}), source_of(tmp_path)
    )
    assert splits.problems == ("1 image in the train part more than once, images/a.png first; give each once",)
    assert source_of(tmp_path, train=("images", "images/", "./images")).layout.parts == {"train": ("./images",)}


def test_class_names_of_bytes_that_are_no_text_are_refused(tmp_path, save_image, refused):
    for name in ("caf\udce9", "b"):
        save_image(tmp_path / "1.png")
        (tmp_path / name).mkdir()
        (tmp_path / "1.png").rename(tmp_path / name / "1.png")
    with refused(r"the class name 'caf\\udce9' in .* is no Unicode text; rename"):
        open_class_ids(DataConfig(data=str(tmp_path)))


# what is recognised opens the same images again


def paths_by_part(splits):
    return {part: [images.path(index) for index in range(len(images))] for part, images in splits.parts.items()}


def build_classes(root, save_image, save_mask):
    for name in ("training_set/a/1", "training_set/b/2", "test_set/a/3", "test_set/b/4"):
        save_image(root / f"{name}.png")


def build_nested_classes(root, save_image, save_mask):
    for name in "abcdef":
        save_image(root / "flowers" / "rö se" / f"{name}.png")
        save_image(root / "flowers" / "tulip" / f"{name}2.png")


def build_masks(root, save_image, save_mask):
    for name in ("training/1", "training/2", "validation/3"):
        save_image(root / "images" / f"{name}.png")
        save_mask(root / "annotations" / f"{name}.png", 1)


def build_yolo(root, save_image, save_mask):
    for name in ("train/1", "valid/2", "test/3"):
        save_image(root / "images" / f"{name}.png")
        (root / "labels" / f"{name}.txt").parent.mkdir(parents=True)
        (root / "labels" / f"{name}.txt").write_text("0 .5 .5 .5 .5")


@pytest.mark.parametrize(
    ("build", "opener"),
    [
        (build_classes, open_class_ids),
        (build_nested_classes, open_class_ids),
        (build_masks, open_label_maps),
        (build_yolo, lambda config: open_objects(config, masks=False)),
    ],
)
def test_the_settings_that_were_recognised_open_the_same_images_again(tmp_path, save_image, save_mask, build, opener):
    build(tmp_path, save_image, save_mask)
    splits = opener(DataConfig(data=str(tmp_path)))
    write_settings(tmp_path, layout_text(splits.layout))
    again = opener(DataConfig(data=str(tmp_path)))
    assert paths_by_part(again) == paths_by_part(splits)
    assert again.names == splits.names
    assert again.plan.files == splits.plan.files + 1
    assert sum(again.plan.used.values()) == sum(splits.plan.used.values()) + 1
    assert again.layout == splits.layout


def test_a_missing_part_is_named_with_the_setting_that_gives_it(tmp_path, save_image):
    opened = Opened({"val": Pictures([save_image(tmp_path / "a.png")])})
    splits = split(opened, source_of(tmp_path))
    assert (splits.select("val"), splits.select("all")) == (splits.val, splits.val)
    with pytest.raises(DataError, match="has no train part, found val; add one, or say where it is with `layout"):
        splits.train  # noqa: B018
    with pytest.raises(DataError, match="has no test part"):
        splits.select("test")
