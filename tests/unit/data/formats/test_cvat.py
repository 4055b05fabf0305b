"""CVAT's XML for images: boxes, turned boxes, polygons, ellipses, masks, groups, subsets, and damaged files."""

from __future__ import annotations

import numpy as np
import pytest

WIDTH, HEIGHT = 40, 30
LABELS = (("dog", "#0000ff", "any"), ("cat", "#ff0000", "any"), ("pose", "#00ff00", "points"))


def cvat(images, labels=LABELS, kind="task"):
    """Return a file as CVAT writes it; images are (name, subset, inner XML)."""
    texts = "".join(
        f"<label><name>{name}</name><color>{colour}</color><type>{kind}</type><attributes></attributes></label>"
        for name, colour, kind in labels
    )
    head = f"<meta><{kind}><id>1</id><name>t</name><labels>{texts}</labels></{kind}><dumped>2024</dumped></meta>"
    body = "".join(
        f'<image id="{i}" name="{name}" {f"subset={subset!r} " if subset else ""}width="{WIDTH}" height="{HEIGHT}">'
        f"{inner}</image>"
        for i, (name, subset, inner) in enumerate(images)
    )
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>{head}{body}</annotations>'


def box(left, top, right, bottom, label="cat", more=""):
    return (
        f'<box label="{label}" source="manual" occluded="1" xtl="{left:.2f}" ytl="{top:.2f}" xbr="{right:.2f}" '
        f'ybr="{bottom:.2f}" z_order="0" {more}><attribute name="a">b</attribute></box>'
    )


def polygon(*points, label="cat", more='z_order="0"'):
    text = ";".join(f"{x:.2f},{y:.2f}" for x, y in points)
    return f'<polygon label="{label}" source="manual" occluded="0" points="{text}" {more}></polygon>'


SQUARE = polygon((4, 5), (14, 5), (14, 25), (4, 25))
MASK = (
    '<mask label="dog" source="manual" occluded="0" rle="1, 2, 3" left="5" top="6" width="3" height="2" z_order="0"/>'
)
ELLIPSE = (
    '<ellipse label="dog" source="manual" occluded="0" cx="20.00" cy="15.00" rx="10.00" ry="5.00" z_order="0" %s/>'
)


@pytest.fixture
def folder(tmp_path, save_image):
    """Write a file of the images given, and these below `images`."""

    def write(images, name="annotations.xml", **more):
        for image, _, _ in images:
            save_image(tmp_path / "images" / image, (WIDTH, HEIGHT))
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(cvat(images, **more))
        return tmp_path

    return write


def test_boxes_in_pixels_and_classes_in_the_order_of_the_labels(folder, reading):
    root = folder([("a.jpg", "", box(4, 5, 14.5, 25)), ("b.jpg", "", SQUARE), ("c.jpg", "", "")])
    splits = reading.check(root, reading.open(root))
    assert splits.names == ("dog", "cat")
    assert splits.train.classes.colours == ((0, 0, 255), (255, 0, 0))
    assert reading.objects(splits) == {
        "a.jpg": [("cat", [4, 5, 14.5, 25])],
        "b.jpg": [("cat", [4, 5, 14, 25])],
        "c.jpg": [],
    }
    assert splits.plan.used == {"images": 3, "annotation files": 1}


def test_turned_boxes_and_ellipses_have_their_hull(folder, reading):
    root = folder([("a.jpg", "", box(10, 10, 30, 20, more='rotation="90.00"') + ELLIPSE % 'rotation="90.00"')] * 1)
    splits = reading.open(root)
    assert [b for _, b in reading.objects(splits)["a.jpg"]] == [[15, 5, 25, 25], [15, 5, 25, 25]]
    half = np.hypot(10 * np.cos(np.pi / 6), 5 * np.sin(np.pi / 6))
    root = folder([("a.jpg", "", ELLIPSE % 'rotation="30.00"')])
    [(_, turned)] = reading.objects(reading.open(root))["a.jpg"]
    assert turned[0] == pytest.approx(20 - half, abs=0.001)


def test_masks_are_run_lengths_in_the_rows_of_their_rectangle(folder, reading):
    root = folder([("a.jpg", "", MASK + SQUARE + ELLIPSE % ""), ("b.jpg", "", SQUARE)])
    splits = reading.check(root, reading.open(root, "masks"), "masks")
    first, square, ellipse = reading.masks(splits)["a.jpg"]
    assert np.argwhere(first).tolist() == [[6, 6], [6, 7]]
    assert reading.objects(splits)["a.jpg"][0] == ("dog", [6, 6, 8, 7])
    assert square.sum() == 200
    assert ellipse.sum() == pytest.approx(np.pi * 50, rel=0.03)


