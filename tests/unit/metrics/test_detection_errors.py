"""Each kind of error on a hand-made image, what mending it gives, and how the score is chosen."""

from __future__ import annotations

import numpy as np
import pytest

from twins.data.objects import build_objects, encode_mask
from twins.metrics.coco_eval import build_coco_image
from twins.metrics.detection_errors import analyse_errors, judge, judge_all
from twins.predictions import Prediction

SIZE = (100, 200)
THERE = (10, 10, 50, 50)
ELSEWHERE = (110, 20, 170, 90)
SHIFTED = (30, 10, 70, 50)  # overlaps THERE by a third
NOWHERE = (60, 60, 90, 90)
ERRORS = ("class", "localisation", "both", "duplicate", "background", "missed")


def said(*objects, masks=None) -> Prediction:
    """A prediction from `(box, label, score)` each."""
    return Prediction(
        task="detection",
        size=SIZE,
        boxes=np.array([box for box, _, _ in objects], dtype=np.float32).reshape(-1, 4),
        labels=np.array([label for _, label, _ in objects], dtype=np.int64),
        scores=np.array([score for _, _, score in objects], dtype=np.float32),
        masks=masks,
    )


def true(*objects, image_id=1, **settings):
    """Objects from `(box, label)` each."""
    boxes, labels = [box for box, _ in objects], [label for _, label in objects]
    return build_objects(boxes, labels, size=SIZE, image_id=image_id, **settings)


def analysed(*pairs, classes=3):
    examples = [build_coco_image(prediction, objects, masks=False) for prediction, objects in pairs]
    return analyse_errors(judge_all(examples, "box"), classes)


@pytest.mark.parametrize(
    ("prediction", "kind", "about"),
    [
        ((THERE, 0, 0.5), "duplicate", 0),
        ((ELSEWHERE, 0, 0.5), "class", 1),
        ((SHIFTED, 0, 0.5), "localisation", 0),
        (((140, 20, 200, 90), 0, 0.5), "both", None),
        ((NOWHERE, 0, 0.5), "background", None),
        (((46, 10, 86, 50), 0, 0.5), "background", None),  # overlaps THERE by a nineteenth
        ((ELSEWHERE, 1, 0.5), "right", 1),
        ((NOWHERE, 2, 0.5), "background", None),  # a crowd region of another class forgives nothing
        ((NOWHERE, 1, 0.5), "crowd", None),
    ],
)
def test_a_prediction_is_of_the_kind_that_it_is(prediction, kind, about):
    objects = true((THERE, 0), (ELSEWHERE, 1), ((55, 55, 95, 95), 1), crowd=[False, False, True])
    judgement = judge(said((THERE, 0, 0.9), prediction), objects, masks=False)
    assert judgement.kinds == ("right", kind)
    assert judgement.about == (0, about)
    assert judgement.found == (True, kind == "right", True)


def test_the_surest_chooses_first_whatever_the_order():
    objects = true((THERE, 0))
    judgement = judge(said((THERE, 0, 0.4), ((12, 10, 50, 50), 0, 0.6)), objects, masks=False)
    assert judgement.kinds == ("duplicate", "right")


def test_no_more_than_a_hundred_of_a_class_are_judged():
    judgement = judge(said(*[(NOWHERE, 0, 0.9)] * 100, (THERE, 0, 0.5), (THERE, 1, 0.5)), true((THERE, 0)), masks=False)
    assert judgement.kinds == (*["background"] * 100, "unseen", "class")
    assert (judgement.about[100:], judgement.found) == ((None, 0), (False,))


def test_a_taken_object_leaves_the_next_best_to_others():
    objects = true((THERE, 0), ((10, 10, 50, 40), 0))
    judgement = judge(said((THERE, 0, 0.9), (THERE, 0, 0.8), (THERE, 0, 0.7)), objects, masks=False)
    assert judgement.kinds == ("right", "right", "duplicate")
    assert judgement.about[:2] == (0, 1)


def test_nothing_predicted_and_nothing_true_can_be_judged():
    assert judge(said(), true((THERE, 0)), masks=False).found == (False,)
    judgement = judge(said((THERE, 0, 0.5)), true(), masks=False)
    assert (judgement.kinds, judgement.about, judgement.found) == (("background",), (None,), ())


def test_masks_are_judged_by_their_own_overlap():
    whole = np.zeros((2, *SIZE), dtype=bool)
    whole[:, 10:50, 10:50] = True
    objects = true((THERE, 0), masks=[encode_mask(whole[0])])
    masks = whole.copy()
    masks[0, :, 22:] = False  # three tenths of it, in the same box
    prediction = said((THERE, 0, 0.9), (THERE, 0, 0.8), masks=masks)
    assert judge(prediction, objects, masks=True).kinds == ("localisation", "right")
    assert judge(prediction, objects, masks=False).kinds == ("right", "duplicate")


