"""Linear layers: whichever kernel takes a call, the result is the same, and who watches sees the standard operator."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

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


def test_gradients_flow_where_they_are_recorded():
    x, weight, bias = make(torch.float32)
    weight.requires_grad_()
    linear_gelu(x, weight, bias).sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_autocast_decides_the_precision():
    x, weight, bias = make(torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16


def test_who_counts_operations_counts_these():
    x, weight, bias = make(torch.float32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        linear(x, weight, bias)
    assert counter.get_total_flops() == 2 * 2 * 5 * 7 * 64 * 96
