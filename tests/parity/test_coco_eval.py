"""Average precision is pycocotools': on COCO's own example results, from files and from predictions."""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from twins.data.formats.coco import parse_mask
from twins.data.objects import build_objects, decode_masks
from twins.metrics.coco_results import coco_results, score_results
from twins.metrics.detection import DetectionMetric
from twins.predictions import Prediction

FILES = Path(__file__).parent.parent / "golden" / "coco_eval"
CASES = json.loads((FILES / "expected.json").read_text())["cases"]
NAMES = {
    "AP": "ap",
    "AP50": "ap50",
    "AP75": "ap75",
    "AP_small": "ap_small",
    "AP_medium": "ap_medium",
    "AP_large": "ap_large",
    "AR1": "ar1",
    "AR10": "ar10",
    "AR100": "ar100",
    "AR_small": "ar_small",
    "AR_medium": "ar_medium",
    "AR_large": "ar_large",
}
KINDS = {"bbox": "box", "segm": "mask"}
TOLERANCE = 1e-6
SIZELESS = tuple(name for name in NAMES if "_" not in name)
"""What is compared of masks whose results have boxes too: pycocotools takes a result's size from its box, we from its
mask, as mmdetection and detectron2 do."""


def read(name: str):
    return json.loads((FILES / name).read_text())


def check_numbers(case, metrics, names=tuple(NAMES)):
    kind = KINDS[case["iouType"]]
    expected = {f"{kind}_{NAMES[name]}": case["stats"][name] for name in names if case["stats"][name] != -1}
    compared = {f"{kind}_{NAMES[name]}" for name in names}
    assert {key: value for key, value in metrics.items() if key in compared} == pytest.approx(expected, abs=TOLERANCE)


def check_classes(case, rows):
    field = {"bbox": "ap", "segm": "mask_ap"}[case["iouType"]]
    found = {str(row["category_id"]): row[field] for row in rows if row[field] is not None}
    assert found == pytest.approx(case["per_category_AP"], abs=TOLERANCE)


@pytest.mark.parametrize("name", CASES)
def test_a_results_file_has_pycocotools_scores(name):
    case = CASES[name]
    result = score_results(FILES / case["dt"], FILES / case["gt"], masks=case["iouType"] == "segm")
    check_numbers(case, result["metrics"])
    check_classes(case, result["per_class"])
    assert next(iter(result["metrics"])) == f"{KINDS[case['iouType']]}_ap"


@functools.cache
def images_of(name):
    """Each image's prediction and its objects, from the two files of a case."""
    case = CASES[name]
    masks = case["iouType"] == "segm"
    pairs = []
    truth, results = read(case["gt"]), read(case["dt"])
    categories = sorted((record["id"], record["name"]) for record in truth["categories"])
    labels = {value: label for label, (value, _) in enumerate(categories)}
    records, entries = defaultdict(list), defaultdict(list)
    for record in truth["annotations"]:
        records[record["image_id"]].append(record)
    for entry in results:
        entries[entry["image_id"]].append(entry)
    names = tuple(name for _, name in categories)
    for image in truth["images"]:
        size = image["height"], image["width"]
        mine, said = records[image["id"]], entries[image["id"]]
        shapes = [parse_mask(entry["segmentation"], size) for entry in said] if masks else []
        objects = build_objects(
            [corners(record["bbox"]) for record in mine],
            [labels[record["category_id"]] for record in mine],
            size=size,
            image_id=image["id"],
            areas=[record["area"] for record in mine],
            crowd=[bool(record["iscrowd"]) for record in mine],
            masks=[parse_mask(record["segmentation"], size) for record in mine] if masks else None,
        )
        prediction = Prediction(
            task="instance" if masks else "detection",
            size=size,
            names=names,
            boxes=np.array([corners(entry.get("bbox", (0, 0, 0, 0))) for entry in said]).reshape(-1, 4),
            labels=np.array([labels[entry["category_id"]] for entry in said], dtype=np.int64),
            scores=np.array([entry["score"] for entry in said]),
            masks=decode_masks(shapes, size) if masks else None,
        )
        pairs.append((prediction, objects))
    return pairs


def corners(box):
    left, top, width, height = box
    return [left, top, left + width, top + height]


def category_ids(case):
    return sorted(record["id"] for record in read(case["gt"])["categories"])


@functools.cache
def measured(name) -> DetectionMetric:
    case, pairs = CASES[name], images_of(name)
    masks = case["iouType"] == "segm"
    metric = DetectionMetric(pairs[0][0].names, masks=masks, full=True, category_ids=category_ids(case))
    for prediction, objects in reversed(pairs):  # the order does not count
        metric.update([prediction], [objects])
    return metric


@pytest.mark.parametrize("name", CASES)
def test_the_metric_has_pycocotools_scores(name):
    case, metric = CASES[name], measured(name)
    check_numbers(case, metric.compute(), SIZELESS if name == "small_segm" else tuple(NAMES))
    details = metric.details()
    check_classes(case, details["per_class"])
    kind = KINDS[case["iouType"]]
    assert details["errors"][kind]["ap50"] == pytest.approx(case["stats"]["AP50"], abs=TOLERANCE)
    curves = details["curves"][kind]
    assert np.mean(curves["iou50"]) == pytest.approx(case["stats"]["AP50"], abs=2e-5)  # curves are rounded
    assert np.mean(curves["iou75"]) == pytest.approx(case["stats"]["AP75"], abs=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_results_that_we_write_score_as_their_predictions_do(name, tmp_path):
    case = CASES[name]
    masks = case["iouType"] == "segm"
    entries = []
    for prediction, objects in images_of(name):
        entries += coco_results(prediction, image_id=objects.image_id, category_ids=category_ids(case))
    if masks:  # without a box a result's size is its mask's, as the metric has it
        entries = [{key: value for key, value in entry.items() if key != "bbox"} for entry in entries]
    (tmp_path / "results.json").write_text(json.dumps(entries))
    result = score_results(tmp_path / "results.json", FILES / case["gt"], masks=masks)
    kind = KINDS[case["iouType"]]
    expected = {key: value for key, value in measured(name).compute().items() if key.startswith(kind)}
    found = {key: value for key, value in result["metrics"].items() if key.startswith(kind)}
    assert found == pytest.approx(expected, abs=TOLERANCE)
    check_classes(case, result["per_class"])
