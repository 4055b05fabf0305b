"""Real data sets as label maps: they are read as stored, pixel by pixel."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twins.data.classes import built_in
from twins.data.config import DataConfig
from twins.data.formats.coco_maps import open_coco_maps
from twins.data.formats.open import open_label_maps
from twins.data.formats.source import Source


def stem(images, index):
    return Path(images.path(index)).stem


def every(splits):
    return ((images, i) for images in (splits.train, splits.val) for i in range(len(images)))


def values_of(images, target):
    """Return the category of each pixel, 0 where it is ignored."""
    lookup = np.zeros(256, dtype=np.int64)
    lookup[: len(images.classes)] = images.classes.values
    return lookup[target]


def test_ade20k_masks_give_their_classes(sample_data):
    root = sample_data / "semantic" / "ade_sample"
    splits = open_label_maps(DataConfig(data=str(root)))
    assert splits.train.names == built_in("ade20k").names
    present = set()
    for images, i in every(splits):
        stored = np.asarray(Image.open(root / "annotations" / f"{stem(images, i)}.png")).astype(int)
        target = images.target(i)
        assert (target == np.where(stored == 0, 255, stored - 1)).all()
        assert target.shape == (images.load(i).height, images.load(i).width)
        present |= set(np.unique(target).tolist()) - {255}
    assert len(present) == 15


def test_panoptic_maps_agree_with_category_maps_of_another_converter(sample_data):
    splits = open_label_maps(DataConfig(data=str(sample_data / "coco_open")))
    assert (len(splits.train), len(splits.val), len(splits.train.names)) == (21, 5, 133)
    for images, i in every(splits):
        stored = np.asarray(Image.open(sample_data / "coco_open" / "semantic" / f"{stem(images, i)}.png"))
        assert (values_of(images, images.target(i)) == stored).all()


def test_instances_agree_with_category_maps_where_things_are(sample_data):
    source = Source(DataConfig(data=str(sample_data / "coco_open")), "a folder")
    (images,) = open_coco_maps(source, "instances").parts.values()
    assert (len(images), images.names) == (26, ("background", *built_in("coco").names))
    for i in range(len(images)):
        stored = np.asarray(Image.open(sample_data / "coco_open" / "semantic" / f"{stem(images, i)}.png")).astype(int)
        values = values_of(images, images.target(i))
        assert (values == np.where((stored == 0) | (stored > 90), -1, stored)).all()


@pytest.mark.slow
def test_nuclei_are_where_their_id_maps_are_not_zero(sample_data):
    root = sample_data / "instance" / "dsb2018"
    splits = open_label_maps(DataConfig(data=str(root)))
    assert (len(splits.train), len(splits.val)) == (35, 11)
    for images, i in every(splits):
        stored = np.asarray(Image.open(root / "instance_ids" / f"{stem(images, i)}.png"))
        assert (images.target(i) == (stored > 0)).all()


def test_nuts_fill_the_areas_of_their_annotations(sample_data):
    root = sample_data / "instance" / "nuts18"
    splits = open_label_maps(DataConfig(data=str(root)))
    content = json.loads((root / "instances.json").read_text())
    assert splits.train.names == ("background", "date", "fig", "hazelnut")
    for images, i in every(splits):
        number = next(image["id"] for image in content["images"] if image["file_name"] == Path(images.path(i)).name)
        counts = np.bincount(images.target(i).ravel(), minlength=256)
        areas = np.zeros(4)
        for annotation in content["annotations"]:
            areas[annotation["category_id"]] += annotation["area"] * (annotation["image_id"] == number)
        np.testing.assert_allclose(counts[1:4], areas[1:], rtol=0.02)
        assert images.load(i).size == (800, 600)
