"""Packed weights: eager and compiled code give the same results, and only code compiled for a CPU holds operators."""

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
def with_avx512(monkeypatch):
    """Compute on every processor as on one with AVX-512, with few blocks of each kind."""
    monkeypatch.setattr("twins.ops.dispatch.AVX512", True)
    for name in ("twins_pcpvt_nano", "twins_svt_nano"):  # each block is traced
        monkeypatch.setitem(VARIANTS, name, replace(VARIANTS[name], depths=(2, 1, 1, 2)))
    torch.compiler.reset()


def make(rows: int = 15) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, 8), (24, 8), (24,), (8, 24), (8,), (rows, 8))
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def feed_forward(x, w1, b1, w2, b2, residual):
    """Return the expected result of `feed_forward_add`, in float64."""
    x, w1, b1, w2, b2, residual = (tensor.double() for tensor in (x, w1, b1, w2, b2, residual))
    return residual + F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)


def compile_and_record(network: torch.nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, set[str]]:
    """Return the result of a compiled network and the operators of its graph."""
    operators: set[str] = set()

    def record(graph, _):
        operators.update(str(node.target) for node in graph.graph.nodes)
        return graph

    return torch.compile(network, backend=record, fullgraph=True)(images), operators


@pytest.mark.slow
@pytest.mark.parametrize("name", ["twins_pcpvt_nano", "twins_svt_nano"])
def test_compiled_blocks_compute_all_products_by_the_operators(name):
    torch.manual_seed(0)
    network = twins.create_model(name, num_classes=3).eval().fuse()
    images = torch.randn(2, 3, 72, 96)
    with torch.inference_mode():
        expected = network(images)
        y, operators = compile_and_record(network, images)
    assert operators >= OPERATORS
    assert not any("gelu" in operator for operator in operators)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_inductor_compiles_the_operators(monkeypatch):
    """Its own kernels are not vectorised, because it looks for instruction sets by compiling a program for each."""
    monkeypatch.setattr("torch._inductor.cpu_vec_isa.valid_vec_isa_list", list, raising=False)
    torch.manual_seed(0)
    block = twins.create_model("twins_svt_nano").eval().fuse().backbone.stages[3].blocks[1]
    tokens = torch.randn(2, 5, 7, 256)
    with torch.no_grad(), torch.compiler.config.patch(force_disable_caches=True):  # which may hold vectorised kernels
        torch.testing.assert_close(torch.compile(block)(tokens.clone()), block(tokens), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("situation", ["gradient", "autocast", "float64"])
def test_with_a_gradient_autocast_or_float64_the_standard_operators_stay(situation):
    blocks = torch.nn.Sequential(*twins.create_model("twins_svt_nano").eval().fuse().backbone.stages[3].blocks)
    tokens = torch.randn(1, 5, 7, 256)
    if situation == "float64":
        blocks, tokens = blocks.double(), tokens.double()
    with torch.set_grad_enabled(situation == "gradient"), torch.autocast("cpu", enabled=situation == "autocast"):
        _, operators = compile_and_record(blocks, tokens)
    assert not OPERATORS & operators


@pytest.mark.slow
def test_an_exported_program_holds_no_packed_operator():
    network = twins.create_model("twins_svt_nano", num_classes=3).eval().fuse()
    with torch.no_grad():
        program = torch.export.export(network, (torch.randn(1, 3, 64, 64),))
    assert not any("packed" in str(node.target) for node in program.graph.nodes)


@pytest.mark.parametrize("rows", [1, 15, 16])
def test_a_large_feed_forward_part_is_taken_in_chunks(rows, monkeypatch):
    arguments = make(rows)
    chunk_sizes = []
    with torch.no_grad():
        in_one_call = torch.ops.twins.packed_feed_forward_add(*arguments)
        monkeypatch.setattr(chunks, "HIDDEN_BYTES_COMPILED", 24 * 4 * 3)
        monkeypatch.setattr(chunks, "HIDDEN_BYTES", 24 * 4 * 4)
        linear_add = onednn.linear_add
        monkeypatch.setattr(onednn, "linear_add", lambda x, *rest: chunk_sizes.append(len(x)) or linear_add(x, *rest))
        parts = torch.ops.twins.packed_feed_forward_add(*arguments)
    assert chunk_sizes == {1: [1], 15: [4, 4, 4, 3], 16: [4, 4, 4, 4]}[rows]
    for y in (in_one_call, parts):
        torch.testing.assert_close(y.double(), feed_forward(*arguments), atol=1e-5, rtol=0)


def test_the_operators_pass_pytorchs_own_checks():
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


@pytest.mark.slow
def test_packed_weights_are_freed_with_their_weight():
    gc.collect()
    before = len(onednn._packed)
    network = twins.create_model("twins_svt_nano", num_classes=3).eval().fuse()
    with torch.no_grad():
        network(torch.randn(1, 3, 64, 64))
        duplicate = copy.deepcopy(network)
        packed_count = len(onednn._packed) - before
        assert packed_count > 0
        duplicate(torch.randn(1, 3, 64, 64))
        assert len(onednn._packed) - before == 2 * packed_count
    del network, duplicate
    gc.collect()
    assert len(onednn._packed) == before


@pytest.mark.parametrize("compiled", [False, True])
def test_a_weight_that_changes_in_place_is_packed_again(compiled):
    x, w1, b1, w2, b2, residual = make()
    part = functools.partial(feed_forward_add, packed=True)
    part = torch.compile(part, backend="aot_eager", fullgraph=True) if compiled else part
    with torch.no_grad():
        for _ in range(2):
            y = part(x, w1, b1, w2, b2, residual)
            torch.testing.assert_close(y.double(), feed_forward(x, w1, b1, w2, b2, residual), atol=1e-5, rtol=1e-5)
            w1.mul_(1.3)
            w2.mul_(1.3)


def test_compiled_code_keeps_forward_derivatives():
    x, w1, b1, *_ = make()
    product = torch.compile(
        lambda x, slope: torch.func.jvp(lambda x: linear(x, w1, b1, packed=True), (x,), (slope,)), backend="aot_eager"
    )
    with torch.no_grad():
        torch.testing.assert_close(product(x, x)[1], x @ w1.T)


@pytest.mark.slow
def test_without_onednn_the_inference_form_still_computes():
    code = """
import torch
class Empty:
    def __getattr__(self, name):
        raise AttributeError(name)
torch._C._has_mkldnn = False
torch.ops.mkldnn = Empty()
import twins
with torch.no_grad():
    twins.create_model("twins_svt_nano", num_classes=3).eval().fuse()(torch.randn(1, 3, 64, 64))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
