"""A network laid out for a runtime gives the network's own maps, at any size and in padded batches."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim

from twins.backbone.config import VARIANTS
from twins.backbone.network import Twins
from twins.errors import ConfigError
from twins.exporting.cells import cells_of
from twins.exporting.layout import FlatStage, lay_out
from twins.exporting.sessions import compile_openvino
from twins.ops.private_torch import any_open_size

SIZES = ((70, 90, 2), (33, 130, 3), (32, 32, 1))


def backbone(family="svt", padding="exact", depths=None):
    """Return a small backbone with each kind of attention at each kind of border, its norms and biases random."""
    torch.manual_seed(0)
    depths = depths or ((2, 2, 3, 2) if family == "svt" else (1, 2, 1, 1))
    config = replace(
        VARIANTS[f"twins_{family}_nano"],
        depths=depths,
        embed_dims=(16, 32, 32, 32),
        num_heads=(1, 2, 2, 2),
        mlp_ratios=(2, 2, 2, 2),
    )
    network = Twins(config, padding=padding).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.normal_(std=0.3) if parameter.ndim == 1 else parameter.mul_(3)
    return network


def batch(height, width, images, *, padded):
    x = torch.randn(images, 3, height, width, generator=torch.Generator().manual_seed(1))
    sizes = torch.tensor([[max(32, height - 7 * i), max(32, width - 23 * i)] for i in range(images)])
    return (x, sizes) if padded else (x,)


def two_stages():
    """Return the first two stages of a backbone, with both attentions: formulas of open sizes grow with each stage."""
    network = backbone(depths=(2, 1, 1, 1))
    del network.stages[2:]
    return network


def exported(network, size=(None, None), *, padded=False):
    """Return an ONNX file, as bytes, of a network laid out for OpenVINO; with an open size, its batch is open too."""
    laid_out = lay_out(network, *size, attention="products", flatten_batch=True, padded=padded)
    dims, sizes_dims = {0: Dim("batch"), 2: Dim("height", min=32), 3: Dim("width", min=32)}, {0: Dim("batch")}
    shapes = None if None not in size else (dims, sizes_dims)[: 1 + padded]
    height, width, images = (70, 90, 2) if shapes else (*size, 1)
    with torch.no_grad(), any_open_size():
        program = torch.onnx.export(
            laid_out,
            batch(height, width, images, padded=padded),
            dynamo=True,
            opset_version=20,
            dynamic_shapes=shapes,
            input_names=["images", "sizes"][: 1 + padded],
            output_names=[f"map{index}" for index in range(len(laid_out.stages))],
            verbose=False,
        )
    return program.model_proto.SerializeToString()


def named(arguments):
    return {name: x.numpy() for name, x in zip(("images", "sizes"), arguments, strict=False)}


def onnxruntime(data):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda *arguments: session.run(None, named(arguments))


def converted(data):
    return pytest.importorskip("openvino").convert_model(io.BytesIO(data))


def openvino(model, precision="fp32"):
    compiled = compile_openvino(model, precision=precision)
    return lambda *arguments: list(compiled(named(arguments)).values())


def is_near(actual, expected, *, by=1e-5):
    pairs = zip(actual, expected, strict=True)
    return all(float(np.abs(np.asarray(a) - e.numpy()).max()) < by * float(e.abs().max()) for a, e in pairs)


@pytest.mark.parametrize(
    ("family", "form"),
    [("svt", "operator"), ("svt", "fused"), ("svt", "products"), ("pcpvt", "operator")],
)
def test_a_layout_gives_the_same_maps_at_any_size_and_the_original_is_unchanged(family, form):
    network = backbone(family)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    laid_out = lay_out(network, None, None, attention=form, flatten_batch=form in ("operator", "products"))
    assert all(isinstance(stage, FlatStage) for stage in laid_out.stages)
    for size in SIZES:
        for padded in (False, True):
            arguments = batch(*size, padded=padded)
            assert is_near(laid_out(*arguments), network(*arguments))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_pixels_outside_an_image_have_no_effect():
    laid_out = lay_out(backbone(), None, None, attention="fused", flatten_batch=False, padded=True)
    x, sizes = batch(110, 200, 3, padded=True)
    expected = laid_out(x, sizes)
    x[2, :, sizes[2, 0] :], x[2, :, :, sizes[2, 1] :] = torch.nan, torch.inf
    assert is_near(laid_out(x, sizes), expected)


@pytest.mark.parametrize("padding", ["reference", "unmasked"])
def test_published_paddings_keep_the_form_of_a_stage_that_pads_and_need_a_fixed_size(padding):
    network = backbone(padding=padding)
    laid_out = lay_out(network, 224, 200, attention="products", flatten_batch=False)
    assert [isinstance(stage, FlatStage) for stage in laid_out.stages] == [False, False, False, False]
    (x,) = batch(224, 200, 2, padded=False)
    assert is_near(laid_out(x), network(x))
    (x,) = batch(230, 227, 1, padded=False)  # cropped to the maps of 224 x 224, which windows divide
    laid_out = lay_out(network, 230, 227, attention="products", flatten_batch=False)
    assert isinstance(laid_out.stages[3], FlatStage)
    assert is_near(laid_out(x), network(x))
    laid_out = lay_out(network, 224, 224, attention="products", flatten_batch=False, padded=True)
    assert not any(isinstance(stage, FlatStage) for stage in laid_out.stages)
    with pytest.raises(ConfigError, match=f"`padding`='{padding}' is exported with a fixed height and width only; fix"):
        lay_out(network, 224, None, attention="products", flatten_batch=False)


@pytest.mark.slow
def test_a_traced_network_takes_sizes_at_which_it_was_not_traced():
    network = two_stages()
    data = exported(network, padded=True)
    for run in (onnxruntime(data), openvino(converted(data))):
        for size in SIZES:
            arguments = batch(*size, padded=True)
            assert is_near(run(*arguments), network(*arguments))


@pytest.mark.slow
def test_openvino_computes_any_size_after_the_smallest_and_attends_in_bfloat16():
    """Its kernel for attention, run with one key first, must not serve more; nor may a mask be misread in bfloat16."""
    network = two_stages()
    model = converted(exported(network))
    run = openvino(model)
    for side in (32, 160, 70):  # an image of 32 x 32 pixels has one key
        arguments = batch(side, side, 1, padded=False)
        assert is_near(run(*arguments), network(*arguments)), side
    arguments = batch(48, 48, 1, padded=False)  # the second stage has a single window
    for run in (openvino(model, "bf16"), openvino(converted(exported(network, (48, 48))), "bf16")):
        assert is_near(run(*arguments), network(*arguments), by=0.05)


@pytest.mark.parametrize(("height", "width", "side"), [(9, 13, 7), (7, 7, 7), (1, 1, 2), (16, 5, 4)])
def test_the_tokens_of_cells_are_those_of_the_padded_map_and_come_back(height, width, side):
    cells = cells_of(height, width, side, None)
    tokens = torch.arange(1.0, height * width + 1)[None, :, None]
    assert torch.equal(cells.gather_back(cells.gather(tokens)), tokens)
    padded = F.pad(tokens.view(height, width), (0, cells.columns * side - width, 0, cells.rows * side - height))
    expected = padded.view(cells.rows, side, cells.columns, side).transpose(1, 2).flatten()
    assert torch.equal(cells.gather_zeroed(tokens).flatten(), expected)
