"""Folders that hold several data sets side by side are refused, by a sentence that names them."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from twins.data.config import DataConfig, LayoutConfig
from twins.data.formats.open import open_class_ids, open_label_maps, open_objects

NAMES = [f"{number}.png" for number in range(4)]
XML = (
    "<annotation><filename>{}</filename><size><width>8</width><height>6</height></size><object><name>cat</name>"
    "<bndbox><xmin>2</xmin><ymin>1</ymin><xmax>6</xmax><ymax>4</ymax></bndbox></object></annotation>"
)


def coco(root, save_image):
    images = [{"id": i, "file_name": name, "height": 6, "width": 8} for i, name in enumerate(NAMES)]
    polygon = [[2, 1, 6, 1, 6, 4, 2, 4]]
    annotations = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [2, 1, 4, 3], "segmentation": polygon} for i in range(4)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (root / "labels.json").write_text(json.dumps(content))
    for name in NAMES:
        save_image(root / "images" / name)


def voc(root, save_image):
    (root / "Annotations").mkdir()
    for name in NAMES:
        save_image(root / "JPEGImages" / name)
        (root / "Annotations" / name).with_suffix(".xml").write_text(XML.format(name))


def yolo(root, save_image):
    (root / "labels").mkdir()
    (root / "classes.txt").write_text("cat\n")
    for name in NAMES:
        save_image(root / "images" / name)
        (root / "labels" / name).with_suffix(".txt").write_text("0 0.5 0.5 0.5 0.5\n")


def masks(root, save_image):
    (root / "masks").mkdir()
    for number, name in enumerate(NAMES):
        save_image(root / "images" / name)
        Image.new("L", (8, 6), number % 2).save(root / "masks" / name)


OPENERS = {
    "classification": open_class_ids,
    "detection": lambda config: open_objects(config, masks=False),
    "instance": lambda config: open_objects(config, masks=True),
    "semantic": open_label_maps,
}


def opened(root, task, **layout):
    return OPENERS[task](DataConfig(data=str(root), layout=LayoutConfig(**layout)))


@pytest.mark.parametrize("task", OPENERS)
@pytest.mark.parametrize(
    "kinds", [(voc, yolo), (voc, coco), (yolo, coco), (masks, coco), (masks, yolo), (masks, masks)]
)
def test_two_data_sets_side_by_side_are_refused_by_their_names(tmp_path, save_image, refused, task, kinds):
    for name, write in zip(("first", "outer/second"), kinds, strict=True):
        (tmp_path / name).mkdir(parents=True)
        write(tmp_path / name, save_image)
    with refused("holds (several|2) data sets.* first, outer/second; give one of these folders as the data"):
        opened(tmp_path, task)


@pytest.mark.parametrize(("task", "kind"), [("detection", coco), ("detection", yolo), ("semantic", masks)])
def test_the_setting_that_the_sentence_names_decides(tmp_path, save_image, task, kind):
    for name, write in (("first", kind), ("second", voc)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, save_image)
    annotations = {coco: "first/labels.json", yolo: "first/labels", masks: "first/masks"}[kind]
    splits = opened(tmp_path, task, annotations=annotations, images="first/images")
    assert splits.count == 4
    assert all("/first/" in images.path(i) for images in splits.parts.values() for i in range(len(images)))


@pytest.mark.parametrize("kind", [coco, voc])
def test_a_data_set_beside_other_folders_is_read(tmp_path, save_image, kind):
    (tmp_path / "first").mkdir()
    kind(tmp_path / "first", save_image)
    save_image(tmp_path / "pictures" / "x.png")
    assert opened(tmp_path, "detection").count == 4


def test_a_data_set_among_class_folders_is_no_class(tmp_path, save_image, refused):
    (tmp_path / "first").mkdir()
    masks(tmp_path / "first", save_image)
    for name in NAMES:
        save_image(tmp_path / "second" / name)
    with refused("holds 1 data set of other tasks instead of class folders, first; give"):
        opened(tmp_path, "classification")
    assert opened(tmp_path, "classification", images=".").names == ("first", "second")
