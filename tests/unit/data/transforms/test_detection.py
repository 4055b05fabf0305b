"""Views of images with objects: boxes and masks go where their pixels go, and nothing is learned that is not seen."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from twins.data.objects import build_objects, encode_mask
from twins.data.transforms.config import DetectionConfig
from twins.data.transforms.detection import RandomView, View, WholeView, learnable
from twins.errors import ConfigError, DataError
from twins.preprocess import Preprocess

PREPROCESS = Preprocess(size=64, fit="keep", longest=120, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
BOXES = [[10, 20, 40, 50], [50, 5, 90, 30], [0, 60, 100, 80]]
LABELS = [2, 0, 1]


def picture(width: int = 100, height: int = 80):
    """An image whose objects are blocks of one colour each, and what is annotated of them."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    masks = []
    for channel, (left, top, right, bottom) in enumerate(BOXES):
        pixels[top:bottom, left:right, channel] = 255
        mask = np.zeros((height, width), dtype=bool)
        mask[top:bottom, left:right] = True
        masks.append(encode_mask(mask))
    return Image.fromarray(pixels), build_objects(BOXES, LABELS, size=(height, width), image_id=7, masks=masks)


def settings(**given):
    return DetectionConfig(**({"hflip": 0.5, "vflip": 0.5, "longest": 120} | given))


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
def test_boxes_and_masks_lie_on_the_pixels_of_their_objects(config):
    image, objects = picture()
    view = RandomView(config, PREPROCESS)
    seen = 0
    for seed in range(12):
        random.seed(seed)
        tensor, target = view(image, objects)
        height, width = tensor.shape[1:]
        assert min(height, width) >= 32
        for box, label, mask in zip(target["boxes"], target["labels"], target["masks"], strict=True):
            channel = tensor[LABELS.index(int(label))]
            shown = channel > 127
            assert ((shown != mask).float().mean()) < 0.03  # a line of pixels on the border at most
            rows, columns = torch.where(mask)
            tight = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (tight - box).abs().max() <= 1.0
            seen += 1
    assert seen >= 18


def test_evaluation_leaves_the_truth_in_the_images_own_pixels():
    image, objects = picture()
    tensor, target = WholeView(PREPROCESS)(image, objects)
    assert tuple(tensor.shape) == (3, 64, 80)
    assert target is objects


def test_training_keeps_the_shape_within_both_bounds():
    image, objects = picture()
    random.seed(0)
    long = RandomView(settings(shorter=(110,)), PREPROCESS)(image, objects)[0]
    assert tuple(long.shape) == (3, 96, 120)


def test_two_mirrorings_are_none():
    image, objects = picture()
    whole = View((0, 0, 100, 80), (100, 80))
    mirrored = View((0, 0, 100, 80), (100, 80), mirrored=True, upturned=True)
    assert np.array_equal(mirrored.picture(mirrored.picture(image)), np.asarray(image))
    np.testing.assert_allclose(mirrored.boxes(mirrored.boxes(objects.boxes)), whole.boxes(objects.boxes))
    plain, turned = (learnable(objects, view, image.size)["masks"] for view in (whole, mirrored))
    assert torch.equal(turned.flip(1, 2), plain)


def test_what_cannot_be_seen_is_not_learned():
    boxes = [[10, 10, 10, 30], [-50, 5, -2, 30], [-10, -10, 20, 20], [5, 5, np.nan, 9], [30, 30, 30.4, 60]]
    objects = build_objects(boxes, range(5), size=(80, 100), image_id=0, crowd=[False] * 5)
    target = learnable(objects, View((0, 0, 100, 80), (100, 80)), (100, 80))
    assert target["labels"].tolist() == [2]
    assert target["boxes"].tolist() == [[0, 0, 20, 20]]
    assert target["crowd"].shape == (0, 4)
    assert "masks" not in target


def test_an_object_whose_mask_is_cut_away_is_left_out_with_its_box_and_label():
    mask = np.zeros((80, 100), dtype=bool)
    mask[10:20, 10:20] = True
    objects = build_objects(
        [[10, 10, 60, 60], [30, 30, 60, 60]], [0, 1], size=(80, 100), image_id=0, masks=[encode_mask(mask)] * 2
    )
    target = learnable(objects, View((40, 40, 100, 80), (60, 40)), (100, 80))
    assert [len(target[name]) for name in ("boxes", "labels", "masks")] == [0, 0, 0]


@pytest.mark.parametrize("view", [WholeView(PREPROCESS), RandomView(settings(), PREPROCESS)])
def test_masks_of_another_size_than_the_image_are_refused(view):
    _, objects = picture()
    with pytest.raises(DataError, match="the annotations say 100 x 80 pixels, the image has 90 x 80"):
        view(Image.new("RGB", (90, 80)), objects)


def test_a_crowd_is_told_apart():
    objects = build_objects(BOXES, LABELS, size=(80, 100), image_id=0, crowd=[False, True, False])
    target = learnable(objects, View((0, 0, 100, 80), (50, 40)), (100, 80))
    assert target["labels"].tolist() == [2, 1]
    assert target["crowd"].tolist() == [[25, 2.5, 45, 15]]


def test_an_image_without_objects_and_one_with_a_thousand():
    image, _ = picture()
    few = build_objects([], [], size=(80, 100), image_id=0, masks=[])
    tensor, target = RandomView(settings(), PREPROCESS)(image, few)
    assert [tuple(target[name].shape) for name in ("boxes", "labels")] == [(0, 4), (0,)]
    assert tuple(target["masks"].shape) == (0, *tensor.shape[1:])
    corners = np.random.default_rng(0).uniform(0, 60, (1000, 2))
    many = build_objects(np.hstack([corners, corners + 15]), [0] * 1000, size=(80, 100), image_id=0)
    assert len(RandomView(settings(), PREPROCESS)(image, many)[1]["boxes"]) == 1000


@pytest.mark.parametrize(
    ("given", "said"),
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
def test_settings_out_of_range_are_said(given, said):
    with pytest.raises(ConfigError, match=said):
        DetectionConfig(**given)
