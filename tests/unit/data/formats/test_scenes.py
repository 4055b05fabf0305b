"""Scenes: pictures with exact boxes and masks, always the same, and nothing of one part in the other."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from twins.data.config import DataConfig
from twins.data.formats import scenes
from twins.data.formats.open import open_label_maps
from twins.data.formats.scenes import SIDE, draw_scene


@pytest.fixture(scope="module")
def drawn():
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
def test_each_part_sees_its_own_halves_of_the_photographs_alone(monkeypatch, train):
    before = [pixels(number, train=train) for number in range(60)]
    changed = []
    for photograph in scenes._photographs():
        half = photograph.width // 2
        changed.append(photograph.copy())
        changed[-1].paste(Image.new("RGB", (half, photograph.height), "red"), (half if train else 0, 0))
    monkeypatch.setattr(scenes, "_photographs", lambda: tuple(changed))
    assert all((pixels(number, train=train) == old).all() for number, old in enumerate(before))
    assert any((pixels(number, train=not train) != old).any() for number, old in enumerate(before))


def test_boxes_enclose_what_is_visible_exactly(drawn):
    for scene in drawn:
        assert len(scene.boxes) == len(scene.labels) == len(scene.masks) >= 1
        for (left, top, right, bottom), mask in zip(scene.boxes.astype(int), scene.masks, strict=True):
            inside = mask[top:bottom, left:right]
            assert inside.sum() == mask.sum() > 0
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


def test_no_pixel_is_of_two_digits_and_the_label_map_says_which(drawn):
    for scene in drawn:
        assert scene.masks.sum(axis=0).max() == 1
        expected = np.zeros((SIDE, SIDE), dtype=int)
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            expected += (label + 1) * mask
        assert (scene.label_map() == expected).all()
        assert scene.label_map().dtype == np.uint8


def test_digits_stand_out_from_what_lies_around_them(drawn):
    for scene in drawn:
        picture = np.asarray(scene.image, dtype=float)
        free = ~scene.masks.any(axis=0)
        for (left, top, right, bottom), mask in zip(scene.boxes.astype(int), scene.masks, strict=True):
            around = picture[top:bottom, left:right][free[top:bottom, left:right]]
            assert np.abs(picture[mask].mean(axis=0) - around.mean(axis=0)).sum() > 60


def test_scenes_hold_several_digits_of_every_kind_and_none_hides_another(drawn):
    counts = [len(scene.labels) for scene in drawn]
    assert min(counts) >= 1
    assert max(counts) >= 6
    assert set(np.concatenate([scene.labels for scene in drawn])) == set(range(10))
    for scene in drawn:
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
