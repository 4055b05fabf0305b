"""COCO's JSON files as label maps: the category of each pixel, in every form of a mask."""

from __future__ import annotations

import json

import numpy as np
import pytest
from faster_coco_eval import mask as rle
from PIL import Image

from twins.data.config import BoxConfig, DataConfig, MaskConfig
from twins.data.formats.open import open_label_maps, open_objects
from twins.errors import ConfigError

SQUARE = np.zeros((6, 8), dtype=np.uint8)
SQUARE[1:4, 2:6] = 1
POLYGON = [[2, 1, 6, 1, 6, 4, 2, 4]]
PACKED = rle.encode(np.asfortranarray(SQUARE))
RUNS = [13, 3, 3, 3, 3, 3, 3, 3, 14]
CATEGORIES = [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}]


def annotation(segmentation, category=5, image=1, **more):
    return {"id": 7, "image_id": image, "category_id": category, "segmentation": segmentation} | more


@pytest.fixture
def coco(tmp_path, save_image):
    """Write a JSON file of two images with annotations, and the images."""

    def write(annotations, name="instances.json", categories=CATEGORIES, **changed):
        images = [{"id": i, "file_name": f"{i}.jpg", "height": 6, "width": 8} | changed for i in (1, 2)]
        for i in (1, 2):
            save_image(tmp_path / "images" / f"{i}.jpg")
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
        return tmp_path

    return write


