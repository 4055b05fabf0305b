"""VIA's JSON: regions of version 1 and 2, projects, the attribute that is the class, and damaged files."""

from __future__ import annotations

import json

import numpy as np
import pytest

WIDTH, HEIGHT = 40, 30
RECT = {"name": "rect", "x": 4, "y": 6, "width": 20, "height": 12}
POLYGON = {"name": "polygon", "all_points_x": [4, 24, 24, 4], "all_points_y": [6, 6, 18, 18]}
BOX = [4, 6, 24, 18]


def via(entries, *, project=False, version=2):
    """Return a file; entries are (name, regions), each region a pair of shape and region attributes."""
    items = {}
    for name, regions in entries:
        pairs = [{"shape_attributes": shape, "region_attributes": more} for shape, more in regions]
        regions = pairs if version == 2 else {str(i): pair for i, pair in enumerate(pairs)}
        entry = {"filename": name, "size": 123, "regions": regions, "file_attributes": {}}
        items[f"{name}123"] = entry if version == 2 else {"fileref": "", "base64_img_data": ""} | entry
    return json.dumps({"_via_settings": {"ui": {}}, "_via_img_metadata": items} if project else items)


@pytest.fixture
def folder(tmp_path, save_image):
    """Write a file, and the images that it names beside it."""

    def write(entries, name="via_region_data.json", **more):
        path = tmp_path / name
        for image, _ in entries:
            save_image(path.parent / image, (WIDTH, HEIGHT))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(via(entries, **more))
        return tmp_path

    return write


def test_the_balloon_set_has_one_class_and_parts_in_folders(folder, reading):
    folder([("a.jpg", [(POLYGON, {})])], "train/via_region_data.json", version=1)
    root = folder([("b.jpg", [(POLYGON, {}), (POLYGON, {})])], "val/via_region_data.json", version=1)
    for target in ("boxes", "masks", "maps"):
        splits = reading.check(root, reading.open(root, target), target)
        assert reading.parts(splits) == {"train": ["a.jpg"], "val": ["b.jpg"]}
        assert splits.names == (("background", "object") if target == "maps" else ("object",))
    splits = reading.open(root, "masks")
    assert reading.objects(splits)["b.jpg"] == [("object", BOX)] * 2
    assert reading.masks(splits)["a.jpg"].sum() == 240
    assert any("all are of one class" in note for note in splits.notes)


@pytest.mark.parametrize("project", [True, False])
def test_the_attribute_of_all_regions_is_the_class(folder, reading, project):
    circle = {"name": "circle", "cx": 20, "cy": 15, "r": 5}
    ellipse = {"name": "ellipse", "cx": 20, "cy": 15, "rx": 10, "ry": 5, "theta": np.pi / 2}
    regions = [
        (RECT, {"type": "cat", "note": ""}),
        (circle, {"type": {"dog": True, "cat": False}}),
        (ellipse, {"type": "dog", "note": "blurred"}),
    ]
    root = folder([("a.jpg", regions), ("b.jpg", [])], "my project.json", project=project)
    splits = reading.check(root, reading.open(root))
    assert splits.names == ("cat", "dog")
    boxes = [("cat", BOX), ("dog", [15, 10, 25, 20]), ("dog", [15, 5, 25, 25])]
    assert reading.objects(splits) == {"a.jpg": boxes, "b.jpg": []}


def test_several_attributes_are_refused_with_their_names(folder, reading, refused):
    root = folder([("a.jpg", [(RECT, {"type": "cat", "colour": "red"})])])
    with refused(r"several attributes, 'colour' \(1\), 'type' \(1\)"):
        reading.open(root)


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ({"name": "rect", "x": 1, "y": 2, "width": "a", "height": 4}, {"type": "cat"}),
        ({"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1, 2]}, {"type": "cat"}),
        ({"name": "polygon", "all_points_x": [1, 2, 3], "all_points_y": [1, 2]}, {"type": "cat"}),
        ({"name": "ellipse", "cx": 1, "cy": 2, "rx": 3, "ry": 4, "theta": "x"}, {"type": "cat"}),
        ({"name": "star"}, {"type": "cat"}),
        (3, 4),
        (RECT, {"type": ""}),
        (RECT, None),
    ],
)
def test_a_damaged_region_is_left_out_and_named(folder, reading, shape, attributes):
    point = {"name": "point", "cx": 1, "cy": 2}
    root = folder([("a.jpg", [(shape, attributes), (RECT, {"type": "cat"}), (point, {})]), ("b.jpg", [])])
    splits = reading.open(root)
    assert reading.objects(splits)["a.jpg"] == [("cat", BOX)]
    assert len(splits.faults) == 1
    assert splits.faults[0].startswith("region 1 of a.jpg in ")
    assert any("1 × point" in note for note in splits.notes)


def test_boxes_have_no_masks(folder, reading, refused):
    with refused("boxes and no masks"):
        reading.open(folder([("a.jpg", [(RECT, {})])]), "masks")


def test_a_changed_file_is_read_or_refused_in_one_sentence(folder, reading):
    root = folder([("a.jpg", [(RECT, {"type": "cat"}), (POLYGON, {"type": "dog"})]), ("b.jpg", [])], project=True)
    reading.survive(root, "via_region_data.json")


def test_attributes_that_are_not_the_class_are_said(folder, reading):
    regions = [(RECT, {"number": "1", "type": "cat"}), (RECT, {"number": "2"})]
    splits = reading.open(folder([("a.jpg", regions)]))
    assert splits.names == ("1", "2")
    assert any("'number' (2), 'type' (1), the class is 'number', the only one that all have" in n for n in splits.notes)
