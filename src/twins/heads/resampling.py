"""Resizing and pooling of maps `(B, C, H, W)`; in a padded batch each image's part is resized and pooled by itself.

With the true sizes of the images a map is resampled by two products, with weights of the rows and of the columns of
each image. So a padded batch is one pass, which can be exported. Values outside an image are ignored, but must be
finite; in a resized map they are zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins.ops import private_torch

Weights = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Returns the weights `(B, n, m)` of values in results along an axis, from the indices of the results `(n, 1)` and of
the values `(m,)`, and each image's true number of values and of results, `(B, 1, 1)`; whole numbers as float."""


def resize_map(x: Tensor, shape: Sequence[int], sizes: Tensor | None = None, out_sizes: Tensor | None = None) -> Tensor:
    """Resize a map bilinearly, without `align_corners`; return a map of this height and width unchanged.

    Args:
        x: the map.
        shape: height and width of the result.
        sizes: true sizes `(B, 2)` on `x`; `None` if images fill it.
        out_sizes: true sizes `(B, 2)` on the result, to which each image's part is resized; `None` if images fill both.
    """
    if out_sizes is not None:
        return _resample(x, shape, sizes, out_sizes, _linear)
    if all(_known_equal(side, other) for side, other in zip(x.shape[2:], shape, strict=True)):
        return x
    return F.interpolate(x, size=list(shape), mode="bilinear", align_corners=False)


def upsample_nearest(
    x: Tensor, shape: Sequence[int], sizes: Tensor | None = None, out_sizes: Tensor | None = None
) -> Tensor:
    """Upsample a map by nearest neighbours, whose positions are rounded down; for arguments see `resize_map`."""
    if out_sizes is not None:
        return _resample(x, shape, sizes, out_sizes, _nearest)
    return F.interpolate(x, size=list(shape), mode="nearest")


class AveragePool(nn.Module):
    """Average pooling of each image's part of a map to a grid of `side` x `side` bins, as `nn.AdaptiveAvgPool2d`."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return `(B, C, side, side)`; `sizes` are the true sizes `(B, 2)` on `x`, or `None` if images fill it."""
        if sizes is None and not private_torch.is_exporting():  # PyTorch's operator is not exported at open sizes
            return F.adaptive_avg_pool2d(x, self.side)
        return _resample(x, (self.side, self.side), sizes, None, _bins)


def _resample(
    x: Tensor, shape: Sequence[int], sizes: Tensor | None, out_sizes: Tensor | None, weights: Weights
) -> Tensor:
    """Resample each image's part of `x` to its part of a map of height and width `shape`, which is zero outside."""
    rows, columns = (_axis_weights(x, axis, shape[axis], sizes, out_sizes, weights) for axis in (0, 1))
    if private_torch.is_exporting():
        # PyTorch would assume that an open side is not 1, so the product has a row and a column more, which are zero
        rows, columns, x = (F.pad(values, (0, 1, 0, 1)) for values in (rows, columns, x))
        if sizes is None and out_sizes is None:  # tracing takes the batch for that of the weights, which is 1
            result = torch.einsum("Hh,Ww,bchw->bcHW", rows[0], columns[0], x)
        else:
            result = torch.einsum("bHh,bWw,bchw->bcHW", rows, columns, x)
        return result[:, :, : shape[0], : shape[1]]
    x = x.permute(0, 2, 3, 1)  # maps are channels-last in memory
    x = (rows @ x.flatten(2)).view(x.shape[0], rows.shape[1], *x.shape[2:])  # (B, H_out, W, C)
    return (columns[:, None] @ x).permute(0, 3, 1, 2)


def _axis_weights(
    x: Tensor, axis: int, out_side: int, sizes: Tensor | None, out_sizes: Tensor | None, weights: Weights
) -> Tensor:
    """Return the weights `(B, out_side, side)` along the rows (0) or columns (1), or `(1, out_side, side)` for all."""
    side = x.shape[2 + axis]
    dtype, device = torch.promote_types(x.dtype, torch.float32), x.device
    length, out_length = (
        torch.ones(1, 1, 1, dtype=dtype, device=device) * whole
        if true is None
        else true[:, axis, None, None].to(device, dtype)
        for true, whole in ((sizes, side), (out_sizes, out_side))
    )
    out = torch.arange(out_side, dtype=dtype, device=device)[:, None]
    result = weights(out, torch.arange(side, dtype=dtype, device=device), length, out_length)
    return (result * (out < out_length)).to(x.dtype)


def _linear(out: Tensor, values: Tensor, length: Tensor, out_length: Tensor) -> Tensor:
    position = (out + 0.5) * (length / out_length) - 0.5  # as PyTorch computes it, down to the rounding
    return (1 - (torch.minimum(position.clamp(min=0), length - 1) - values).abs()).clamp(min=0)


def _nearest(out: Tensor, values: Tensor, length: Tensor, out_length: Tensor) -> Tensor:
    return (values == _floor_ratio(out * length, out_length)).to(out.dtype)


def _bins(out: Tensor, values: Tensor, length: Tensor, out_length: Tensor) -> Tensor:
    first, last = _floor_ratio(out * length, out_length), _floor_ratio((out + 1) * length - 1, out_length)
    return ((values >= first) & (values <= last)) / (last - first + 1)


def _floor_ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return `numerator // denominator` of whole numbers stored as floats.

    The half keeps the result right despite rounding: OpenVINO returns some whole ratios a little too large or small.
    """
    return ((numerator + 0.5) / denominator).floor()


def _known_equal(side: int, other: int) -> bool:
    """Whether two sides are equal; false for open sides of an exported program that are equal only by chance."""
    if type(side) is int and type(other) is int:
        return side == other
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(side == other)