@pytest.fixture
def panoptic(coco, tmp_path):
    """Write a panoptic JSON file, and the same PNG for both images."""

    def write(pixels, segments, categories=CATEGORIES):
        (tmp_path / "panoptic").mkdir(exist_ok=True)
        for i in (1, 2):
            (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(
                tmp_path / f"panoptic/{i}.png"
            )
        annotations = [{"image_id": i, "file_name": f"{i}.png", "segments_info": segments} for i in (1, 2)]
        return coco(annotations, "panoptic.json", categories)

    return write


def opened(root, **masks):
    return open_label_maps(DataConfig(data=str(root), masks=MaskConfig(**masks)))


def targets(splits):
    """Return the label map of each image by its name."""
    label_maps = {}
    for images in (splits.train, splits.val):
        label_maps |= {images.path(i).rpartition("/")[2]: images.target(i) for i in range(len(images))}
    return label_maps


@pytest.mark.parametrize(
    "segmentation",
    [
        POLYGON,
        [[2, 1, 4, 1, 4, 4, 2, 4], [4, 1, 6, 1, 6, 4, 4, 4]],
        {"size": [6, 8], "counts": RUNS},
        {"size": [6, 8], "counts": PACKED["counts"].decode()},
    ],
)
@pytest.mark.parametrize("crowd", [0, 1])
def test_every_form_of_a_mask_gives_the_same_map(coco, segmentation, crowd):
    splits = opened(coco([annotation(segmentation, iscrowd=crowd)]))
    assert splits.train.names == ("background", "cat", "dog")
    assert (targets(splits)["1.jpg"] == 2 * SQUARE).all()
    assert not targets(splits)["2.jpg"].any()


def test_pixels_of_two_categories_are_ignored(coco):
    left, full = [[0, 0, 4, 0, 4, 6, 0, 6]], [[0, 0, 8, 0, 8, 6, 0, 6]]
    row = targets(opened(coco([annotation(left, 2), annotation(full, 5), annotation(left, 2)])))["1.jpg"][0]
    assert row.tolist() == [255] * 4 + [2] * 4
    assert (targets(opened(coco([annotation(full), annotation(left)])))["1.jpg"] == 2).all()


def test_polygons_without_an_area_have_no_effect(coco):
    label_maps = targets(
        opened(coco([annotation([[3, 3], [1, 1, 5, 5], [], *POLYGON]), annotation([[0, 0, 4, 4]], 2)]))
    )
    assert (label_maps["1.jpg"] == 2 * SQUARE).all()


def test_pixels_of_an_ignored_category_are_ignored(coco, panoptic):
    splits = opened(coco([annotation(POLYGON)]), ignore=(5,))
    assert splits.train.names == ("background", "cat")
    assert (targets(splits)["1.jpg"] == 255 * SQUARE).all()
    root = panoptic(SQUARE[..., None] * np.array([1, 0, 0], dtype=np.uint8), [{"id": 1, "category_id": 5}])
    assert targets(opened(root, ignore=(5,)))["1.jpg"].min() == 255


@pytest.mark.parametrize("train", ["train", "_train", "_train2017", "_training_set"])
@pytest.mark.parametrize("val", ["annotations/instances_val2017.json", "instances_valid.json", "instances_test.json"])
def test_two_files_are_two_parts(coco, train, val):
    coco([annotation(POLYGON)], f"annotations/instances{train}.json")
    splits = opened(coco([annotation(POLYGON, 2)], val))
    assert [splits.train.target(0).max(), splits.val.target(0).max()] == [2, 1]
    assert (len(splits.train), len(splits.val)) == (2, 2)


@pytest.mark.parametrize("name", ["instances.json", "annotations/instances_default.json", "instances_train.json"])
def test_one_file_is_split_by_seed(coco, name):
    splits = opened(coco([annotation(POLYGON)], name))
    assert {splits.train.path(0)[-5:], splits.val.path(0)[-5:]} == {"1.jpg", "2.jpg"}
    assert splits.train.load(0).size == (8, 6)


def test_panoptic_segments_are_identified_by_their_three_bytes(panoptic):
    colours = np.array([[0, 0, 0], [44, 1, 0], [0, 0, 3], [9, 9, 9]], dtype=np.uint8)
    segments = [
        {"id": 300, "category_id": 2},
        {"id": 3 * 65536, "category_id": 5},
        {"id": 9 + 9 * 256 + 9 * 65536, "category_id": 2},
    ]
    expected = np.array([255, 0, 1, 0])
    order = np.arange(48).reshape(6, 8) % 4
    splits = opened(panoptic(colours[order], segments))
    assert splits.train.names == ("cat", "dog")
    assert (targets(splits)["1.jpg"] == expected[order]).all()
    palette = Image.fromarray(order.astype(np.uint8))
    palette.putpalette(colours.ravel().tolist())
    assert (targets(opened(panoptic(palette, segments)))["1.jpg"] == expected[order]).all()
    grey = Image.fromarray((order == 3).astype(np.uint8) * 9)
    assert (targets(opened(panoptic(grey, segments)))["1.jpg"] == np.where(order == 3, 0, 255)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("categories"), r"panoptic\.json has no categories, so it is no COCO file"),
        (lambda c: c.update(images=[]), r"panoptic\.json lists no image"),
        (lambda c: c.update(annotations=[]), r"panoptic\.json lists no annotation"),
        (lambda c: c.update(annotations={"a": 1}), r"panoptic\.json has a record that is none of COCO's"),
        (lambda c: c["annotations"][1].pop("segments_info"), r"has a record without 'segments_info'; fix the file"),
        (lambda c: c["annotations"][0].pop("file_name"), r"without 'file_name'"),
        (lambda c: c["annotations"][0]["segments_info"][0].pop("id"), r"without 'id'"),
        (lambda c: c["annotations"][1].update(segments_info=5), "has a record that is none of COCO's"),
        (lambda c: c["images"][0].pop("file_name"), r"without 'file_name'"),
        (lambda c: c["images"][0].update(file_name=3), r"none of COCO's"),
        (lambda c: c["images"][0].update(id=[3]), r"none of COCO's"),
        (lambda c: c["categories"][0].update(id="x"), r"none of COCO's"),
        (lambda c: c["categories"][0].update(name="cat"), r"panoptic\.json: two classes have the same name, 'cat'"),
        (lambda c: c["categories"][0].update(id=9), r"segment 1 has the category 5, which is not listed"),
        (lambda c: c["annotations"][0].update(file_name="9.png"), r"such as 9\.png, are not in .*; put them there"),
        (lambda c: c["annotations"][1].update(file_name="9.png"), r"lists .*9\.png, which does not exist"),
        (lambda c: c["annotations"].pop(1), r"has no segments for .*2\.jpg"),
        (
            lambda c: c["annotations"][1]["segments_info"][0].update(id=4),
            r"2\.png holds segment 1, which .* does not list",
        ),
    ],
)
def test_a_damaged_panoptic_file_is_named(panoptic, refused, change, message):
    pixels = SQUARE[..., None] * np.array([1, 0, 0], dtype=np.uint8)
    root = panoptic(pixels, [{"id": 1, "category_id": 5}])
    content = json.loads((root / "panoptic.json").read_text())
    change(content)
    (root / "panoptic.json").write_text(json.dumps(content))
    with refused(message):
        targets(opened(root))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, r"annotation 7 of .*instances\.json has no mask; add it or remove the annotation"),
        ([], r"has no mask"),
        (
            [[2, 1, 6, 1, 6]],
            r"the polygon \[2, 1, 6, 1, 6\], which must list x and y alternately, numbers below 1,000,000; fix it",
        ),
        ([2, 1, 6, 1, 6, 4], r"the polygon 2, which must list"),
        ([[2, 1, float("nan"), 1, 6, 4]], r"numbers below 1,000,000"),
        ([[2, 1, 1e12, 1, 6, 4]], r"numbers below 1,000,000"),
        ([[2, 1, -(2**63), 1, 6, 4]], r"numbers below 1,000,000"),
        ([[2, 1, 10**400, 1, 6, 4]], r"numbers below 1,000,000"),
        ([["a", "b", "c", "d", "e", "f"]], r"the polygon \['a', .*numbers"),
        ({"size": [8, 6], "counts": RUNS}, r"mask of \[8, 6\] on an image of \[6, 8\] pixels; fix it"),
        ({"counts": RUNS}, r"the segmentation \{.*\}, neither polygons nor run lengths; fix it"),
        ({"size": [6, 8], "counts": [13, 3, 900]}, r"\[13, 3, 900\], which do not make 6 x 8 pixels; fix it"),
        ({"size": [6, 8], "counts": [13, 3]}, r"the run lengths \[13, 3\], which do not make"),
        (
            {"size": [6, 8], "counts": [13, -3, 38]},
            r"\[13, -3, 38\], which must be a text, or a list of whole numbers of at",
        ),
        ({"size": [6, 8], "counts": PACKED["counts"].decode()[:4]}, r"the run lengths '=330', which do not make"),
        ({"size": [6, 8], "counts": None}, r"the run lengths None, which must be a text, or a list"),
    ],
)
def test_a_damaged_mask_is_named(coco, refused, segmentation, message):
    with refused(message):
        targets(opened(coco([annotation(segmentation)])))


