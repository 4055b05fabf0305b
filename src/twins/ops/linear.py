"""Matrix products with a bias, by the fastest kernel that PyTorch has for the place they run at."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from twins.ops import kernels
from twins.ops.precision import emulated

_AT_ONCE = 4 << 20
"""Bytes of a hidden map on a CPU: it stays in the cache, and in memory that the allocator does not give back."""
_WIDE = torch.backends.cpu.get_cpu_capability() == "AVX512"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `x @ weight.T + bias`.

    Args:
        x: `(..., C_in)`.
        weight: `(C_out, C_in)`.
        bias: `(C_out,)` or `None`.

    Returns:
        `(..., C_out)`.
    """
    if emulated(x):
        return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
    if onednn_serves(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def linear_add(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    """Return `linear(x, weight, bias) + residual`, the residual `(..., C_out)`."""
    if onednn_serves(x, weight):
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, weight, bias, "add")
    y = linear(x, weight, bias)
    return y + residual if torch.is_grad_enabled() else y.add_(residual)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the exact GELU of `linear`; without a gradient no second tensor of the result's size is made."""
    if onednn_serves(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "none")
    y = linear(x, weight, bias)
    if torch.is_grad_enabled():
        return F.gelu(y)
    if torch.compiler.is_compiling() and y.dtype in (torch.bfloat16, torch.float16) and kernels.serves(y):
        return _gelu_of_half(y)
    return torch.ops.aten.gelu_(y)


def _gelu_of_half(x: Tensor) -> Tensor:
    """Return the exact GELU to 1e-6 as `max(x, 0) - |x| erfc(|x| / sqrt(2)) / 2`, for a compiler to put in one kernel.

    PyTorch's error function takes a GPU longer than moving the map; this one, Abramowitz and Stegun's 7.1.28, does not.
    """
    wide = x.float()
    size = wide.abs().clamp(max=16.0)  # from there on nothing is left of it
    p = 5.38297490493278e-06 * size + 4.889063711743802e-05
    for factor in (3.8003574445610866e-05, 0.0032776263542473316, 0.02114100567996502, 0.04986734688282013, 1.0):
        p = p * size + factor
    rest = torch.rsqrt(p)
    for _ in range(5):
        rest = rest * rest
    return (wide.relu() - 0.5 * size * rest).to(x.dtype)


def rows_at_once(x: Tensor, hidden: int) -> int:
    """Return how many rows of `x` `(N, C)` a feed-forward part should take at a time: all but on a CPU.

    A network's hidden maps are its largest. On a CPU, fresh pages for one of 50 MB cost as much as the arithmetic.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return max(1, x.shape[0])
    return max(1, _AT_ONCE // (hidden * x.element_size()))


def plain_on_cpu(*tensors: Tensor) -> bool:
    """Whether a CPU is to compute on plain tensors of one type, under no autocast, tracing or other differentiation."""
    first = tensors[0]
    return (
        first.device.type == "cpu"
        and type(first) is Tensor
        and all(type(other) in (Tensor, torch.nn.Parameter) for other in tensors[1:])  # none quantised or sharded
        and all(other.dtype == first.dtype for other in tensors[1:])
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._is_tracing()
        and torch._C._functorch.peek_interpreter_stack() is None  # torch.func
        and torch.autograd.forward_ad._current_level < 0
    )


def onednn_pays() -> bool:
    """Whether this PyTorch has oneDNN, on a processor where its product in float32 is faster than MKL's."""
    return _WIDE and torch._C._has_mkldnn


def onednn_serves(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's product, which knows no gradient, autocast or tracing, takes this call.

    In float32 with AVX-512 it does these shapes at 1.1 to 1.8 times the speed of MKL, which `F.linear` calls; with
    AVX2 at 0.6 to 1.1 times.
    """
    return (
        not torch.compiler.is_compiling()  # first: a compiler cannot look into the rest
        and onednn_pays()
        and not torch.is_grad_enabled()
        and x.dtype in (torch.float32, torch.bfloat16)
        and torch._C._get_mkldnn_enabled()
        and not emulated(x)
        and torch._C._len_torch_dispatch_stack() == 0  # who counts or records operators sees the standard one
        and plain_on_cpu(x, weight)
    )
