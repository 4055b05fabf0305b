"""LabelMe's JSON files: shapes as objects and label maps, images by three ways, parts by folders, and damaged files."""

from __future__ import annotations

import base64
import io
import json
import pickle
import re

import numpy as np
import pytest
from PIL import Image

WIDTH, HEIGHT = 40, 30
SQUARE = ("cat", "polygon", [[4, 5], [14, 5], [14, 25], [4, 25]])
RECTANGLE = ("dog", "rectangle", [[30, 20], [20, 10]])


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8) * 255).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def labelme(*shapes, image="a.jpg", **more):
    """Return a file as LabelMe 5 writes it; a shape is (label, kind, points) or a dictionary."""
    items = [
        {"label": shape[0], "points": shape[2], "group_id": None, "shape_type": shape[1], "flags": {}}
        if isinstance(shape, tuple)
        else shape
        for shape in shapes
    ]
    content = {"version": "5.4.1", "flags": {}, "shapes": items, "imagePath": image, "imageData": None}
    return json.dumps(content | {"imageHeight": HEIGHT, "imageWidth": WIDTH} | more)


@pytest.fixture
def folder(tmp_path, save_image):
    """Write LabelMe files by their path, each with its image beside it."""

    def write(files, images=True):
        for name, content in files.items():
            path = tmp_path / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            if images:
                save_image(path.with_suffix(".jpg"), (WIDTH, HEIGHT))
            path.write_text(content)
        return tmp_path

    return write


def single(name, *shapes, **more):
    return labelme(*shapes, image=f"{name.rpartition('/')[2]}.jpg", **more)


def test_boxes_are_the_hulls_of_shapes_in_pixels(folder, reading):
    circle = ("sun", "circle", [[20, 15], [24, 18]])
    root = folder({"a": single("a", SQUARE, RECTANGLE, circle), "b": single("b", SQUARE)})
    splits = reading.check(root, reading.open(root))
    assert splits.names == ("cat", "dog", "sun")
    assert reading.objects(splits)["a.jpg"] == [
        ("cat", [4, 5, 14, 25]),
        ("dog", [20, 10, 30, 20]),
        ("sun", [15, 10, 25, 20]),
    ]
    assert splits.plan.used == {"images": 2, "annotation files": 2}
    assert splits.plan.layout == "LabelMe's JSON files"


def test_masks_fill_polygons_rectangles_circles_and_bitmaps(folder, reading):
    mask = {"label": "dog", "shape_type": "mask", "points": [[2, 3], [4, 4]], "mask": png([[1, 0, 1], [0, 1, 0]])}
    circle = ("sun", "circle", [[20, 15], [30, 15]])
    root = folder({"a": single("a", SQUARE, RECTANGLE, circle, mask), "b": single("b", SQUARE)})
    splits = reading.check(root, reading.open(root, "masks"), "masks")
    masks = reading.masks(splits)["a.jpg"]
    assert [int(m.sum()) for m in masks[:2]] == [200, 100]
    assert masks[2].sum() == pytest.approx(np.pi * 100, rel=0.02)
    assert np.argwhere(masks[3]).tolist() == [[3, 2], [3, 4], [4, 3]]
    assert reading.objects(splits)["a.jpg"][3] == ("dog", [2, 3, 5, 5])


def test_shapes_of_one_group_are_one_object(folder, reading):
    parts = [
        {"label": "cat", "shape_type": "rectangle", "group_id": 7, "points": [[0, 0], [5, 5]]},
        {"label": "dog", "shape_type": "rectangle", "group_id": 7, "points": [[0, 0], [5, 5]]},
        {"label": "cat", "shape_type": "polygon", "group_id": 7, "points": [[10, 0], [20, 0], [20, 5], [10, 5]]},
    ]
    root = folder({"a": single("a", *parts), "b": single("b", SQUARE)})
    splits = reading.open(root, "masks")
    assert reading.objects(splits)["a.jpg"] == [("cat", [0, 0, 20, 5]), ("dog", [0, 0, 5, 5])]
    assert [int(m.sum()) for m in reading.masks(splits)["a.jpg"]] == [75, 25]


