"""Linear layers, also with a residual add or a GELU in the same call.

`packed=True` means that the weight does not change, as in the inference form of a network. A fast form may then keep
packed weights: a copy in the layout that its kernel reads fastest.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from twins.ops import dispatch
from twins.ops.cpu import linear as onednn


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, packed: bool = False) -> Tensor:
    """Return `x @ weight.T + bias`.

    Args:
        x: `(..., C_in)`.
        weight: `(C_out, C_in)`.
        bias: `(C_out,)` or `None`; required with `packed`.
        packed: whether packed weights may be kept for the next call.

    Returns:
        `(..., C_out)`.
    """
    if dispatch.should_compute_in_float32(x):
        return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
    if packed and dispatch.should_use_packed_operators(x, weight):
        return torch.ops.twins.packed_linear(x, weight, bias)
    if dispatch.should_use_onednn(x, weight):
        return onednn.linear(x, weight, bias, packed=packed)
    return F.linear(x, weight, bias)


def linear_add(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor, *, packed: bool = False) -> Tensor:
    """Return `linear(x, weight, bias) + residual`; the residual is `(..., C_out)`."""
    if packed and dispatch.should_use_packed_operators(x, weight):
        return torch.ops.twins.packed_linear_add(x, weight, bias, residual)
    if dispatch.should_use_onednn(x, weight):
        return onednn.linear_add(x, weight, bias, residual, packed=packed)
    y = linear(x, weight, bias)
    return y.add_(residual) if dispatch.can_overwrite() else y + residual


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None, *, packed: bool = False) -> Tensor:
    """Return the exact GELU of `linear(x, weight, bias)`, computed in place where no gradient is recorded."""
    if dispatch.should_use_onednn(x, weight):
        return onednn.linear_gelu(x, weight, bias, packed=packed)
    y = linear(x, weight, bias)
    if dispatch.should_use_polynomial_gelu(y):
        from twins.ops.gpu.gelu import gelu

        return gelu(y)
    return torch.ops.aten.gelu_(y) if dispatch.can_overwrite() else F.gelu(y)