def test_polygons_of_one_group_are_one_object_and_boxes_are_not(folder, reading):
    grouped = [polygon((x, 0), (x + 5, 0), (x + 5, 5), (x, 5), more='group_id="3"') for x in (0, 10)]
    boxes = [box(x, 20, x + 5, 25, more='group_id="4"') for x in (0, 10)]
    root = folder([("a.jpg", "", "".join(grouped + boxes)), ("b.jpg", "", SQUARE)])
    splits = reading.open(root)
    boxes = [b for _, b in reading.objects(splits)["a.jpg"]]
    assert boxes == [[0, 0, 15, 5], [0, 20, 5, 25], [10, 20, 15, 25]]
    assert any("2 shapes of CVAT's groups" in note for note in splits.notes)


def test_label_maps_are_painted_by_z_order(folder, reading):
    above = polygon((0, 0), (20, 0), (20, 10), (0, 10), label="dog", more='z_order="1"')
    root = folder([("a.jpg", "", above + SQUARE), ("b.jpg", "", SQUARE)])
    splits = reading.check(root, reading.open(root, "maps"), "maps")
    assert splits.names == ("background", "dog", "cat")
    assert np.bincount(reading.maps(splits)["a.jpg"].ravel()).tolist() == [1200 - 200 - 150, 200, 150]


def test_subsets_are_parts(folder, reading):
    root = folder([("a.jpg", "Train", SQUARE), ("b.jpg", "Validation", SQUARE), ("c.jpg", "test", SQUARE)])
    splits = reading.check(root, reading.open(root))
    assert reading.parts(splits) == {"train": ["a.jpg"], "val": ["b.jpg"], "test": ["c.jpg"]}


def test_the_default_subset_is_no_part_and_one_beside_parts_is_refused(folder, reading, refused):
    root = folder([(f"{n}.jpg", "default", SQUARE) for n in "abcde"])
    assert {p: len(v) for p, v in reading.parts(reading.open(root)).items()} == {"train": 4, "val": 1}
    root = folder([("a.jpg", "train", SQUARE), ("b.jpg", "default", SQUARE)])
    with refused(r"images of the parts train, and b.jpg of default; name its part there"):
        reading.open(root)


def test_parts_are_folders_of_images_or_several_files(folder, reading):
    root = folder([("train/a.jpg", "", SQUARE), ("val/b.jpg", "", SQUARE)])
    splits = reading.check(root, reading.open(root))
    assert reading.parts(splits) == {"train": ["a.jpg"], "val": ["b.jpg"]}
    (root / "annotations.xml").unlink()
    folder([("train/a.jpg", "", SQUARE)], "train.xml", labels=LABELS[:1])
    root = folder([("val/b.jpg", "", SQUARE)], "val.xml", labels=LABELS[1:])
    splits = reading.check(root, reading.open(root))
    assert reading.parts(splits) == {"train": ["a.jpg"], "val": ["b.jpg"]}
    assert splits.names == ("dog", "cat")
    assert any("list different classes" in note for note in splits.notes)
    splits = reading.open(root, train="val.xml", val="train.xml")
    assert reading.parts(splits) == {"train": ["b.jpg"], "val": ["a.jpg"]}


def test_a_folder_called_annotations_beside_images_is_not_vocs(folder, reading):
    root = folder([("a.jpg", "", SQUARE), ("b.jpg", "", SQUARE)], "annotations/annotations.xml")
    assert reading.check(root, reading.open(root)).plan.layout == "CVAT's XML files"


def test_shapes_without_area_are_counted(folder, reading):
    more = '<points label="cat" points="1,2"/><polyline label="cat" points="1,2;3,4"/><tag label="cat"/>'
    splits = reading.open(folder([("a.jpg", "", more + SQUARE), ("b.jpg", "", more)]))
    assert any("2 × points, 2 × polyline, 2 × tag" in note for note in splits.notes)


def test_boxes_have_no_masks(folder, reading, refused):
    root = folder([("a.jpg", "", box(4, 5, 14, 25)), ("b.jpg", "", box(4, 5, 14, 25))])
    with refused("boxes and no masks; choose"):
        reading.open(root, "masks")
    root = folder([("a.jpg", "", box(4, 5, 14, 25)), ("b.jpg", "", SQUARE)])
    with refused(r"shape 1 of a.jpg in .*annotations.xml is a box, as 1 of 2 are"):
        reading.open(root, "maps")