def test_label_maps_are_painted_in_order_as_by_labelmes_conversion(folder, reading):
    inner = ("dog", "rectangle", [[6, 10], [10, 20]])
    root = folder({"a": single("a", SQUARE, inner), "b": single("b", SQUARE)})
    splits = reading.check(root, reading.open(root, "maps"), "maps")
    assert splits.names == ("background", "cat", "dog")
    assert np.bincount(reading.maps(splits)["a.jpg"].ravel()).tolist() == [1000, 160, 40]
    assert any("the later one covers the earlier one" in note for note in splits.notes)


def test_labels_txt_gives_names_and_order_and_its_special_names_are_dropped(folder, reading):
    ignored, back = ("__ignore__", *RECTANGLE[1:]), ("_background_", "rectangle", [[4, 5], [14, 10]])
    root = folder({"a": single("a", SQUARE, back, ignored), "b": single("b", SQUARE, ("cow", *RECTANGLE[1:]))})
    (root / "labels.txt").write_text("__ignore__\n_background_\ndog\ncat\n")
    splits = reading.check(root, reading.open(root))
    assert splits.names == ("dog", "cat")
    assert splits.plan.names == "labels.txt"
    assert reading.objects(splits) == {"a.jpg": [("cat", [4, 5, 14, 25])], "b.jpg": [("cat", [4, 5, 14, 25])]}
    assert len(splits.faults) == 1
    assert "class 'cow', which is not listed" in splits.faults[0]
    splits = reading.open(root, "maps")
    values, counts = np.unique(reading.maps(splits)["a.jpg"], return_counts=True)
    assert splits.names == ("background", "dog", "cat")
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {0: 950, 2: 150, 255: 100}


def test_points_and_lines_are_left_out_and_counted(folder, reading):
    point, line = ("eye", "point", [[1, 1]]), ("eye", "linestrip", [[1, 1], [2, 2], [3, 1]])
    root = folder({"a": single("a", SQUARE, point, line), "b": single("b", SQUARE, point)})
    splits = reading.open(root)
    assert splits.names == ("cat",)
    assert any("2 × point, 1 × linestrip" in note for note in splits.notes)


def test_parts_are_folders_and_images_may_be_in_folders_of_their_own(tmp_path, save_image, reading):
    for part, name in (("train", "a"), ("train", "b"), ("val", "c")):
        save_image(tmp_path / "images" / part / f"{name}.jpg", (WIDTH, HEIGHT))
        path = tmp_path / "annotations" / part / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(labelme(SQUARE, image=f"..\\..\\images\\{part}\\{name}.jpg"))
    for target in ("boxes", "masks", "maps"):
        splits = reading.check(tmp_path, reading.open(tmp_path, target), target)
        assert reading.parts(splits) == {"train": ["a.jpg", "b.jpg"], "val": ["c.jpg"]}


def test_layout_settings_choose_parts_by_folders_and_lists(folder, reading):
    root = folder({f"{name}/{i}": single(str(i), SQUARE) for i, name in enumerate(("one", "one", "two"))})
    splits = reading.check(root, reading.open(root, train="one", val="two"))
    assert reading.parts(splits) == {"train": ["0.jpg", "1.jpg"], "val": ["2.jpg"]}
    (root / "a.txt").write_text("one/0.jpg\n")
    (root / "b.txt").write_text("1\n2\n")
    splits = reading.check(root, reading.open(root, train="a.txt", test="b.txt"))
    assert reading.parts(splits)["test"] == ["1.jpg", "2.jpg"]


def test_an_image_that_is_missing_is_read_from_its_file(folder, reading):
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (10, 20, 30)).save(buffer, "PNG")
    copy = base64.b64encode(buffer.getvalue()).decode()
    root = folder({n: single(n, SQUARE, imageData=copy, imageHeight=None) for n in "ab"}, images=False)
    splits = reading.check(root, reading.open(root, "masks"), "masks")
    images, index = reading.items(splits)["a.jpg"]
    assert images.load(index).getpixel((0, 0)) == (10, 20, 30)
    assert images.target(index).size == (HEIGHT, WIDTH)


