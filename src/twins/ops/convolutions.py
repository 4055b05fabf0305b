"""The two kinds of convolution in Twins, on channels-last maps: over non-overlapping cells, and depth-wise 3x3."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from twins.ops import dispatch
from twins.ops.linear import linear
from twins.ops.private_torch import is_exporting


def cell_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolution whose stride equals its kernel, as one reshape and one matrix product.

    Patch embedding and the sub-sampling of global attention (paper, section 3.3) are such convolutions.

    Args:
        x: map `(B, H, W, C)`; `s` divides `H` and `W`.
        weight: convolution weight `(C_out, C, s, s)`; read without a copy if it is channels-last in memory.
        bias: `(C_out,)` or `None`.

    Returns:
        map `(B, H / s, W / s, C_out)`.
    """
    return linear(to_cells(x, weight.shape[-1]), weight.permute(0, 2, 3, 1).flatten(1), bias)


def to_cells(x: Tensor, cell: int) -> Tensor:
    """Space to depth: `(B, H, W, C)` to `(B, H / s, W / s, s * s * C)`, each cell's tokens side by side, row by row."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // cell, cell, width // cell, cell, channels)
    return x.transpose(2, 3).flatten(3)  # of (B, H / s, W / s, s, s, C)


def as_planar(x: Tensor) -> Tensor:
    """Return a map `(B, H, W, C)` as `(B, C, H, W)`: a view, channels-last in memory, except while exporting.

    A convolution of a channels-last map is traced with the guard that its sides are larger than 1, so that images with
    a side of 32 would be refused. Runtimes choose the layout themselves and drop the copy.
    """
    x = x.permute(0, 3, 1, 2)
    return x.clone(memory_format=torch.contiguous_format) if is_exporting() else x


def positional_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Conditional positional encoding (PEG): a depth-wise 3x3 convolution with zero padding, and a residual add.

    Source: CPVT, arXiv 2102.10882, section 4. The convolution runs in the channels-last layout of its input.

    Args:
        x: map `(B, H, W, C)`.
        weight: `(C, 1, 3, 3)`.
        bias: `(C,)` or `None`.
    """
    if dispatch.can_use_convolution_kernel(x, weight):
        from twins.ops.gpu.convolutions import depthwise_convolution as kernel

        return kernel(x, weight, bias, residual=True)
    if dispatch.should_compute_in_float32(x):
        y = positional_convolution(x.float(), weight.float(), None if bias is None else bias.float())
        return y.to(x.dtype)
    y = depthwise_convolution(x, weight, bias)
    return y.add_(x) if dispatch.can_overwrite() else x + y


def depthwise_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depth-wise 3x3 convolution of a map `(B, H, W, C)` with zero padding; weight `(C, 1, 3, 3)`, bias `(C,)`."""
    if dispatch.can_use_convolution_kernel(x, weight):
        from twins.ops.gpu.convolutions import depthwise_convolution as kernel

        return kernel(x, weight, bias, residual=False)
    if dispatch.should_compute_in_float32(x):
        return depthwise_convolution(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=x.shape[-1]).permute(0, 2, 3, 1)
