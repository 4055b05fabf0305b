"""Both heads in exported graphs of open sizes: the network's logits and label maps at sizes that were not traced.

The backbone is replaced by four convolutions, so that only neck, head and decoding are tested, and quickly.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import twins
from twins.exporting.sessions import compile_openvino, openvino_core
from twins.heads.layers import zero_outside_map
from twins.heads.resampling import AveragePool
from twins.ops.private_torch import any_open_size
from twins.tasks.exports import export_of
from twins.tasks.semantic.network import SemanticSegmentation

CASES = [[(32, 32)], [(101, 33), (40, 75), (32, 32)], [(64, 201), (33, 200), (64, 37)]]
"""Sizes of the images of each batch, in pixels."""


class Patches(nn.Module):
    """Four maps of patches of patches, with sides rounded up, in the form of a backbone."""

    out_indices, channels, strides = (0, 1, 2, 3), (8,) * 4, (4, 8, 16, 32)

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(8 if index else 3, 8, 2 if index else 4) for index in range(4))
        for conv in self.convs:
            conv.stride = conv.kernel_size

    def map_sizes(self, sizes):
        maps = []
        for conv in self.convs:
            sizes = (sizes + conv.stride[0] - 1) // conv.stride[0]
            maps.append(sizes)
        return maps

    def forward(self, x, sizes=None):
        map_sizes = [None] * 4 if sizes is None else self.map_sizes(sizes)
        x, maps = zero_outside_map(x, sizes), []
        for conv, size in zip(self.convs, map_sizes, strict=True):
            bottom, right = (-side % conv.stride[0] for side in x.shape[2:])
            x = zero_outside_map(conv(F.pad(x, (0, right, 0, bottom))), size)
            maps.append(x)
        return maps


class Computed:
    """A network that has computed its outputs."""

    def __init__(self, network, outputs) -> None:
        self.outputs, self.backbone, self.info = outputs, network.backbone, network.info

    def __call__(self, images, sizes):
        return self.outputs


class Outputs(nn.Module):
    """The logits and the label map of a network, which is in a graph once: its formulas of open sizes take long."""

    def __init__(self, network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images, sizes=None):
        network = Computed(self.network, self.network(images, sizes))
        return tuple(
            next(iter(export_of("semantic").outputs(network, images, sizes, logits=logits).values()))
            for logits in (True, False)
        )


def graph(head: str, norm: str) -> Outputs:
    torch.manual_seed(0)
    info = twins.create_model("twins_svt_nano", task="semantic", head=head, num_classes=5).info
    network = SemanticSegmentation(Patches(), replace(info, norm=norm, width=16)).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=1.4 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.3)
    return Outputs(network)


def traced(module: Outputs, padded: bool) -> torch.export.ExportedProgram:
    """Return the program of a network with open batch, height and width."""
    images, batch = torch.randn(2, 3, 96, 160), Dim("batch")
    dims = {0: batch, 2: Dim("height", min=32), 3: Dim("width", min=32)}
    sizes = torch.tensor([[70, 90], [96, 160]])
    arguments, shapes = ((images, sizes), (dims, {0: batch})) if padded else ((images,), (dims,))
    with torch.no_grad(), any_open_size():  # a map may have a side of 1
        return torch.export.export(module, arguments, dynamic_shapes=shapes)


def sessions(program: torch.export.ExportedProgram, opset: int, path, names: list[str]):
    """Yield functions that run a file with arrays: by ONNX Runtime, and with opset 20 by OpenVINO."""
    import onnxruntime

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(program, dynamo=True, opset_version=opset, input_names=names, verbose=False).save(path)
    session = onnxruntime.InferenceSession(path)
    yield lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))
    if opset == 20:
        compiled = compile_openvino(openvino_core().read_model(path))
        yield lambda arrays: list(compiled(list(arrays)).values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "opset", "norm", "padded"), [("semantic_fpn", 20, "batch", False), ("upernet", 23, "batch", False)]
)
def test_files_of_open_size_give_the_networks_outputs(head, norm, padded, opset, tmp_path):
    module = graph(head, norm)
    names = ["images", "sizes"][: 1 + padded]
    for run in sessions(traced(module, padded), opset, tmp_path / "net.onnx", names):
        for sizes in CASES:
            limits = torch.tensor(sizes)
            arguments = (torch.randn(len(sizes), 3, *limits.amax(dim=0).tolist()), limits)[: 1 + padded]
            with torch.no_grad():
                logits, label_map = module(*arguments)
            found = [torch.as_tensor(array) for array in run([argument.numpy() for argument in arguments])]
            assert found[0].shape == logits.shape
            assert (found[0] - logits).abs().max() < 1e-4 * logits.abs().max()
            assert found[1].shape == label_map.shape
            assert found[1].dtype == torch.uint8
            assert (found[1] == label_map).float().mean() > 0.999


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("head", ["semantic_fpn", "upernet"])
@torch.no_grad()
def test_an_image_of_a_padded_batch_has_the_logits_that_it_has_alone(head, norm):
    module = graph(head, norm)
    for sizes in CASES:
        limits = torch.tensor(sizes)
        images = torch.randn(len(sizes), 3, *limits.amax(dim=0).tolist())
        together, _ = module(images, limits)
        for image, own, (height, width) in zip(images, together, sizes, strict=True):
            alone, _ = module(image[None, :, :height, :width])
            part = own[:, : alone.shape[2], : alone.shape[3]]
            assert (part - alone[0]).abs().max() < 1e-5 * alone.abs().max()
            assert own.count_nonzero() == part.count_nonzero()


class Pools(nn.Module):
    """The pools of UPerNet's pyramid."""

    def __init__(self):
        super().__init__()
        self.pools = nn.ModuleList(AveragePool(side) for side in (1, 2, 3, 6))

    def forward(self, x):
        return tuple(pool(x) for pool in self.pools)


@pytest.mark.slow
def test_bins_of_an_exported_file_begin_and_end_where_pytorchs_do(tmp_path):
    """In OpenVINO a ratio that should be whole may be a little more, and a bin had a row too many."""
    dims = {2: Dim("height", min=1), 3: Dim("width", min=1)}
    with torch.no_grad(), any_open_size():
        program = torch.export.export(Pools(), (torch.randn(1, 2, 18, 17),), dynamic_shapes=(dims,))
    for run in sessions(program, 20, tmp_path / "pools.onnx", ["x"]):
        for side in (1, 5, 17, 18, 29, 35):
            x = torch.randn(1, 2, side, side + 1)
            for bins, found in zip((1, 2, 3, 6), run([x.numpy()]), strict=True):
                torch.testing.assert_close(torch.from_numpy(found), F.adaptive_avg_pool2d(x, bins))
