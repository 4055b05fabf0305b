"""A file that computes something else than its network fails its verification, whatever part of it is wrong.

The networks are of a few layers, so that an export takes a second.
"""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import twins
from twins import verification
from twins.data.formats.digits import Digits
from twins.data.formats.scenes import Scenes
from twins.errors import ConfigError, DataError, ExportError, NotFoundError
from twins.exporting import graph
from twins.exporting.comparison import BOUNDS, Mismatch, compare
from twins.exporting.formats import ENDINGS
from twins.exporting.graph import ExportGraph, Shape
from twins.exporting.metadata import FileInfo
from twins.heads.merging import Detections
from twins.preprocess import Preprocess
from twins.tasks.classification.network import probabilities, to_predictions
from twins.tasks.detection.network import predictions
from twins.tasks.inference import SelectionConfig
from twins.tasks.network import TaskNetwork
from twins.tasks.semantic.network import decode_logits
from twins.weights.info import ModelInfo

NAMES = ("ant", "bee", "cat", "dog")
FORMATS = ("torch", "onnx")


class Tiny(TaskNetwork):
    """A convolution with a score for each class."""

    def __init__(self, size=64, fit="crop"):
        preprocess = Preprocess(size=size, fit=fit, interpolation="bilinear")
        super().__init__(
            nn.Identity(),
            ModelInfo(
                task=self.task,
                model="twins_svt_nano",
                num_classes=4,
                names=NAMES,
                preprocess=preprocess,
                temperature=1.5,
            ),
        )
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 4, 8, stride=4)
        self.layer.weight.data *= 4


class Classifier(Tiny):
    task = "classification"

    def forward(self, images, sizes=None):
        return self.layer(images).relu().mean(dim=(2, 3))

    def decode(self, outputs, sizes, originals):
        return to_predictions(self.info, probabilities(self.info, outputs), originals)


class Segmenter(Tiny):
    task = "semantic"

    def __init__(self):
        super().__init__(size=64, fit="keep")

    def forward(self, images, sizes=None):
        return {"logits": self.layer(images)}

    def decode(self, outputs, sizes, originals):
        return decode_logits(self.info, outputs["logits"], None, sizes, originals)


class Detector(Tiny):
    """Each cell of 8 x 8 pixels is an object."""

    task = "detection"

    def __init__(self):
        super().__init__(size=64, fit="keep")
        self.layer.stride = (8, 8)

    def forward(self, images, sizes=None):
        return self.layer(images).sigmoid()

    def detections(self, outputs):
        scores, labels = outputs.flatten(2).max(dim=1)
        rows, columns = (8 * x.flatten() for x in torch.meshgrid(*map(torch.arange, outputs.shape[2:]), indexing="ij"))
        boxes = torch.stack([columns, rows, columns + 8, rows + 8], dim=1).float().expand(len(scores), -1, 4)
        scores, order = torch.where(scores > self.selection.score, scores, 0).sort(dim=1, descending=True)
        return boxes.gather(1, order[:, :, None].expand_as(boxes)), scores, labels.gather(1, order)

    def decode(self, outputs, sizes, originals):
        found = self.detections(outputs)
        images = [Detections(*(x[i][scores > 0] for x in found)) for i, scores in enumerate(found[1])]
        return predictions(self.info, images, sizes, originals)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(graph, "lay_out", lambda network, *_, **__: deepcopy(network))
    monkeypatch.setattr(verification, "SECONDS", 0.0)


def export(network, folder, format="torch", **settings):
    ending = next(ending for ending, name in ENDINGS.items() if name == format)
    return twins.export(network, folder / f"net{ending}", twins.ExportConfig(format=format, **settings))


OPEN = {"size": "dynamic", "batch": "dynamic"}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("network", "settings", "batches", "sizes"),
    [
        (Classifier, OPEN, (1, 3), 4),
        (Segmenter, OPEN, (1, 3), 5),
        (Detector, {"size": (64, 96), "batch": 2}, (2,), 1),
    ],
)
def test_a_right_file_passes_and_its_sheet_says_what_was_compared(tmp_path, format, network, settings, batches, sizes):
    result = export(network(), tmp_path, format, **settings)
    sheet = json.loads(result.sheet_path.read_text())
    found = sheet["verification"]
    assert found["failure"] is None
    assert tuple(found["batches"]) == batches
    assert len(found["sizes"]) == sizes
    assert found["images"] == ["china.jpg", "flower.jpg", "digits/1", "scenes/val/0"]
    assert all(value < 1e-5 for value in found["differences"].values())
    assert set(found["agreement"].values()) == {1.0}
    assert (found["objects"] is None) == (network is not Detector)
    assert sheet["file_bytes"] == result.path.stat().st_size
    assert sheet["weights_bytes"] == 4 * (4 * 3 * 64 + 4)
    assert min(sheet["milliseconds"]["file"], sheet["milliseconds"]["network"]) > 0