def test_a_renamed_image_beside_its_file_is_found(folder, reading):
    root = folder({"a": labelme(SQUARE, image="/home/x/old.jpg"), "b": labelme(SQUARE, image="C:\\x\\old.jpg")})
    assert sorted(reading.objects(reading.open(root))) == ["a.jpg", "b.jpg"]


def test_images_without_a_file_and_other_files_are_passed_over_with_a_reason(folder, save_image, reading):
    root = folder({"a": single("a", SQUARE), "b": single("b", SQUARE)})
    save_image(root / "c.jpg", (WIDTH, HEIGHT))
    (root / "package.json").write_text('{"name": "x"}')
    splits = reading.check(root, reading.open(root))
    assert ("an image without a JSON file of LabelMe", 1) in [(g.reason, g.count) for g in splits.plan.passed_over]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"label": "cat", "points": [[1, 2], [3]], "shape_type": "polygon"}, r"shape 1 of .*a.json has the points"),
        ({"label": "cat", "points": [[1, 2], [3, float("nan")]], "shape_type": "rectangle"}, "has the points"),
        ({"label": "cat", "points": [[1, 2], [3, 1e9]], "shape_type": "rectangle"}, "has the points"),
        ({"label": "cat", "points": [[1, 2], [3, 4]], "shape_type": "polygon"}, "'polygon' with 2 points"),
        ({"label": "cat", "points": [[1, 2], [3, 4]], "shape_type": "star"}, "'star' with 2 points"),
        ({"label": "", "points": [[1, 2], [3, 4]], "shape_type": "rectangle"}, "has the label ''"),
        ({"label": "cat", "points": [[1, 2], [3, 4]], "shape_type": "mask", "mask": "x"}, "no PNG in base64"),
        ("cat", "no JSON object"),
        (None, "no JSON object"),
    ],
)
def test_a_damaged_shape_is_left_out_and_named(folder, reading, shape, message):
    root = folder({"a": single("a", shape, SQUARE), "b": single("b", SQUARE)})
    splits = reading.open(root)
    assert reading.objects(splits)["a.jpg"] == [("cat", [4, 5, 14, 25])]
    assert len(splits.faults) == 1
    assert re.search(message, splits.faults[0])


@pytest.mark.parametrize("content", ["{", "[" * 100_000, '{"shapes": [', '\x00{"shapes": []}'])
def test_a_damaged_file_is_named_when_its_image_is_read(folder, reading, refused, content):
    root = folder({"a": content, "b": single("b", SQUARE), "c": single("c", SQUARE)})
    splits = reading.check(root, reading.open(root))
    images, index = reading.items(splits)["a.jpg"]
    with refused("a.json is no JSON"):
        images.target(index)


def test_settings_of_masks_that_do_not_apply_are_refused(folder, reading, refused):
    root = folder({"a": single("a", SQUARE), "b": single("b", SQUARE)})
    with refused("list names in `masks.ignore`"):
        reading.open(root, "maps", ignore=(3,))
    root = folder({"a": single("a", SQUARE, RECTANGLE), "b": single("b", SQUARE, RECTANGLE)})
    splits = reading.open(root, "maps", ignore=("cat",))
    assert splits.names == ("background", "dog")
    assert np.bincount(reading.maps(splits)["a.jpg"].ravel())[[0, 1, 255]].tolist() == [900, 100, 200]


def test_a_changed_file_is_read_or_refused_in_one_sentence(folder, reading):
    mask = {"label": "dog", "shape_type": "mask", "points": [[2, 3], [4, 4]], "mask": png([[1, 0, 1]]), "group_id": 3}
    reading.survive(folder({"a": single("a", SQUARE, RECTANGLE, mask), "b": single("b", SQUARE)}), "a.json")


