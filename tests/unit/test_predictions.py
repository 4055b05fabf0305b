"""`Prediction`: length, entries, equality, text, tables, COCO results and drawings, from numpy arrays alone."""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from faster_coco_eval import mask as rle
from matplotlib.path import Path as MatplotlibPath
from PIL import Image

import twins
from twins.errors import ConfigError, InputError, MissingExtraError, NotFoundError
from twins.metrics.coco_results import coco_results
from twins.predictions import Prediction, polygons_of

NAMES = ("cat", "dog", "emu")
MASKS = np.zeros((2, 40, 60), dtype=bool)
MASKS[0, 10:20, 5:25] = MASKS[1, 12:30, 20:50] = True
LABELS, SCORES = np.array([2, 0]), np.array([0.9, 0.5], dtype=np.float32)
BOXES = np.array([[5, 10, 25, 20], [20, 12, 50.12345, 30]], dtype=np.float32)
LABEL_MAP = np.repeat(np.array([[1, 2, 2]], dtype=np.uint8), 20, axis=1).repeat(40, axis=0)
COMMON = {"size": (40, 60), "names": NAMES}
PREDICTIONS = {
    "classification": Prediction(task="classification", labels=LABELS, scores=SCORES, **COMMON),
    "semantic": Prediction(task="semantic", label_map=LABEL_MAP, **COMMON),
    "detection": Prediction(task="detection", labels=LABELS, scores=SCORES, boxes=BOXES, **COMMON),
    "instance": Prediction(task="instance", labels=LABELS, scores=SCORES, boxes=BOXES, masks=MASKS, **COMMON),
}
EMPTY = replace(
    PREDICTIONS["instance"], labels=LABELS[:0], scores=SCORES[:0], boxes=BOXES[:0], masks=MASKS[:0], names=()
)
every_task = pytest.mark.parametrize("task", PREDICTIONS)


def test_entries_are_objects_ranked_classes_or_classes_of_the_map():
    first = {task: next(iter(prediction)) for task, prediction in PREDICTIONS.items()}
    assert {task: (item.label, item.name) for task, item in first.items()} == dict.fromkeys(PREDICTIONS, (2, "emu"))
    assert first["classification"].score == first["instance"].score == pytest.approx(0.9)
    assert first["semantic"].score is first["classification"].box is first["detection"].mask is None
    assert first["detection"].box == (5, 10, 25, 20)
    assert (first["instance"].area, first["semantic"].area, first["detection"].area) == (200, 1600, None)
    assert (first["semantic"].mask == (LABEL_MAP == 2)).all()
    assert all(len(list(prediction)) == len(prediction) == 2 for prediction in PREDICTIONS.values())
    assert len(EMPTY) == len(list(EMPTY)) == 0


def test_masks_are_run_lengths_of_objects_or_of_the_classes_of_a_map():
    by_object = PREDICTIONS["instance"].to_dict(masks="rle")
    assert by_object == PREDICTIONS["instance"].to_dict()
    assert [(rle.decode(mask) == each).all() for mask, each in zip(by_object["masks"], MASKS, strict=True)] == [
        True,
        True,
    ]
    assert json.loads(json.dumps(by_object)) == by_object
    by_class = PREDICTIONS["semantic"].to_dict(masks="rle")
    assert list(by_class["masks"]) == list(by_class["areas"]) == ["dog", "emu"]
    assert all((rle.decode(by_class["masks"][NAMES[label]]) == (label == LABEL_MAP)).all() for label in (1, 2))
    assert EMPTY.to_dict(masks="rle")["masks"] == []
    for task, prediction in PREDICTIONS.items():
        values = prediction.to_dict(masks="none")
        assert "masks" not in values
        assert ("areas" in values) == (task in ("semantic", "instance"))
        with pytest.raises(ConfigError, match="`masks` must be rle, polygon or none, found 'png'"):
            prediction.to_dict(masks="png")
    assert "masks" not in PREDICTIONS["semantic"].to_dict()


@pytest.mark.parametrize("top", [-1, "a", 1.5])
def test_a_wrong_number_of_entries_is_refused(top):
    with pytest.raises(ConfigError, match="`top` must be"):
        PREDICTIONS["classification"].to_dict(top=top)


def test_a_prediction_is_described_in_a_line():
    assert repr(PREDICTIONS["classification"]) == "Prediction(classification, 60 x 40 pixels: emu 90.0%, cat 50.0%)"
    assert repr(PREDICTIONS["semantic"]).endswith(": emu 66.7%, dog 33.3%)")
    assert repr(replace(EMPTY, path="a.jpg")) == "Prediction(instance, 'a.jpg', 60 x 40 pixels: 0 objects)"
    many = replace(PREDICTIONS["detection"], labels=LABELS.repeat(9), scores=SCORES.repeat(9), boxes=BOXES.repeat(9, 0))
    assert repr(many).endswith(": 18 objects: emu 90.0%, emu 90.0%, emu 90.0%, ...)")
    assert "array" not in repr(list(PREDICTIONS["instance"]))


@every_task
def test_predictions_are_equal_if_their_results_are(task):
    prediction = PREDICTIONS[task]
    copy = pickle.loads(pickle.dumps(replace(prediction, image=Image.new("RGB", (60, 40)))))
    assert copy == prediction
    assert hash(copy) == hash(prediction)
    assert replace(prediction, path="a.png", milliseconds=3.0) == prediction
    fields = ("labels", "scores", "boxes", "masks", "label_map")
    for name in (name for name in fields if getattr(prediction, name) is not None):
        changed = getattr(prediction, name).copy()
        changed.flat[0] = not changed.flat[0]
        assert replace(prediction, **{name: changed}) != prediction
        assert replace(prediction, **{name: None}) != prediction
    assert prediction != replace(prediction, size=(60, 40))
    assert prediction != 3


