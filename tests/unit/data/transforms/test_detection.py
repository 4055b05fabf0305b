"""Views of images with objects: boxes and masks move with their pixels, and hidden objects are no targets."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from twins.data.objects import build_objects, encode_mask
from twins.data.transforms.config import DetectionConfig
from twins.data.transforms.detection import RandomView, View, WholeView, training_target
from twins.errors import ConfigError, DataError
from twins.preprocess import Preprocess

PREPROCESS = Preprocess(size=64, fit="keep", longest=120, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
BOXES = [[10, 20, 40, 50], [50, 5, 90, 30], [0, 60, 100, 80]]
LABELS = [2, 0, 1]


def coloured_blocks(width: int = 100, height: int = 80):
    """Return an image whose objects are blocks of one colour each, and their annotations."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    masks = []
    for channel, (left, top, right, bottom) in enumerate(BOXES):
        pixels[top:bottom, left:right, channel] = 255
        mask = np.zeros((height, width), dtype=bool)
        mask[top:bottom, left:right] = True
        masks.append(encode_mask(mask))
    return Image.fromarray(pixels), build_objects(BOXES, LABELS, size=(height, width), image_id=7, masks=masks)


def settings(**changes):
    return DetectionConfig(**({"hflip": 0.5, "vflip": 0.5, "longest": 120} | changes))


@pytest.mark.parametrize(
    "config",
    [
        settings(),
        settings(shorter=(48, 64, 80)),
        settings(ratio=(0.6, 1.5)),
        settings(jitter=(0.5, 2.0)),
        settings(crop=1.0, shorter=(64,)),
    ],
)
def test_boxes_and_masks_cover_the_pixels_of_their_objects(config):
    image, objects = coloured_blocks()
    view = RandomView(config, PREPROCESS)
    count = 0
    for seed in range(12):
        random.seed(seed)
        tensor, target = view(image, objects)
        height, width = tensor.shape[1:]
        assert min(height, width) >= 32
        for box, label, mask in zip(target["boxes"], target["labels"], target["masks"], strict=True):
            channel = tensor[LABELS.index(int(label))]
            visible = channel > 127
            assert ((visible != mask).float().mean()) < 0.03  # at most a line of pixels at the border
            rows, columns = torch.where(mask)
            tight = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (tight - box).abs().max() <= 1.0
            count += 1
    assert count >= 18


def test_evaluation_keeps_the_truth_in_pixels_of_the_original():
    image, objects = coloured_blocks()
    tensor, target = WholeView(PREPROCESS)(image, objects)
    assert tuple(tensor.shape) == (3, 64, 80)
    assert target is objects


def test_training_keeps_the_aspect_ratio_and_limits_the_longer_side():
    image, objects = coloured_blocks()
    random.seed(0)
    long = RandomView(settings(shorter=(110,)), PREPROCESS)(image, objects)[0]
    assert tuple(long.shape) == (3, 96, 120)


def test_flipping_twice_changes_nothing():
    image, objects = coloured_blocks()
    plain = View((0, 0, 100, 80), (100, 80))
    flipped = View((0, 0, 100, 80), (100, 80), hflip=True, vflip=True)
    assert np.array_equal(flipped.transform_image(flipped.transform_image(image)), np.asarray(image))
    twice = flipped.transform_boxes(flipped.transform_boxes(objects.boxes))
    np.testing.assert_allclose(twice, plain.transform_boxes(objects.boxes))
    masks, flipped_masks = (training_target(objects, view, image.size)["masks"] for view in (plain, flipped))
    assert torch.equal(flipped_masks.flip(1, 2), masks)


def test_objects_outside_the_image_or_without_area_are_no_targets():
    boxes = [[10, 10, 10, 30], [-50, 5, -2, 30], [-10, -10, 20, 20], [5, 5, np.nan, 9], [30, 30, 30.4, 60]]
    objects = build_objects(boxes, range(5), size=(80, 100), image_id=0, crowd=[False] * 5)
    target = training_target(objects, View((0, 0, 100, 80), (100, 80)), (100, 80))
    assert target["labels"].tolist() == [2]
    assert target["boxes"].tolist() == [[0, 0, 20, 20]]
    assert target["crowd"].shape == (0, 4)
    assert "masks" not in target


def test_an_object_whose_mask_is_cropped_away_is_left_out_with_its_box_and_label():
    mask = np.zeros((80, 100), dtype=bool)
    mask[10:20, 10:20] = True
    objects = build_objects(
        [[10, 10, 60, 60], [30, 30, 60, 60]], [0, 1], size=(80, 100), image_id=0, masks=[encode_mask(mask)] * 2
    )
    target = training_target(objects, View((40, 40, 100, 80), (60, 40)), (100, 80))
    assert [len(target[name]) for name in ("boxes", "labels", "masks")] == [0, 0, 0]


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("view", [WholeView(PREPROCESS), RandomView(settings(), PREPROCESS)])
def test_objects_of_another_size_than_the_image_are_refused(view, masks):
    _, objects = coloured_blocks()
    objects = objects if masks else replace(objects, masks=None)
    with pytest.raises(DataError, match="the annotations say 100 x 80 pixels, the image has 90 x 80"):
        view(Image.new("RGB", (90, 80)), objects)


def test_crowds_are_separate_from_objects():
    objects = build_objects(BOXES, LABELS, size=(80, 100), image_id=0, crowd=[False, True, False])
    target = training_target(objects, View((0, 0, 100, 80), (50, 40)), (100, 80))
    assert target["labels"].tolist() == [2, 1]
    assert target["crowd"].tolist() == [[25, 2.5, 45, 15]]


def test_images_without_objects_and_with_a_thousand_have_targets():
    image, _ = coloured_blocks()
    few = build_objects([], [], size=(80, 100), image_id=0, masks=[])
    tensor, target = RandomView(settings(), PREPROCESS)(image, few)
    assert [tuple(target[name].shape) for name in ("boxes", "labels")] == [(0, 4), (0,)]
    assert tuple(target["masks"].shape) == (0, *tensor.shape[1:])
    corners = np.random.default_rng(0).uniform(0, 60, (1000, 2))
    many = build_objects(np.hstack([corners, corners + 15]), [0] * 1000, size=(80, 100), image_id=0)
    assert len(RandomView(settings(), PREPROCESS)(image, many)[1]["boxes"]) == 1000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shorter": (16,)}, "at least 32, found 16"),
        ({"longest": 0}, "at least 32, found 0"),
        ({"crop": 1.5}, "`detection.crop` must be between 0 and 1, found 1.5"),
        ({"jitter": (2.0, 1.0)}, "`detection.jitter` must be two ascending numbers"),
        ({"jitter": (0.5, 1.0), "crop": 0.5}, "`detection.jitter` goes with neither"),
        ({"ratio": (0.0, 1.0)}, "`detection.ratio` must be two ascending numbers"),
        ({"ratio": (0.5, 1.0), "shorter": (64,)}, "both resize"),
        ({"anchor_scale": 0.0}, "`detection.anchor_scale` must be above 0, found 0.0"),
        ({"samples": 0}, "`detection.samples` must be at least 4, found 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        DetectionConfig(**changes)