def shift_mean(monkeypatch):
    def build(self, *args, **settings):
        original(self, *args, **settings)
        self.shift += 0.01

    original = ExportGraph.__init__
    monkeypatch.setattr(ExportGraph, "__init__", build)


def swap_channels(monkeypatch):
    original = ExportGraph._outputs
    monkeypatch.setattr(ExportGraph, "_outputs", lambda self, pixels, sizes: original(self, pixels.flip(3), sizes))


def change_network(monkeypatch, change):
    def lay_out(network, *_, **__):
        copy = deepcopy(network)
        change(copy)
        return copy

    monkeypatch.setattr(graph, "lay_out", lay_out)


def bake_size(network):
    forward = network.forward
    network.forward = lambda images, sizes=None: forward(F.interpolate(images, (96, 160)), sizes)


def bake_dimensions(monkeypatch):
    monkeypatch.setattr(Shape, "dims", lambda self: {})


def set_info(network, **changes):
    network.info = replace(network.info, **changes)


def describe(monkeypatch, **changes):
    """Write a description with changes of the network's preprocessing, or of other fields."""

    def to_json(self):
        kept = {name: value for name, value in changes.items() if hasattr(self.network.preprocess, name)}
        preprocess = replace(self.network.preprocess, **kept)
        others = {name: value for name, value in changes.items() if name not in kept}
        return original(replace(self, network=replace(self.network, preprocess=preprocess, **others)))

    original = FileInfo.to_json
    monkeypatch.setattr(FileInfo, "to_json", to_json)


MUTATIONS = {
    "a wrong mean": (shift_mean, "differs by"),
    "swapped channels": (swap_channels, "differs by"),
    "a wrong temperature": (partial(change_network, change=partial(set_info, temperature=1.0)), "differs by"),
    "a baked size": (partial(change_network, change=bake_size), "differs by"),
    "baked dimensions": (bake_dimensions, "its runtime fails"),
    "another filter": (partial(describe, interpolation="nearest"), "its description says"),
    "another crop": (partial(describe, crop=0.8), "its description says"),
    "shifted names": (partial(describe, names=(*NAMES[1:], NAMES[0])), "its description says `names="),
    "another temperature in the description": (partial(describe, temperature=1.0), "its description says"),
}


@pytest.mark.parametrize(
    ("format", "mutation"),
    [("torch", name) for name in MUTATIONS]
    + [("onnx", name) for name in ("a wrong mean", "baked dimensions", "shifted names")],
)
def test_a_wrong_file_fails_and_an_older_good_one_stays(tmp_path, monkeypatch, format, mutation):
    ending = next(ending for ending, name in ENDINGS.items() if name == format)
    good = {f"net{ending}": "good", "net.json": '{"weights_sha256": "good"}'}
    for name, text in good.items():
        (tmp_path / name).write_text(text)
    change, sentence = MUTATIONS[mutation]
    change(monkeypatch)
    with pytest.raises(ExportError, match=sentence):
        export(Classifier(), tmp_path, format, **OPEN)
    assert {path.name for path in tmp_path.iterdir()} == {*good, f"net{ending}.failed", "net.failed.json"}
    assert all((tmp_path / name).read_text() == text for name, text in good.items())
    assert sentence in json.loads((tmp_path / "net.failed.json").read_text())["verification"]["failure"]


def test_a_wrong_label_map_or_selection_fails(tmp_path, monkeypatch):
    shift_mean(monkeypatch)
    with pytest.raises(
        ExportError, match=r"% of the label_map pixels are equal, the bound is 99.9 %, for .* at .* pixels in a batch"
    ):
        export(Segmenter(), tmp_path, **OPEN)
    monkeypatch.undo()
    monkeypatch.setattr(verification, "SECONDS", 0.0)
    change_network(monkeypatch, lambda network: setattr(network, "selection", SelectionConfig(score=0.6)))
    with pytest.raises(ExportError, match=r"% of the objects are equal, the bound is 99 %"):
        export(Detector(), tmp_path, size=64)


