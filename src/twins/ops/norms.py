"""Layer norms over the channels, alone and after a residual sum."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from twins.ops import kernels


def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return the layer norm of `x` `(..., C)` over its channels, for a product to read.

    Under autocast a kernel rounds it as that product would; PyTorch's operator gives float32, which the product
    rounds.

    Args:
        x: `(..., C)`.
        weight: `(C,)`.
        bias: `(C,)`.
        eps: what is added to the variance.
    """
    if _served(x):
        from twins.ops.kernels.norms import norm as fused

        return fused(x, weight, bias, eps, _kind(x))
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def add_norm(x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return `x + branch` and the `norm` of that, both `(..., C)`; arguments as there."""
    if _served(x):
        from twins.ops.kernels.norms import add_norm as fused

        return fused(x, branch, weight, bias, eps, _kind(x))
    total = x + branch
    return total, F.layer_norm(total, weight.shape, weight, bias, eps)


def _served(x: Tensor) -> bool:
    """Whether the kernel takes this call; a compiler fuses norms with what stands around them by itself."""
    return not torch.compiler.is_compiling() and kernels.serves(x)


def _kind(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
