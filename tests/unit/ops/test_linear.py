"""Linear layers: every kernel gives the same result, and tools that watch operators see the standard one."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import twins
from twins.ops import chunks, dispatch
from twins.ops.gpu.gelu import gelu
from twins.ops.linear import linear, linear_gelu


def make(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 5, 7, 64), (96, 64), (96,))
    x, weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return x, weight / 8, bias


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 0.05)]
)
def test_without_a_gradient_the_result_is_that_of_float64(dtype, tolerance):
    x, weight, bias = make(dtype)
    expected = F.linear(x.double(), weight.double(), bias.double())
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight, bias).double(), expected, atol=tolerance, rtol=0)
        torch.testing.assert_close(linear_gelu(x, weight, bias).double(), F.gelu(expected), atol=tolerance, rtol=0)
        torch.testing.assert_close(linear(x, weight, None).double(), expected - bias.double(), atol=tolerance, rtol=0)


def test_weights_get_a_gradient():
    x, weight, bias = make(torch.float32)
    weight.requires_grad_()
    linear_gelu(x, weight, bias).sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_autocast_decides_the_precision():
    x, weight, bias = make(torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16


def test_a_counter_of_operations_counts_the_product():
    x, weight, bias = make(torch.float32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        linear(x, weight, bias)
    assert counter.get_total_flops() == 2 * 2 * 5 * 7 * 64 * 96


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_result_is_the_same_with_and_without_avx512(dtype, monkeypatch):
    x, weight, bias = make(dtype)
    expected = F.linear(x.double(), weight.double(), bias.double())
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    for avx512 in (True, False):
        monkeypatch.setattr(dispatch, "AVX512", avx512)
        with torch.no_grad():
            y, active = linear(x, weight, bias).double(), linear_gelu(x, weight, bias).double()
        torch.testing.assert_close(y, expected, atol=tolerance, rtol=0)
        torch.testing.assert_close(active, F.gelu(expected), atol=tolerance, rtol=0)


def test_a_feed_forward_part_taken_in_chunks_is_the_same(monkeypatch):
    block = twins.create_backbone("twins_svt_nano").stages[0].blocks[0].eval().double()
    x = torch.randn(2, 9, 11, 32, dtype=torch.float64)
    with torch.no_grad():
        in_one_call = block(x.clone())
        monkeypatch.setattr(chunks, "HIDDEN_BYTES", 7 * 128 * 8)  # seven tokens of 128 hidden channels
        assert len(chunks.chunk_slices(2 * 9 * 11, 128 * 8, chunks.HIDDEN_BYTES)) == 29
        torch.testing.assert_close(block(x.clone()), in_one_call, atol=1e-12, rtol=0)
    torch.testing.assert_close(block(x.clone()), in_one_call, atol=1e-12, rtol=0)  # with a gradient, in one call


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_polynomial_gelu_of_half_precision_is_exact_up_to_rounding(dtype):
    x = torch.linspace(-20, 20, 20001).to(dtype)
    expected = F.gelu(x.double())
    error = (gelu(x).double() - expected).abs()
    assert (error <= 1e-6 + torch.finfo(dtype).eps / 2 * expected.abs()).all()
    assert gelu(torch.tensor([torch.inf], dtype=dtype)).isinf().all()
