"""Error types on hand-made images, the AP50 gained by fixing them, and the score above which they are counted."""

from __future__ import annotations

import numpy as np
import pytest

from twins.data.objects import build_objects, encode_mask
from twins.metrics.coco_eval import build_coco_image
from twins.metrics.detection_errors import (
    analyse_errors,
    best_f1,
    confidence_curves,
    confusion_matrix,
    match_image,
    match_images,
)
from twins.predictions import Prediction

SIZE = (100, 200)
FIRST = (10, 10, 50, 50)
SECOND = (110, 20, 170, 90)
SHIFTED = (30, 10, 70, 50)  # an IoU of 1/3 with FIRST
EMPTY = (60, 60, 90, 90)
ERRORS = ("class", "localisation", "both", "duplicate", "background", "missed")


def detections(*objects, masks=None) -> Prediction:
    """A prediction from `(box, label, score)` each."""
    return Prediction(
        task="detection",
        size=SIZE,
        boxes=np.array([box for box, _, _ in objects], dtype=np.float32).reshape(-1, 4),
        labels=np.array([label for _, label, _ in objects], dtype=np.int64),
        scores=np.array([score for _, _, score in objects], dtype=np.float32),
        masks=masks,
    )


def ground_truth(*objects, image_id=1, **settings):
    """Objects from `(box, label)` each."""
    boxes, labels = [box for box, _ in objects], [label for _, label in objects]
    return build_objects(boxes, labels, size=SIZE, image_id=image_id, **settings)


def errors_of(*pairs, classes=3):
    images = [build_coco_image(prediction, objects, masks=False) for prediction, objects in pairs]
    return analyse_errors(match_images(images, "box"), classes)


@pytest.mark.parametrize(
    ("detection", "outcome", "index"),
    [
        ((FIRST, 0, 0.5), "duplicate", 0),
        ((SECOND, 0, 0.5), "class", 1),
        ((SHIFTED, 0, 0.5), "localisation", 0),
        (((140, 20, 200, 90), 0, 0.5), "both", None),
        ((EMPTY, 0, 0.5), "background", None),
        (((46, 10, 86, 50), 0, 0.5), "background", None),  # an IoU of 1/19 with FIRST
        ((SECOND, 1, 0.5), "true_positive", 1),
        ((EMPTY, 2, 0.5), "background", None),  # crowd regions ignore only detections of their class
        ((EMPTY, 1, 0.5), "ignored", None),
    ],
)
def test_each_outcome_follows_from_iou_and_class(detection, outcome, index):
    objects = ground_truth((FIRST, 0), (SECOND, 1), ((55, 55, 95, 95), 1), crowd=[False, False, True])
    matches = match_image(detections((FIRST, 0, 0.9), detection), objects, masks=False)
    assert matches.outcomes == ("true_positive", outcome)
    assert matches.object_indices == (0, index)
    assert matches.matched == (True, outcome == "true_positive", True)


def test_the_highest_score_is_matched_first_in_any_order():
    objects = ground_truth((FIRST, 0))
    matches = match_image(detections((FIRST, 0, 0.4), ((12, 10, 50, 50), 0, 0.6)), objects, masks=False)
    assert matches.outcomes == ("duplicate", "true_positive")


def test_at_most_100_detections_of_a_class_count():
    matches = match_image(
        detections(*[(EMPTY, 0, 0.9)] * 100, (FIRST, 0, 0.5), (FIRST, 1, 0.5)), ground_truth((FIRST, 0)), masks=False
    )
    assert matches.outcomes == (*["background"] * 100, "excluded", "class")
    assert (matches.object_indices[100:], matches.matched) == ((None, 0), (False,))


def test_a_detection_whose_best_object_is_matched_takes_the_next_best():
    objects = ground_truth((FIRST, 0), ((10, 10, 50, 40), 0))
    matches = match_image(detections((FIRST, 0, 0.9), (FIRST, 0, 0.8), (FIRST, 0, 0.7)), objects, masks=False)
    assert matches.outcomes == ("true_positive", "true_positive", "duplicate")
    assert matches.object_indices[:2] == (0, 1)