def test_a_folder_of_annotations_that_is_given_is_used_though_there_are_yolos(folder, reading):
    root = folder({"a": single("a", SQUARE), "b": single("b", SQUARE)})
    (root / "ann").mkdir()
    for name in "ab":
        (root / f"{name}.json").rename(root / "ann" / f"{name}.json")
        (root / f"{name}.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert reading.open(root).plan.layout == "YOLO's label files"
    splits = reading.open(root, annotations="ann")
    assert reading.objects(splits)["a.jpg"] == [("cat", [4, 5, 14, 25])]


def test_names_that_differ_by_case_are_a_problem(folder, reading):
    root = folder({"a": single("a", SQUARE, ("Cat", *RECTANGLE[1:])), "b": single("b", SQUARE)})
    [problem] = reading.open(root).problems
    assert "'Cat' and 'cat' differ only in case" in problem


def test_sets_go_to_worker_processes(folder, reading):
    splits = reading.open(folder({"a": single("a", SQUARE), "b": single("b", SQUARE)}), "masks")
    images = pickle.loads(pickle.dumps(splits.train))
    assert images.target(0).masks == splits.train.target(0).masks


def test_keys_may_be_sorted_and_lie_behind_a_long_copy_of_the_image(folder, reading):
    content = {"flags": {}, "imageData": "A" * 10_000} | json.loads(single("a", SQUARE)) | {"imageData": "A" * 10_000}
    root = folder({n: json.dumps(content | {"imagePath": f"{n}.jpg"}, sort_keys=True) for n in "ab"})
    assert reading.objects(reading.check(root, reading.open(root)))["a.jpg"] == [("cat", [4, 5, 14, 25])]


def test_lists_name_images_with_their_folders(folder, reading, refused):
    root = folder({f"{name}/0": single("0", SQUARE) for name in ("one", "two", "three")})
    (root / "train.txt").write_text("one/0.jpg\n/content/set/three/0.jpg\n")
    (root / "val.txt").write_text("two\\0\nfour/1.jpg\n")
    splits = reading.check(root, reading.open(root, train="train.txt", val="val.txt"))
    paths = {part: [images.path(i).split("/")[-2] for i in range(len(images))] for part, images in splits.parts.items()}
    assert paths == {"train": ["one", "three"], "val": ["two"]}
    assert any("1 name in" in note and "four/1.jpg first" in note for note in splits.notes)
    (root / "val.txt").write_text("0\n")
    with refused("lists 0, the name of 3 images; give it with its folder"):
        reading.open(root, train="train.txt", val="val.txt")


def test_an_image_path_that_is_another_image_than_that_of_the_files_name_is_a_problem(folder, reading):
    root = folder({"a": labelme(SQUARE, image="b.jpg"), "b": labelme(RECTANGLE, image="a.jpg")})
    splits = reading.open(root)
    assert reading.objects(splits) == {"a.jpg": [("dog", [20, 10, 30, 20])], "b.jpg": [("cat", [4, 5, 14, 25])]}
    [problem] = splits.problems
    assert "2 JSON files of LabelMe with another image as imagePath" in problem
    assert "such as a.json, read for b.jpg and not for a.jpg" in problem


def test_a_stray_file_of_another_format_does_not_hide_the_annotations(folder, reading):
    root = folder({"a": single("a", SQUARE), "b": single("b", SQUARE)})
    (root / "backup").mkdir()
    (root / "backup" / "old.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert reading.open(root).plan.layout == "LabelMe's JSON files"


def test_images_outside_the_parts_of_the_settings_are_not_called_unannotated(folder, reading):
    root = folder({f"{part}/{name}": single(f"{part}/{name}", SQUARE) for part in ("train", "val") for name in "ab"})
    splits = reading.open(root, val="val")
    assert splits.notes == ()
    assert {group.reason for group in splits.plan.passed_over if not group.quiet} >= {
        "an image that this layout does not use"
    }


def test_an_image_of_another_part_is_never_that_of_a_file(folder, reading):
    root = folder({"train/a": labelme(SQUARE, image="../val/a.jpg"), "val/a": labelme(RECTANGLE, image="a.jpg")})
    splits = reading.open(root)
    found = {part: [images.path(i)[-9:] for i in range(len(images))] for part, images in splits.parts.items()}
    assert found == {"train": ["ain/a.jpg"], "val": ["val/a.jpg"]}
    assert [splits.names[images.target(0).labels[0]] for images in splits.parts.values()] == ["cat", "dog"]
    assert splits.faults == ()
