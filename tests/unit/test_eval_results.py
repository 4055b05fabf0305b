"""`evaluate` with `results`: the file that it writes scores the same against the annotation file of the images."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import twins
from twins import evaluation
from twins.data.config import LayoutConfig
from twins.data.loading.batch import Batch
from twins.engine.config import EvalConfig
from twins.errors import ConfigError
from twins.metrics.coco_results import score_results
from twins.predictions import Prediction

NAMES, COUNT = ("cat", "dog"), 4


def predict(network, spec, images, config, losses):
    """Yield predictions near the objects, and a wrong one of each class."""
    for index in range(len(images)):
        target, random = images.target(index), np.random.default_rng(index)
        boxes = np.vstack([target.boxes + random.normal(0, 1.5, target.boxes.shape), [[1, 1, 20, 20]] * 2])
        labels = np.append(target.labels, (0, 1))
        prediction = Prediction(
            task=network.task, size=target.size, boxes=boxes.astype(np.float32), labels=labels,
            scores=random.random(len(boxes)).astype(np.float32),
        )  # fmt: skip
        yield [prediction], Batch(images=torch.empty(0), targets=[target], indices=[index], originals=[])


@pytest.fixture
def measure(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "_predict", predict)
    network = twins.create_model("twins_svt_nano", task="detection", names=NAMES)

    def run(**settings):
        config = EvalConfig(results=str(tmp_path / "results.json"), device="cpu", workers=0, **settings)
        return evaluation.evaluate(network, str(tmp_path), config)

    return run


@pytest.fixture
def put(tmp_path):
    def write(name, first, categories=((1, "cat"), (2, "dog")), folder="images", form=int):
        images, annotations = [], []
        for number in range(first, first + COUNT):
            images.append({"id": form(number), "file_name": f"{name}{number}.png", "width": 64, "height": 64})
            (tmp_path / folder).mkdir(exist_ok=True)
            pixels = np.random.default_rng([number, *name.encode()]).integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}{number}.png")
            for place, (category, _) in enumerate(categories):
                box = [8 + number, 4 + 30 * place, 24, 20]
                annotations.append({"id": len(annotations), "image_id": form(number), "category_id": category,
                                    "bbox": box, "area": 480, "iscrowd": 0})  # fmt: skip
        listed = [{"id": number, "name": category} for number, category in categories]
        content = {"images": images, "annotations": annotations, "categories": listed}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))

    return write


@pytest.fixture
def rescore(tmp_path):
    def run(name):
        return score_results(tmp_path / "results.json", tmp_path / f"{name}.json", masks=False)["metrics"]

    return run


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"categories": ((1, "dog"), (2, "cat"))},
        {"categories": ((1, "dog"),)},
        {"form": "{:06}".format},
        {"form": float},
    ],
)
def test_results_have_the_ids_of_the_annotation_file_of_the_part(measure, put, rescore, changes):
    put("train", 0)
    put("val", 10, **changes)
    metrics = measure().metrics
    assert 0.3 < metrics["box_ap"] < 0.9
    assert metrics == pytest.approx(rescore("val"))


def test_all_images_of_one_file_keep_their_ids(measure, put, rescore):
    put("labels", 10)
    assert measure(part="all").metrics == pytest.approx(rescore("labels"))


def test_several_files_of_a_part_keep_their_ids_where_these_differ(measure, put, tmp_path):
    for name, first in (("train", 0), ("a", 10), ("b", 20)):
        put(name, first)
    result = measure(layout=LayoutConfig(train=("train.json",), val=("a.json", "b.json")))
    entries = json.loads((tmp_path / "results.json").read_text())
    assert {entry["image_id"] for entry in entries} == {*range(10, 14), *range(20, 24)}
    assert not [note for note in result.notes if "those of this evaluation" in note]


def test_results_of_files_that_give_the_same_ids_to_other_images_are_refused(measure, put):
    put("train", 0)
    put("a", 10)
    put("b", 10, categories=((1, "dog"), (2, "cat")))
    with pytest.raises(ConfigError, match=r"give the same image ids to different ones; measure each file alone"):
        measure(layout=LayoutConfig(train=("train.json",), val=("a.json", "b.json")))