def test_images_without_detections_or_without_objects_are_matched():
    assert match_image(detections(), ground_truth((FIRST, 0)), masks=False).matched == (False,)
    matches = match_image(detections((FIRST, 0, 0.5)), ground_truth(), masks=False)
    assert (matches.outcomes, matches.object_indices, matches.matched) == (("background",), (None,), ())


def test_masks_are_matched_by_the_iou_of_masks():
    full = np.zeros((2, *SIZE), dtype=bool)
    full[:, 10:50, 10:50] = True
    objects = ground_truth((FIRST, 0), masks=[encode_mask(full[0])])
    masks = full.copy()
    masks[0, :, 22:] = False  # an IoU of 0.3, in the same box
    prediction = detections((FIRST, 0, 0.9), (FIRST, 0, 0.8), masks=masks)
    assert match_image(prediction, objects, masks=True).outcomes == ("localisation", "true_positive")
    assert match_image(prediction, objects, masks=False).outcomes == ("true_positive", "duplicate")


def ap50_and_gains(*predicted, objects=((FIRST, 0), (SECOND, 1))):
    """The AP50 of an image, and the gains above 0."""
    result = errors_of((detections(*predicted), ground_truth(*objects)))
    gains = {error: row["ap50_gain"] for error, row in result["types"].items() if row["ap50_gain"]}
    return result["ap50"], gains


def test_fixing_a_class_error_gives_a_true_positive():
    before, gains = ap50_and_gains((FIRST, 0, 0.9), (SECOND, 0, 0.95))
    assert before == pytest.approx((0.5 + 0) / 2)
    assert gains == {"class": pytest.approx(1 - before)}  # the object does not count as missed too


def test_fixing_a_localisation_error_gives_a_true_positive():
    before, gains = ap50_and_gains((SHIFTED, 0, 0.9), (SECOND, 1, 0.8))
    assert (before, gains) == (pytest.approx(0.5), {"localisation": pytest.approx(0.5)})


def test_fixing_localisation_errors_on_one_object_gives_one_true_positive():
    twice = (SHIFTED, 0, 0.9), ((10, 30, 50, 70), 0, 0.8)
    before, gains = ap50_and_gains(*twice, (SECOND, 1, 0.8))
    assert (before, gains) == (pytest.approx(0.5), {"localisation": pytest.approx(0.5)})
    before, gains = ap50_and_gains(
        *twice, (FIRST, 0, 0.7), (SECOND, 1, 0.8)
    )  # the object is matched, so both are removed
    assert before == pytest.approx((1 / 3 + 1) / 2)
    assert gains == {"localisation": pytest.approx(1 - before)}


@pytest.mark.parametrize(
    ("detection", "error"),
    [
        (((140, 20, 200, 90), 0, 0.95), "both"),
        ((EMPTY, 0, 0.95), "background"),
    ],
)
def test_fixing_a_both_or_background_error_removes_the_detection(detection, error):
    before, gains = ap50_and_gains(detection, (FIRST, 0, 0.9), (SECOND, 1, 0.8))
    assert (before, gains) == (pytest.approx(0.75), {error: pytest.approx(0.25)})


def test_fixing_a_duplicate_removes_it():
    objects = (FIRST, 0), (SECOND, 0)
    before, gains = ap50_and_gains((FIRST, 0, 0.9), (FIRST, 0, 0.8), (SECOND, 0, 0.7), objects=objects)
    assert before == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert gains == {"duplicate": pytest.approx(1 - before)}


def test_fixing_a_missed_object_removes_the_object():
    before, gains = ap50_and_gains((FIRST, 0, 0.9), objects=((FIRST, 0), (SECOND, 0)))
    assert (before, gains) == (pytest.approx(51 / 101), {"missed": pytest.approx(50 / 101)})
    before, gains = ap50_and_gains((FIRST, 0, 0.9))  # a class without detections
    assert (before, gains) == (pytest.approx(0.5), {"missed": pytest.approx(0.5)})
    before, gains = ap50_and_gains((FIRST, 0, 0.9), (EMPTY, 1, 0.8))  # a class with a false positive keeps an AP50 of 0
    assert (before, gains) == (pytest.approx(0.5), {})


