"""Feed-forward part: for every `keep` and size of chunks, results and gradients are those of the standard form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from twins.bench.memory import LiveTensors
from twins.ops import chunks
from twins.ops.feedforward import feed_forward

KEEPS = ("all", "hidden", "input")


def make(dtype: torch.dtype = torch.float64, tokens: int = 23) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = ((2, tokens, 6), (11, 6), (11,), (6, 11), (6,))
    return [torch.randn(shape, generator=random, dtype=dtype).requires_grad_() for shape in shapes]


def standard(x, w1, b1, w2, b2):
    return F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)


@pytest.fixture
def small_chunks(monkeypatch):
    """Use chunks of seven rows and a shorter last one."""
    monkeypatch.setattr(chunks, "HIDDEN_BYTES_TRAINING", 7 * 11 * 8)


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_results_and_gradients_are_those_of_the_standard_form(small_chunks, keep, dtype, tolerance):
    inputs, dy = make(dtype), torch.randn(6, 23, 2, dtype=dtype).transpose(0, 2)  # in another layout than the result
    y, expected = feed_forward(*inputs, keep=keep), standard(*inputs)
    torch.testing.assert_close(y, expected, atol=tolerance, rtol=0)
    gradients, expected_gradients = (torch.autograd.grad(result, inputs, dy) for result in (y, expected))
    torch.testing.assert_close(gradients, expected_gradients, atol=tolerance, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("keep", KEEPS)
def test_first_and_second_gradients_agree_with_differences(small_chunks, keep):
    inputs = make(tokens=5)
    assert torch.autograd.gradcheck(lambda *each: feed_forward(*each, keep=keep), inputs)
    assert torch.autograd.gradgradcheck(lambda *each: feed_forward(*each, keep=keep), inputs)


def test_frozen_weights_get_no_gradient_and_the_input_does(small_chunks):
    x, *weights = make()
    frozen = [weight.detach() for weight in weights]
    feed_forward(x, *frozen).sum().backward()
    (expected,) = torch.autograd.grad(standard(x, *weights).sum(), x)
    torch.testing.assert_close(x.grad, expected)
    assert all(weight.grad is None for weight in frozen)


def test_an_empty_batch_gives_an_empty_result_and_zero_gradients():
    inputs = make(tokens=0)
    y = feed_forward(*inputs)
    y.sum().backward()
    assert y.shape == (2, 0, 6)
    assert all(not value.grad.any() for value in inputs)


@pytest.mark.parametrize(("keep", "maps"), [("hidden", 1), ("input", 0)])
def test_the_hidden_map_is_kept_once_or_not_at_all(keep, maps):
    inputs = make(tokens=1000)
    with LiveTensors() as live:
        y = feed_forward(*inputs, keep=keep)
    hidden = 2 * 1000 * 11 * 8
    assert live.bytes() - y.nbytes - sum(value.nbytes for value in inputs) <= maps * hidden


def test_a_counter_of_operations_counts_all_products():
    inputs = make()
    with FlopCounterMode(display=False) as counter:
        feed_forward(*inputs).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 2 * (2 * 23 * 6 * 11)


def test_autocast_decides_the_precision():
    with torch.autocast("cpu", torch.bfloat16):
        y = feed_forward(*make(torch.float32))
    assert y.dtype == torch.bfloat16
    y.sum().backward()


def test_transforms_of_torch_func_and_forward_derivatives_work():
    x, *weights = (value.detach() for value in make())
    gradient = torch.func.grad(lambda x: feed_forward(x, *weights).sum())
    expected = torch.func.grad(lambda x: standard(x, *weights).sum())(x)
    torch.testing.assert_close(gradient(x), expected)
    each = torch.func.vmap(gradient)(x)
    torch.testing.assert_close(each, expected)
    _, forwards = torch.func.jvp(lambda x: feed_forward(x, *weights), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(forwards.sum(), expected.sum())
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.requires_grad_(), torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(feed_forward(dual, *weights)).tangent
    torch.testing.assert_close(tangent, forwards)


@pytest.mark.parametrize("keep", KEEPS)
def test_compiles_to_one_graph(keep):
    inputs = make()
    compiled = torch.compile(lambda *each: feed_forward(*each, keep=keep), fullgraph=True, backend="aot_eager")
    compiled(*inputs).sum().backward()
    expected = torch.autograd.grad(standard(*inputs).sum(), inputs)
    torch.testing.assert_close(tuple(value.grad for value in inputs), expected)
