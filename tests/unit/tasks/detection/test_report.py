"""The report of a detector: true and false positives, missed objects, curves, error types, classes."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

import twins
from twins.charts import bar_chart, precision_recall_chart, score_chart
from twins.data.formats import scenes
from twins.data.objects import build_objects, encode_mask
from twins.engine.config import EvalConfig, TrainConfig
from twins.evaluation import evaluate
from twins.metrics.detection_errors import match_image
from twins.predictions import Prediction
from twins.predictor import load
from twins.report.page import write_report
from twins.tasks.contract import Example
from twins.tasks.detection.report import MAX_WRONG, MISSED, RIGHT, WRONG, _class_table, match_marks, sections
from twins.tasks.table import facts_of

NAMES = ("cat", "dog")
HEADINGS = ["Training", "Predictions", "Worst images", "Where it looks", "Precision and recall", "Errors", "Confusion"]
HEADINGS += ["Classes", "Training images"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["detection", "instance"])
def run(request, tmp_path_factory):
    """A run folder with an untrained network, evaluated on six scenes."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    preprocess = replace(facts_of(request.param).preprocess, size=64, longest=64)
    network = twins.create_model("twins_svt_nano", task=request.param, names=scenes.DIGITS, preprocess=preprocess)
    twins.save_weights(network, folder / "best.safetensors")
    config = TrainConfig(data="scenes", model="twins_svt_nano", task=request.param, weights="none")
    (folder / "config.yaml").write_text(config.to_yaml())
    monitor = "box_ap" if request.param == "detection" else "mask_ap"
    rows = [{"kind": "train", "step": n, "epoch": 0.1, "lr": 1e-3, "loss": 2.3, "images_per_s": 9.0} for n in (1, 2)]
    rows += [{"kind": "eval", "step": n, "epoch": 0.1, monitor: 0.1} for n in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(scenes.COUNTS, False, 6)
        evaluate(folder, "scenes", EvalConfig(out=str(folder / "eval.json"), device="cpu"))
        write_report(folder, device="cpu")
    return folder


@pytest.mark.slow
def test_the_page_has_all_sections_and_is_self_contained(run):
    page = (run / "report.html").read_text()
    task = json.loads((run / "eval.json").read_text())["protocol"]["task"]
    assert [part for part in re.findall(r"<h2>([^<]*)</h2>", page) if part != "Facts"] == HEADINGS
    assert "://" not in page
    sources = re.findall(r"""(?:src|href|url\()\s*=?\s*["']?([^"'\s>)]+)""", page)
    assert len(sources) > 16  # two pictures of each of eight images, and attention
    for source in sources:
        Image.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2]))).load()
    iou_types = ["box"] if task == "detection" else ["mask", "box"]
    tiles = re.findall(r"<div class=tile><b>[^<]*</b><span>([^<]*)</span>", page)
    assert [tile for tile in tiles if "," not in tile] == [
        f"{iou_type} AP{at}" for iou_type in iou_types for at in ("", "50", "75")
    ]
    assert not any("ar" in tile.split() for tile in tiles)
    assert f"held-out {iou_types[0]} AP" in page
    assert page.count("precision (up) over recall<div") == len(iou_types)
    assert page.count("<td>misplaced, another class: ") == len(iou_types)
    assert "background</span>" in page  # of the confusion matrix


@pytest.mark.slow
def test_charts_are_well_formed_with_any_names(run):
    recall = np.linspace(0, 1, 101).tolist()
    name = 'a "<b>" & c'
    chart = precision_recall_chart(name, recall, [(name, [1.0] * 101, "solid")], [(name, [0.5] * 101)])
    for text in (chart, score_chart([1, 0], [0, 2], 0.3), bar_chart([(name, 0.0, name)])):
        tree = ElementTree.fromstring(re.sub(r"(class)=(\w+)", r'\1="\2"', text))
        for line in tree.iter("polyline"):
            points = np.array([point.split(",") for point in line.attrib["points"].split()], dtype=float)
            assert (points >= 0).all()
            assert (points <= (460, 220)).all()
    heights = [float(bar) for bar in re.findall(r' height="([\d.]+)"', score_chart([1, 0], [0, 2], 0.3))]
    assert max(heights) == heights[3] == 2 * heights[0]
    assert re.findall(r"width:([\d.]+)%", bar_chart([("a", 0.1, ""), ("b", 0.4, ""), ("c", 0.0, "")])) == [
        "25.0",
        "100.0",
        "0.0",
    ]


def test_classes_are_listed_in_order_of_ap_without_those_that_have_no_objects():
    row = {"objects": 3, "ap50": 0.5, "f1": 0.4, "precision": 0.3, "recall": 0.2, "score": None}
    rows = [
        {"name": name, "ap": ap, **row} for name, ap in (("best", 0.9), ("none", None), ("worst", 0.1), ("<mid>", 0.4))
    ]
    table = _class_table(rows, "ap")
    assert re.findall(r"<tr><td>([^<]*)</td>", table) == ["worst", "&lt;mid&gt;", "best"]
    assert "mask" not in table