@pytest.mark.parametrize("ids", [None, [7, 8, 9], [None, 8, 9]])
def test_coco_entries_are_those_of_results_files(ids):
    entries = PREDICTIONS["instance"].to_coco(5, category_ids=ids)
    assert entries == coco_results(PREDICTIONS["instance"], image_id=5, category_ids=ids or range(3))
    assert entries[0] | {"segmentation": 0, "score": 0} == {
        "image_id": 5, "category_id": 2 if ids is None else 9, "bbox": [5, 10, 20, 10], "segmentation": 0, "score": 0,
    }  # fmt: skip
    assert len(entries) == (1 if ids and ids[0] is None else 2)
    with pytest.raises(InputError, match="need boxes, found a prediction of semantic"):
        PREDICTIONS["semantic"].to_coco(5)


def test_coco_names_have_cocos_own_ids():
    from twins.data.classes import built_in

    names = built_in("coco").names
    prediction = replace(PREDICTIONS["detection"], names=names, labels=np.array([79, 0]))
    assert [entry["category_id"] for entry in prediction.to_coco(1)] == [90, 1]


def columns_of(monkeypatch, prediction):
    """Return the columns that pandas would be given."""
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda columns: columns))
    return prediction.to_pandas()


def test_tables_have_the_columns_of_the_task(monkeypatch):
    boxes = ["x1", "y1", "x2", "y2"]
    expected = {"classification": ["score"], "semantic": ["area"], "detection": ["score", *boxes]}
    expected["instance"] = [*expected["detection"], "area"]
    for task, prediction in PREDICTIONS.items():
        columns = columns_of(monkeypatch, prediction)
        assert list(columns) == ["label", "name", *expected[task]]
        assert {len(values) for values in columns.values()} == {2}
    assert columns["area"].tolist() == [200, 540]
    assert columns_of(monkeypatch, replace(EMPTY, path="a.png"))["path"] == "a.png"


def test_tables_of_the_real_pandas():
    pytest.importorskip("pandas", reason="pandas is not installed")
    for prediction in (*PREDICTIONS.values(), EMPTY):
        assert len(replace(prediction, path="a.png").to_pandas()) == len(prediction)


def test_a_missing_pandas_is_answered_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match="pip install pandas"):
        EMPTY.to_pandas()


@every_task
def test_drawings_use_the_image_at_the_path_or_the_one_given(task, tmp_path):
    image = Image.effect_noise((60, 40), 90).convert("RGB")
    image.save(tmp_path / "a.png")
    expected = np.asarray(PREDICTIONS[task].draw(image))
    by_path = replace(PREDICTIONS[task], path=str(tmp_path / "a.png"))
    for prediction in (by_path, replace(PREDICTIONS[task], image=np.asarray(image))):
        assert (np.asarray(prediction.draw()) == expected).all()
        prediction.save(tmp_path / "drawn.png")
        with Image.open(tmp_path / "drawn.png") as drawn:
            assert (np.asarray(drawn) == expected).all()
        assert prediction._repr_png_().startswith(b"\x89PNG")
    plain = by_path.draw(config=twins.DrawConfig(labels=False, opacity=0.0))
    assert plain.size[0] >= 60


def test_drawings_without_an_image_or_with_another_are_refused(tmp_path):
    prediction, image = PREDICTIONS["detection"], Image.new("RGB", (60, 40))
    assert prediction._repr_png_() is None
    with pytest.raises(InputError, match="knows no image to draw on"):
        prediction.draw()
    with pytest.raises(InputError, match="has 40 x 60 pixels, its prediction is for 60 x 40"):
        prediction.draw(image.rotate(90, expand=True))
    with pytest.raises(NotFoundError, match="gone"):
        replace(prediction, path=str(tmp_path / "gone.png")).draw()


def test_a_drawing_replaces_neither_the_image_nor_a_file_of_unknown_format(tmp_path):
    image = Image.new("RGB", (60, 40))
    image.save(tmp_path / "a.png")
    prediction = replace(PREDICTIONS["detection"], path=str(tmp_path / "a.png"))
    for name, message in {
        "a.png": "would be lost",
        "a.txt": "use .png",
        "a": "use .png",
        "no/a.png": "no folder",
    }.items():
        with pytest.raises(ConfigError, match=message):
            prediction.save(tmp_path / name)
    with pytest.raises(ConfigError, match="`path` must be"):
        prediction.save(None)
    with pytest.raises(NotFoundError, match="there is no drawing"):
        prediction.save("a\0.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]


def test_polygons_hold_the_pixels_of_the_mask():
    random = np.random.default_rng(0)
    ring = np.zeros((20, 30), bool)
    ring[3:15, 4:25], ring[6:9, 8:20] = True, False
    masks = [ring, np.ones((5, 7), bool), np.zeros((5, 7), bool), random.random((12, 9)) < 0.4]
    for mask in masks:
        rows, columns = np.indices(mask.shape)
        centres = np.stack((columns.ravel(), rows.ravel()), axis=1) + 0.5
        inside = np.zeros(len(centres), bool)
        for polygon in polygons_of(mask):
            inside ^= MatplotlibPath(np.reshape(polygon, (-1, 2))).contains_points(centres)
        assert np.array_equal(inside.reshape(mask.shape), mask)
    assert len(polygons_of(ring)) == 2
    assert max(map(len, polygons_of(ring))) == 16  # x and y of eight points: each corner is cut
    prediction = replace(PREDICTIONS["instance"], masks=np.stack([ring, ring]))
    assert prediction.to_dict(masks="polygon")["masks"] == [polygons_of(ring)] * 2
