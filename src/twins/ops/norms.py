"""Layer norms over the channels, alone and after a residual add."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from twins.ops import dispatch


def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return the layer norm of `x` `(..., C)` over its channels, for a product to read.

    Under autocast a kernel rounds it as that product would; PyTorch's operator gives float32, which the product
    rounds.

    Args:
        x: `(..., C)`.
        weight: `(C,)`.
        bias: `(C,)`.
        eps: added to the variance.
    """
    if dispatch.should_use_norm_kernel(x):
        from twins.ops.gpu.norms import norm as kernel

        return kernel(x, weight, bias, eps, _dtype_of_products(x))
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def add_norm(x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return `x + branch` and the `norm` of that, both `(..., C)`; arguments as there."""
    if dispatch.should_use_norm_kernel(x):
        from twins.ops.gpu.norms import add_norm as kernel

        return kernel(x, branch, weight, bias, eps, _dtype_of_products(x))
    total = x + branch
    return total, F.layer_norm(total, weight.shape, weight, bias, eps)


def _dtype_of_products(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
