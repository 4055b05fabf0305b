"""Pascal VOC's XML files: corners counted from 1, lists of parts, and damaged files that are named."""

from __future__ import annotations

import pytest

from twins.data.config import DataConfig
from twins.data.formats.open import open_objects_for_run
from twins.data.formats.voc import read_voc

SIZE = "<size><width>8</width><height>6</height><depth>3</depth></size>"


def box(*corners, name="cell", more=""):
    sides = "".join(
        f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    return f"<object><name>{name}</name>{more}<bndbox>{sides}</bndbox></object>"


@pytest.fixture
def voc(tmp_path, save_image):
    """Write XML files by their names, and an image each."""

    def write(files, images="JPEGImages", annotations="Annotations", lists=None):
        for name, content in files.items():
            save_image(tmp_path / images / f"{name}.jpg")
            (tmp_path / annotations).mkdir(exist_ok=True, parents=True)
            raw = content == "<" or content.startswith(("<?", "<!", "<annotation"))
            (tmp_path / annotations / f"{name}.xml").write_text(
                content if raw else f"<annotation>{content}</annotation>"
            )
        for part, names in (lists or {}).items():
            (tmp_path / "ImageSets" / "Main").mkdir(exist_ok=True, parents=True)
            (tmp_path / "ImageSets" / "Main" / f"{part}.txt").write_text("".join(f"{name}\n" for name in names))
        return tmp_path

    return write


def opened(root, **settings):
    return open_objects_for_run(DataConfig(data=str(root), **settings), masks=False)


def targets(splits):
    """Return the objects of each image by its name."""
    parts = (splits.train, splits.val)
    return {part.path(i).rpartition("/")[2]: part.target(i) for part in parts for i in range(len(part))}


def target(voc, content):
    """Return the objects of a file."""
    return targets(opened(voc({"a": content, "b": SIZE + box(1, 1, 2, 2)})))["a.jpg"]


def test_corners_are_pixels_counted_from_1_and_inside_the_box(voc):
    objects = target(voc, SIZE + box(1, 1, 8, 6) + box(3, 2, 4, 3))
    assert objects.boxes.tolist() == [[0, 0, 8, 6], [2, 1, 4, 3]]
    assert (objects.areas.tolist(), objects.size, objects.masks) == ([48, 4], (6, 8), None)


def test_corners_may_have_decimals_and_stand_in_any_order(voc):
    content = (
        "<object><bndbox><ymax>3</ymax><xmax>4.5</xmax><ymin>2.0</ymin><xmin> 3 </xmin></bndbox><name> cell </name>"
        "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
        "</object>"
    )
    objects = target(voc, SIZE + content)
    assert objects.boxes.tolist() == [[2, 1, 4.5, 3]]


@pytest.mark.parametrize(("corners", "expected"), [((5, 2, 5, 4), [5, 1, 5, 4]), ((5, 4, 6, 2), [4, 4, 6, 2])])
def test_corners_that_coincide_or_are_reversed_have_no_area_and_are_reported(voc, corners, expected):
    files = {"a": SIZE + box(1, 1, 8, 6) + box(*corners), "b": SIZE + box(*corners)}
    root = voc(files, lists={"train": ["a"], "val": ["b"]})
    splits = opened(root)
    assert splits.train.target(0).boxes.tolist() == [[0, 0, 8, 6], expected]
    assert splits.train.target(0).areas.tolist() == [48, 0]
    message = "one training box has no area inside its image and is left out: object 2 of "
    assert splits.notes == (f"{message}{root / 'Annotations' / 'a.xml'}",)


def test_difficult_and_truncated_objects_are_read_like_others(voc):
    objects = target(voc, SIZE + box(1, 1, 8, 6, more="<difficult>1</difficult><truncated>1</truncated>"))
    assert (len(objects), objects.crowd.tolist()) == (1, [False])


@pytest.mark.parametrize("val", ["val", "test"])
def test_lists_decide_the_part_of_each_image(voc, val):
    files = {name: SIZE + box(1, 1, 2, 2) for name in "abcd"}
    splits = opened(voc(files, lists={"train": ["c 1", "a -1"], val: ["b"], "trainval": ["a", "b", "c"]}))
    names = [[part.path(i)[-5:] for i in range(len(part))] for part in (splits.train, splits.val)]
    assert names == [["c.jpg", "a.jpg"], ["b.jpg"]]


def test_a_training_list_alone_selects_the_images_of_the_set(voc):
    splits = opened(voc({name: SIZE + box(1, 1, 2, 2) for name in "abcde"}, lists={"train": ["a", "c", "d"]}))
    names = {part.path(i)[-5] for part in (splits.train, splits.val) for i in range(len(part))}
    assert names == {"a", "c", "d"}


@pytest.mark.parametrize("lists", [None, {"trainval": list("abcde")}])
def test_without_lists_of_both_parts_a_share_is_held_out(voc, lists):
    splits = opened(voc({name: SIZE + box(1, 1, 2, 2) for name in "abcde"}, lists=lists))
    assert (len(splits.train), len(splits.val)) == (4, 1)
    assert len({part.target(i).image_id for part in (splits.train, splits.val) for i in range(len(part))}) == 5


@pytest.mark.parametrize(
    ("images", "annotations"), [("images", "annotations"), ("JPEGImages", "Annotations"), ("train", "train")]
)
def test_folders_of_other_names_are_found(voc, images, annotations):
    splits = opened(voc({"a": SIZE + box(1, 1, 2, 2), "b": SIZE}, images, annotations))
    assert sum(map(len, targets(splits).values())) == 1


def test_parts_may_be_folders_with_files_beside_the_images(voc):
    voc({"a": SIZE + box(1, 1, 2, 2)}, "train", "train")
    splits = opened(voc({"b": SIZE + box(1, 1, 3, 3)}, "valid", "valid"))
    assert [part.target(0).areas.tolist() for part in (splits.train, splits.val)] == [[4], [9]]


def test_images_without_a_file_are_left_out_and_reported(voc, save_image):
    root = voc({"a": SIZE + box(1, 1, 2, 2), "b": SIZE})
    save_image(root / "JPEGImages" / "c.jpg")
    splits = opened(root)
    assert set(targets(splits)) == {"a.jpg", "b.jpg"}
    assert splits.notes[0].startswith(f"1 image in {root / 'JPEGImages'} without an XML file in ")
    assert splits.notes[0].endswith("left out; c.jpg first")


def test_classes_are_the_names_in_the_files_sorted(voc):
    splits = opened(voc({"a": SIZE + box(1, 1, 2, 2, name="zebra"), "b": SIZE + box(1, 1, 2, 2, name="Ant")}))
    assert splits.train.names == splits.val.names == ("Ant", "zebra")


def test_classes_that_are_all_vocs_are_in_its_order_and_colours(voc):
    splits = opened(voc({"a": SIZE + box(1, 1, 2, 2, name="sofa"), "b": SIZE + box(1, 1, 2, 2, name="person")}))
    assert splits.train.names == ("person", "sofa")
    assert splits.train.classes.values == (15, 18)
    assert splits.train.classes.colours[0] == (192, 128, 128)


def test_a_class_table_decides_the_classes_and_others_are_left_out_and_reported(voc):
    files = {"a": SIZE + box(1, 1, 2, 2) + box(1, 1, 4, 4, name="cel") + box(1, 1, 3, 3, name="dust"), "b": SIZE}
    root = voc(files)
    (root / "classes.txt").write_text("dust\ncell\nrock\n")
    splits = opened(root)
    assert splits.train.names == ("dust", "cell", "rock")
    objects = targets(splits)["a.jpg"]
    assert (objects.labels.tolist(), objects.areas.tolist()) == ([1, 0], [4, 9])
    part = splits.train if len(splits.train.target(0)) else splits.val
    assert part.describe_object(0, 1) == f"object 3 of {root / 'Annotations' / 'a.xml'}"
    message = (
        f"object 2 of {root / 'Annotations' / 'a.xml'} is of the class 'cel', which is not listed; did you mean cell"
    )
    assert message in splits.notes[0]


@pytest.mark.parametrize("size", ["", "<size/>", SIZE.replace("8", "0"), SIZE.replace("8", "-8")])
def test_a_missing_size_is_read_from_the_image(voc, size):
    assert target(voc, size + box(1, 1, 8, 6)).size == (6, 8)
    assert read_voc_size(size) is None


def read_voc_size(size):
    from xml.etree import ElementTree

    from twins.data.formats.voc_files import read_size

    return read_size(ElementTree.fromstring(f"<annotation>{size}</annotation>"))


def test_a_wrong_size_is_kept_as_it_is_in_the_file(voc):
    assert target(voc, SIZE.replace("8", "16") + box(1, 1, 8, 6)).size == (6, 16)


ENTITIES = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "ha" * 10}">' for i in range(12))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation><object>", r"a\.xml is no XML \(.*\); copy it again"),
        ("<", r"a\.xml is no XML"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', r"a\.xml is no XML"),
        (f"<!DOCTYPE a [{ENTITIES}]><annotation>&e11;</annotation>", r"a\.xml is no XML"),
        ('<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/hostname">]><annotation>&e;</annotation>', r"a\.xml is no XML"),
        (box(1, 1, 2, 2, name=" "), r"object 1 of .*a\.xml has no name; add it or remove the object"),
        ("<object><name>cell</name></object>", r"object 1 of .*a\.xml has the bndbox None, None, None, None; give"),
        (box(1, 1, "x", 2), r"has the bndbox 1, 1, x, 2; give finite numbers as xmin, ymin, xmax, ymax"),
        (box(1, 1, 2, 2) + box(1, 1, "nan", 2), r"object 2 of .*a\.xml has the bndbox 1, 1, nan, 2; give finite"),
        (box(1, "inf", 2, 2), r"has the bndbox 1, inf, 2, 2; give finite"),
        (box("", 1, 2, 2), r"has the bndbox , 1, 2, 2; give finite"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_when_its_target_is_read(voc, refused, content, message):
    root = voc({"a": content, "b": SIZE + box(1, 1, 2, 2)}, lists={"train": ["a", "b"], "val": ["b"]})
    splits = opened(root)
    assert len(splits.train.target(1)) == 1
    assert splits.train.shape(0) is None
    with refused(message):
        splits.train.target(0)


def test_a_listed_image_without_its_files_is_named_when_it_is_read(voc, refused):
    root = voc({"a": SIZE + box(1, 1, 2, 2)}, lists={"train": ["a", "gone"], "val": ["a"]})
    splits = opened(root)
    with refused(r"there is no file of annotations .*gone\.xml; add it or remove its image"):
        splits.train.target(1)
    with refused(r"there is no image .*JPEGImages/gone\.jpg"):
        splits.train.load(1)


@pytest.mark.parametrize(
    ("content", "message"), [(SIZE, r"no XML file in .* has an object; add objects"), ("<", "is no XML")]
)
def test_a_set_without_any_object_is_refused(voc, refused, content, message):
    with refused(message):
        opened(voc({"a": content, "b": content}))


def test_masks_are_refused_because_the_files_have_none(voc, refused):
    root = voc({"a": SIZE + box(1, 1, 2, 2), "b": SIZE})
    with refused('holds VOC\'s XML files, which have boxes and no masks; choose `task="detection"`'):
        open_objects_for_run(DataConfig(data=str(root)), masks=True)


def test_a_single_file_can_be_read(voc):
    root = voc({"a": SIZE + box(1, 1, 8, 6)})
    file = read_voc(root / "Annotations" / "a.xml")
    assert (file.size, [(item.number, item.name) for item in file.objects]) == ((6, 8), [(1, "cell")])


def test_names_in_lists_may_hold_spaces_or_be_followed_by_a_flag(voc):
    plain = SIZE + box(1, 1, 2, 2)
    files = {"street 1": plain, "street": plain, "road": plain}
    root = voc(files, lists={"train": ["  street 1 ", "road  -1"], "val": ["street  1"]})
    splits = opened(root)
    assert [splits.train.path(i) for i in range(2)] == [
        str(root / f"JPEGImages/{name}.jpg") for name in files if name != "street"
    ]
    assert [splits.val.path(i) for i in range(len(splits.val))] == [str(root / "JPEGImages/street.jpg")]


COMPOSED, DECOMPOSED = "B\u00e4ume", "Ba\u0308ume"


def test_corners_that_are_fractions_of_the_image_are_said(voc):
    root = voc({"a": SIZE + box(0.25, 0.2, 0.75, 0.9), "b": SIZE + box(1, 1, 8, 6)})
    splits = opened(root)
    (problem,) = splits.problems
    assert problem.startswith(f"1 of 2 boxes in {root / 'Annotations'} lies in the first pixels")
    assert problem in splits.notes


@pytest.mark.parametrize("line", ["{}", "{}.jpg", "JPEGImages\\{}.jpg", "./JPEGImages/{}.jpg", "data/obj/{} -1"])
def test_a_list_of_paths_in_any_spelling_names_its_images(voc, line):
    files = {DECOMPOSED: SIZE + box(1, 1, 2, 2), "b": SIZE}
    root = voc(files, lists={"train": [line.format(COMPOSED)], "val": ["b"]})
    splits = opened(root)
    assert splits.train.path(0) == str(root / "JPEGImages" / f"{DECOMPOSED}.jpg")
    assert len(splits.train.target(0)) == 1
    assert "train.txt: 1 name found although spelled otherwise, in " in splits.notes[0]


@pytest.mark.parametrize("lists", [None, {"train": [COMPOSED], "val": ["b"]}])
def test_images_and_files_in_another_unicode_form_belong_together(voc, lists):
    root = voc({DECOMPOSED: SIZE + box(1, 1, 2, 2), "b": SIZE}, lists=lists)
    (root / "Annotations" / f"{DECOMPOSED}.xml").rename(root / "Annotations" / f"{COMPOSED}.xml")
    splits = opened(root)
    assert sum(map(len, targets(splits).values())) == 1
    assert sum("in Unicode form (1)" in note for note in splits.notes) == 1


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"], ids=ascii)
def test_a_listed_name_that_no_file_can_have_is_named_when_it_is_read(voc, refused, name):
    splits = opened(voc({"a": SIZE + box(1, 1, 2, 2)}, lists={"train": ["a", name], "val": ["a"]}))
    with refused(r"there is no file of annotations "):
        splits.train.target(1)
    with refused(r"there is no image "):
        splits.train.load(1)
