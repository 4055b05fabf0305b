"""Detectors in files: images of any size, alone and padded, with and without objects, in every runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from twins.errors import ConfigError
from twins.exporting.config import ExportConfig
from twins.exporting.graph import Shape
from twins.exporting.onnx import write_onnx
from twins.exporting.sessions import compile_openvino, openvino_core
from twins.exporting.write import build_graph, trace
from twins.ops.padding import valid_mask
from twins.tasks.inference import SelectionConfig

SIDES, BATCH = [(33, 47), (290, 70), (64, 150)], (3, 290, 150)


class Maps(torch.nn.Module):
    """Maps made of an image's own pixels, in place of a backbone, whose export takes long."""

    channels, strides = (32, 64, 128, 256), (4, 8, 16, 32)

    def forward(self, images, sizes=None):
        if sizes is not None:
            images = images * valid_mask(sizes, *images.shape[2:])[:, None]
        maps = [images[:, :, ::step, ::step] for step in self.strides]
        return [x.index_select(1, torch.arange(width) % 3) for x, width in zip(maps, self.channels, strict=True)]

    def map_sizes(self, sizes):
        return tuple((sizes + step - 1) // step for step in self.strides)


def graph_of(network, shape=(None, None, None), **settings):
    graph = build_graph(network, Shape(*shape), ExportConfig(**settings))
    graph.network.backbone = Maps()
    return graph


def photographs():
    """Return an image of each size, all different."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(256, (1, *sides, 3), generator=generator, dtype=torch.uint8) for sides in SIDES]


def padded_batch(images):
    """Return images in one batch, and their sizes."""
    batch = torch.full((*BATCH, 3), 255, dtype=torch.uint8)
    for row, image in zip(batch, images, strict=True):
        row[: image.shape[1], : image.shape[2]] = image[0]
    return batch, torch.tensor(SIDES)


def runtimes(path):
    """Yield functions from inputs to named outputs, for an ONNX file."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [[entry.name for entry in entries] for entries in (session.get_inputs(), session.get_outputs())]
    yield lambda *x: dict(
        zip(names[1], session.run(None, dict(zip(names[0], (y.numpy() for y in x), strict=True))), strict=True)
    )
    compiled = compile_openvino(openvino_core().read_model(path))
    yield lambda *x: {key.get_any_name(): value for key, value in compiled([y.numpy() for y in x]).items()}


def assert_same(found, expected, row=0):
    for name, value in expected.items():
        tolerance = {"boxes": 0.02, "scores": 1e-4, "masks": 1e-3}.get(name, 0)
        np.testing.assert_allclose(np.asarray(found[name][row]), value[0].numpy(), atol=tolerance, rtol=0, err_msg=name)


@pytest.mark.slow
def test_an_onnx_file_finds_in_a_padded_batch_what_each_image_has_alone(detector, tmp_path):
    graph, images = graph_of(detector("mask_rcnn"), BATCH, padded=True, format="openvino"), photographs()
    with torch.no_grad():
        graph.network.roi_head.bbox_head.fc_cls.weight *= 0.3  # so that the best scores are not all 1
        best = [graph(image, torch.tensor([image.shape[1:3]]))["scores"].max().item() for image in images]
        graph.network.selection = SelectionConfig(score=min(best) + 1e-4)  # one image has no object
        expected = [graph(image, torch.tensor([image.shape[1:3]])) for image in images]
    counts = [int(outputs["count"]) for outputs in expected]
    assert min(counts) == 0
    assert sum(counts) > 1
    write_onnx(graph, tmp_path / "net.onnx")
    for run in runtimes(tmp_path / "net.onnx"):
        found = run(*padded_batch(images))
        for row, outputs in enumerate(expected):
            assert_same(found, outputs, row)


@pytest.mark.slow
def test_a_program_finds_what_the_network_finds_at_sizes_at_which_it_was_not_traced(detector):
    graph = graph_of(detector("retinanet"), format="torch")
    program = trace(graph).module(check_guards=False)
    with torch.no_grad():
        for image in photographs():
            expected = graph(image)
            assert expected["count"] > 20
            assert_same(program(image), expected)


def test_pooled_regions_choose_an_opset_that_runtimes_compute(detector):
    one_stage, two_stages = detector("retinanet"), detector("faster_rcnn")
    assert [graph_of(network).opset for network in (one_stage, two_stages)] == [23, 21]
    assert graph_of(two_stages, features=True).opset == 23
    assert graph_of(two_stages, opset=20).opset == 20
    with pytest.raises(ConfigError, match=r"cannot compute RoiAlign of operator set 22.*; leave out `opset`"):
        build_graph(two_stages, Shape(1, 64, 64), ExportConfig(opset=22))


@pytest.mark.parametrize("padding", ["reference", "unmasked"])
def test_padded_batches_need_exact_padding(detector, padding):
    network = detector("retinanet", padding=padding)
    with pytest.raises(ConfigError, match=f"`padded` needs a network with `padding`='exact', found '{padding}'"):
        build_graph(network, Shape(1, 64, 64), ExportConfig(padded=True))
