"""Anchors: the boxes that a detector starts from, laid on a grid, and maps read by anchor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from twins.heads.layers import full_precision
from twins.ops.padding import valid_mask

RATIOS = (0.5, 1.0, 2.0)
"""Height by width of the anchors at each position."""


def grid_anchors(x: Tensor, stride: int, scales: Sequence[float]) -> Tensor:
    """Return the anchors of a map `(B, C, H, W)`: xyxy in pixels, `(H * W * A, 4)`, row by row.

    As in mmdetection an anchor's centre is its position times the nominal stride, whatever the map's size, and its
    sides are not rounded (torchvision divides the padded image by the map, and rounds). At each position the ratios
    come one after the other, each with every scale.

    Args:
        x: the map; the anchors take its device, and its type, float32 at least.
        stride: pixels per position.
        scales: sides of the square anchors in multiples of the stride.
    """
    like = full_precision(x[:0])
    halves = [(scale / ratio**0.5 / 2, scale * ratio**0.5 / 2) for ratio in RATIOS for scale in scales]
    corners = stride * like.new_tensor([(-w, -h, w, h) for w, h in halves])  # (A, 4)
    rows, columns = (torch.arange(side, device=x.device).to(like) * stride for side in x.shape[2:])
    down, across = torch.meshgrid(rows, columns, indexing="ij")  # (H, W)
    centres = torch.stack([across, down, across, down], dim=2)
    return (centres[:, :, None] + corners).flatten(0, 2)


def split_by_anchor(x: Tensor, values: int) -> Tensor:
    """Read a map `(B, A * values, H, W)` by anchor, in the order of `grid_anchors`: `(B, H * W * A, values)`."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, values)


def anchors_inside(x: Tensor, sizes: Tensor, count: int) -> Tensor:
    """Return which anchors of a map `(B, C, H, W)` with `count` at each position are an image's own, bool `(B, N)`."""
    return valid_mask(sizes.to(x.device), *x.shape[2:]).flatten(1).repeat_interleave(count, dim=1)
