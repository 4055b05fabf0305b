"""YOLO's text files: fractions of width and height, polygons in parts, folders and data.yaml."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from twins.data.config import BoxConfig, DataConfig
from twins.data.formats.open import open_objects_for_run
from twins.data.formats.yolo import read_yolo
from twins.data.objects import decode_masks
from twins.errors import DataError

SQUARE = "1 0.25 0.166667 0.75 0.166667 0.75 0.666667 0.25 0.666667"
NAMES = "names: [cat, dog]\n"


@pytest.fixture
def yolo(tmp_path, save_image):
    """Write label files by their paths below the folder, and an image each; a content of `None` writes no file."""

    def write(labels, yaml=NAMES, name="data.yaml"):
        for path, content in labels.items():
            image = tmp_path / path.replace("labels", "images")
            save_image(image.with_suffix(".png"))
            (tmp_path / path).parent.mkdir(exist_ok=True, parents=True)
            if content is not None:
                (tmp_path / path).write_text(content)
        if yaml is not None:
            (tmp_path / name).write_text(yaml)
        return tmp_path

    return write


def opened(root, masks=False):
    return open_objects_for_run(DataConfig(data=str(root)), masks=masks)


def targets(splits):
    """Return the objects of each image by its name."""
    parts = (splits.train, splits.val)
    return {part.path(i).rpartition("/")[2]: part.target(i) for part in parts for i in range(len(part))}


def target(yolo, content, masks=False):
    """Return the objects of a label file, of an image of 8 x 6 pixels."""
    return opened(yolo({"labels/train/a.txt": content, "labels/val/b.txt": "0 .5 .5 .5 .5"}), masks).train.target(0)


def test_a_box_is_its_centre_and_size_in_fractions_of_the_image(yolo):
    objects = target(yolo, "1 0.5 0.5 1 1\n\n  0 .25 .5 .25 .333333333  \n")
    np.testing.assert_allclose(objects.boxes, [[0, 0, 8, 6], [1, 2, 3, 4]], atol=1e-6)
    assert (objects.labels.tolist(), objects.size, objects.masks) == ([1, 0], (6, 8), None)


@pytest.mark.parametrize("masks", [False, True])
def test_a_polygon_has_the_smallest_box_around_it(yolo, masks):
    objects = target(yolo, SQUARE, masks)
    np.testing.assert_allclose(objects.boxes, [[2, 1, 6, 4]], atol=1e-4)
    np.testing.assert_allclose(objects.areas, [12], atol=1e-3)


def test_a_polygon_is_a_mask(yolo):
    (mask,) = decode_masks(target(yolo, SQUARE, masks=True).masks, (6, 8))
    expected = np.zeros((6, 8), dtype=bool)
    expected[1:4, 2:6] = True
    assert (mask == expected).all()


@pytest.mark.parametrize("closed", [True, False])
def test_an_object_in_parts_is_one_object_without_the_gap_between_them(yolo, closed):
    left, right = ["0 0", "0.25 0", "0.25 1", "0 1"], ["0.75 0", "1 0", "1 1", "0.75 1"]
    points = [*left, left[0], *right, *(right[:1] if closed else [])]
    objects = target(yolo, f"0 {' '.join(points)}", masks=True)
    (mask,) = decode_masks(objects.masks, (6, 8))
    assert (mask == (np.arange(8) < 2) | (np.arange(8) >= 6)).all()
    np.testing.assert_allclose(objects.boxes, [[0, 0, 8, 6]])
    assert objects.areas.tolist() == [24]


def test_a_first_point_written_twice_ends_no_part(yolo):
    words = SQUARE.split()
    objects = target(yolo, " ".join([words[0], *words[1:3], *words[1:]]), masks=True)
    assert decode_masks(objects.masks, (6, 8)).sum() == 12


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("labels/train", "labels/val"),
        ("labels/train", "labels/test"),
        ("train/labels", "valid/labels"),
        ("train", "val"),
        ("labels/train/deep", "labels/val/deep"),
    ],
)
@pytest.mark.parametrize("yaml", [NAMES, NAMES + "train: images/nowhere\nval: images/nowhere\n"])
def test_parts_are_found_in_their_folders(yolo, train, val, yaml):
    splits = opened(yolo({f"{train}/a.txt": "0 .5 .5 1 1", f"{val}/b.txt": "1 .5 .5 1 1"}, yaml))
    assert [part.target(0).labels.tolist() for part in (splits.train, splits.val)] == [[0], [1]]
    assert splits.train.names == ("cat", "dog")


@pytest.mark.parametrize("folder", ["labels", "."])
def test_one_folder_is_split_by_seed(yolo, folder):
    splits = opened(yolo({f"{folder}/{name}.txt": "0 .5 .5 1 1" for name in "abcde"}))
    assert (len(splits.train), len(splits.val)) == (4, 1)
    assert len({part.target(i).image_id for part in (splits.train, splits.val) for i in range(len(part))}) == 5


@pytest.mark.parametrize(
    ("yaml", "a", "b"),
    [
        ("train: images/mine\nval: images/other\n", "mine", "other"),
        ("train: ../images/mine\nval: ../images/other\n", "mine", "other"),
        ("path: .\ntrain: [images/mine]\nval: [images/other, images/third]\n", "mine", "other"),
        ("path: ../datasets/mine\ntrain: images/mine\nvalid: images/other\n", "mine", "other"),
        ("train: mine.txt\nval: lists/other.txt\n", "mine", "other"),
    ],
)
def test_a_yaml_names_the_images_of_the_parts(yolo, tmp_path, yaml, a, b):
    root = yolo({f"labels/{a}/a.txt": "0 .5 .5 1 1", f"labels/{b}/b.txt": "1 .5 .5 1 1"}, NAMES + yaml)
    (tmp_path / "lists").mkdir()
    (tmp_path / "mine.txt").write_text(f"./images/{a}/a.png\n")
    (tmp_path / "lists" / "other.txt").write_text(f"{tmp_path}/images/{b}/b.png\n\n")
    splits = opened(root)
    assert [part.path(0)[-5:] for part in (splits.train, splits.val)] == ["a.png", "b.png"]
    assert [part.target(0).labels.tolist() for part in (splits.train, splits.val)] == [[0], [1]]


@pytest.mark.parametrize("name", ["data.yaml", "data.yml", "my_set.yaml"])
@pytest.mark.parametrize("yaml", [NAMES, "names: {0: cat, 1: dog}\n", "nc: 2\nnames:\n- cat\n- dog\n"])
def test_names_are_a_list_or_a_dictionary(yolo, name, yaml):
    splits = opened(yolo({"labels/a.txt": "1 .5 .5 1 1", "labels/b.txt": ""}, yaml, name))
    assert splits.train.names == ("cat", "dog")


def test_ids_with_gaps_get_their_names(yolo):
    splits = opened(yolo({"labels/a.txt": "90 .5 .5 1 1\n1 .5 .5 1 1", "labels/b.txt": ""}, "names: {1: cat, 90: dog}"))
    assert splits.train.classes.values == (1, 90)
    assert targets(splits)["a.png"].labels.tolist() == [1, 0]


@pytest.mark.parametrize("path", ["classes.txt", "labels/classes.txt"])
def test_names_may_be_in_a_classes_file(yolo, path):
    root = yolo({"labels/a.txt": "1 .5 .5 1 1", "labels/b.txt": ""}, None)
    (root / path).write_text("cat\ndog\n")
    assert opened(root).train.names == ("cat", "dog")


@pytest.mark.parametrize("beside", ["data.yaml", "obj.names", "classes.txt", "labels/classes.txt"])
def test_classes_of_the_settings_win_over_every_file(yolo, beside):
    root = yolo({"labels/a.txt": "1 .5 .5 1 1", "labels/b.txt": ""}, None)
    (root / beside).write_text(NAMES if beside == "data.yaml" else "cat\ndog\n")
    (root / "mine.txt").write_text("emu\nyak\n")
    splits = open_objects_for_run(
        DataConfig(data=str(root), boxes=BoxConfig(classes=str(root / "mine.txt"))), masks=False
    )
    assert (splits.names, splits.plan.names, splits.problems) == (("emu", "yak"), "mine.txt", ())
    assert targets(splits)["a.png"].labels.tolist() == [1]


@pytest.mark.parametrize(("name", "first", "count"), [("coco", ("person", "bicycle"), 80), ("voc", ("aeroplane",), 20)])
def test_ids_count_the_classes_of_a_built_in_set_from_0_without_a_background(yolo, name, first, count):
    root = yolo({"labels/a.txt": "0 .5 .5 1 1", "labels/b.txt": ""}, None)
    splits = open_objects_for_run(DataConfig(data=str(root), boxes=BoxConfig(classes=name)), masks=False)
    assert (splits.names[: len(first)], len(splits.names)) == (first, count)
    assert targets(splits)["a.png"].labels.tolist() == [0]
    assert splits.faults == ()


@pytest.mark.parametrize("used", ["data.yaml", "classes.txt", "labels/train/classes.txt"])
def test_files_of_names_that_disagree_are_a_problem(yolo, used):
    root = yolo({"labels/train/a.txt": "1 .5 .5 1 1", "labels/val/b.txt": ""}, None)
    (root / used).write_text(NAMES if used == "data.yaml" else "cat\ndog\n")
    (root / "labels" / "val" / "classes.txt").write_text("dog\ncat\n")
    splits = opened(root)
    assert splits.names == ("cat", "dog")
    assert splits.problems == (
        f"labels/val/classes.txt lists other classes than {used}, which is used, such as 'dog' for 'cat'; remove one "
        "of them",
    )


def test_a_label_file_of_one_image_in_two_parts_has_one_image(yolo):
    yaml = f"{NAMES}train: images/train\nval: images/val\ntest: images/val\n"
    splits = opened(yolo({"labels/train/a.txt": "1 .5 .5 1 1", "labels/val/b.txt": "0 .5 .5 1 1"}, yaml))
    assert splits.problems == ()
    assert any("the val and the test part" in note for note in splits.notes)


def test_colours_of_the_user_are_kept_and_others_are_bright(yolo):
    root = yolo({"labels/a.txt": "1 .5 .5 1 1", "labels/b.txt": ""}, None)
    (root / "classes.txt").write_text("cat 1 2 3\ndog 4 5 6\n")
    assert opened(root).train.classes.colours == ((1, 2, 3), (4, 5, 6))
    (root / "classes.txt").write_text("cat\ndog\n")
    assert all(max(colour) > 150 for colour in opened(root).train.classes.colours)


def test_without_names_classes_are_named_after_their_ids_and_this_is_reported(yolo):
    splits = opened(yolo({"labels/a.txt": "3 .5 .5 1 1\n1 .5 .5 1 1", "labels/b.txt": ""}, None))
    assert (splits.train.names, splits.train.classes.values) == (("1", "3"), (1, 3))
    assert "2 classes without names, called by id as in the label files; give names in data.yaml" in splits.notes


def test_an_image_without_a_label_file_is_reported_and_one_with_an_empty_file_is_not(yolo):
    root = yolo({"labels/train/a.txt": "", "labels/train/b.txt": None, "labels/val/c.txt": "0 .5 .5 1 1"})
    splits = opened(root)
    assert [len(objects) for objects in targets(splits).values()] == [0, 0, 1]
    message = f"1 image in {root / 'images' / 'train'} without a label file and so without objects, b.png first"
    assert splits.notes == (message,)


@pytest.mark.parametrize("masks", [False, True])
def test_a_class_beyond_the_names_is_left_out_and_reported(yolo, masks):
    splits = opened(yolo({"labels/train/a.txt": f"2{SQUARE[1:]}\n{SQUARE}", "labels/val/b.txt": ""}), masks)
    assert splits.train.target(0).labels.tolist() == [1]
    assert splits.train.describe_object(0, 0) == f"line 2 of {splits.source}/labels/train/a.txt"
    message = f"line 1 of {splits.source}/labels/train/a.txt has the class 2, which is not listed; list it"
    assert any(message in note for note in splits.notes)


def test_boxes_without_area_in_an_image_of_any_size_are_reported(yolo):
    splits = opened(yolo({"labels/train/a.txt": "0 .5 .5 0 1\n0 .5 .5 1 1\n1 1.5 .5 1 1", "labels/val/b.txt": ""}))
    assert len(splits.train.target(0)) == 3
    message = "2 training boxes have no area inside their image and are left out, the first: line 1 of "
    assert splits.notes == (f"{message}{splits.source}/labels/train/a.txt",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5", r"line 2 of .*a\.txt has 3 numbers; give a class with a box \(5\), or with a polygon"),
        ("0 0.5 0.5 1 1 0.9", "has 6 numbers"),
        ("0 0.5 0.5 1 1 0.9 0.1 0.2", "has 8 numbers"),
        ("dog 0.5 0.5 1", "holds 'dog 0.5 0.5 1', not numbers only; fix it"),
        ("0 0.5 0.5 dog 1", "holds '0 0.5 0.5 dog 1', not numbers only; fix it"),
        ("0 0.5,0.5,1,1 0 0 0", "not numbers only"),
        ("0.5 0.5 0.5 1 1", "has the class 0.5; give a whole number of at least 0"),
        ("-1 0.5 0.5 1 1", "has the class -1; give a whole number"),
        ("nan 0.5 0.5 1 1", "has the class nan; give a whole number"),
        ("inf 0.5 0.5 1 1", "has the class inf; give a whole number"),
        ("0 nan 0.5 1 1", "has the coordinate nan; give fractions of the image's width and height, 0 to 1"),
        ("0 0.5 0.5 inf 1", "has the coordinate inf"),
        ("0 320 240 100 80", "has the coordinate 320; give fractions"),
        ("0 0.1 0.1 0.9 0.1 0.9 -77", "has the coordinate -77"),
    ],
)
@pytest.mark.parametrize("masks", [False, True])
def test_a_malformed_line_is_named_when_its_target_is_read(yolo, refused, line, message, masks):
    root = yolo({"labels/train/a.txt": f"{SQUARE}\n{line}\n", "labels/val/b.txt": SQUARE})
    splits = opened(root, masks)
    assert len(splits.val.target(0)) == 1
    with refused(message):
        splits.train.target(0)


def test_a_label_file_that_is_no_text_is_named(yolo, refused):
    root = yolo({"labels/train/a.txt": "", "labels/val/b.txt": "0 .5 .5 1 1"})
    (root / "labels" / "train" / "a.txt").write_bytes(b"\xff\xfe\x00\x01")
    with refused(r"a\.txt cannot be read as text \(.*\); copy it again"):
        opened(root).train.target(0)


def test_a_box_is_named_if_masks_are_needed(yolo, refused):
    with refused(r"line 2 of .*a\.txt is a box, and instance segmentation needs polygons; add them, or choose `task"):
        target(yolo, f"{SQUARE}\n0 .5 .5 1 1", masks=True)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: [cat, dog", r"data\.yaml is no YAML \(.*\); fix it"),
        ("names: 3\n", r"data\.yaml: expected a list of names or a dictionary"),
        ("names: [cat, cat]\n", r"data\.yaml: two classes have the same name, 'cat'"),
        ("names: {a: cat}\n", r"data\.yaml is no list of classes"),
    ],
)
def test_a_yaml_that_cannot_be_used_is_named(yolo, refused, yaml, message):
    with refused(message):
        opened(yolo({"labels/a.txt": "0 .5 .5 1 1", "labels/b.txt": ""}, yaml))


def test_a_yaml_without_images_or_labels_says_where_they_belong(tmp_path, refused, save_image):
    (tmp_path / "data.yaml").write_text(NAMES)
    with refused(r"data\.yaml names classes, but no images are found by it; put them in .*images/train"):
        opened(tmp_path)
    save_image(tmp_path / "images" / "a.png")
    with refused(r"no image of .*data\.yaml has a label file, such as .*a\.txt; add them"):
        opened(tmp_path)


@pytest.mark.parametrize("content", ["", "0 .5 .5"])
def test_labels_without_any_object_and_without_names_are_refused(yolo, refused, content):
    with refused(r"no label file such as .*a\.txt has an object that can be read; add objects"):
        opened(yolo({"labels/a.txt": content, "labels/b.txt": ""}, None))


def test_an_image_with_exif_rotation_is_annotated_upright(yolo):
    root = yolo({"labels/train/a.txt": "0 .5 .5 1 1", "labels/val/b.txt": ""})
    exif = Image.Exif()
    exif[0x0112] = 6
    (root / "images" / "train" / "a.png").unlink()
    Image.new("RGB", (8, 6)).save(root / "images" / "train" / "a.jpg", exif=exif)
    train = opened(root).train
    assert (train.load(0).size, train.target(0).size) == ((6, 8), (8, 6))
    assert train.target(0).boxes.tolist() == [[0, 0, 6, 8]]
    assert train.shape(0) is None


def test_an_image_that_cannot_be_read_is_named(yolo, refused):
    root = yolo({"labels/train/a.txt": "0 .5 .5 1 1", "labels/val/b.txt": ""})
    (root / "images" / "train" / "a.png").write_bytes(b"text")
    with refused(r"a\.png is no image in a known format"):
        opened(root).train.target(0)


def test_a_missing_label_file_holds_no_objects(tmp_path):
    assert read_yolo(tmp_path / "none.txt") == []


def test_an_entry_without_images_is_named_if_no_usual_folder_has_its_part(yolo):
    labels = {"labels/train/a.txt": "0 .5 .5 .5 .5", "labels/held/b.txt": "0 .5 .5 .5 .5"}
    root = yolo(labels, yaml="train: images/train\nval: images/heldout\nnames: [cat, dog]\n")
    with pytest.raises(DataError, match="leads to images/heldout, which has no images; fix that entry"):
        opened(root)
    yolo({"labels/val/c.txt": "0 .5 .5 .5 .5"}, yaml="train: /content/train\nval: /content/val\nnames: [cat, dog]\n")
    assert (len(opened(root).train), len(opened(root).val)) == (1, 1)


def pose(points, values, flag="2"):
    """Return a line with a box of (2, 1, 6, 4) in an image of 8 x 6 pixels, and keypoints inside it."""
    keypoints = [f"{0.3 + 0.02 * i:.2f} {0.2 + 0.03 * i:.2f}" + f" {flag}" * (values == 3) for i in range(points)]
    return f"1 0.5 {2.5 / 6:.6f} 0.5 0.5 " + " ".join(keypoints)


@pytest.mark.parametrize(("points", "values"), [(1, 2), (4, 2), (4, 3), (5, 3), (17, 2), (17, 3)])
def test_the_box_of_a_line_with_keypoints_is_its_first_four_numbers(yolo, points, values):
    labels = {"labels/train/a.txt": f"{pose(points, values)}\n0 .5 .5 1 1", "labels/val/b.txt": ""}
    splits = opened(yolo(labels, f"{NAMES}kpt_shape: [{points}, {values}]\n"))
    boxes = splits.train.target(0).boxes
    assert boxes[0] == pytest.approx([2, 1, 6, 4], abs=1e-4)
    assert boxes[1].tolist() == [0, 0, 8, 6]
    assert any("1 line in " in note and f"with {points} keypoints after the box" in note for note in splits.notes)


@pytest.mark.parametrize(("points", "flags"), [(1, "01"), (17, "00"), (4, "02"), (2, "20")])
def test_visibility_after_each_point_shows_keypoints(yolo, points, flags):
    lines = [pose(points, 3, flag) for flag in flags]
    splits = opened(yolo({"labels/train/a.txt": lines[0], "labels/val/b.txt": lines[1]}))
    for part in (splits.train, splits.val):
        assert part.target(0).boxes[0] == pytest.approx([2, 1, 6, 4], abs=1e-4)
    assert any("by the visibility after each point: the box is read" in note for note in splits.notes)


def test_a_polygon_on_the_border_of_the_image_has_no_keypoints(yolo):
    border = "0 0 0 1 0 1 1 0 1 0 0"  # 11 numbers, as of a box and two keypoints that are not visible
    assert target(yolo, border).boxes.tolist() == [[0, 0, 8, 6]]


def test_a_line_of_another_length_than_kpt_shape_is_named(yolo, refused):
    labels = {"labels/train/a.txt": f"{pose(4, 2)}\n{pose(3, 2)}", "labels/val/b.txt": pose(4, 2)}
    with refused(r"line 2 of .*a\.txt has 11 numbers; by kpt_shape of .*data\.yaml, give .* \(13\)"):
        opened(yolo(labels, f"{NAMES}kpt_shape: [4, 2]\n")).train.target(0)


@pytest.mark.parametrize("shape", ["[17]", "17", "[17, 4]", "[x, 3]", "[0, 3]", "{}"])
def test_a_kpt_shape_that_is_none_is_named(yolo, refused, shape):
    with refused(r"data\.yaml has the kpt_shape .*; give the number of keypoints, and 2 or 3 numbers for each"):
        opened(yolo({"labels/train/a.txt": pose(4, 2), "labels/val/b.txt": ""}, f"{NAMES}kpt_shape: {shape}\n"))


def test_masks_are_refused_where_lines_have_keypoints(yolo, refused):
    labels = {"labels/train/a.txt": pose(4, 2), "labels/val/b.txt": ""}
    with refused("which have boxes and no masks; choose"):
        opened(yolo(labels, f"{NAMES}kpt_shape: [4, 2]\n"), masks=True)


def test_label_files_of_boxes_only_are_refused_for_masks(yolo, refused):
    with refused("holds YOLO's label files, which have boxes and no masks; choose"):
        opened(yolo({"labels/train/a.txt": "0 .5 .5 1 1", "labels/val/b.txt": ""}), masks=True)


def test_a_part_without_any_label_file_is_a_problem_except_the_test_part(yolo):
    labels = {"labels/train/a.txt": "0 .5 .5 1 1", "labels/val/a.txt": None, "labels/test/a.txt": None}
    splits = opened(yolo(labels))
    [problem] = splits.problems
    assert problem.startswith("no image of the val part has a label file, such as ")
    assert [len(splits.parts[part].target(0)) for part in ("train", "val", "test")] == [1, 0, 0]


def test_labels_in_another_unicode_form_or_case_are_those_of_their_images(yolo):
    labels = {f"labels/train/{name}.txt": "0 .5 .5 1 1" for name in ("Ba\u0308ume", "b", "c")}
    root = yolo(labels | {"labels/val/d.txt": ""})
    for name, other in (("Ba\u0308ume", "B\u00e4ume"), ("b", "B")):
        (root / "labels" / "train" / f"{name}.txt").rename(root / "labels" / "train" / f"{other}.txt")
    splits = opened(root)
    assert [len(splits.train.target(i)) for i in range(3)] == [1, 1, 1]
    (note,) = splits.notes
    assert "2 names found although spelled otherwise, in Unicode form (1), case (1); " in note


def test_a_label_of_another_folder_is_not_that_of_an_image(yolo):
    root = yolo({"labels/train/x/a.txt": "0 .5 .5 1 1", "labels/train/y/a.txt": None, "labels/val/b.txt": ""})
    splits = opened(root)
    assert [len(splits.train.target(i)) for i in range(2)] == [1, 0]
    assert any("1 image in" in note and "without a label file" in note for note in splits.notes)


@pytest.mark.parametrize("train", ["images\\train", "C:\\data\\images\\train", "/content/data/images/train"])
def test_an_entry_of_another_machine_is_found_by_its_last_folders(yolo, train):
    yaml = f"path: 'C:\\data'\ntrain: '{train}'\nval: images/held\n{NAMES}"
    splits = opened(yolo({"labels/train/a.txt": "0 .5 .5 1 1", "labels/held/b.txt": ""}, yaml))
    assert (len(splits.train), len(splits.val)) == (1, 1)
    assert any("which does not exist" in note and "images/train is read instead" in note for note in splits.notes)


def test_a_folder_that_is_read_in_place_of_an_entry_is_said(yolo):
    labels = {"labels/train/a.txt": "0 .5 .5 1 1", "labels/val/b.txt": ""}
    root = yolo(labels, f"train: /content/x\nval: /content/y\n{NAMES}")
    for note, part in zip(opened(root).notes, ("train", "val"), strict=True):
        assert note.endswith(f"where no image is; {root / 'images' / part} is read instead")


def test_a_list_in_any_spelling_names_its_images(yolo, refused):
    root = yolo({"labels/a.txt": "0 .5 .5 1 1", "labels/b.txt": "", "labels/c.txt": ""})
    (root / "data.yaml").write_text(f"train: train.txt\nval: val.txt\n{NAMES}")
    lines = (".\\images\\a.png", "/content/images/b.png", "x" * 300 + ".png")
    (root / "train.txt").write_text("\r\n".join(lines), encoding="utf-8-sig")
    (root / "val.txt").write_text("./images/c.png\n\0\n")
    splits = opened(root)
    assert [splits.train.path(i) for i in range(2)] == [str(root / "images" / f"{name}.png") for name in "ab"]
    assert len(splits.train.target(0)) == 1
    assert "train.txt: 2 names found although spelled otherwise, in separators (1), folders (1); " in splits.notes[0]
    for part, index in ((splits.train, 2), (splits.val, 1)):
        with refused("there is no image "):
            part.load(index)
