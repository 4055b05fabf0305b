"""Values of COCO's JSON that cannot be meant, or are written in another form."""

from __future__ import annotations

import json
import re

import pytest

from twins.data.config import DataConfig
from twins.data.formats.open import open_objects
from twins.tasks.contract import spec_of

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


@pytest.fixture
def opened(tmp_path, save_image):
    def run(change=lambda annotation: None, categories=CATEGORIES, images=()):
        records = [{"id": i, "file_name": f"{i}.png", "height": 6, "width": 8} for i in range(4)]
        for record in records:
            save_image(tmp_path / record["file_name"])
        annotations = [{"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [2, 1, 4, 3]} for i in range(4)]
        for annotation in annotations:
            change(annotation)
        content = {"images": [*records, *images], "annotations": annotations, "categories": categories}
        (tmp_path / "labels.json").write_text(json.dumps(content))
        return open_objects(DataConfig(data=str(tmp_path)), masks=False)

    return run


@pytest.mark.parametrize(
    ("area", "message"),
    [
        (0, "4 of 4 areas in .* are below 1 although the box has pixels; fix them"),
        (12 / 48, "4 of 4 areas in .* are below 1 although the box has pixels; fix them"),
        (100, "4 of 4 areas in .* are more than twice as large as the box; fix them"),
    ],
)
def test_areas_that_cannot_be_those_of_their_boxes_are_a_problem(opened, area, message):
    (problem,) = opened(lambda annotation: annotation.update(area=area)).problems
    assert re.fullmatch(message, problem)
    assert opened(lambda annotation: annotation.update(area=7)).problems == ()


def test_category_ids_with_zeros_in_front_are_numbers(opened):
    categories = [record | {"id": f"0{record['id']}"} for record in CATEGORIES]
    splits = opened(lambda item: item.update(category_id=f"0{item['category_id']}"), categories)
    assert splits.faults == ()
    labels = {
        int(images.target(i).image_id): splits.names[images.target(i).labels[0]]
        for images in splits.parts.values()
        for i in range(len(images))
    }
    assert labels == {0: "cat", 1: "dog", 2: "cat", 3: "dog"}


def test_a_category_without_a_name_is_refused(opened, refused):
    with refused("the name of category 1 is no text"):
        opened(categories=[{"id": 1, "name": None}, CATEGORIES[1]])


def test_an_image_that_is_listed_twice_is_said_to_be(opened):
    splits = opened(images=[{"id": 0, "file_name": "0.png", "height": 6, "width": 8}])
    assert splits.faults[0].endswith("labels.json lists 0.png twice with the image id 0; remove one")
    assert splits.count == 4


def test_corners_inside_the_image_are_recognised_by_the_areas(opened):
    (problem,) = opened(lambda annotation: annotation.update(bbox=[1, 1, 4, 3], area=6)).problems
    assert problem.startswith("4 areas in ")
    assert "fit the boxes if their numbers are left, top, right and bottom; give left" in problem
    assert opened(lambda annotation: annotation.update(bbox=[0, 0, 4, 3], area=12)).problems == ()


def test_a_set_whose_annotations_are_all_left_out_is_refused_with_the_first_reason(opened, refused, tmp_path):
    opened(lambda annotation: annotation.update(category_id="cat"))
    with refused(r"has an object to find, .* \(4 entries left out, the first: annotation 0 of .* the category 'cat'"):
        spec_of("detection").open(DataConfig(data=str(tmp_path)))