@pytest.mark.parametrize("content", [b"", b'{"images": [{"id": 1, ', b"\xff\xfe{}", b"[]", b'{"images": []}'])
def test_a_file_that_is_no_coco_file_is_named(tmp_path, refused, content):
    (tmp_path / "instances.json").write_bytes(content)
    with refused(r"instances\.json (is no JSON .*; copy it again|has no .*annotations .*; check which file it is)"):
        opened(tmp_path)


def test_a_file_is_read_as_what_it_holds_whatever_its_name(coco, panoptic):
    splits = opened(coco([annotation(POLYGON)], "panoptic.json"))
    assert (targets(splits)["1.jpg"] == 2 * SQUARE).all()
    root = panoptic(SQUARE[..., None] * np.array([1, 0, 0], dtype=np.uint8), [{"id": 1, "category_id": 5}])
    (root / "panoptic.json").rename(root / "panoptic" / "segments.json")
    assert (targets(opened(root))["1.jpg"] == np.where(SQUARE, 1, 255)).all()


def test_categories_that_a_label_map_cannot_hold_are_refused(coco, refused):
    categories = [{"id": i, "name": f"x{i}"} for i in range(255)]
    with refused(r"instances\.json: .*at most 255 classes, found 256"):
        opened(coco([annotation(POLYGON, 0)], categories=categories))


