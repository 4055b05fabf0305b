"""What all lines of a YOLO data set show together: keypoints, confidences, and coordinates of another kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from twins.data.classes import ClassTable
from twins.data.formats.yolo_lines import BOX, MAX_COORDINATE, Keypoints, LineForm, Row, infer_keypoints, infer_points
from twins.errors import DataError, number_of

_ENOUGH = 5
"""Lines from which on what all of them show is not by chance."""
_SLACK = 0.01
"""Share of the image by which a box may reach beyond it."""
_POLYGON_TASKS = ("segment", "obb", "detect")


def decide_form(rows: Sequence[Row], keypoints: Keypoints | None, task: str, where: str) -> tuple[LineForm, list[str]]:
    """Return the form of a data set's lines, with notes on what is left out.

    Args:
        rows: all lines.
        keypoints: what the settings say of keypoints.
        task: the task that the settings say, such as `pose`; empty if none.
        where: the data set, for messages.

    Raises:
        DataError: the lines could be polygons or boxes with keypoints, and nothing decides; or they are of tracks.
    """
    notes: list[str] = []
    _check_tracks(rows, where)
    keypoints = keypoints or (infer_keypoints(rows) if task not in _POLYGON_TASKS else None)
    form = LineForm(keypoints)
    if keypoints is None and _have_confidence(rows):
        form = replace(form, confidence=True)
        rows = [row._replace(values=row.values[:-1]) for row in rows]
        notes.append(
            f"{number_of(len(rows), 'line')} in {where} with a confidence at the end, as in predictions; it is left out"
        )
    if keypoints is None and task not in _POLYGON_TASKS:
        form = replace(form, keypoints=_infer_points(rows, task, where))
    if task == "obb" and (count := sum(len(row.values) == BOX + 4 for row in rows)):
        notes.append(
            f"{number_of(count, 'line')} in {where} with an oriented box: the smallest upright box around it is read"
        )
    return form, notes


def coordinate_problems(rows: Sequence[Row], form: LineForm, where: str) -> list[str]:
    """Return a sentence if coordinates look like pixels, per cent, corners, or left and top in place of the centre."""
    ends = -1 if form.confidence else None
    coordinates = [row.values[1:ends] if form.keypoints is None else row.values[1:BOX] for row in rows]
    greatest = [max(map(abs, values)) for values in coordinates if len(values) >= BOX - 1]
    large = [value for value in greatest if MAX_COORDINATE < value < np.inf]
    if large:
        kind = "per cent" if max(large) <= 100 else "pixels"
        return [
            f"{len(large)} of {number_of(len(greatest), 'line')} in {where} have coordinates up to {max(large):g}, "
            f"which look like {kind}; give fractions of the image's width and height, 0 to 1"
        ]
    boxes = [values for values in coordinates if len(values) == BOX - 1]
    return _convention_problems(np.array(boxes, dtype=np.float64).reshape(-1, 4), where)


def class_problems(values: Sequence[int | str], classes: ClassTable, where: str) -> list[str]:
    """Return a sentence if class ids look counted from 1 where the names are counted from 0."""
    ids = {value for value in values if isinstance(value, int)}
    count = len(classes)
    if not ids or classes.values != tuple(range(count)) or min(ids) != 1 or max(ids) != count:
        return []
    return [
        f"class ids in {where} begin at 1 and end at {count}, and names are counted from 0 to {count - 1}, so ids may "
        "be counted from 1; subtract 1 from each, or give the names with their ids, as in "
        f"`names: {{1: {classes.names[0]}}}`"
    ]


def _have_confidence(rows: Sequence[Row]) -> bool:
    """Return whether all lines have one number more than a box or a polygon has, and it is a share."""
    return bool(rows) and all(
        len(row.values) >= BOX + 1 and len(row.values) % 2 == 0 and 0 <= row.values[-1] <= 1 for row in rows
    )


def _check_tracks(rows: Sequence[Row], where: str) -> None:
    """Raise DataError if all lines are a box, a confidence and the number of a track, which look like triangles."""
    last = [row.values[-1] for row in rows if len(row.values) == BOX + 2]
    if len(last) < max(2, len(rows)) or not all(value >= 1 and value.is_integer() for value in last):
        return
    if max(last) > 1 or len(last) >= _ENOUGH:
        raise DataError(
            f"{number_of(len(rows), 'line')} in {where} end in a whole number, as the number of a track after a "
            "confidence in predictions; remove both numbers"
        )


def _infer_points(rows: Sequence[Row], task: str, where: str) -> Keypoints | None:
    """Return keypoints of two numbers each, if the lines show them; raises DataError if they could be polygons too."""
    keypoints, is_clear = infer_points(rows)
    if task == "pose" and (count := _points(rows)):
        return Keypoints(count, 2, "the task of the settings file")
    longer = sum(len(row.values) > BOX for row in rows)
    if keypoints is None or (is_clear and longer >= _ENOUGH):
        return keypoints
    raise DataError(
        f"{number_of(longer, 'line')} in {where} could be polygons, or boxes with "
        f"{number_of(keypoints.points, 'keypoint')}; add `task: segment` or `kpt_shape: [{keypoints.points}, 2]` to "
        "the data.yaml"
    )


def _points(rows: Sequence[Row]) -> int:
    """Return how many pairs of numbers follow the box in all longer lines; 0 if they differ."""
    counts = {len(row.values) - BOX for row in rows if len(row.values) > BOX}
    return counts.pop() // 2 if len(counts) == 1 and not max(counts) % 2 else 0


def _convention_problems(boxes: NDArray[np.float64], where: str) -> list[str]:
    """Return a sentence if boxes that reach beyond their image would all fit as corners, or as left, top and sides."""
    first, second = boxes[:, :2], boxes[:, 2:]
    beyond = ~_are_inside(first - second / 2, first + second / 2)
    if not beyond.any():
        return []
    for description, low, high in (
        ("left, top, right and bottom", first, second),
        ("left, top, width and height", first, first + second),
    ):
        if _are_inside(low, high).all():
            return [
                f"{beyond.sum()} of {number_of(len(boxes), 'box', 'boxes')} in {where} reach beyond their image, and "
                f"all fit if their numbers are {description}; give centre, width and height"
            ]
    return []


def _are_inside(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which boxes have area and lie in their image, `(R,)`."""
    return np.asarray(((low >= -_SLACK) & (low < high) & (high <= 1 + _SLACK)).all(axis=1))
