"""Exports in int8: what is quantised, what is kept in float32, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import twins
from twins import exporter, quantization
from twins.backbone.config import VARIANTS
from twins.backbone.network import Twins
from twins.data.formats.digits import Digits
from twins.errors import ConfigError, DataError, ExportError
from twins.evaluation import EvalResult
from twins.exporting.config import ExportConfig
from twins.exporting.extra import require
from twins.exporting.graph import Shape
from twins.exporting.int8 import find_layers, prepare, quantize, rank
from twins.exporting.metadata import FileInfo
from twins.exporting.onnx import write_onnx
from twins.exporting.write import build_graph
from twins.quantization import CalibrationInputs, keep_what_hurts
from twins.tasks.classification.network import Classification

SIDE = 64


@pytest.fixture(scope="module")
def network():
    """A network of five blocks; the time to export grows with them."""
    torch.manual_seed(0)
    info = twins.create_model("twins_svt_nano", num_classes=10, names=Digits(train=False).names).info
    info = replace(info, preprocess=replace(info.preprocess, size=SIDE))
    return Classification(Twins(replace(VARIANTS["twins_svt_nano"], depths=(2, 1, 1, 1))), info).eval()


@pytest.fixture(scope="module")
def inputs(network):
    info = FileInfo(network=network.info, batch=1, height=SIDE, width=SIDE, outputs=("logits",))
    return list(CalibrationInputs(Digits(train=False), network, info))[:6]


@pytest.fixture(scope="module")
def written(network, tmp_path_factory):
    """A float32 file, its layers by part, and the file with all of them in int8, for ONNX Runtime."""
    folder = tmp_path_factory.mktemp("int8")
    path, out = folder / "float.onnx", folder / "int8.onnx"
    write_onnx(build_graph(network, Shape(1, SIDE, SIDE), ExportConfig(logits=True)), path)
    return path, prepare(path), out


def names_of(parts):
    return [name for names in parts.values() for name in names]


def run(path, inputs):
    session = require("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, feed)[0] for feed in inputs])


@pytest.mark.slow
def test_layers_with_weights_are_in_int8_and_all_else_in_float32(written, inputs):
    path, parts, out = written
    blocks = ["stages.0.blocks.0", "stages.0.blocks.1", *(f"stages.{stage}.blocks.0" for stage in (1, 2, 3))]
    inner = [f"{block}.{part}" for block in blocks for part in ("attn", "mlp")]
    assert set(parts) == {*inner, *(f"stages.{stage}.patch_embed" for stage in range(4)), "head"}
    kept = set(names_of(find_layers(path))) - set(names_of(parts))
    assert len(kept) == 4  # the PEG of each stage

    quantize(path, out, inputs, names_of(parts), "onnx")
    model = require("onnx").load(out)
    weights = {value.name for value in model.graph.initializer if value.data_type == require("onnx").TensorProto.INT8}
    source = {node.output[0]: node for node in model.graph.node}
    for node in model.graph.node:
        if node.name in names_of(parts):
            assert source[node.input[1]].op_type == "DequantizeLinear"
            assert source[node.input[1]].input[0] in weights
        elif node.op_type in ("Attention", "Softmax", "LayerNormalization") or node.name in kept:
            assert source[node.input[0]].op_type not in ("DequantizeLinear",), node.name
    assert out.stat().st_size < 0.4 * path.stat().st_size
    actual, expected = run(out, inputs), run(path, inputs)
    assert not np.array_equal(actual, expected)
    assert np.linalg.norm(actual - expected) < 0.1 * np.linalg.norm(expected - expected.mean(0))


def two_layers(path: Path) -> None:
    """Write a network of two layers, of which the first has one input a thousand times as large as the others."""
    onnx = require("onnx")
    graph = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
    net (float[1, 64] images) => (float[1, 32] result) <float[64, 64] first, float[64, 32] second> {
        hidden = MatMul (images, first)
        active = Sigmoid (hidden)
        result = MatMul (active, second)
    }""")
    rng = np.random.default_rng(0)
    weights = {"first": rng.standard_normal((64, 64)), "second": rng.standard_normal((64, 32))}
    weights["first"][0] /= 1000
    for name, values in weights.items():
        graph.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    for index, node in enumerate(graph.graph.node):
        node.name = f"network.head.layer{index}/node"
    onnx.save(graph, path)


