"""Real data sets as objects: they are read as stored, and `twins check` finds their faults."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twins.data.classes import built_in
from twins.data.config import DataConfig
from twins.data.formats.open import open_objects_for_run
from twins.data.objects import decode_masks, trainable
from twins.tasks.detection.spec import DetectionSpec


def opened(root, masks=False):
    return open_objects_for_run(DataConfig(data=str(root)), masks=masks)


def every(splits):
    return ((images, i) for images in (splits.train, splits.val) for i in range(len(images)))


def stem(images, index):
    return Path(images.path(index)).stem


@pytest.fixture
def yolo(sample_data, tmp_path):
    """Link COCO's images and one of its two label sets into a folder, unsplit or split as its YAML file says."""

    def lay(kind, split=True):
        source = sample_data / "coco_open"
        images = sorted((source / "images").iterdir())
        for i, image in enumerate(images):
            part = ("val2017" if i % 5 == 0 else "train2017") if split else "."
            for folder in ("images", "labels"):
                (tmp_path / folder / part).mkdir(parents=True, exist_ok=True)
            (tmp_path / "images" / part / image.name).symlink_to(image.resolve())
            label = source / kind / "labels" / f"{image.stem}.txt"
            if label.exists():
                (tmp_path / "labels" / part / label.name).symlink_to(label.resolve())
        (tmp_path / "data.yaml").write_text((source / kind / "upstream_config.yaml").read_text())
        return tmp_path

    return lay


def test_bccd_is_read_with_its_lists_and_one_box_without_area_in_each_part(sample_data):
    root = sample_data / "detection" / "bccd"
    splits = opened(root)
    assert (len(splits.train), len(splits.val), splits.train.names) == (205, 87, ("Platelets", "RBC", "WBC"))
    first = root / "Annotations" / "BloodImage_00343.xml"
    message = "one training box has no area inside its image and is left out: object 4 of "
    assert splits.notes == (f"{message}{first}",)
    unusable = {stem(images, i) for images, i in every(splits) if not trainable(images.target(i)).all()}
    assert unusable == {"BloodImage_00343", "BloodImage_00338"}
    counts = [len(images.target(i)) for images, i in every(splits)]
    assert (min(counts), max(counts)) == (1, 30)
    assert {images.target(i).size for images, i in every(splits)} == {(480, 640)}


def test_checking_bccd_finds_its_two_boxes_without_area_and_nothing_else(sample_data):
    root = sample_data / "detection" / "bccd"
    report = DetectionSpec(masks=False).check(DataConfig(data=str(root)))
    names = [f"{root}/Annotations/BloodImage_{number}.xml" for number in ("00343", "00338")]
    assert report.problems == [
        f"object 4 of {names[0]} has the box 181, 329, 181, 329, which has no area; fix it or remove it",
        f"object 13 of {names[1]} has the box 504, 337, 504, 337, which has no area; fix it or remove it",
    ]
    assert report.counts["train"] == {"Platelets": 209, "RBC": 2382, "WBC": 214}


def test_nuts_have_the_boxes_areas_and_masks_of_their_annotations(sample_data):
    root = sample_data / "instance" / "nuts18"
    splits = opened(root, masks=True)
    content = json.loads((root / "instances.json").read_text())
    annotations = {annotation["id"]: annotation for annotation in content["annotations"]}
    assert splits.train.names == ("date", "fig", "hazelnut")
    assert sorted(images.target(i).image_id for images, i in every(splits)) == sorted(
        image["id"] for image in content["images"]
    )
    total = 0
    for images, i in every(splits):
        objects = images.target(i)
        masks = decode_masks(objects.masks, objects.size)
        total += len(objects)
        for position, area in enumerate(objects.areas):
            number = int(images.describe_object(i, position).split()[1])
            x, y, width, height = annotations[number]["bbox"]
            np.testing.assert_allclose(objects.boxes[position], [x, y, x + width, y + height])
            np.testing.assert_allclose(masks[position].sum(), area, rtol=0.02)
    assert total == 120
    assert splits.notes == ()


