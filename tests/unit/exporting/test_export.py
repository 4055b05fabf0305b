"""Graphs of networks give the results of the network, in each runtime, at any size."""

from __future__ import annotations

import sys
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

import twins
from twins.backbone.config import VARIANTS
from twins.backbone.network import Twins
from twins.bench.config import BenchConfig
from twins.bench.runtimes import exported_steps, onnxruntime_step, output_difference
from twins.errors import ConfigError, ExportError, MissingExtraError
from twins.exporting.config import ExportConfig
from twins.exporting.graph import Shape
from twins.exporting.int8 import quantize
from twins.exporting.onnx import write_onnx
from twins.exporting.openvino import convert_openvino
from twins.exporting.write import build_graph, write
from twins.tasks.classification.network import Classification

from .conftest import info_of


def shallow(name):
    """Return a nano network of five blocks with both attentions; the time to export grows with the blocks."""
    torch.manual_seed(0)
    info = twins.create_model(name, num_classes=10).info
    return Classification(Twins(replace(VARIANTS[name], depths=(2, 1, 1, 1))), info).eval()


@pytest.fixture(scope="module")
def svt():
    return shallow("twins_svt_nano")


def pixels(batch, size=(224, 224)):
    """Return uint8 images `(B, C, H, W)`."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (batch, 3, *size), generator=generator, dtype=torch.uint8)


def graph_of(network, size=(224, 224), batch=1, **settings):
    config = ExportConfig(**{"logits": True} | settings)
    return build_graph(network, Shape(batch, *size), config)


def images(x):
    """Return pixels `(B, C, H, W)` as a file takes them."""
    return x.permute(0, 2, 3, 1).contiguous().numpy()


def logits(network, x):
    with torch.no_grad():
        return network(*network.prepare(x, None)).numpy()


def is_near(actual, expected, *, by=1e-4):
    return float(np.abs(actual - expected).max()) < by * float(np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "runtime", "size"),
    [
        ("twins_svt_nano", "openvino", (200, 230)),  # windows do not divide the maps
        ("twins_pcpvt_nano", "onnxruntime", (224, 224)),
    ],
)
def test_an_export_gives_the_networks_logits_in_its_runtime(name, runtime, size):
    network, x = shallow(name), pixels(1, size)
    (step,) = exported_steps({"twins": network}, x, runtime, "fp32").values()
    assert output_difference(step, lambda: logits(network, x)) < 1e-4


@pytest.mark.slow
def test_an_older_opset_exports_the_maps_of_a_backbone_and_too_old_a_one_is_refused(svt, tmp_path):
    import onnx

    path = tmp_path / "maps.onnx"
    size = (200, 230)  # windows do not divide the maps
    write_onnx(graph_of(svt, size, logits=False, features=True, opset=20), path)
    model = onnx.load(path)
    assert "Attention" not in {node.op_type for node in model.graph.node}
    assert [output.name for output in model.graph.output] == ["map0", "map1", "map2", "map3"]
    x = pixels(1, size)
    expected = svt.backbone(*svt.prepare(x, None))[0].detach().numpy()
    assert is_near(onnxruntime_step(path.read_bytes(), images(x))(), expected)
    with pytest.raises(ConfigError, match="`opset` must be from 20 to 23, found 17"):
        ExportConfig(opset=17)
    with pytest.raises(ConfigError, match='`opset` is for ONNX files, found `format="openvino"`; leave it out'):
        ExportConfig(opset=21, format="openvino")


class Repeated(torch.nn.Module):
    """A graph whose two layers have equal constants, as the blocks of a stage have equal masks."""

    opset, output_names = 20, ["sum"]

    def __init__(self):
        super().__init__()
        self.register_buffer("first", torch.arange(2000.0))
        self.register_buffer("second", torch.arange(2000.0))

    def forward(self, images):
        return (images + self.first).relu() + self.second

    def example(self):
        return (torch.zeros(2000),)

    def input_names(self):
        return ["images"]

    def dynamic_shapes(self):
        return None


@pytest.mark.slow
def test_a_constant_of_several_layers_is_in_a_file_once(tmp_path):
    write_onnx(Repeated(), tmp_path / "sum.onnx")
    assert 8000 < (tmp_path / "sum.onnx").stat().st_size < 10_000
    x = -np.arange(2000, 0, -1, dtype=np.float32)
    actual = onnxruntime_step((tmp_path / "sum.onnx").read_bytes(), x)()
    np.testing.assert_array_equal(actual, np.maximum(x + np.arange(2000), 0) + np.arange(2000))


class Orthogonal(torch.nn.Module):
    """An operator that ONNX does not have."""

    def forward(self, x):
        return torch.linalg.qr(x)[0].sum() + x


class Branch(torch.nn.Module):
    """A branch on the values of a tensor."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "file_format", "message"),
    [
        (Orthogonal, "onnx", r'^`format="onnx"` has no operator for aten.linalg_qr; compute it with other operators'),
        (Branch, "torch", r'^the network cannot be written as `format="torch"` \(Could not guard on data-dependent'),
    ],
)
def test_what_a_format_cannot_hold_is_one_sentence(svt, tmp_path, capfd, layer, file_format, message):
    network = deepcopy(svt)
    network.head = torch.nn.Sequential(layer(), network.head)
    graph = graph_of(network, size=(64, 64), format=file_format)
    graph.network.backbone.forward_features = lambda x, sizes: x[:, :1].expand(-1, 256, -1, -1)  # traced in no time
    with pytest.raises(ExportError, match=message) as found:
        write(graph, tmp_path / "net", info_of(), file_format)
    assert "\n" not in str(found.value)
    assert capfd.readouterr().err == ""  # PyTorch prints the graph so far


def relative_difference(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "openvino", "onnxruntime"])
def test_a_missing_package_is_answered_with_the_pip_command(svt, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    action = {
        "openvino": lambda: convert_openvino(graph_of(svt, format="openvino")),
        "onnxruntime": lambda: quantize(tmp_path / "net.onnx", tmp_path / "int8.onnx", [], ["layer"], "onnx"),
    }.get(name, lambda: write_onnx(graph_of(svt), tmp_path / "net.onnx"))
    with pytest.raises(MissingExtraError, match=rf"exports need {name}; pip install 'twins-vision\[export\]'"):
        action()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": ("int8",)}, "`precision` of torch must be fp32 or bf16, found int8"),
        ({"runtime": "onnxruntime", "precision": ("int8",)}, "of onnxruntime must be fp32, found int8"),
        ({"runtime": "openvino", "modes": ("training",)}, "set `modes="),
        ({"runtime": "openvino", "task": "semantic"}, "measures exported classifiers"),
    ],
)
def test_a_benchmark_refuses_what_a_runtime_does_not_support(settings, message):
    with pytest.raises(ConfigError, match=message):
        BenchConfig(**settings)