def test_a_video_is_refused_with_the_export_to_choose(folder, reading, refused):
    root = folder([("a.jpg", "", SQUARE)])
    track = '<annotations><version>1.1</version><meta></meta><track id="0" label="cat"></track></annotations>'
    (root / "annotations.xml").write_text(track)
    with refused("CVAT for images 1.1"):
        reading.open(root)


@pytest.mark.parametrize(
    "shape",
    [
        '<box label="cat" xtl="nan" ytl="1" xbr="2" ybr="3"/>',
        '<box label="cat" xtl="1" ytl="1" xbr="2"/>',
        '<box xtl="1" ytl="1" xbr="2" ybr="3"/>',
        '<polygon label="cat" points="1,2;3,4"/>',
        '<polygon label="cat" points="1,2;3;5,6;7,8"/>',
        '<polygon label="cat" points="1,2;3,4;5,1e99"/>',
        '<ellipse label="cat" cx="1" cy="2" rx="3"/>',
        '<mask label="cat" rle="1, 2, 9" left="5" top="6" width="3" height="2"/>',
        '<mask label="cat" rle="1, -2, 7" left="5" top="6" width="3" height="2"/>',
        '<mask label="cat" rle="6" left="5" top="6" width="3" height="2"/>',
        '<mask label="cat" rle="x" left="5" top="6" width="99999999" height="99999999"/>',
    ],
)
def test_a_damaged_shape_is_left_out_and_named(folder, reading, shape):
    splits = reading.open(folder([("a.jpg", "", shape + SQUARE), ("b.jpg", "", SQUARE)]))
    assert len(reading.objects(splits)["a.jpg"]) == 1
    assert len(splits.faults) == 1
    assert splits.faults[0].startswith("shape 1 of a.jpg in ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations><version>1.1</version><image", "is no XML"),
        ("<annotations><version>1.1</version></annotations>", "lists no image"),
        ('<annotations><version>1.1</version><image id="1"/></annotations>', "image 1 of .* has no name"),
        (
            '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;">]><annotations><version>1.1</version>'
            '<image name="&b;"></image></annotations>',
            "are not in",
        ),
    ],
)
def test_a_damaged_file_is_named(folder, reading, refused, text, message):
    root = folder([("a.jpg", "", SQUARE)])
    (root / "annotations.xml").write_text(text)
    with refused(message):
        reading.open(root)


def test_two_entries_for_one_image_and_a_missing_image_are_named(folder, reading, refused):
    root = folder([("a.jpg", "", SQUARE), ("b.jpg", "", SQUARE), ("a.jpg", "", box(1, 1, 2, 2))])
    (root / "images" / "b.jpg").unlink()
    splits = reading.open(root)
    assert len(reading.objects(splits)["a.jpg"]) == 1
    assert any("annotates already" in fault for fault in splits.faults)
    images, index = reading.items(splits)["b.jpg"]
    with refused("lists .*b.jpg, which does not exist"):
        images.load(index)


def test_a_changed_file_is_read_or_refused_in_one_sentence(folder, reading):
    root = folder([("a.jpg", "train", SQUARE + MASK + ELLIPSE % 'rotation="30.00"'), ("b.jpg", "val", SQUARE)])
    reading.survive(root, "annotations.xml")


def test_images_in_folders_of_the_subsets_and_folders_that_are_given(folder, save_image, reading):
    root = folder([("a.jpg", "train", SQUARE), ("b.jpg", "val", SQUARE)])
    for name, part in (("a.jpg", "train"), ("b.jpg", "val")):
        (root / "images" / part).mkdir()
        (root / "images" / name).rename(root / "images" / part / name)
    splits = reading.check(root, reading.open(root))
    assert reading.parts(splits) == {"train": ["a.jpg"], "val": ["b.jpg"]}
    (root / "images").rename(root / "photos")
    splits = reading.check(root, reading.open(root, images="photos", train="photos/val", val="photos/train"))
    assert reading.parts(splits) == {"train": ["b.jpg"], "val": ["a.jpg"]}


def test_trainval_is_the_training_part_beside_test(folder, reading):
    splits = reading.open(folder([("a.jpg", "trainval", SQUARE), ("b.jpg", "test", SQUARE)]))
    assert reading.parts(splits)["train"] == ["a.jpg"]


def test_a_set_in_yolos_layout_with_cvats_file_beside_is_yolos(folder, reading):
    root = folder([("a.jpg", "", SQUARE), ("b.jpg", "", SQUARE)])
    (root / "labels").mkdir()
    for name in "ab":
        (root / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert reading.open(root).plan.layout == "YOLO's label files"
    assert reading.check(root, reading.open(root, annotations="annotations.xml")).names == ("dog", "cat")