def objects(boxes, scores, labels, rows=3):
    arrays = {
        "boxes": np.zeros((1, rows, 4), dtype=np.float32),
        "scores": np.zeros((1, rows), dtype=np.float32),
        "labels": np.zeros((1, rows), dtype=np.int64),
        "count": np.array([len(scores)]),
    }
    for name, values in (("boxes", boxes), ("scores", scores), ("labels", labels)):
        if len(values):
            arrays[name][0, : len(values)] = values
    return arrays


BOX = [10, 10, 50, 60]
FAR = [100, 10, 150, 60]
AT_NMS = [10, 10, 50, 35.001]  # an IoU of 0.5 with BOX


def measures(first, second):
    found = compare(first, second, BOUNDS["fp32"], selection=SelectionConfig(most=3))
    return {measure.name: measure for measure in found}


def test_objects_are_matched_one_to_one_whatever_their_order():
    first = objects([BOX, FAR], [0.9, 0.80001], [1, 2])
    second = objects([FAR, [10.02, 10, 50, 60]], [0.80001, 0.8], [2, 1])
    found = measures(first, second)
    assert found["objects"].value == 1.0
    assert found["boxes"].value == pytest.approx(0.02, abs=1e-5)
    assert found["boxes"].excess < 1
    assert found["scores"].excess > 1
    assert measures(first, objects([BOX, FAR], [0.9, 0.8], [1, 1]))["objects"].value == 0.5
    assert measures(first, objects([BOX, BOX], [0.9, 0.8], [1, 1]))["objects"].value == 0.5


def test_the_neighbour_that_rounding_finds_instead_fails_a_file_in_float32_but_not_in_bfloat16():
    boxes, scores = [[20 * i, 0, 20 * i + 40, 40] for i in range(8)], np.linspace(0.9, 0.2, 8)
    first = objects(boxes, scores, [1] * 8, rows=8)
    other = first | {"boxes": first["boxes"] + np.float32(0.001)}
    other["boxes"][0, 3] += 3.5  # the box of one object, and the score of another
    other["scores"] = first["scores"] + np.float32([0, 0, 0, 0.3, 0, 0, 0, 0])
    for precision, fails in (("fp32", {"boxes", "scores"}), ("bf16", set())):
        found = compare(first, other, BOUNDS[precision], selection=SelectionConfig(most=8))
        assert {measure.name for measure in found if measure.excess > 1} == fails
    other["scores"] = first["scores"] / 2  # every score is wrong
    found = compare(first, other, BOUNDS["bf16"], selection=SelectionConfig(most=8))
    assert "scores" in {measure.name for measure in found if measure.excess > 1}
    found = compare(first, other, BOUNDS["int8"], selection=SelectionConfig(most=8))  # no bound, so nothing is left out
    assert next(measure.value for measure in found if measure.name == "boxes") == pytest.approx(3.501)


@pytest.mark.parametrize(
    ("extra", "share"),
    [
        ((FAR, 0.05005, 2), 1.0),  # at the score threshold
        ((AT_NMS, 0.5, 1), 1.0),  # at the threshold of NMS
        ((AT_NMS, 0.5, 2), 2 / 3),  # another class does not suppress it
        ((FAR, 0.5, 2), 2 / 3),
    ],
)
def test_an_object_at_a_threshold_may_be_missing(extra, share):
    first, second = objects([BOX, extra[0]], [0.9, extra[1]], [1, extra[2]]), objects([BOX], [0.9], [1])
    assert measures(first, second)["objects"].value == pytest.approx(share)
    assert measures(second, first)["objects"].value == pytest.approx(share)


def test_images_without_objects_agree_and_leftovers_beyond_count_do_not():
    empty = objects([], [], [])
    assert {measure.excess for measure in measures(empty, empty).values()} == {0.0}
    leftover = empty | {"scores": np.ones((1, 3), dtype=np.float32)}
    with pytest.raises(Mismatch, match="not zero beyond count"):
        measures(empty, leftover)


