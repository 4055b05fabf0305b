"""Masks as run lengths: our encoder agrees with the library, and damaged run lengths are refused without a crash."""

from __future__ import annotations

import numpy as np
import pytest
from faster_coco_eval import mask as rle

from twins.data.formats.coco import parse_mask
from twins.data.objects import (
    decode_masks,
    encode_mask,
    encode_polygons,
    has_pixels,
    mask_areas,
    mask_boxes,
    sample_mask,
)

SIZE = (6, 8)
TEXT = "=3300000;"
"""Compressed run lengths of a mask of 4 x 3 pixels with its top left corner at (2, 1)."""


def random_masks(rng, size=(13, 17)):
    return [rng.random(size) < share for share in (0.0, 0.02, 0.5, 0.98, 1.0) for _ in range(8)]


def test_encoded_run_lengths_equal_the_librarys():
    masks = random_masks(np.random.default_rng(0))
    masks += [np.pad(mask[2:9, 3:8], ((2, 4), (3, 9))) for mask in masks]
    for mask in masks:
        expected, encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8)), encode_mask(mask)
        assert (tuple(encoded["size"]), encoded["counts"]) == (tuple(expected["size"]), expected["counts"])
        assert (decode_masks([encoded], mask.shape)[0] == mask).all()


def test_run_lengths_are_the_same_from_text_and_from_a_list():
    for mask in random_masks(np.random.default_rng(1), (200, 300)):
        edges = np.flatnonzero(np.diff(mask.T.ravel().astype(int), prepend=0, append=2))
        counts = np.diff(edges, prepend=0).tolist()
        encoded = encode_mask(mask)
        for form in (counts, encoded["counts"].decode()):
            assert parse_mask({"size": [200, 300], "counts": form}, mask.shape) == encoded


def test_areas_and_boxes_are_those_of_the_masks():
    masks = [encode_mask(np.zeros(SIZE, dtype=bool)), parse_mask({"size": [6, 8], "counts": TEXT}, SIZE)]
    assert (mask_areas(masks).tolist(), mask_boxes(masks).tolist()) == ([0, 12], [[0, 0, 0, 0], [2, 1, 4, 3]])
    assert (mask_areas([]).shape, mask_boxes([]).shape) == ((0,), (0, 4))


def test_parts_without_an_area_cover_nothing():
    square = [[2, 1, 6, 1, 6, 4, 2, 4]]
    assert encode_polygons([*square, [3, 3, 4, 4], []], SIZE) == encode_polygons(square, SIZE)
    assert mask_areas([encode_polygons([[0, 0, 4, 4]], SIZE)]).tolist() == [0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        TEXT[:-2],
        TEXT[:4],
        TEXT + "1",
        TEXT + "0000",
        "P",
        "0P",
        "O",
        "1O",
        "\x00",
        "/",
        "p",
        "ä",
        "\ud800",
        "o" * 12 + "0",
        "o" * 40,
        "P" * 1000,
    ],
    ids=ascii,
)
def test_text_that_makes_no_mask_is_refused(text):
    with pytest.raises(ValueError, match="which do not make 6 x 8 pixels"):
        parse_mask({"size": [6, 8], "counts": text}, SIZE)


@pytest.mark.parametrize(
    "counts", [[], [13, 3], [13, 3, 900], [-1, 49], [2**32 + 48], [2**31, 2**31, 48], [2**70], [47.5], [True, 47], 5]
)
def test_a_list_that_makes_no_mask_is_refused_in_plain_words(counts):
    with pytest.raises(ValueError, match=r"^the run lengths .*, which (must be a text, or a list|do not make 6 x 8)"):
        parse_mask({"size": [6, 8], "counts": counts}, SIZE)


def test_has_pixels_accepts_exactly_the_text_that_the_library_decodes():
    rng = np.random.default_rng(2)
    decoded = 0
    for _ in range(3000):
        codes = list(encode_mask(rng.random(SIZE) < rng.random())["counts"])
        for _ in range(rng.integers(0, 3)):
            position = rng.integers(0, len(codes))
            codes[position : position + rng.integers(0, 2)] = rng.integers(48, 112, rng.integers(0, 3)).tolist()
        mask = {"size": list(SIZE), "counts": bytes(codes)}
        try:
            rle.decode(mask)
        except (ValueError, RuntimeError):
            assert not has_pixels(mask, 48), codes
        else:
            assert has_pixels(mask, 48), codes
            decoded += 1
    assert 500 < decoded < 2500


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_mask_is_sampled_as_if_it_were_decoded(share, seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 90, 2)) < share
    mask[: seed * 10] = False  # so that the box does not begin at the border
    rows, columns = (rng.integers(0, side, 40) for side in mask.shape)
    np.testing.assert_array_equal(sample_mask(encode_mask(mask), rows, columns), mask[rows[:, None], columns])
