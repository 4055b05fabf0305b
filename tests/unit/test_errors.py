"""Helpers for messages: singular and plural, and shortened lists."""

from __future__ import annotations

from twins.cli.eval import _show
from twins.errors import few, number_of


def test_counts_use_singular_and_plural():
    assert [number_of(count, "image") for count in (0, 1, 2, 2000)] == [
        "0 images",
        "1 image",
        "2 images",
        "2,000 images",
    ]
    assert [number_of(count, "box", "boxes") for count in (1, 2)] == ["1 box", "2 boxes"]


def test_long_lists_are_shortened():
    assert (few(["a", "b"], limit=2), few([1, 2, 3], limit=2), few([])) == ("a, b", "1, 2, ...", "")


def test_eval_counts_unusual_objects_of_the_ground_truth(capsys):
    rows = [{"name": "cat", "ap": 0.5, "objects": 1}]
    _show({}, "detection", {"per_class": rows, "truth": {"crowd": 1, "without_area": 1}})
    said = capsys.readouterr().out
    assert "class cat: AP 50.0 %, 1 object\n" in said
    assert "the ground truth also has 1 crowd region and 1 box without area, and is scored with them\n" in said