@pytest.fixture(params=["box", "mask"])
def matched(request):
    """A true positive, a class error, a localisation error, a duplicate, a background error, and a missed object."""
    truth = [[10, 10, 30, 30], [50, 10, 70, 30], [10, 50, 30, 70], [50, 50, 70, 70]]
    boxes = [[10, 10, 30, 30], [50, 11, 70, 31], [18, 50, 38, 70], [11, 11, 31, 31], [80, 80, 95, 95]]
    draw = [np.zeros((100, 100), dtype=bool) for _ in (*truth, *boxes)]
    for mask, (left, top, right, bottom) in zip(draw, (*truth, *boxes), strict=True):
        mask[top:bottom, left:right] = True
    masks = request.param == "mask"
    encoded = [encode_mask(mask) for mask in draw[:4]] if masks else None
    objects = build_objects(truth, [0, 0, 1, 1], size=(100, 100), image_id=0, masks=encoded)
    prediction = Prediction(
        task="instance" if masks else "detection",
        size=(100, 100),
        names=NAMES,
        boxes=np.array(boxes, dtype=np.float32),
        labels=np.array([0, 1, 1, 0, 1]),
        scores=np.linspace(0.9, 0.5, 5, dtype=np.float32),
        masks=np.array(draw[4:]) if masks else None,
    )
    return match_marks(prediction, objects, match_image(prediction, objects, masks=masks)), objects


def test_right_wrong_and_missed_objects_differ_in_colour_line_and_text(matched):
    marks, objects = matched
    labels = [(item.text, item.colour, item.line) for item in marks]
    assert labels == [
        ("", MISSED, "dashed"),  # the objects with a class and a localisation error on them
        ("", MISSED, "dashed"),
        ("missed dog", MISSED, "dashed"),
        ("dog: is cat", WRONG, "double"),
        ("dog: misplaced", WRONG, "double"),
        ("cat: found twice", WRONG, "double"),
        ("dog: nothing there", WRONG, "double"),
        ("cat 90%", RIGHT, "solid"),
    ]
    assert [list(item.box) for item in marks[:3]] == objects.boxes[1:].tolist()
    assert all(item.mask is None for item in marks[:3])
    assert all((item.mask is None) == (objects.masks is None) for item in marks[3:])


def test_of_many_wrong_objects_only_the_surest_are_drawn():
    count = 3 * MAX_WRONG
    objects = build_objects([[80, 80, 95, 95]], [0], size=(100, 100), image_id=0)
    prediction = Prediction(
        task="detection",
        size=(100, 100),
        names=NAMES,
        boxes=np.tile(np.array([[0, 0, 10, 10]], dtype=np.float32), (count, 1)),
        labels=np.zeros(count, dtype=np.int64),
        scores=np.linspace(0.9, 0.1, count, dtype=np.float32),
    )
    marks = match_marks(prediction, objects, match_image(prediction, objects, masks=False))
    assert len(marks) == MAX_WRONG + 1  # and the missed one


@pytest.mark.slow
def test_the_images_with_the_most_errors_are_the_worst(run, monkeypatch):
    """Predictions equal the ground truth, except for the second scene, which has none."""
    monkeypatch.setitem(scenes.COUNTS, False, 6)
    result = json.loads((run / "eval.json").read_text())
    task = result["protocol"]["task"]
    images = scenes.SceneObjects(train=False, masks=task == "instance")

    def example(index):
        scene = scenes.draw_scene(index, train=False)
        count = 0 if index == 1 else len(scene.labels)
        prediction = Prediction(
            task=task,
            size=(112, 112),
            names=images.names,
            boxes=scene.boxes[:count],
            labels=scene.labels[:count],
            scores=np.full(count, 0.8, dtype=np.float32),
            masks=scene.masks[:count] if task == "instance" else None,
        )
        return Example(scene.image, images.target(index), prediction, images.path(index))

    parts = sections(result, [example(index) for index in range(len(images))], lambda *explained: "")
    count = len(scenes.draw_scene(1, train=False).labels)
    captions = re.findall(r"</span>(\d+ right[^<]*)</figcaption>", parts[1])
    assert captions[0] == f"0 right, 0 wrong, {count} missed"
    assert all(caption.endswith("0 wrong, 0 missed") for caption in captions[1:])
    assert len(captions) == 3  # half of the six images; the others are the predictions
    shown = [re.findall("<span class=name>([^<]*)</span>ground", part) for part in parts[:2]]
    assert not set(shown[0]) & set(shown[1])


@pytest.mark.slow
def test_a_network_without_detections_has_a_report(run, monkeypatch):
    monkeypatch.setitem(scenes.COUNTS, False, 6)
    result, predictor = json.loads((run / "eval.json").read_text()), load(run, device="cpu")
    for errors in result["errors"].values():
        errors["score"] = 0.0
    images = scenes.SceneObjects(train=False, masks=predictor.model.task == "instance")
    (prediction,) = predictor.predict(images.load(0))
    example = Example(images.load(0), images.target(0), prediction, images.path(0))
    parts = sections(result, [example], lambda *explained: "")
    assert "at least 30%, the default" in parts[0]
