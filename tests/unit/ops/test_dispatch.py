"""On a processor without bfloat16, operators compute in float32 and round once; types and gradients stay."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import twins
from twins.ops import dispatch
from twins.ops.attention import attend
from twins.ops.convolutions import positional_convolution
from twins.ops.linear import linear, linear_gelu


@pytest.fixture(autouse=True)
def _without_bfloat16(monkeypatch):
    monkeypatch.setitem(dispatch.IN_HARDWARE, torch.bfloat16, False)


def assert_rounded_once(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.double(), expected, atol=1e-6, rtol=2**-8)  # one rounding to 8 bits


def test_every_operator_rounds_once():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(5, 64).bfloat16(), torch.randn(32, 64).bfloat16(), torch.randn(32).bfloat16()
    expected = F.linear(x.double(), weight.double(), bias.double())
    assert_rounded_once(linear(x, weight, bias), expected)
    assert_rounded_once(linear(x, weight, None), F.linear(x.double(), weight.double()))
    torch.testing.assert_close(linear_gelu(x, weight, bias).double(), F.gelu(expected), atol=1e-2, rtol=2**-7)
    q, k, v = (torch.randn(2, 2, 9, 16).bfloat16() for _ in range(3))
    assert_rounded_once(attend(q, k, v), F.scaled_dot_product_attention(q.double(), k.double(), v.double()))
    image, kernel = torch.randn(1, 6, 7, 8).bfloat16(), torch.randn(8, 1, 3, 3).bfloat16()
    with torch.no_grad():
        assert_rounded_once(
            positional_convolution(image, kernel, None),
            positional_convolution(image.double(), kernel.double(), None),
        )


def test_a_network_learns_in_bfloat16():
    torch.manual_seed(0)
    network = twins.create_model("twins_svt_nano", num_classes=3).bfloat16()
    loss = network.losses(torch.randn(2, 3, 40, 56).bfloat16(), torch.tensor([0, 2]))["classification"]
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.bfloat16 for p in network.parameters())
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_under_autocast_the_standard_operators_stay():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not dispatch.should_compute_in_float32(torch.zeros(1, dtype=torch.bfloat16))
    assert dispatch.should_compute_in_float32(torch.zeros(1, dtype=torch.bfloat16))


@pytest.mark.slow
def test_a_pytorch_without_onednn_imports_and_keeps_the_standard_operators():
    script = "import torch; torch._C._has_mkldnn = False; import twins.ops.dispatch as d; print(d.IN_HARDWARE)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.count("True") == 2


def test_other_types_and_processors_with_bfloat16_compute_in_their_own_type(monkeypatch):
    assert dispatch.should_compute_in_float32(torch.zeros(1, dtype=torch.bfloat16))
    assert not dispatch.should_compute_in_float32(torch.zeros(1))
    assert not dispatch.should_compute_in_float32(torch.zeros(1, dtype=torch.float64))
    monkeypatch.setitem(dispatch.IN_HARDWARE, torch.bfloat16, True)
    assert not dispatch.should_compute_in_float32(torch.zeros(1, dtype=torch.bfloat16))
