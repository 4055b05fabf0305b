"""What is exported computes what the network does, in each runtime, at any size."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import twins
from twins.backbone.config import VARIANTS
from twins.backbone.network import Twins
from twins.bench.config import BenchConfig
from twins.bench.runtimes import exported_steps, onnxruntime_step, outputs_differ
from twins.errors import ConfigError, MissingExtraError
from twins.exporting.int8 import quantize
from twins.exporting.layout import FlatStage, lay_out
from twins.exporting.onnx import export_onnx
from twins.exporting.openvino import compile_openvino, convert_openvino
from twins.tasks.classification.network import Classification

SIZES = ((224, 224), (200, 230))


@pytest.fixture(scope="module", params=["twins_svt_nano", "twins_pcpvt_nano"])
def network(request):
    torch.manual_seed(0)
    return twins.create_model(request.param, num_classes=10).eval()


@pytest.fixture(scope="module")
def svt():
    """A nano network of five blocks with both attentions: exporting takes its time block by block."""
    torch.manual_seed(0)
    info = twins.create_model("twins_svt_nano", num_classes=10).info
    backbone = Twins(replace(VARIANTS["twins_svt_nano"], depths=(2, 1, 1, 1)))
    return Classification(backbone, info).eval()


def images(batch, size=(224, 224)):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def logits(network, x):
    with torch.no_grad():
        return network(x).numpy()


def near(found, expected, *, by=1e-4):
    return float(np.abs(found - expected).max()) < by * float(np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("size", [*SIZES, (224, 448)])
def test_what_is_laid_out_is_the_network_and_leaves_it_alone(network, size, rows):
    kept = {key: value.clone() for key, value in network.state_dict().items()}
    ready = lay_out(network, *size, attention="operator" if rows else "products", rows=rows)
    x = images(2, size)
    assert near(logits(ready, x), logits(network, x), by=1e-5)
    assert all(torch.equal(value, kept[key]) for key, value in network.state_dict().items())


def test_stages_are_laid_out_where_windows_and_cells_divide_their_maps(svt):
    laid = []
    for size in ((224, 224), (224, 200)):
        ready = lay_out(svt, *size, attention="products", rows=False)
        laid.append([isinstance(stage, FlatStage) for stage in ready.backbone.stages])
    assert laid == [[True] * 4, [False] * 3 + [True]]


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_export_gives_the_networks_logits_in_its_runtime(svt, runtime, size):
    x = images(1, size)
    (step,) = exported_steps({"twins": svt}, x, runtime, "fp32").values()
    assert outputs_differ(step, lambda: logits(svt, x)) < 1e-4


@pytest.mark.slow
def test_pcpvt_is_exported_too(tmp_path):
    torch.manual_seed(0)
    info = twins.create_model("twins_pcpvt_nano", num_classes=10).info
    network = Classification(Twins(replace(VARIANTS["twins_pcpvt_nano"], depths=(2, 1, 1, 1))), info).eval()
    x, path = images(1), tmp_path / "net.onnx"
    export_onnx(network, path)
    compiled = compile_openvino(convert_openvino(network), threads=1)
    for found in (onnxruntime_step(path.read_bytes(), x.numpy())(), compiled(x.numpy())["logits"]):
        assert near(found, logits(network, x))


@pytest.mark.slow
def test_an_open_batch_takes_any_number_of_images(svt, tmp_path):
    path, size = tmp_path / "net.onnx", (64, 80)
    export_onnx(svt, path, size=size, batch=None)
    compiled = compile_openvino(convert_openvino(svt, size=size, batch=None), threads=1)
    for batch in (1, 3):
        x = images(batch, size)
        for found in (onnxruntime_step(path.read_bytes(), x.numpy())(), compiled(x.numpy())["logits"]):
            assert near(found, logits(svt, x))


@pytest.mark.slow
def test_older_operators_and_a_backbones_maps(svt, tmp_path):
    import onnx

    path = tmp_path / "maps.onnx"
    export_onnx(svt.backbone, path, opset=20)
    model = onnx.load(path)
    assert "Attention" not in {node.op_type for node in model.graph.node}
    assert [output.name for output in model.graph.output] == ["map0", "map1", "map2", "map3"]
    x = images(1)
    assert near(onnxruntime_step(path.read_bytes(), x.numpy())(), svt.backbone(x)[0].detach().numpy())
    with pytest.raises(ConfigError, match="`opset` must be at least 20, found 17"):
        export_onnx(svt, path, opset=17)


@pytest.mark.slow
def test_int8_stays_near_and_float32_is_left_as_it_was(svt):
    x, model = images(4), convert_openvino(svt, batch=4)
    small = quantize(model, [x])
    kinds = {node.get_type_name() for node in small.get_ops()}
    assert "FakeQuantize" in kinds
    assert "FakeQuantize" not in {node.get_type_name() for node in model.get_ops()}
    found, expected = compile_openvino(small, threads=1)(x.numpy())["logits"], logits(svt, x)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9
    with pytest.raises(ConfigError, match="int8 needs calibration images, found none"):
        quantize(model, [])


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "openvino", "nncf"])
def test_without_a_package_the_command_that_installs_it_is_said(svt, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    act = {
        "openvino": lambda: convert_openvino(svt),
        "nncf": lambda: quantize(None, [images(1)]),
    }.get(name, lambda: export_onnx(svt, tmp_path / "net.onnx"))
    with pytest.raises(MissingExtraError, match=rf"exports need {name}; pip install 'twins-vision\[export\]'"):
        act()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"precision": ("int8",)}, "`precision` of torch must be fp32 or bf16, found int8"),
        ({"runtime": "onnxruntime", "precision": ("int8",)}, "of onnxruntime must be fp32, found int8"),
        ({"runtime": "openvino"}, "say `modes="),
        ({"runtime": "openvino", "modes": ("inference",), "task": "semantic"}, "measures classifiers"),
    ],
)
def test_a_benchmark_says_what_a_runtime_does_not_do(settings, said):
    with pytest.raises(ConfigError, match=said):
        BenchConfig(**settings)
