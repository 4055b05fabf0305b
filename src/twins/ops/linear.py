"""Matrix products with a bias, by the fastest kernel that PyTorch has for the place they run at."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `x @ weight.T + bias`.

    Args:
        x: `(..., C_in)`.
        weight: `(C_out, C_in)`.
        bias: `(C_out,)` or `None`.

    Returns:
        `(..., C_out)`.
    """
    if _onednn_serves(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the exact GELU of `linear`, arguments as there.

    Without a gradient no second tensor of the result's size is made: a network's hidden maps are its largest, and on
    a CPU the pages of another one cost more than the arithmetic.
    """
    if _onednn_serves(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "none")
    y = F.linear(x, weight, bias)
    return F.gelu(y) if torch.is_grad_enabled() else torch.ops.aten.gelu_(y)


def _onednn_serves(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's product, which knows no gradient, autocast or tracing, takes this call.

    In float32 it does these shapes at 1.1 to 1.8 times the speed of MKL, which `F.linear` calls.
    """
    return (
        not torch.compiler.is_compiling()  # first: a compiler cannot look into the rest
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and type(x) is Tensor
        and type(weight) in (Tensor, torch.nn.Parameter)  # not a quantised or sharded one
        and x.dtype == weight.dtype
        and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and _has_bfloat16()))
        and torch._C._has_mkldnn
        and torch._C._get_mkldnn_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._is_tracing()
        and torch._C._len_torch_dispatch_stack() == 0  # who counts or records operators sees the standard one
    )


def _has_bfloat16() -> bool:
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()