@pytest.mark.slow
def test_nuclei_agree_with_their_id_maps(sample_data):
    root = sample_data / "instance" / "dsb2018"
    splits = opened(root, masks=True)
    assert (len(splits.train), len(splits.val), splits.train.names) == (35, 11, ("nucleus",))
    counts = [sum(len(images.target(i)) for i in range(len(images))) for images in (splits.train, splits.val)]
    assert counts == [991, 388]
    for images, i in every(splits):
        stored = np.asarray(Image.open(root / "instance_ids" / f"{stem(images, i)}.png"))
        objects = images.target(i)
        masks = decode_masks(objects.masks, objects.size)
        assert (masks.sum(axis=0) == (stored > 0)).all()
        assert all(len(np.unique(stored[mask])) == 1 for mask in masks)
        assert (objects.areas == masks.sum(axis=(1, 2))).all()


@pytest.mark.parametrize("name", ["nuts18", "dsb2018"])
def test_checking_sets_of_masks_finds_nothing_wrong(sample_data, name):
    report = DetectionSpec(masks=True).check(DataConfig(data=str(sample_data / "instance" / name)))
    assert report.problems == []


def test_cocos_instances_have_its_classes_and_its_crowd_region(sample_data):
    splits = opened(sample_data / "coco_open", masks=True)
    assert splits.train.names == built_in("coco").names
    assert splits.train.classes == built_in("coco")
    objects = [images.target(i) for images, i in every(splits)]
    assert sum(map(len, objects)) == 181
    assert sum(int(item.crowd.sum()) for item in objects) == 1
    for images, i in every(splits):
        assert images.target(i).size == images.load(i).size[::-1]
        assert images.shape(i) == images.target(i).size


@pytest.mark.parametrize("split", [False, True])
def test_cocos_yolo_labels_are_the_boxes_of_its_instances(sample_data, yolo, split):
    coco_objects = {item.image_id: item for item in every_target(opened(sample_data / "coco_open"))}
    splits = opened(yolo("detection_yolo", split))
    assert splits.train.names == built_in("coco").names
    assert any("1 image in" in note and "000000000508.jpg" in note for note in splits.notes)
    matched = 0
    for images, i in every(splits):
        objects, other = images.target(i), coco_objects[int(stem(images, i))]
        assert objects.size == other.size
        for box, label in zip(objects.boxes, objects.labels, strict=True):
            matched += overlap(box, other.boxes[other.labels == label]).max(initial=0) > 0.8
    assert matched >= 0.9 * sum(len(item) for item in every_target(splits))


@pytest.mark.slow
@pytest.mark.parametrize("split", [False, True])
def test_cocos_yolo_polygons_are_nearly_the_masks_of_its_instances(sample_data, yolo, split):
    coco_objects = {item.image_id: item for item in every_target(opened(sample_data / "coco_open", masks=True))}
    splits = opened(yolo("instance_yolo_seg", split), masks=True)
    assert splits.train.names == built_in("coco").names
    assert splits.train.classes.values == built_in("coco").values
    assert splits.notes == ()
    best = []
    for images, i in every(splits):
        objects, other = images.target(i), coco_objects[int(stem(images, i))]
        exact = decode_masks(other.masks, other.size)
        for mask, label in zip(decode_masks(objects.masks, objects.size), objects.labels, strict=True):
            candidates = exact[other.labels == label]
            ratios = (mask & candidates).sum(axis=(1, 2)) / (mask | candidates).sum(axis=(1, 2)).clip(min=1)
            best.append(ratios.max(initial=0))
    assert np.median(best) > 0.9  # these polygons go through the centres of the outermost pixels, half a pixel inside
    assert (np.array(best) > 0.5).mean() > 0.95


def test_checking_cocos_yolo_polygons_finds_no_fault_in_their_boxes(yolo):
    report = DetectionSpec(masks=True).check(DataConfig(data=str(yolo("instance_yolo_seg"))))
    assert [problem for problem in report.problems if not problem.startswith("class ")] == []


def every_target(splits):
    return [images.target(i) for images, i in every(splits)]


def overlap(box, boxes):
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    intersection = (high - low).clip(min=0).prod(axis=1)
    return intersection / ((box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - intersection)
