"""Scenes: exact boxes and masks, the same each time, and nothing shared between the parts."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from twins.data.config import DataConfig
from twins.data.formats import scenes
from twins.data.formats.open import open_label_maps
from twins.data.formats.scenes import SIDE, draw_scene


@pytest.fixture(scope="module")
def sample_scenes():
    return [draw_scene(number, train=number % 2 == 0) for number in range(80)]


def pixels(number, **settings):
    return np.asarray(draw_scene(number, **settings).image)


def test_a_scene_is_a_function_of_its_seed_part_and_number():
    first = pixels(3, train=True)
    np.random.seed(7)
    pixels(4, train=False)
    assert (pixels(3, train=True) == first).all()
    for other in (pixels(4, train=True), pixels(3, train=False), pixels(3, train=True, seed=1)):
        assert (other != first).mean() > 0.5


def test_training_and_validation_share_no_digit_image():
    parts = [{glyph.tobytes() for glyph in scenes._glyphs(train)[0]} for train in (True, False)]
    assert len(parts[0]) + len(parts[1]) == 1797
    assert not parts[0] & parts[1]


@pytest.mark.parametrize("train", [True, False])
def test_each_part_uses_only_its_half_of_the_photographs(monkeypatch, train):
    before = [pixels(number, train=train) for number in range(60)]
    painted = []
    for photograph in scenes.photographs():
        half = photograph.width // 2
        painted.append(photograph.copy())
        painted[-1].paste(Image.new("RGB", (half, photograph.height), "red"), (half if train else 0, 0))
    monkeypatch.setattr(scenes, "photographs", lambda: tuple(painted))
    assert all((pixels(number, train=train) == old).all() for number, old in enumerate(before))
    assert any((pixels(number, train=not train) != old).any() for number, old in enumerate(before))


def test_boxes_are_tight_around_the_visible_pixels(sample_scenes):
    for scene in sample_scenes:
        assert len(scene.boxes) == len(scene.labels) == len(scene.masks) >= 1
        for (left, top, right, bottom), mask in zip(scene.boxes.astype(int), scene.masks, strict=True):
            inside = mask[top:bottom, left:right]
            assert inside.sum() == mask.sum() > 0
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


def test_masks_do_not_overlap_and_agree_with_the_label_map(sample_scenes):
    for scene in sample_scenes:
        assert scene.masks.sum(axis=0).max() == 1
        expected = np.zeros((SIDE, SIDE), dtype=int)
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            expected += (label + 1) * mask
        assert (scene.label_map() == expected).all()
        assert scene.label_map().dtype == np.uint8


def test_digits_differ_from_the_pixels_around_them(sample_scenes):
    for scene in sample_scenes:
        image = np.asarray(scene.image, dtype=float)
        free = ~scene.masks.any(axis=0)
        for (left, top, right, bottom), mask in zip(scene.boxes.astype(int), scene.masks, strict=True):
            around = image[top:bottom, left:right][free[top:bottom, left:right]]
            assert np.abs(image[mask].mean(axis=0) - around.mean(axis=0)).sum() > 60


def test_scenes_hold_digits_of_every_class_and_none_hides_another(sample_scenes):
    counts = [len(scene.labels) for scene in sample_scenes]
    assert min(counts) >= 1
    assert max(counts) >= 6
    assert set(np.concatenate([scene.labels for scene in sample_scenes])) == set(range(10))
    for scene in sample_scenes:
        assert all(mask.sum() > 60 for mask in scene.masks)


def test_the_semantic_set_holds_the_scenes_of_each_part():
    splits = open_label_maps(DataConfig(data="scenes"))
    assert (len(splits.train), len(splits.val)) == (2000, 200)
    assert splits.train.names == ("background", *"0123456789")
    for images, train in ((splits.train, True), (splits.val, False)):
        scene = draw_scene(5, train=train)
        assert images.load(5).tobytes() == scene.image.tobytes()
        assert images.load(5).size == (SIDE, SIDE)
        assert (images.target(5) == scene.label_map()).all()
    assert splits.train.path(5) != splits.val.path(5)