def test_the_part_with_outliers_causes_the_largest_error(tmp_path):
    path = tmp_path / "net.onnx"
    two_layers(path)
    parts = prepare(path)
    assert parts == {f"head.layer{index}": [f"network.head.layer{index}/node"] for index in (0, 2)}
    images = np.random.default_rng(1).standard_normal((8, 1, 64)).astype(np.float32)
    images[..., 0] *= 1000
    errors = rank(path, [{"images": image} for image in images], parts)
    assert list(errors) == ["head.layer0", "head.layer2"]
    assert errors["head.layer0"] > 10 * errors["head.layer2"] > 0


def test_parts_are_kept_from_the_worst_on_until_the_file_is_good():
    errors = {name: 1 / (i + 1) for i, name in enumerate("abcdefgh")}
    written = []
    kept, found = keep_what_hurts(list(errors), written.append, lambda: "b" in written[-1], lambda: errors)
    assert written == [(), ("a",), ("a", "b")]
    assert (kept, found) == (("a", "b"), errors)
    assert keep_what_hurts(list(errors), written.append, lambda: True, lambda: errors) == ((), {})
    written.clear()
    keep_what_hurts(list(errors), written.append, lambda: False, lambda: errors)
    assert [len(kept) for kept in written] == [0, 1, 2, 4]  # half of the parts at most


@pytest.mark.parametrize(("batch", "calls"), [(1, 6), (4, 2)])
def test_calibration_gives_a_file_its_own_batches_of_training_images_spread_evenly(network, monkeypatch, batch, calls):
    monkeypatch.setattr(quantization, "MOST_IMAGES", 6)
    info = FileInfo(network=network.info, batch=batch, height=SIDE, width=SIDE, outputs=("logits",))
    images = Digits(train=True)
    inputs = CalibrationInputs(images, network, info)
    assert inputs.images.indices == np.linspace(0, len(images) - 1, 6).round().astype(int).tolist()
    first, again = list(inputs), list(inputs)
    assert [feed["images"].shape for feed in first] == [(batch, SIDE, SIDE, 3)] * calls
    assert all(np.array_equal(one["images"], other["images"]) for one, other in zip(first, again, strict=True))
    expected = network.info.preprocess.pixels(images.load(0)).permute(1, 2, 0)
    assert np.array_equal(first[0]["images"][0], expected)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, ConfigError, "int8 measures its ranges on images like those of later use"),
        ({"calibrate": "digits", "features": True}, ConfigError, "leave out `logits`, `score`, `data` and int8"),
        ({"calibrate": "digits", "format": "torch"}, ConfigError, "`precision` of torch must be fp32, bf16"),
        ({"calibrate": "nowhere"}, DataError, "nowhere does not exist"),
        ({"calibrate": "scenes"}, DataError, "scenes"),
    ],
)
def test_int8_is_refused_without_suitable_images(network, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        twins.export(network, tmp_path / "net.onnx", ExportConfig(precision="int8", **settings))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_file_that_loses_too_much_names_what_it_kept_and_stays_as_failed(network, tmp_path, monkeypatch):
    def evaluate(model, data, config):
        values = {"top1": 0.9 if isinstance(model, Classification) else 0.8}
        return EvalResult(metrics=values, protocol={"images": 100}, versions={}, hashes={})

    monkeypatch.setattr(exporter, "evaluate", evaluate)
    monkeypatch.setattr(quantization, "MOST_IMAGES", 2)
    monkeypatch.setattr(quantization, "RANKING", 1)
    monkeypatch.setattr(quantization, "LARGEST_SHARE", 0.1)
    path = tmp_path / "net.xml"
    config = ExportConfig(precision="int8", format="openvino", calibrate="digits", size=(SIDE,))
    with pytest.raises(ExportError, match=r"80.00 %, 10.00 points below the network's, `max_drop` is 0.5"):
        twins.export(network, path, config)
    names = {"net.xml.failed", "net.bin.failed", "net.failed.json"}
    assert {file.name for file in tmp_path.iterdir()} == names
    sheet = json.loads((tmp_path / "net.failed.json").read_text())
    int8 = sheet["int8"]
    assert int8["kept"] == list(int8["errors"])[:1]
    assert int8["data"] == "digits" == sheet["metric"]["data"]
    assert int8["images"] == 2
    assert int8["layers"] - int8["quantized"] > 4  # the PEG of each stage, and what was kept
    assert (tmp_path / "net.bin.failed").stat().st_size < 0.45 * sheet["weights_bytes"]
