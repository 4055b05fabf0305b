"""Twins' two kinds of convolution on channels-last maps: non-overlapping cells, and the positional 3x3."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from twins.ops import dispatch
from twins.ops.linear import linear


def cell_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve non-overlapping cells, kernel equal to stride, as one reshape and one matrix product.

    Used by the patch embeddings and by global attention's sub-sampling (paper, section 3.3).

    Args:
        x: map `(B, H, W, C)`; the cell divides `H` and `W`.
        weight: convolution weight `(C_out, C, s, s)`; channels-last in memory it is not copied.
        bias: `(C_out,)` or `None`.

    Returns:
        map `(B, H / s, W / s, C_out)`.
    """
    return linear(to_cells(x, weight.shape[-1]), weight.permute(0, 2, 3, 1).flatten(1), bias)


def to_cells(x: Tensor, cell: int) -> Tensor:
    """Lay the tokens of each cell of a map side by side: `(B, H, W, C)` to `(B, H / s, W / s, s * s * C)`."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // cell, cell, width // cell, cell, channels)
    return x.transpose(2, 3).flatten(3)


def positional_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Conditional positions (PEG): a depth-wise 3x3 convolution with zero padding, added to its input.

    CPVT, arXiv 2102.10882, section 4; the convolution runs in the channels-last layout of its input.

    Args:
        x: map `(B, H, W, C)`.
        weight: `(C, 1, 3, 3)`.
        bias: `(C,)` or `None`.
    """
    if dispatch.can_use_convolution_kernel(x, weight):
        from twins.ops.gpu.convolutions import depthwise_convolution as kernel

        return kernel(x, weight, bias, residual=True)
    if dispatch.should_compute_in_float32(x):
        wide = positional_convolution(x.float(), weight.float(), None if bias is None else bias.float())
        return wide.to(x.dtype)
    y = depthwise_convolution(x, weight, bias)
    return y.add_(x) if dispatch.can_overwrite() else x + y


def depthwise_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve each channel of a map `(B, H, W, C)` by its own 3x3 kernel of `(C, 1, 3, 3)`, with zero padding."""
    if dispatch.can_use_convolution_kernel(x, weight):
        from twins.ops.gpu.convolutions import depthwise_convolution as kernel

        return kernel(x, weight, bias, residual=False)
    if dispatch.should_compute_in_float32(x):
        return depthwise_convolution(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=x.shape[-1]).permute(0, 2, 3, 1)
