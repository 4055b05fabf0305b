"""COCO's instances as label maps: ids that contradict each other, polygons as fractions, a background category."""

from __future__ import annotations

import json

import numpy as np
import pytest

from twins.data.config import DataConfig, MaskConfig
from twins.data.formats.open import open_label_maps

POLYGON = [[2, 1, 6, 1, 6, 4, 2, 4]]
SQUARE = np.zeros((6, 8), dtype=np.uint8)
SQUARE[1:4, 2:6] = 1
WHOLE = [[0, 0, 8, 0, 8, 6, 0, 6]]


@pytest.fixture
def opened(tmp_path, save_image):
    """Open two images, each with one object, after a change of the file's content."""

    def run(change=lambda content: None, **masks):
        images = [{"id": i, "file_name": f"{i}.png", "height": 6, "width": 8} for i in (1, 2)]
        for record in images:
            save_image(tmp_path / record["file_name"])
        annotations = [{"id": i, "image_id": i, "category_id": 1, "segmentation": POLYGON} for i in (1, 2)]
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
        change(content)
        (tmp_path / "labels.json").write_text(json.dumps(content))
        return open_label_maps(DataConfig(data=str(tmp_path), masks=MaskConfig(**masks)))

    return run


def maps(splits):
    parts = splits.parts.values()
    return {images.path(i)[-5]: images.target(i) for images in parts for i in range(len(images))}


def test_objects_of_unlisted_images_are_a_problem_or_refused(opened, refused):
    def one(content):
        content["annotations"].append(content["annotations"][0] | {"id": 3, "image_id": 99})

    (problem,) = opened(one).problems
    assert problem.startswith("1 annotation of ")
    assert problem.endswith("for images that are not listed, the first 99; list them or remove it")

    def every(content):
        for annotation in content["annotations"]:
            annotation["image_id"] = f"{annotation['image_id']}.png"

    with refused(r"2 annotations of .* the first '1\.png'; .*; none is for an image that is"):
        opened(every)


def test_an_id_of_two_images_is_refused_and_an_image_listed_twice_is_used_once(opened, refused):
    with refused(r"image id 1 is given to 1\.png and to 2\.png; give each its own"):
        opened(lambda content: content["images"][1].update(id=1))
    splits = opened(lambda content: content["images"].append(content["images"][0]))
    assert splits.count == 2
    assert any("1 image of" in note and "listed twice with the same id" in note for note in splits.notes)


def test_polygons_as_fractions_are_a_problem(opened):
    def change(content):
        for annotation in content["annotations"]:
            annotation["segmentation"] = [[value / (8, 6)[i % 2] for i, value in enumerate(POLYGON[0])]]

    (problem,) = opened(change).problems
    assert "so they look like fractions of its width and height; give x and y in pixels" in problem
    assert opened().problems == ()


@pytest.mark.parametrize("used", [False, True])
def test_a_category_of_the_background_is_the_pixels_outside_of_objects(opened, used):
    def change(content):
        content["categories"].insert(0, {"id": 0, "name": "background"})
        if used:
            whole = {"category_id": 0, "segmentation": WHOLE, "bbox": [0, 0, 8, 6]}
            extra = [{"id": 3, "image_id": 1, **whole}, {"id": 4, "image_id": 2, **whole}]
            content["annotations"] = [extra[0], *content["annotations"], extra[1]]

    splits = opened(change)
    assert splits.names == ("background", "cat")
    assert all(np.array_equal(label_map, SQUARE) for label_map in maps(splits).values())
    assert "the category background is one class with the pixels outside of all objects" in splits.notes
    assert not any("overlap" in note for note in splits.notes)


def test_an_image_without_height_and_width_in_its_record_has_its_own(opened):
    def change(content):
        for record in content["images"]:
            del record["height"], record["width"]

    assert all(np.array_equal(label_map, SQUARE) for label_map in maps(opened(change)).values())
