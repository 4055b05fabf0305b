"""Padding of maps: to a multiple, outside the true size of each image in a batch, and which padded tokens are keys.

Maps are channels-last, `(B, H, W, C)`. `sizes` is an int tensor `(B, 2)`: each image's true height and width in tokens
of that map, or `None` when every image fills its map; then no mask is built. `fill` `(C,)` is the fill value for
padding; `None` is zeros. It differs from zero if the affine of a norm is folded into the layer that reads the map,
see `twins.backbone.fused`.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from twins.errors import ConfigError
from twins.ops.private_torch import is_exporting

Padding = Literal["exact", "reference", "unmasked"]
"""Policy for borders that windows or cells do not divide; see `fit_cells` and `twins.ops.windows.window_key_mask`."""


def check_padding(padding: str) -> Padding:
    """Return `padding`, checked to be the name of a policy.

    Raises:
        ConfigError: it is not.
    """
    if padding not in get_args(Padding):
        raise ConfigError(f"`padding` must be one of {', '.join(get_args(Padding))}, found {padding!r}")
    return padding  # type: ignore[return-value]


def count_cells(side: int, cell: int) -> int:
    """Return how many cells cover a side of a map."""
    return (side + cell - 1) // cell


def is_divided(side: int, cell: int) -> bool:
    """Whether `cell` is known to divide a side of a map; not known of a symbol, an open side while tracing."""
    return type(side) is int and side % cell == 0


def pad_to_multiple(x: Tensor, multiple: int, fill: Tensor | None = None) -> Tensor:
    """Pad a map `(B, H, W, C)` at the bottom and right, so that `multiple` divides its height and width."""
    batch, height, width, _ = x.shape
    if is_divided(height, multiple) and is_divided(width, multiple):
        return x
    bottom, right = (count_cells(side, multiple) * multiple - side for side in (height, width))
    if fill is None:
        return F.pad(x, (0, 0, 0, right, 0, bottom))
    padded = fill.expand(batch, height + bottom, width + right, -1).clone()
    padded[:, :height, :width] = x
    return padded


def fit_cells(x: Tensor, cell: int, padding: Padding, fill: Tensor | None = None) -> Tensor:
    """Make `cell` divide the height and width of a map `(B, H, W, C)`: `exact` pads it, the other policies crop it."""
    if padding == "exact":
        return pad_to_multiple(x, cell, fill)
    height, width = x.shape[1] // cell * cell, x.shape[2] // cell * cell
    return x if (height, width) == x.shape[1:3] else x[:, :height, :width]


def reduce_sizes(sizes: Tensor | None, stride: int, padding: Padding) -> Tensor | None:
    """Return the true sizes `(B, 2)` on a map smaller by `stride`: rounded up if `exact`, otherwise down."""
    if sizes is None:
        return None
    return (sizes + stride - 1) // stride if padding == "exact" else sizes // stride


def true_sizes(images: Tensor, sizes: Tensor | None) -> Tensor:
    """Return `sizes`, or for `None` the height and width of `images` `(B, C, H, W)` for each image, int `(B, 2)`."""
    if sizes is not None:
        return sizes
    if not is_exporting():
        return torch.tensor([images.shape[2:]] * len(images), device=images.device)
    sides = (torch.full(images.shape[:1], side, dtype=torch.int64, device=images.device) for side in images.shape[2:])
    return torch.stack(tuple(sides), dim=1)


def valid_mask(sizes: Tensor, height: int, width: int) -> Tensor:
    """Return a bool mask `(B, height, width)`, true inside the true size of each image."""
    rows = torch.arange(height, device=sizes.device) < sizes[:, :1]  # (B, H)
    columns = torch.arange(width, device=sizes.device) < sizes[:, 1:]  # (B, W)
    return rows[:, :, None] & columns[:, None, :]


def fill_outside(x: Tensor, sizes: Tensor | None, fill: Tensor | None = None) -> Tensor:
    """Overwrite a map `(B, H, W, C)` outside the true size of each image by the fill value, NaN included."""
    if sizes is None:
        return x
    value = x.new_zeros(()) if fill is None else fill
    return torch.where(valid_mask(sizes, x.shape[1], x.shape[2])[..., None], x, value)


def key_limits(height: int, width: int, window: int, padding: Padding) -> tuple[int, int]:
    """Return how many rows and columns may be keys, from the top left, if every image fills its map."""
    padded = (height % window > 0, width % window > 0)
    if padding == "exact" or (padding == "reference" and all(padded)):
        return height, width
    return -(-height // window) * window, -(-width // window) * window


def image_key_limits(sizes: Tensor, window: int, padding: Padding) -> Tensor:
    """Return how many rows and columns of each image's map may be keys, `(B, 2)`."""
    if padding == "exact":
        return sizes
    padded = (sizes + window - 1) // window * window
    if padding == "unmasked":
        return padded
    both = (padded != sizes).all(dim=1, keepdim=True)
    return torch.where(both, sizes, padded)