def test_errors_are_counted_from_the_score_with_the_best_f1_on():
    objects = ground_truth((FIRST, 0), (SECOND, 1), ((60, 0, 100, 40), 2))
    prediction = detections((FIRST, 0, 0.9), (EMPTY, 0, 0.8), (SECOND, 1, 0.7), (SHIFTED, 0, 0.6), (EMPTY, 1, 0.5))
    result = errors_of((prediction, objects))
    assert result["score"] == pytest.approx(0.7)  # F1 1/2 at 0.9, 2/5, then 2/3, 4/7, 1/2
    counts = {error: row["count"] for error, row in result["types"].items()}
    assert counts == dict.fromkeys(ERRORS, 0) | {"background": 1, "missed": 1}
    assert (result["objects"], result["right"]) == (3, 2)


def test_without_true_positives_all_detections_count():
    result = errors_of((detections((SHIFTED, 0, 0.9), (EMPTY, 0, 0.1)), ground_truth((FIRST, 0), (SECOND, 1))))
    counts = {error: row["count"] for error, row in result["types"].items()}
    assert counts == dict.fromkeys(ERRORS, 0) | {"localisation": 1, "background": 1, "missed": 1}
    assert (result["score"], result["right"], result["ap50"]) == (0.0, 0, 0.0)


def test_object_indices_stay_apart_between_images():
    pairs = [
        (detections((FIRST, 0, 0.9)), ground_truth((FIRST, 0))),
        (detections((SECOND, 0, 0.8)), ground_truth((FIRST, 0), (SECOND, 1), image_id=2)),
        (detections(), ground_truth(image_id=3)),
        (detections((SECOND, 1, 0.7)), ground_truth((SECOND, 1), image_id=4)),
    ]
    result = errors_of(*pairs)
    assert result["types"]["missed"]["count"] == 1  # FIRST in the second image; SECOND has a class error
    assert result["types"]["class"]["count"] == 1
    assert errors_of() == {
        **{"score": 0.0, "objects": 0, "right": 0, "ap50": 0.0},
        "types": {error: {"count": 0, "ap50_gain": 0.0} for error in ERRORS},
    }


def test_the_confusion_matrix_counts_each_object_and_each_detection_once():
    objects = ground_truth((FIRST, 0), (SECOND, 1), ((60, 0, 100, 40), 2), ((0, 60, 40, 100), 2))
    prediction = detections(
        (FIRST, 0, 0.9),  # right
        (FIRST, 0, 0.8),  # found twice
        (SECOND, 0, 0.7),  # a class error
        (SECOND, 2, 0.65),  # another one on the same object
        (EMPTY, 1, 0.6),  # nothing there
        ((60, 0, 100, 40), 2, 0.3),  # below the score
    )
    matches = match_images([build_coco_image(prediction, objects, masks=False)], "box")
    assert confusion_matrix(matches, 3, 0.5) == [
        [1, 0, 0, 0],
        [1, 0, 0, 0],
        [0, 0, 0, 2],
        [1, 1, 1, 0],
    ]
    rows = np.array(confusion_matrix(matches, 3, 0.0))
    assert rows[:3].sum(axis=1).tolist() == [1, 1, 2]  # the objects
    assert rows[:, :3].sum() == 6  # the detections


def test_the_curves_over_confidence_reach_the_best_f1():
    objects = ground_truth((FIRST, 0), (SECOND, 1))
    prediction = detections((FIRST, 0, 0.905), (EMPTY, 0, 0.705), (SECOND, 1, 0.505), (EMPTY, 1, 0.205))
    matches = match_images([build_coco_image(prediction, objects, masks=False)], "box")
    curves = confidence_curves(matches)
    at = dict(zip(curves["score"], zip(curves["precision"], curves["recall"], curves["f1"], strict=True), strict=True))
    assert at[0.0] == pytest.approx((0.5, 1.0, 2 / 3), abs=1e-5)
    assert at[0.6] == pytest.approx((0.5, 0.5, 0.5), abs=1e-5)
    assert at[0.9] == pytest.approx((1.0, 0.5, 2 / 3), abs=1e-5)
    assert at[1.0] == (None, 0.0, 0.0)
    assert max(curves["f1"]) == pytest.approx(best_f1(matches).f1, abs=1e-5)
