"""Average precision of hand-made images, which crowd regions, the order of images and processes do not change."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from twins.data.objects import build_objects, encode_mask
from twins.errors import DataError
from twins.metrics.coco_eval import mean_defined, precision_recall
from twins.metrics.detection import DetectionMetric
from twins.metrics.detection_errors import analyse_errors, match_images
from twins.predictions import Prediction

NAMES = ("cat", "dog", "cow")
SIZE = (120, 200)
NEAR, FAR = (10, 10, 50, 50), (110, 20, 170, 90)


def predicted(*objects, masks=None, size=SIZE, dtype=np.float32) -> Prediction:
    """A prediction from `(box, label, score)` each."""
    return Prediction(
        task="detection" if masks is None else "instance",
        size=size,
        names=NAMES,
        boxes=np.array([box for box, _, _ in objects], dtype=dtype).reshape(-1, 4),
        labels=np.array([label for _, label, _ in objects], dtype=np.int64),
        scores=np.array([score for _, _, score in objects], dtype=np.float32),
        masks=masks,
    )


def ground_truth(*objects, image_id=1, size=SIZE, **settings):
    """Objects from `(box, label)` each."""
    boxes, labels = [box for box, _ in objects], [label for _, label in objects]
    return build_objects(boxes, labels, size=size, image_id=image_id, **settings)


def metric_of(*pairs, **settings) -> DetectionMetric:
    metric = DetectionMetric(NAMES, **settings)
    for prediction, objects in pairs:
        metric.update([prediction], [objects])
    return metric


def filled(*boxes, size=SIZE) -> np.ndarray:
    """Masks that are boxes of whole pixels."""
    masks = np.zeros((len(boxes), *size), dtype=bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def random_pair(seed: int, *, classes=3, masks=False, crowd=False, max_detections=40):
    """An image with objects and detections near them; scores have one digit, so that many are equal."""
    rng = np.random.default_rng(seed)
    count, detections = int(rng.integers(0, 8)), int(rng.integers(0, max_detections))
    boxes = rng.integers(0, 60, (count, 4))
    boxes[:, 2:] += boxes[:, :2] + 1
    boxes, labels = boxes.clip(max=100), rng.integers(0, classes, count)
    near = rng.integers(0, count, detections) if count else np.zeros(0, dtype=np.int64)
    moved = (boxes[near] + rng.integers(-6, 7, (len(near), 4))).clip(0, 100)
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    guesses = np.where(rng.random(len(near)) < 0.7, labels[near], rng.integers(0, classes, len(near)))
    scores = rng.integers(1, 10, len(near)) / 10
    objects = ground_truth(
        *zip(boxes.tolist(), labels.tolist(), strict=True),
        image_id=7 * seed + 3,
        crowd=(rng.random(count) < 0.2).tolist() if crowd else None,
        masks=[encode_mask(mask) for mask in filled(*boxes.tolist())] if masks else None,
    )
    entries = zip(moved.tolist(), guesses.tolist(), scores.tolist(), strict=True)
    return predicted(*entries, masks=filled(*moved.tolist()) if masks else None), objects


def test_perfect_detections_score_one():
    metric = metric_of((predicted((NEAR, 0, 0.9), (FAR, 1, 0.8)), ground_truth((NEAR, 0), (FAR, 1))))
    metrics = metric.compute()
    assert metrics == pytest.approx(dict.fromkeys(metrics, 1.0))
    assert list(metrics) == [
        *("box_ap", "box_ap50", "box_ap75", "box_ap_medium", "box_ar1", "box_ar10", "box_ar100", "box_ar_medium"),
    ]  # no object is small or large


def test_area_ranges_follow_the_annotated_areas():
    metrics = metric_of((predicted((NEAR, 0, 0.9)), ground_truth((NEAR, 0), areas=[500]))).compute()
    assert metrics["box_ap_small"] == pytest.approx(1.0)
    assert "box_ap_medium" not in metrics  # the box alone has 1600 pixels


def test_one_of_two_objects_gives_precision_up_to_half_the_recall():
    metrics = metric_of((predicted((NEAR, 0, 0.9)), ground_truth((NEAR, 0), (FAR, 0)))).compute()
    assert metrics["box_ap"] == metrics["box_ap50"] == pytest.approx(51 / 101)  # of the recalls 0, 0.01, ..., 1
    assert metrics["box_ar100"] == pytest.approx(0.5)


def test_a_duplicate_is_a_false_positive():
    pair = predicted((NEAR, 0, 0.9), (NEAR, 0, 0.8), (FAR, 0, 0.7)), ground_truth((NEAR, 0), (FAR, 0))
    assert metric_of(pair).compute()["box_ap"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_detection_counts_at_the_iou_thresholds_that_it_reaches():
    metrics = metric_of((predicted(((10, 10, 42, 50), 0, 0.9)), ground_truth((NEAR, 0)))).compute()  # an IoU of 0.8
    assert metrics["box_ap50"] == metrics["box_ap75"] == pytest.approx(1.0)
    assert metrics["box_ap"] == pytest.approx(0.7)  # 0.5, 0.55, ..., 0.8


def test_detections_in_a_crowd_region_are_ignored():
    prediction = predicted(((120, 20, 140, 40), 0, 0.9), ((150, 50, 180, 80), 0, 0.85), (NEAR, 0, 0.8))
    region = ((100, 0, 200, 100), 0)
    metric = metric_of((prediction, ground_truth(region, (NEAR, 0), crowd=[True, False])))
    assert metric.compute()["box_ap"] == pytest.approx(1.0)
    assert metric.details()["per_class"][0]["objects"] == 1
    assert metric_of((prediction, ground_truth(region, (NEAR, 0)))).compute()["box_ap"] == pytest.approx(51 / 101 / 3)


def test_an_annotated_box_without_area_still_counts_as_an_object():
    metrics = metric_of((predicted((NEAR, 0, 0.9)), ground_truth((NEAR, 0), ((60, 60, 60, 60), 0)))).compute()
    assert metrics["box_ap"] == pytest.approx(51 / 101)
    assert metrics["box_ap_small"] == 0.0


@pytest.mark.parametrize(
    "pairs", [[], [(predicted((NEAR, 0, 0.9)), ground_truth())], [(predicted(), ground_truth((NEAR, 0), crowd=[True]))]]
)
@pytest.mark.parametrize("full", [False, True])
def test_without_objects_there_are_no_metrics(pairs, full):
    metric = metric_of(*pairs, full=full)
    assert metric.compute() == {}
    details = metric.details()
    assert all(row["ap"] is None and row["objects"] == 0 for row in details["per_class"])
    assert details["curves"]["box"] == {"iou50": None, "iou75": None, "per_class": [None] * 3}
    assert all(row["f1"] is None for row in details["per_class"] if full)


def test_no_detections_score_zero():
    metric = metric_of((predicted(), ground_truth((NEAR, 0))), full=True)
    metrics = metric.compute()
    assert metrics["box_ap"] == 0.0
    assert set(metrics.values()) == {0.0}
    row = metric.details()["per_class"][0]
    assert row | {"name": ""} == {
        **{"name": "", "objects": 1, "ap": 0.0, "ap50": 0.0},
        **{"f1": 0.0, "precision": 0.0, "recall": 0.0, "score": None},
    }


def test_detections_in_an_image_without_objects_are_false_positives():
    pairs = [
        (predicted((NEAR, 0, 0.9)), ground_truth()),
        (predicted((NEAR, 0, 0.8)), ground_truth((NEAR, 0), image_id=2)),
    ]
    assert metric_of(*pairs).compute()["box_ap"] == pytest.approx(0.5)


@pytest.mark.parametrize(("classes", "expected"), [(1, 11 / 101), (10, 1.0)])
def test_the_100_highest_scores_of_each_class_in_an_image_count(classes, expected):
    corners = [(10.0 * column, 10.0 * row) for row in range(25) for column in range(40)]
    boxes = [(left, top, left + 9, top + 9) for left, top in corners]
    objects = ground_truth(*((box, index % classes) for index, box in enumerate(boxes)), size=(250, 400))
    scores = np.linspace(0.1, 0.9, 1000)
    prediction = predicted(*((box, index % classes, scores[index]) for index, box in enumerate(boxes)), size=(250, 400))
    metric = DetectionMetric([str(label) for label in range(classes)], full=True)
    metric.update([prediction], [objects])
    assert metric.compute()["box_ap"] == pytest.approx(expected)
    assert metric.details()["errors"]["box"]["ap50"] == pytest.approx(expected)


def test_masks_are_measured_apart_from_boxes():
    objects = ground_truth((NEAR, 0), (FAR, 0), masks=[encode_mask(mask) for mask in filled(NEAR, FAR)])
    masks = filled(NEAR, (110, 20, 170, 40))  # the upper part of the second object
    metrics = metric_of((predicted((NEAR, 0, 0.9), (FAR, 0, 0.8), masks=masks), objects), masks=True).compute()
    assert next(iter(metrics)) == "mask_ap"
    assert metrics["box_ap"] == pytest.approx(1.0)
    assert metrics["mask_ap"] == pytest.approx(51 / 101)
    assert {name.partition("_")[2] for name in metrics if name.startswith("mask")} == {
        name.partition("_")[2] for name in metrics if name.startswith("box")
    }


def test_the_area_of_a_detection_is_that_of_its_mask():
    objects = ground_truth((FAR, 0), areas=[500], masks=[encode_mask(filled((110, 20, 120, 70))[0])])
    prediction = predicted((NEAR, 0, 0.9), (FAR, 0, 0.8), masks=filled((10, 10, 12, 50), (110, 20, 120, 70)))
    metrics = metric_of((prediction, objects), masks=True).compute()
    assert metrics["mask_ap_small"] == pytest.approx(0.5)  # the higher-scoring one is a small mask in a medium box
    assert metrics["box_ap_small"] == pytest.approx(1.0)


def test_missing_masks_and_masks_of_another_size_are_an_error():
    prediction = predicted((NEAR, 0, 0.9), masks=filled(NEAR))
    with pytest.raises(DataError, match="objects of image 5 have no masks"):
        metric_of((prediction, ground_truth((NEAR, 0), image_id=5)), masks=True)
    transposed = ground_truth((NEAR, 0), masks=[encode_mask(filled(NEAR)[0].T)])
    with pytest.raises(DataError, match="for 120 x 200 pixels, the image has 200 x 120"):
        metric_of((prediction, transposed), masks=True)


@pytest.mark.parametrize("masks", [False, True])
def test_metrics_do_not_depend_on_order_or_processes_to_the_bit(masks):
    pairs = [random_pair(seed, masks=masks, crowd=True) for seed in range(12)]
    single = metric_of(*pairs, masks=masks, full=True)
    shares = [metric_of(*part, masks=masks, full=True) for part in (pairs[9:], [], pairs[4:9], pairs[3::-1])]
    merged = DetectionMetric(NAMES, masks=masks, full=True)
    merged.merge([pickle.loads(pickle.dumps(share.state())) for share in shares])
    assert merged.compute() == single.compute()
    assert 0 < single.compute()["box_ap"] < 1
    assert json.dumps(merged.details()) == json.dumps(single.details())
    copy = pickle.loads(pickle.dumps(single))
    assert copy.compute() == single.compute()


def test_a_state_is_plain_tensors_and_later_images_do_not_change_it():
    metric = metric_of(random_pair(1, masks=True), masks=True)
    state = metric.state()
    size = {name: value.shape for name, value in state.items()}
    metric.update(*([part] for part in random_pair(2, masks=True)))
    assert {name: value.shape for name, value in state.items()} == size
    assert {type(value) for value in state.values()} == {torch.Tensor}
    assert metric.details()["truth"]["images"] == 2
    metric.reset()
    assert metric.compute() == {}
    assert metric.details()["truth"]["images"] == 0


def test_images_added_after_compute_count():
    metric = metric_of((predicted((NEAR, 0, 0.9)), ground_truth((NEAR, 0))))
    assert metric.compute()["box_ap"] == pytest.approx(1.0)
    metric.update([predicted()], [ground_truth((NEAR, 0), image_id=2)])
    assert metric.compute()["box_ap"] == pytest.approx(51 / 101)


def test_an_image_counts_once_and_two_images_of_one_id_are_an_error():
    pair = predicted((NEAR, 0, 0.9)), ground_truth((NEAR, 0), (FAR, 1))
    metric = metric_of(pair, (predicted(), pair[1]))
    assert metric.compute() == metric_of(pair).compute()
    metric.merge([metric_of(pair).state()])
    assert metric.compute() == metric_of(pair).compute()
    with pytest.raises(DataError, match="different objects have the id 1"):
        metric.update([pair[0]], [ground_truth((FAR, 1))])


def test_details_have_the_numbers_of_each_class():
    prediction = predicted((NEAR, 0, 0.9), ((60, 60, 90, 90), 0, 0.6), (FAR, 0, 0.5), (NEAR, 2, 0.3))
    metric = metric_of((prediction, ground_truth((NEAR, 0), (FAR, 0), (FAR, 1))), full=True, category_ids=(5, 6, 9))
    cat, dog, cow = metric.details()["per_class"]
    assert cat | {"ap": 0.0} == pytest.approx(
        {
            **{"name": "cat", "category_id": 5, "objects": 2, "ap": 0.0, "ap50": (51 + 50 * 2 / 3) / 101},
            **{"f1": 0.8, "precision": 2 / 3, "recall": 1.0, "score": 0.5},
        }
    )
    assert cat["ap"] == pytest.approx(cat["ap50"])
    assert (dog["ap"], dog["f1"], dog["score"]) == (0.0, 0.0, None)
    assert (cow["objects"], cow["ap"], cow["f1"]) == (0, None, None)


def test_a_threshold_keeps_or_drops_equal_scores_together():
    prediction = predicted((NEAR, 0, 0.5), ((60, 60, 90, 90), 0, 0.5))
    row = metric_of((prediction, ground_truth((NEAR, 0))), full=True).details()["per_class"][0]
    assert (row["f1"], row["precision"], row["score"]) == (pytest.approx(2 / 3), 0.5, 0.5)


def test_curves_are_the_precision_at_each_recall():
    prediction = predicted(
        (NEAR, 0, 0.9), ((60, 60, 90, 90), 0, 0.6), ((110, 20, 170, 70), 0, 0.5)
    )  # an IoU of 0.71 with FAR
    curves = metric_of((prediction, ground_truth((NEAR, 0), (FAR, 0), (FAR, 1)))).details()["curves"]
    assert curves["recall"] == [round(index / 100, 2) for index in range(101)]
    assert curves["box"]["per_class"][0] == [1.0] * 51 + [0.66667] * 50
    assert curves["box"]["per_class"][1:] == [[0.0] * 101, None]
    assert curves["box"]["iou50"] == [0.5] * 51 + [0.33333] * 50
    assert curves["box"]["iou75"] == [0.5] * 51 + [0.0] * 50


def test_details_are_json_and_full_ones_have_error_types():
    pairs = [random_pair(seed, masks=True) for seed in range(3)]
    short, full = (metric_of(*pairs, masks=True, full=full).details() for full in (False, True))
    assert json.loads(json.dumps(full, allow_nan=False)) == full
    assert set(short) == {"per_class", "curves", "truth"}
    assert set(full["errors"]) == {"mask", "box"}
    assert set(full["per_class"][0]) - set(short["per_class"][0]) == {"f1", "precision", "recall", "score"}
    assert {"ap", "ap50", "mask_ap", "mask_ap50"} < set(short["per_class"][0])


@pytest.mark.slow
@pytest.mark.parametrize("iou_type", ["box", "mask"])
def test_ap50_of_the_error_analysis_is_the_evaluators(iou_type):
    for start in range(0, 60, 6):  # many equal scores, crowd regions, and more than 100 of a class in an image
        pairs = [random_pair(seed, masks=True, crowd=True, max_detections=400) for seed in range(start, start + 6)]
        metric = metric_of(*pairs, masks=True)
        images = metric._sorted()
        expected = mean_defined(precision_recall(images, 3, iou_type).precision[0, ..., 0])
        assert analyse_errors(match_images(images, iou_type), 3)["ap50"] == pytest.approx(expected, abs=1e-12)


def test_boxes_may_be_float32_or_float64():
    pair = predicted((NEAR, 0, 0.9), dtype=np.float64), ground_truth((NEAR, 0))
    assert (
        metric_of(pair).compute() == metric_of((replace(pair[0], boxes=pair[0].boxes.astype("f4")), pair[1])).compute()
    )


@pytest.mark.slow
def test_importing_changes_no_logging_and_draws_nothing():
    code = """
import logging, sys
before = logging.root.level, list(logging.root.handlers)
import twins
assert "faster_coco_eval" not in sys.modules
import twins.metrics.detection
assert before == (logging.root.level, logging.root.handlers)
print([name for name in ("matplotlib", "plotly", "cv2", "pandas") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
