"""The inference form gives the maps of the network, above all where padding could make a difference."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import twins
from twins.errors import ConfigError
from twins.exporting.layout import lay_out

NANOS = ["twins_pcpvt_nano", "twins_svt_nano"]


def backbone(name: str, **settings) -> nn.Module:
    """Return a backbone in float64 whose norms shift and scale so much that a wrong fold shows."""
    torch.manual_seed(0)
    network = twins.create_backbone(name, **settings).double().eval()
    for parameter in network.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.5, 0.5)
        else:
            parameter.data.mul_(3)
    return network


def assert_close_maps(actual, expected, tolerance=1e-10):
    for one, other in zip(actual, expected, strict=True):
        assert float((one - other).abs().max() / other.std(dim=(2, 3)).mean()) < tolerance


@pytest.mark.slow
@pytest.mark.parametrize("with_sizes", [False, True])
@pytest.mark.parametrize("size", [(112, 112), (100, 115)])
@pytest.mark.parametrize("padding", ["exact", "reference", "unmasked"])
@pytest.mark.parametrize("name", NANOS)
def test_maps_are_equal_up_to_rounding(name, padding, size, with_sizes):
    network = backbone(name, padding=padding)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    sizes = torch.tensor([list(size), [50, 66]]) if with_sizes else None
    with torch.inference_mode():
        assert_close_maps(network.fuse()(images, sizes), network(images, sizes))


@pytest.mark.slow
@pytest.mark.parametrize("name", NANOS)
def test_maps_computed_in_chunks_are_equal(name, monkeypatch):
    # two images at once in the last stage, one in the third, and some rows in the first two
    monkeypatch.setattr("twins.ops.chunks.MAP_BYTES", 70_000)
    for padding in ("exact", "reference", "unmasked"):
        network = backbone(name, padding=padding)
        images = torch.randn(3, 3, 101, 115, dtype=torch.float64)
        for sizes in (None, torch.tensor([[101, 115], [50, 66], [33, 115]])):
            expected = [y.detach() for y in network(images, sizes)]  # with gradients, in one call
            with torch.inference_mode():
                assert_close_maps(network(images, sizes), expected)
                assert_close_maps(network.fuse()(images, sizes), expected)


def test_a_norm_with_a_scale_of_zero_is_not_folded():
    network = backbone("twins_svt_nano")
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.data[3] = 0
    images = torch.randn(1, 3, 200, 230, dtype=torch.float64)
    with torch.inference_mode():
        assert_close_maps(network.fuse()(images), network(images))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_copy_a_pickle_and_another_type_compute_the_same(dtype):
    network = backbone("twins_svt_nano").float()
    images = torch.randn(2, 3, 64, 64)
    fused = network.fuse()
    with torch.inference_mode():
        expected = fused(images)
        for other in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
            assert all(torch.equal(one, two) for one, two in zip(other(images), expected, strict=True))
        converted = copy.deepcopy(fused).to(dtype)(images.to(dtype))
        assert_close_maps(converted, expected, 1e-9 if dtype == torch.float32 else 0.3)


@pytest.mark.parametrize("task", ["classification", "semantic", "detection", "instance"])
def test_every_task_has_an_inference_form(task):
    torch.manual_seed(0)
    network = twins.create_model("twins_svt_nano", task=task, num_classes=3).eval()
    fused = network.fuse()
    assert not fused.training
    assert fused.info == network.info
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        one, other = network.backbone(images), fused.backbone(images)
    assert_close_maps(other, one, 1e-4)
    fused(images)


def test_the_network_is_unchanged_and_its_inference_form_has_no_checkpoint(tmp_path):
    network = twins.create_model("twins_svt_nano", num_classes=3)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fused = network.fuse()
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    with pytest.raises(ConfigError, match="save or load the one that it was made of"):
        twins.save_weights(fused, tmp_path / "fused.safetensors")
    with pytest.raises(ConfigError, match="no checkpoint"):
        fused.backbone.state_dict()
    with pytest.raises(ConfigError, match="no checkpoint"):
        fused.load_state_dict(before, strict=False)
    with pytest.raises(ConfigError, match="already"):
        fused.fuse()
    with pytest.raises(ConfigError, match="export the one that it was made of"):
        lay_out(fused, 224, 224, attention="products", flatten_batch=False)


@pytest.mark.slow
def test_compiles_without_a_graph_break():
    torch.compiler.reset()  # otherwise a second size compiles for dynamic shapes
    fused = backbone("twins_svt_nano").float().fuse()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = fused(images)
        assert_close_maps(torch.compile(fused, backend="aot_eager", fullgraph=True)(images), expected, 1e-4)