@pytest.mark.parametrize("name", ["background", "Background", "_background_"])
@pytest.mark.parametrize("order", [1, -1])
def test_a_category_of_the_background_is_the_background(coco, name, order):
    left, full = [[0, 0, 4, 0, 4, 6, 0, 6]], [[2, 0, 8, 0, 8, 6, 2, 6]]
    categories = [{"id": 5, "name": "dog"}, {"id": 9, "name": name}]
    splits = opened(coco([annotation(left, 9), annotation(full, 5)][::order], categories=categories))
    assert splits.train.names == (name, "dog")
    assert targets(splits)["1.jpg"][0].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]  # an object lies on the background
    assert not targets(splits)["2.jpg"].any()


def test_two_files_with_no_category_in_common_are_refused(coco, refused):
    coco([annotation(POLYGON)], "instances_train.json")
    with refused("list different categories, .*; give both the same"):
        opened(coco([], "instances_val.json", [{"id": 5, "name": "car"}]))


def test_classes_of_two_files_are_matched_by_name(coco):
    coco([annotation(POLYGON)], "instances_train.json")
    swapped = [{"id": 2, "name": "dog"}, {"id": 9, "name": "cow"}]
    splits = opened(coco([annotation(POLYGON, 2)], "instances_val.json", swapped))
    assert splits.train.names == splits.val.names == ("background", "cat", "dog", "cow")
    assert [part.target(0).max() for part in (splits.train, splits.val)] == [2, 2]
    assert [note.partition(" has ")[2][:10] for note in splits.notes[:2]] == ["other ids ", "classes th"]


@pytest.mark.parametrize("height", [None, "six", -1, 0, 2**70])
def test_sizes_that_no_image_has_are_named(coco, refused, height):
    with refused(r"instances\.json gives \(.*, 8\) as height and width of .*jpg; fix it"):
        targets(opened(coco([annotation(POLYGON)], height=height)))


def test_listed_images_that_do_not_exist_are_named(coco, refused):
    root = coco([annotation(POLYGON)])
    splits = opened(root)
    (root / "images" / "1.jpg").unlink()
    with refused(r"lists .*1\.jpg, which does not exist; add it or remove its record"):
        [images.load(0) for images in (splits.train, splits.val)]
    (root / "images" / "2.jpg").unlink()
    with refused(r"the images of .*instances\.json, such as 1\.jpg, are not in .*; put them in"):
        opened(root)


@pytest.mark.parametrize("setting", [{"classes": "coco"}, {"values": "index"}, {"reduce_zero_label": True}])
def test_mask_settings_that_do_not_apply_to_json_are_refused(coco, refused, setting):
    with refused(r"lists the classes of its masks itself; leave out those of .* that are given"):
        opened(coco([annotation(POLYGON)]), **setting)


@pytest.mark.parametrize("form", ["panoptic\\{}", "/other/machine/{}", "{}"])
def test_panoptic_maps_with_names_of_another_system_are_found(panoptic, form):
    pixels = np.where(SQUARE, 7, 8).astype(np.uint8)
    root = panoptic(
        np.dstack([pixels, 0 * pixels, 0 * pixels]), [{"id": 7, "category_id": 5}, {"id": 8, "category_id": 2}]
    )
    content = json.loads((root / "panoptic.json").read_text())
    for record in content["annotations"]:
        record["file_name"] = form.format(record["file_name"].upper())
        record["image_id"] = float(record["image_id"])
        record["segments_info"] = [
            {"id": str(segment["id"]), "category_id": float(segment["category_id"])}
            for segment in record["segments_info"]
        ]
    (root / "panoptic.json").write_text(json.dumps(content))
    splits = opened(root)
    assert (targets(splits)["1.jpg"] == SQUARE).all()
    assert any("2 names found although spelled otherwise" in note for note in splits.notes)
    assert any(note.startswith("10 ids in ") for note in splits.notes)


def test_classes_of_boxes_in_the_settings_are_refused_as_the_file_lists_them_itself(coco):
    root = coco([annotation(POLYGON) | {"bbox": [2, 1, 4, 3]}])
    with pytest.raises(ConfigError, match=r"instances\.json lists the classes of its boxes itself; leave out `boxes"):
        open_objects(DataConfig(data=str(root), boxes=BoxConfig(classes="coco")), masks=False)
