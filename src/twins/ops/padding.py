"""What happens at the border of a map: padding to a multiple, true sizes inside a batch, and who may be a key.

Maps are channels-last, `(B, H, W, C)`. `sizes` is an int tensor `(B, 2)` of each image's true height and width in
the units of the map at hand, or `None` when every image fills its map: then no mask is built. `fill` `(C,)` is the
value of positions outside an image, `None` is zeros: where a norm's shift has been folded into the product that reads
the map, zero is another vector.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from twins.errors import ConfigError

Padding = Literal["exact", "reference", "unmasked"]


def check_padding(padding: str) -> Padding:
    """Return `padding` when it names a policy.

    Raises:
        ConfigError: it names none.
    """
    if padding not in get_args(Padding):
        raise ConfigError(f"`padding` must be one of {', '.join(get_args(Padding))}, found {padding!r}")
    return padding  # type: ignore[return-value]


def pad_to_multiple(x: Tensor, multiple: int, fill: Tensor | None = None) -> Tensor:
    """Pad a map `(B, H, W, C)` at the bottom right until `multiple` divides height and width."""
    batch, height, width, _ = x.shape
    bottom, right = -height % multiple, -width % multiple
    if not bottom and not right:
        return x
    if fill is None:
        return F.pad(x, (0, 0, 0, right, 0, bottom))
    padded = fill.expand(batch, height + bottom, width + right, -1).clone()
    padded[:, :height, :width] = x
    return padded


def fit_cells(x: Tensor, cell: int, padding: Padding, fill: Tensor | None = None) -> Tensor:
    """Make `cell` divide a map `(B, H, W, C)`: `exact` pads it, the others crop as their sources do."""
    if padding == "exact":
        return pad_to_multiple(x, cell, fill)
    height, width = x.shape[1] // cell * cell, x.shape[2] // cell * cell
    return x if (height, width) == x.shape[1:3] else x[:, :height, :width]


def reduce_sizes(sizes: Tensor | None, stride: int, padding: Padding) -> Tensor | None:
    """Return the true sizes `(B, 2)` after a step of `stride`: a partly filled cell counts only where `exact`."""
    if sizes is None:
        return None
    return (sizes + stride - 1) // stride if padding == "exact" else sizes // stride


def true_sizes(images: Tensor, sizes: Tensor | None) -> Tensor:
    """Return `sizes`, or where every image fills its batch `(B, C, H, W)` the batch's own for each, int `(B, 2)`."""
    return torch.tensor([images.shape[2:]] * len(images), device=images.device) if sizes is None else sizes


def valid_mask(sizes: Tensor, height: int, width: int) -> Tensor:
    """Return a bool map `(B, height, width)`: true at the positions that belong to each image."""
    rows = torch.arange(height, device=sizes.device) < sizes[:, :1]  # (B, H)
    columns = torch.arange(width, device=sizes.device) < sizes[:, 1:]  # (B, W)
    return rows[:, :, None] & columns[:, None, :]


def zero_outside(x: Tensor, sizes: Tensor | None, fill: Tensor | None = None) -> Tensor:
    """Put the fill value, whatever stood there, at the positions of `(B, H, W, C)` that belong to no image."""
    if sizes is None:
        return x
    zero = x.new_zeros(()) if fill is None else fill
    return torch.where(valid_mask(sizes, x.shape[1], x.shape[2])[..., None], x, zero)


def key_limits(height: int, width: int, window: int, padding: Padding) -> tuple[int, int]:
    """Return the rows and columns that may be keys where every image fills its map."""
    padded = (height % window > 0, width % window > 0)
    if padding == "exact" or (padding == "reference" and all(padded)):
        return height, width
    return -(-height // window) * window, -(-width // window) * window


def image_key_limits(sizes: Tensor, window: int, padding: Padding) -> Tensor:
    """Return the rows and columns `(B, 2)` of each image's map that may be keys."""
    if padding == "exact":
        return sizes
    filled = (sizes + window - 1) // window * window
    if padding == "unmasked":
        return filled
    both = (filled != sizes).all(dim=1, keepdim=True)
    return torch.where(both, sizes, filled)