def alone(*predictions, objects=((THERE, 0), (ELSEWHERE, 1))):
    """The AP50 and the gains of an image, those above 0."""
    result = analysed((said(*predictions), true(*objects)))
    gains = {kind: row["ap50_gain"] for kind, row in result["types"].items() if row["ap50_gain"]}
    return result["ap50"], gains


def test_mending_a_class_makes_the_prediction_right():
    before, gains = alone((THERE, 0, 0.9), (ELSEWHERE, 0, 0.95))
    assert before == pytest.approx((0.5 + 0) / 2)
    assert gains == {"class": pytest.approx(1 - before)}  # the object is not missed too


def test_mending_a_place_makes_the_prediction_right():
    before, gains = alone((SHIFTED, 0, 0.9), (ELSEWHERE, 1, 0.8))
    assert (before, gains) == (pytest.approx(0.5), {"localisation": pytest.approx(0.5)})


def test_mending_a_place_counts_the_surest_once():
    twice = (SHIFTED, 0, 0.9), ((10, 30, 50, 70), 0, 0.8)
    before, gains = alone(*twice, (ELSEWHERE, 1, 0.8))
    assert (before, gains) == (pytest.approx(0.5), {"localisation": pytest.approx(0.5)})
    before, gains = alone(*twice, (THERE, 0, 0.7), (ELSEWHERE, 1, 0.8))  # the object is found, so both are in the way
    assert before == pytest.approx((1 / 3 + 1) / 2)
    assert gains == {"localisation": pytest.approx(1 - before)}


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (((140, 20, 200, 90), 0, 0.95), "both"),
        ((NOWHERE, 0, 0.95), "background"),
    ],
)
def test_mending_what_found_nothing_takes_it_away(wrong, kind):
    before, gains = alone(wrong, (THERE, 0, 0.9), (ELSEWHERE, 1, 0.8))
    assert (before, gains) == (pytest.approx(0.75), {kind: pytest.approx(0.25)})


def test_mending_a_duplicate_takes_it_away():
    objects = (THERE, 0), (ELSEWHERE, 0)
    before, gains = alone((THERE, 0, 0.9), (THERE, 0, 0.8), (ELSEWHERE, 0, 0.7), objects=objects)
    assert before == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert gains == {"duplicate": pytest.approx(1 - before)}


def test_mending_what_was_missed_asks_for_it_no_longer():
    before, gains = alone((THERE, 0, 0.9), objects=((THERE, 0), (ELSEWHERE, 0)))
    assert (before, gains) == (pytest.approx(51 / 101), {"missed": pytest.approx(50 / 101)})
    before, gains = alone((THERE, 0, 0.9))  # a class of which nothing was predicted at all
    assert (before, gains) == (pytest.approx(0.5), {"missed": pytest.approx(0.5)})
    before, gains = alone((THERE, 0, 0.9), (NOWHERE, 1, 0.8))  # what was predicted of it is wrong all the same
    assert (before, gains) == (pytest.approx(0.5), {})


def test_errors_are_counted_from_the_best_score_on():
    objects = true((THERE, 0), (ELSEWHERE, 1), ((60, 0, 100, 40), 2))
    prediction = said((THERE, 0, 0.9), (NOWHERE, 0, 0.8), (ELSEWHERE, 1, 0.7), (SHIFTED, 0, 0.6), (NOWHERE, 1, 0.5))
    result = analysed((prediction, objects))
    assert result["score"] == pytest.approx(0.7)  # F1 1/2 at 0.9, 2/5, then 2/3, 4/7, 1/2
    counts = {kind: row["count"] for kind, row in result["types"].items()}
    assert counts == dict.fromkeys(ERRORS, 0) | {"background": 1, "missed": 1}
    assert (result["objects"], result["right"]) == (3, 2)


def test_where_nothing_is_right_everything_counts():
    result = analysed((said((SHIFTED, 0, 0.9), (NOWHERE, 0, 0.1)), true((THERE, 0), (ELSEWHERE, 1))))
    counts = {kind: row["count"] for kind, row in result["types"].items()}
    assert counts == dict.fromkeys(ERRORS, 0) | {"localisation": 1, "background": 1, "missed": 1}
    assert (result["score"], result["right"], result["ap50"]) == (0.0, 0, 0.0)


def test_indices_of_objects_are_those_of_their_image():
    pairs = [
        (said((THERE, 0, 0.9)), true((THERE, 0))),
        (said((ELSEWHERE, 0, 0.8)), true((THERE, 0), (ELSEWHERE, 1), image_id=2)),
        (said(), true(image_id=3)),
        (said((ELSEWHERE, 1, 0.7)), true((ELSEWHERE, 1), image_id=4)),
    ]
    result = analysed(*pairs)
    assert result["types"]["missed"]["count"] == 1  # THERE in the second image; ELSEWHERE has the wrong class
    assert result["types"]["class"]["count"] == 1
    assert analysed() == {
        **{"score": 0.0, "objects": 0, "right": 0, "ap50": 0.0},
        "types": {kind: {"count": 0, "ap50_gain": 0.0} for kind in ERRORS},
    }
