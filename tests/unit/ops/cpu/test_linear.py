"""Products with packed weights: the same numbers by every road, and only a compiler for a CPU sees their operators."""

from __future__ import annotations

import copy
import functools
import gc
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import twins
from twins.backbone.config import VARIANTS
from twins.ops import chunks
from twins.ops.cpu import linear as onednn
from twins.ops.feedforward import feed_forward_add
from twins.ops.linear import linear

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
OPERATORS = {f"twins.packed_{name}" for name in ("linear", "linear_add", "feed_forward_add")}


@pytest.fixture(autouse=True)
def on_a_wide_processor(monkeypatch):
    """Take the road of processors with AVX-512 on every processor."""
    monkeypatch.setattr("twins.ops.dispatch.AVX512", True)
    for name in ("twins_pcpvt_nano", "twins_svt_nano"):  # blocks of each kind, fewest: each is traced by itself
        monkeypatch.setitem(VARIANTS, name, replace(VARIANTS[name], depths=(2, 1, 1, 2)))
    torch.compiler.reset()


def make(rows: int = 15) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, 8), (24, 8), (24,), (8, 24), (8,), (rows, 8))
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def feed_forward(x, w1, b1, w2, b2, residual):
    """Return what `feed_forward_add` is to give, in float64."""
    x, w1, b1, w2, b2, residual = (tensor.double() for tensor in (x, w1, b1, w2, b2, residual))
    return residual + F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)


def compile_and_record(network: torch.nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, set[str]]:
    """Return what a compiled network gives, and the operators of its graph."""
    found: set[str] = set()

    def record(graph, _):
        found.update(str(node.target) for node in graph.graph.nodes)
        return graph

    return torch.compile(network, backend=record, fullgraph=True)(images), found


@pytest.mark.parametrize("name", ["twins_pcpvt_nano", "twins_svt_nano"])
def test_compiled_code_gives_all_products_of_blocks_to_the_operators(name):
    torch.manual_seed(0)
    network = twins.create_model(name, num_classes=3).eval().fuse()
    images = torch.randn(2, 3, 72, 96)
    with torch.inference_mode():
        expected = network(images)
        y, found = compile_and_record(network, images)
    assert found >= OPERATORS
    assert not any("gelu" in operator for operator in found)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-4)


def test_inductor_compiles_them():
    torch.manual_seed(0)
    block = twins.create_model("twins_svt_nano").eval().fuse().backbone.stages[3].blocks[1]
    tokens = torch.randn(2, 5, 7, 256)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(block)(tokens.clone()), block(tokens), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("watched", ["gradient", "autocast", "float64"])
def test_other_code_keeps_the_standard_operators(watched):
    network = twins.create_model("twins_svt_nano", num_classes=3).eval().fuse()
    images = torch.randn(1, 3, 64, 64)
    if watched == "float64":
        network, images = network.double(), images.double()
    with torch.set_grad_enabled(watched == "gradient"), torch.autocast("cpu", enabled=watched == "autocast"):
        _, found = compile_and_record(network, images)
    assert not OPERATORS & found


def test_an_exported_program_holds_none():
    network = twins.create_model("twins_svt_nano", num_classes=3).eval().fuse()
    with torch.no_grad():
        program = torch.export.export(network, (torch.randn(1, 3, 64, 64),))
    assert not any("packed" in str(node.target) for node in program.graph.nodes)


@pytest.mark.parametrize("rows", [1, 15, 16])
def test_a_large_feed_forward_part_is_taken_in_chunks(rows, monkeypatch):
    arguments = make(rows)
    taken = []
    with torch.no_grad():
        whole = torch.ops.twins.packed_feed_forward_add(*arguments)
        monkeypatch.setattr(chunks, "HIDDEN_BYTES_COMPILED", 24 * 4 * 3)
        monkeypatch.setattr(chunks, "HIDDEN_BYTES", 24 * 4 * 4)
        once = onednn.linear_add
        monkeypatch.setattr(onednn, "linear_add", lambda x, *rest: taken.append(len(x)) or once(x, *rest))
        parts = torch.ops.twins.packed_feed_forward_add(*arguments)
    assert taken == {1: [1], 15: [4, 4, 4, 3], 16: [4, 4, 4, 4]}[rows]
    for y in (whole, parts):
        torch.testing.assert_close(y.double(), feed_forward(*arguments), atol=1e-5, rtol=0)


def test_the_operators_are_what_pytorch_expects_of_operators():
    x, w1, b1, w2, b2, residual = make()
    checks = ("test_schema", "test_faketensor")
    with torch.no_grad():
        torch.library.opcheck(torch.ops.twins.packed_linear.default, (x, w1, b1), test_utils=checks)
        torch.library.opcheck(
            torch.ops.twins.packed_linear_add.default, (x, w1[:8].clone(), b2, residual), test_utils=checks
        )
        torch.library.opcheck(
            torch.ops.twins.packed_feed_forward_add.default, (x, w1, b1, w2, b2, residual), test_utils=checks
        )


def test_what_was_packed_goes_with_its_weight():
    gc.collect()
    before = len(onednn._packed)
    network = twins.create_model("twins_svt_nano", num_classes=3).eval().fuse()
    with torch.no_grad():
        network(torch.randn(1, 3, 64, 64))
        twin = copy.deepcopy(network)
        laid = len(onednn._packed) - before
        assert laid > 0
        twin(torch.randn(1, 3, 64, 64))
        assert len(onednn._packed) - before == 2 * laid
    del network, twin
    gc.collect()
    assert len(onednn._packed) == before


@pytest.mark.parametrize("compiled", [False, True])
def test_a_weight_that_was_changed_in_place_is_packed_again(compiled):
    x, w1, b1, w2, b2, residual = make()
    part = functools.partial(feed_forward_add, packed=True)
    part = torch.compile(part, backend="aot_eager", fullgraph=True) if compiled else part
    with torch.no_grad():
        for _ in range(2):
            found = part(x, w1, b1, w2, b2, residual)
            torch.testing.assert_close(found.double(), feed_forward(x, w1, b1, w2, b2, residual), atol=1e-5, rtol=1e-5)
            w1.mul_(1.3)
            w2.mul_(1.3)


def test_compiled_code_keeps_forward_derivatives():
    x, w1, b1, *_ = make()
    product = torch.compile(
        lambda x, slope: torch.func.jvp(lambda x: linear(x, w1, b1, packed=True), (x,), (slope,)), backend="aot_eager"
    )
    with torch.no_grad():
        torch.testing.assert_close(product(x, x)[1], x @ w1.T)


def test_a_pytorch_without_onednn_imports_it():
    code = """
import torch
class Nothing:
    def __getattr__(self, name):
        raise AttributeError(name)
torch._C._has_mkldnn = False
torch.ops.mkldnn = Nothing()
import twins
with torch.no_grad():
    twins.create_model("twins_svt_nano", num_classes=3).eval().fuse()(torch.randn(1, 3, 64, 64))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
