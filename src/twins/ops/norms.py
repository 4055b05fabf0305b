"""Layer norm over the channels, alone and after a residual add."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from twins.ops import dispatch


def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return the layer norm of `x` over its channels, the input of a matrix product.

    Under autocast PyTorch's operator returns float32, which the product then rounds; a kernel returns it rounded.

    Args:
        x: `(..., C)`.
        weight: `(C,)`.
        bias: `(C,)`.
        eps: added to the variance.

    Returns:
        `(..., C)`.
    """
    if dispatch.should_use_norm_kernel(x):
        from twins.ops.gpu.norms import norm as kernel

        return kernel(x, weight, bias, eps, _dtype_of_products(x))
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def add_norm(x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return `x + branch` and the `norm` of that sum, both `(..., C)`; other arguments as in `norm`."""
    if dispatch.should_use_norm_kernel(x):
        from twins.ops.gpu.norms import add_norm as kernel

        return kernel(x, branch, weight, bias, eps, _dtype_of_products(x))
    total = x + branch
    return total, F.layer_norm(total, weight.shape, weight, bias, eps)


def _dtype_of_products(x: Tensor) -> torch.dtype:
    """Return the type in which a matrix product reads `x`: that of autocast if it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