def test_pixels_where_the_network_is_undecided_are_ties():
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 0], logits[:, 1, :, :2], logits[:, 1, :, 2:] = 1.0, 1.0 - 1e-7, 0.5
    first = np.zeros((1, 16, 16), dtype=np.uint8)
    second = first.copy()
    second[0, 3, 1], second[0, 3, 14] = 1, 1
    ties = verification.undecided(logits, first, second)
    assert np.argwhere(ties).tolist() == [[0, 3, 1]]


def test_the_default_images_are_named_as_their_data_sets_name_them():
    assert verification.DEFAULT_IMAGES[2:] == (Digits(train=False).path(0), Scenes(train=False).path(0))


def test_images_to_verify_on_are_read_before_anything_is_written(tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    with pytest.raises(NotFoundError, match=r"there is no image .*gone.jpg"):
        export(Classifier(), tmp_path, verify=(str(tmp_path / "gone.jpg"),))
    with pytest.raises(DataError, match=r"text.jpg is no image"):
        export(Classifier(), tmp_path, verify=(str(text),))
    with pytest.raises(ConfigError, match=r"a classifier sees squares, found `size=\(64, 96\)`"):
        export(Classifier(), tmp_path, size=(64, 96))
    with pytest.raises(ConfigError, match="`score` is for detection and instance"):
        export(Segmenter(), tmp_path, score=0.5)
    for name in ("data", "calibrate"):
        with pytest.raises(ConfigError, match=f"`{name}` names no data set"):
            export(Classifier(), tmp_path, **{name: ""})
    for name in ("size", "verify", "score"):
        with pytest.raises(ConfigError, match=f"`{name}` must be"):
            twins.ExportConfig(**{name: {}})
    assert twins.ExportConfig(verify="a.jpg").verify == ("a.jpg",)
    with pytest.raises(ConfigError, match="`logits` is for classifiers and semantic networks"):
        export(Detector(), tmp_path, size=64, logits=True)
    assert list(tmp_path.iterdir()) == [text]


def test_a_file_is_exported_again_but_replaces_nothing_else(tmp_path):
    for _ in range(2):
        result = export(Classifier(), tmp_path)
    result.sheet_path.write_text('{"images": []}')
    with pytest.raises(ConfigError, match=r"the sheet .*net.json would replace another file"):
        export(Classifier(), tmp_path)
    result.sheet_path.unlink()
    result.path.write_bytes(b"\0\0 a photograph")
    with pytest.raises(ConfigError, match="which would be lost"):
        export(Classifier(), tmp_path)
    (tmp_path / "net.bin").write_bytes(b"\0\0 weights of another network")
    with pytest.raises(ConfigError, match=r"the weights .*net.bin would replace another file"):
        export(Classifier(), tmp_path, format="openvino")
    with pytest.raises(ConfigError, match="is an ending without a name"):
        twins.export(Classifier(), tmp_path / ".onnx")


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_embedded_images_suit_the_number_of_channels(channels):
    images = verification.verification_images((), channels)
    assert len(images) == 4
    assert {len(Preprocess().for_channels(channels).pixels(image)) for image in images.values()} == {channels}


def test_a_file_that_loses_more_than_allowed_on_data_fails(tmp_path):
    from twins.exporter import _drop

    metric = {"name": "top1", "data": "digits", "file": 0.93, "network": 0.98, "drop": 5.0}
    assert _drop(metric, 5.0) is None
    assert _drop(metric, 0.5) == "its top1 on digits is 93.00 %, 5.00 points below the network's, `max_drop` is 0.5"


def test_a_file_is_named_after_its_run_its_weight_file_or_its_published_network(tmp_path, monkeypatch):
    from twins.exporter import _output_path

    (tmp_path / "config.yaml").touch()
    (tmp_path / "net.pth").touch()
    monkeypatch.chdir(tmp_path)
    cached = tmp_path / "hub" / "model.safetensors"
    names = {".": Path("exports", f"{tmp_path.name}-torch.pt2")}
    names |= {"net.pth": Path("net-torch.pt2"), "timm/twins_svt_small.in1k": Path("twins_svt_small-torch.pt2")}
    for model, path in names.items():
        file = Path(model) if model == "net.pth" else cached
        assert _output_path(model, file, None, twins.ExportConfig(format="torch")) == path
