"""Small exported files of each format, made by hand, with the description of a classifier."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from twins.exporting.extra import require
from twins.exporting.metadata import FileInfo
from twins.exporting.writers import describe_onnx, write_openvino, write_torch
from twins.weights.info import ModelInfo

OPEN = {"batch": None, "height": None, "width": None}


class Tiny(nn.Module):
    """uint8 images `(B, H, W, 3)` to probabilities `(B, 3)` of their mean colours; padding has to be black."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0], [-2.0, 0.3, 0.7]]))

    def forward(self, images, sizes=None):
        area = images.shape[1] * images.shape[2] if sizes is None else sizes.prod(1, keepdim=True)
        return {"probabilities": (images.float().sum((1, 2)) / area / 255 @ self.weight).softmax(-1)}


GRAPH = """<ir_version: 10, opset_import: ["" : 20]>
net (uint8[{batch}, {height}, {width}, 3] images{sizes}) => (float[{batch}, 3] probabilities)
<float[3, 3] weight = {{2.0, -1.0, 0.5, 0.0, 3.0, 1.0, -2.0, 0.3, 0.7}}, int64[2] axes = {{1, 2}}, int64[1] one = {{1}},
float pixel = {{255.0}}> {{
    x = Cast <to = 1> (images)
    sum = ReduceSum <keepdims = 0> (x, axes)
    {area}
    number = Cast <to = 1> (area)
    mean = Div (sum, number)
    scaled = Div (mean, pixel)
    logits = MatMul (scaled, weight)
    probabilities = Softmax (logits)
}}"""
"""The same network for ONNX."""
AREAS = {
    False: "shape = Shape <start = 1, end = 3> (images)\n area = ReduceProd <keepdims = 0> (shape)",
    True: "area = ReduceProd <keepdims = 1> (sizes, one)",
}


def info_of(**changes):
    network = ModelInfo(
        task="classification", model="twins_svt_nano", num_classes=3, names=("a", "b", 'ü<&>"'), temperature=1.5
    )
    return FileInfo(**{"network": network, "outputs": ("probabilities",), "versions": {"twins": "0"}} | OPEN | changes)


def export(path, info):
    """Write the network in the format of the path's ending."""
    if path.suffix == ".pt2":
        write_torch(traced(info), path, info)
        return path
    onnx = path.with_suffix(".onnx")
    shape = {name: getattr(info, name) or name[0].upper() for name in OPEN}
    sizes = f", int64[{shape['batch']}, 2] sizes" if info.padded else ""
    graph = GRAPH.format(**shape, sizes=sizes, area=AREAS[info.padded])
    require("onnx").save(require("onnx").parser.parse_model(graph), onnx)
    if path.suffix == ".onnx":
        describe_onnx(path, info)
    else:
        write_openvino(require("openvino").convert_model(onnx), path, info)
        onnx.unlink()
    return path


def traced(info, network=None):
    """Return the exported program of the network, or of another."""
    batch, height, width = info.batch or 2, info.height or 64, info.width or 80
    dim = torch.export.Dim
    axes = {"batch": dim("batch"), "height": dim("height", min=32), "width": dim("width", min=32)}
    inputs = [torch.zeros(batch, height, width, 3, dtype=torch.uint8)]
    shapes = [{i: axes[name] for i, name in enumerate(axes) if name in info.dynamic}]
    if info.padded:
        inputs.append(torch.tensor([[height, width]] * batch))
        shapes.append({0: axes["batch"]} if info.batch is None else {})
    return torch.export.export(network or Tiny().eval(), tuple(inputs), dynamic_shapes=tuple(shapes))


@pytest.fixture(scope="session", params=["onnx", "xml", "pt2"])
def exported(request, tmp_path_factory):
    """A file of each format with open batch, height and width."""
    return export(tmp_path_factory.mktemp("exported") / f"net.{request.param}", info_of())


@pytest.fixture(scope="session", params=["onnx", "xml", "pt2"])
def padded(request, tmp_path_factory):
    """A file of each format that takes `sizes`, of a fixed batch of 2 and a fixed height of 64."""
    return export(tmp_path_factory.mktemp("padded") / f"net.{request.param}", info_of(padded=True, batch=2, height=64))
