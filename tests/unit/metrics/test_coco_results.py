"""COCO results files: the entries we write, scores of files, and errors for files that cannot be scored."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twins.data.base import UNSPLIT
from twins.data.config import DataConfig
from twins.data.formats.coco_objects import open_coco_objects
from twins.data.formats.source import Source
from twins.data.objects import encode_mask
from twins.errors import DataError
from twins.metrics.coco_results import coco_results, score_results
from twins.predictions import Prediction

SIZE = (20, 30)
MASK = np.zeros(SIZE, dtype=bool)
MASK[5:15, 4:14] = True
TEXT = encode_mask(MASK)["counts"].decode()
RLE = {"size": list(SIZE), "counts": TEXT}
BOX = [4.0, 5.0, 10.0, 10.0]
POLYGON = [[4, 5, 14, 5, 14, 15, 4, 15]]
ENTRY = {"image_id": 7, "category_id": 90, "bbox": BOX, "score": 0.5, "segmentation": RLE}


def without(key: str, record=None) -> dict:
    return {name: value for name, value in (record or ENTRY).items() if name != key}


def truth(**changes) -> dict:
    record = {
        "id": 1,
        "image_id": 7,
        "category_id": 90,
        "bbox": BOX,
        "area": 100,
        "iscrowd": 0,
        "segmentation": POLYGON,
    }
    return {
        "images": [{"id": 9, "height": 20, "width": 30}, {"id": 7, "height": 20, "width": 30}],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}],
        "annotations": [record | changes],
    }


@pytest.fixture
def score(tmp_path: Path):
    """Return a function that writes entries and a ground truth to files and scores them."""

    def run(entries, content=None, *, masks=False):
        paths = tmp_path / "results.json", tmp_path / "truth.json"
        for path, value in zip(paths, (entries, content or truth()), strict=True):
            path.write_text(value if isinstance(value, str) else json.dumps(value))
        return score_results(*paths, masks=masks)

    return run


def test_entries_have_the_fields_of_coco_results():
    prediction = Prediction(
        task="instance",
        size=SIZE,
        boxes=np.array([[4.123456, 5, 14, 15.5], [0, 0, 3, 3]], dtype=np.float32),
        labels=np.array([1, 0]),
        scores=np.array([0.75, 0.5], dtype=np.float32),
        masks=np.stack([MASK, MASK]),
    )
    (entry,) = coco_results(
        prediction, image_id=7, category_ids=(None, 90)
    )  # the annotations do not have the first class
    assert json.loads(json.dumps(entry)) == {
        **{"image_id": 7, "category_id": 90, "score": 0.75, "bbox": [4.1235, 5.0, 9.8765, 10.5]},
        "segmentation": RLE,
    }


@pytest.mark.parametrize("segmentation", [RLE, POLYGON, {"size": list(SIZE), "counts": [85, *[10, 10] * 9, 10, 325]}])
@pytest.mark.parametrize("drop", ["", "bbox"])
def test_perfect_results_score_one_in_every_format_of_masks(score, segmentation, drop):
    result = score([without(drop) | {"segmentation": segmentation}], masks=True)
    assert result["metrics"] == pytest.approx(dict.fromkeys(result["metrics"], 1.0))
    assert {name.partition("_")[0] for name in result["metrics"]} == {"mask", "box"}
    car, brush = result["per_class"]  # by category id
    assert (car["name"], car["category_id"], car["objects"], car["ap"]) == ("car", 3, 0, None)
    assert (brush["name"], brush["category_id"], brush["objects"]) == ("toothbrush", 90, 1)
    assert brush["ap"] == brush["mask_ap"] == pytest.approx(1.0)


def test_boxes_are_scored_without_masks_and_without_image_sizes(score):
    assert score([without("segmentation")])["metrics"]["box_ap"] == pytest.approx(1.0)
    sizeless = truth() | {"images": [{"id": 7}, {"id": 9}]}
    assert score([without("segmentation")], sizeless)["metrics"]["box_ap"] == pytest.approx(1.0)


def test_results_for_few_images_give_a_note(score):
    content = truth()
    content["images"] += [{"id": 20 + index, "height": 20, "width": 30} for index in range(2)]
    (note,) = score([ENTRY], content, masks=True)["notes"]
    assert note == "1 of 4 images have results; in the others every object counts as missed"


def test_a_file_without_entries_scores_zero(score):
    result = score([], masks=True)
    assert result["metrics"]["mask_ap"] == result["metrics"]["box_ar100"] == 0.0
    assert set(result["metrics"].values()) == {0.0}


@pytest.mark.parametrize(
    ("change", "message"), [({"image_id": 55}, "is for the image 55"), ({"category_id": 8}, "has the category 8")]
)
def test_annotations_of_unlisted_images_or_categories_are_left_out_with_a_note(score, change, message):
    content = truth()
    content["annotations"].append(truth()["annotations"][0] | {"id": 2} | change)
    result = score([ENTRY], content, masks=True)
    assert result["metrics"]["mask_ap"] == result["metrics"]["box_ap"] == pytest.approx(1.0)
    (note,) = result["notes"]
    assert note.startswith("1 annotation of the ground truth left out, the first: annotation 2 of ")
    assert message in note
    assert score([ENTRY], masks=True)["notes"] == []


@pytest.mark.parametrize(
    "changes",
    [{"segmentation": [*POLYGON, [3, 3, 4, 4]]}, {"bbox": None}, {"bbox": []}, {"area": None}],
    ids=["a polygon of two points", "no box", "an empty box", "no area"],
)
def test_incomplete_annotations_are_read_as_in_training(score, changes, tmp_path):
    content = truth(**changes)
    for record in content["images"]:
        record["file_name"] = f"{record['id']}.png"
        Image.new("RGB", (30, 20)).save(tmp_path / record["file_name"])
    result = score([ENTRY], content, masks=True)
    assert result["metrics"] == pytest.approx(dict.fromkeys(result["metrics"], 1.0))
    (tmp_path / "instances.json").write_text(json.dumps(content))
    source = Source(DataConfig(data=str(tmp_path)), "a folder")
    objects = open_coco_objects(source, masks=True).parts[UNSPLIT].target(1)
    assert (objects.boxes.tolist(), objects.areas.tolist()) == ([[4, 5, 14, 15]], [100])
    assert objects.masks[0]["counts"].decode() == TEXT


def test_an_image_that_is_listed_twice_counts_once(score):
    content = truth()
    content["images"] *= 2
    assert score([ENTRY], content)["metrics"]["box_ap"] == pytest.approx(1.0)


def test_polygons_of_two_points_cover_no_pixels(score):
    result = score([ENTRY, ENTRY | {"segmentation": [[1, 2, 3, 4]], "score": 0.4}], masks=True)
    assert result["metrics"]["mask_ap"] == pytest.approx(1.0)


def test_a_missing_area_is_that_of_the_box(score):
    content = truth()
    del content["annotations"][0]["area"], content["annotations"][0]["iscrowd"]
    assert score([ENTRY], content)["metrics"]["box_ap_small"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("entry", "masks", "message"),
    [
        (ENTRY | {"image_id": 8}, False, "the image_id 8, which the ground truth does not list"),
        (ENTRY | {"image_id": [7]}, False, r"the image_id \[7\]"),
        (ENTRY | {"category_id": 1}, False, "the category_id 1, which the ground truth does not list"),
        (without("category_id"), False, "no category_id"),
        (without("score"), False, "no score"),
        (ENTRY | {"score": float("nan")}, False, "the score nan, which is no number"),
        (ENTRY | {"score": "half"}, False, "the score 'half', which is no number"),
        (ENTRY | {"score": 10**400}, False, "the score 1000"),
        (without("bbox"), False, "no bbox"),
        (ENTRY | {"bbox": BOX[:3]}, False, r"the bbox \[4.0, 5.0, 10.0\], not left, top, width and height"),
        (ENTRY | {"bbox": [*BOX[:3], None]}, False, "not left, top, width and height"),
        (ENTRY | {"bbox": [*BOX[:3], float("inf")]}, False, "not left, top, width and height"),
        ([7, 90], False, r"\[7, 90\] where image_id, category_id, score"),
        (without("segmentation"), True, "no segmentation"),
        (ENTRY | {"segmentation": []}, True, "no segmentation"),
        (
            ENTRY | {"segmentation": [[1, 2, 3, 4, 5, float("nan")]]},
            True,
            "the polygon .* must list x and y alternately",
        ),
        (ENTRY | {"segmentation": [[1, 2, 3, 4, 5, 1e300]]}, True, "numbers below 1,000,000"),
        (ENTRY | {"segmentation": "abc"}, True, "neither polygons nor run lengths"),
        (ENTRY | {"segmentation": {"counts": TEXT}}, True, "neither polygons nor run lengths"),
        (
            ENTRY | {"segmentation": RLE | {"size": [30, 20]}},
            True,
            r"mask of \[30, 20\] on an image of \[20, 30\] pixels",
        ),
        (ENTRY | {"segmentation": RLE | {"counts": TEXT[:-2]}}, True, "do not make 20 x 30 pixels"),
        (ENTRY | {"segmentation": RLE | {"counts": TEXT + "1"}}, True, "do not make 20 x 30 pixels"),
        (ENTRY | {"segmentation": RLE | {"counts": ""}}, True, "do not make 20 x 30 pixels"),
        (ENTRY | {"segmentation": RLE | {"counts": "ä"}}, True, "do not make 20 x 30 pixels"),
        (ENTRY | {"segmentation": RLE | {"counts": [601, -1]}}, True, "whole numbers of at least 0"),
        (ENTRY | {"segmentation": RLE | {"counts": [599.5, 0.5]}}, True, "whole numbers of at least 0"),
        (ENTRY | {"segmentation": RLE | {"counts": 5}}, True, "must be a text, or a list"),
    ],
)
def test_an_invalid_entry_is_an_error_with_its_number(score, entry, masks, message):
    with pytest.raises(DataError, match=f"results.json: entry 2 of 2 has .*{message}"):
        score([ENTRY, entry], masks=masks)


def test_without_a_box_in_the_first_entry_masks_are_required(score):
    with pytest.raises(DataError, match="entry 1 of 1 has no segmentation"):
        score([without("segmentation", without("bbox"))])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"image_id": 7}', "is no list of results"),
        ("[", "is no JSON"),
    ],
)
def test_a_file_without_a_list_of_results_is_an_error(score, content, message):
    with pytest.raises(DataError, match=f"results.json {message}"):
        score(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "truth.json has no images and no annotations and no categories, so it is no COCO file"),
        (without("categories", truth()), "has no categories"),
        (truth() | {"categories": [{"id": 1}]}, "has a record without 'name'"),
        (truth() | {"images": [7]}, "has a record that is none of COCO's"),
        (truth() | {"images": [{"id": 7}, {"id": "b"}]}, "has a record that is none of COCO's"),
        (truth() | {"annotations": 7}, "has a record that is none of COCO's"),
        (truth(image_id=[7]), r"has no object to find.*annotation 1 of .*truth.json is for the image \[7\]"),
        (truth(bbox=[1, 2]), r"annotation 1 of .*truth.json has the bbox \[1, 2\]; give four finite numbers"),
        (truth(category_id=5), "has no object to find.*annotation 1 of .*truth.json has the category 5"),
        (truth(segmentation=[]), "annotation 1 of .*truth.json has no mask; add it or remove the annotation"),
        (truth(segmentation=RLE | {"counts": [601, -1]}), "annotation 1 of .*whole numbers of at least 0; fix it"),
        (
            truth() | {"images": [{"id": 7}]},
            "annotation 1 of .* has a segmentation in an image whose height and width are not",
        ),
        (truth(iscrowd=1), "has no object to find"),
        (truth() | {"annotations": []}, "has no object to find"),
    ],
)
def test_an_unusable_ground_truth_is_an_error(score, content, message):
    with pytest.raises(DataError, match=message):
        score([], content if content else "[]", masks=True)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"there is no file .*missing.json; check the path"):
        score_results(tmp_path / "missing.json", tmp_path / "missing.json", masks=False)


@pytest.mark.parametrize("form", [float, str, lambda value: f"{value}.0"])
def test_numbers_of_data_frames_and_scripts_score_the_same(score, form):
    crowd = truth()["annotations"][0] | {"id": 2, "bbox": [20, 0, 10, 20], "area": 200, "iscrowd": 1}
    inside = ENTRY | {"bbox": [22, 2, 4, 4], "score": 0.75}
    entries, content = [ENTRY, inside], truth()
    content["annotations"].append(crowd)
    expected = score(entries, content)

    def respelled(record):
        changes = {key: form(record[key]) for key in ("id", "image_id", "category_id", "iscrowd") if key in record}
        changes |= {"bbox": [form(int(side)) for side in record["bbox"]]} if "bbox" in record else {}
        return record | changes | ({"score": str(record["score"])} if "score" in record else {})

    written = {name: [respelled(record) for record in records] for name, records in content.items()}
    result = score([respelled(entry) for entry in entries], written)
    assert result["metrics"] == expected["metrics"]
    assert result["metrics"]["box_ap"] == pytest.approx(1.0)  # the surer result lies in the crowd region
    assert [note for note in result["notes"] if "read as whole numbers" in note]


def test_an_id_that_is_a_text_stays_one(score):
    content = truth(image_id="a.jpg")
    content["images"] = [{"id": "a.jpg", "height": 20, "width": 30}, {"id": "007", "height": 20, "width": 30}]
    assert score([ENTRY | {"image_id": "a.jpg"}], content)["metrics"]["box_ap"] == pytest.approx(1.0)
    with pytest.raises(DataError, match="the image_id 7, which the ground truth does not list"):
        score([ENTRY], content)


@pytest.mark.parametrize("form", ["{:03}", "{}"])
def test_image_ids_with_zeros_in_front_are_numbers_in_both_files(score, form):
    content = truth(image_id="007")
    for record in content["images"]:
        record["id"] = f"{record['id']:03}"
    result = score([ENTRY | {"image_id": form.format(7)}], content)
    assert result["metrics"]["box_ap"] == pytest.approx(1.0)
    assert any('written as "007"' in note for note in result["notes"])


def test_results_that_miss_an_image_with_objects_give_a_note(score):
    content = truth()
    content["annotations"].append(truth()["annotations"][0] | {"id": 2, "image_id": 9})
    assert score([ENTRY], content)["notes"] == [
        "1 of 2 images have results; in the others every object counts as missed"
    ]


@pytest.mark.parametrize(
    ("box", "note"),
    [
        ([14.0, 12.0, 29.0, 19.0], "all fit if their numbers are left, top, right and bottom"),
        ([4 / 30, 5 / 20, 10 / 30, 10 / 20], "so they look like fractions of its width and height"),
    ],
)
@pytest.mark.parametrize("which", ["results", "truth"])
def test_boxes_in_another_form_give_a_note(score, box, note, which):
    entry, content = ENTRY | {"bbox": box}, truth()
    if which == "truth":
        entry, content = ENTRY, truth(bbox=box)
    (found,) = score([entry], content)["notes"]
    assert note in found
    assert f"{which}.json" in found


def test_results_that_are_repeated_give_a_note(score):
    (note,) = score([ENTRY, ENTRY, ENTRY | {"score": 0.25}])["notes"]
    assert note.startswith("1 entry of ")
    assert note.endswith("repeat another, and count as wrong detections; remove them")


@pytest.mark.parametrize(
    ("name", "records"),
    [
        ("images", [{"id": 7, "file_name": "a.jpg"}, {"id": 7, "file_name": "b.jpg"}]),
        ("categories", [{"id": 90, "name": "cat"}, {"id": 90, "name": "dog"}]),
    ],
)
def test_an_id_of_two_images_or_categories_is_an_error(score, name, records):
    with pytest.raises(DataError, match=r"the id \d+ is given to .* and to .*; give each its own"):
        score([ENTRY], truth() | {name: records})


@pytest.mark.parametrize(
    ("box", "note"),
    [
        ([4.0, 5.0, 14.0, 15.0], "by 100 % if their numbers are left, top, right and bottom"),
        ([9.0, 10.0, 10.0, 10.0], "by 100 % if their numbers are centre, width and height"),
        ([40.0, 50.0, 100.0, 100.0], "1 of 1 box in .* outside of the image; give pixels of the image in its own size"),
        ([14.0, 15.0, -10.0, -10.0], "1 of 1 box in .* without area; give left, top, width and height in pixels"),
    ],
)
def test_boxes_of_results_in_another_form_give_a_note(score, box, note):
    (found,) = score([ENTRY | {"bbox": box}])["notes"]
    assert re.search(note, found)


def test_results_that_are_merely_poor_give_no_note(score):
    assert score([ENTRY | {"bbox": [20.0, 2.0, 9.0, 4.0]}])["notes"] == []
