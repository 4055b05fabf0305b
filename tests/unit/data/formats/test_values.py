"""Numbers, ids and flags mean the same in every form that data frames and scripts give them."""

from __future__ import annotations

import numpy as np
import pytest

from twins.data.formats.values import (
    fraction_problems,
    read_flag,
    read_id,
    read_number,
    read_numbers,
    read_whole,
)


@pytest.mark.parametrize("value", [1, 1.0, "1", "1.0", " 1 ", "1e0"])
def test_one_is_one_in_every_form(value):
    assert read_number(value) == read_whole(value) == 1
    assert read_flag(value) is True


@pytest.mark.parametrize("value", [None, "", "one", float("nan"), float("inf"), "nan", "inf", 10**400, [1], {}, 1e13])
def test_what_is_no_number_is_none(value):
    assert read_number(value) is None


@pytest.mark.parametrize("value", [1.5, "1.5", 2.0**60, None, "a", float("nan"), [1]])
def test_what_is_no_whole_number_is_none(value):
    assert read_whole(value) is None


def test_long_ids_are_exact():
    assert read_id("1234567890123456789") == read_id(1234567890123456789) == 1234567890123456789
    assert read_id("9007199254740993.0") == 9007199254740993


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        *((value, 7) for value in (7, 7.0, "7", "7.0", " 7 ")),
        *((value, value) for value in ("007", "a.jpg", "", "9" * 5000)),
        *((value, None) for value in (7.5, True, None, [7])),
    ],
    ids=repr,
)
def test_an_id_is_a_whole_number_or_a_text(value, meant):
    assert read_id(value) == meant
    assert type(read_id(value)) is type(meant)


@pytest.mark.parametrize("value", [True, 1, 1.0, 2, "1", "1.0", "true", "True", " TRUE ", "yes"])
def test_what_is_true_is_a_flag(value):
    assert read_flag(value) is True


@pytest.mark.parametrize("value", [False, 0, 0.0, "0", "0.0", "false", "No", None, float("nan"), "", "nan", "None"])
def test_what_is_false_or_missing_is_no_flag(value):
    assert read_flag(value) is False


@pytest.mark.parametrize("value", ["maybe", [1], {}, "1 1"])
def test_what_is_neither_is_none(value):
    assert read_flag(value) is None


@pytest.mark.parametrize("value", [[1, 2, 3, 4], [1.0, "2", "3.0", 4], "[1, 2, 3, 4]", '["1", 2, 3, 4.0]'])
def test_four_numbers_are_a_box_in_every_form(value):
    assert read_numbers(value, 4) == [1, 2, 3, 4]


@pytest.mark.parametrize("value", [[1, 2, 3], [1, 2, 3, None], "1 2 3 4", "[" * 9999, None, 5, {"x": 1}])
def test_what_is_no_list_of_four_numbers_is_none(value):
    assert read_numbers(value, 4) is None


def test_boxes_that_are_fractions_of_their_image_are_counted():
    corners, centres, pixels = (0.1, 0.2, 0.5, 0.9), (0.9, 0.8, 1.3, 1.5), (10, 12, 20.5, 30)
    (problem,) = fraction_problems(np.array([corners, centres, pixels]), "a.json", "xmin, ymin, xmax, ymax")
    assert problem.startswith(
        "2 of 3 boxes in a.json lie in the first pixels of their image, so they look like fractions"
    )
    assert problem.endswith("give xmin, ymin, xmax, ymax in pixels")


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (0, 0, 2, 2), (1, 1, 1, 1), (0.5, 0.5, 0.5, 0.5), (0.5, 0.5, 2.5, 2.5)])
def test_a_small_box_of_whole_pixels_is_no_fraction(box):
    assert fraction_problems(np.array([box], dtype=float), "a.json", "pixels") == []
