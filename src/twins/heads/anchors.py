"""Anchors, the boxes on a grid that a detector refines, and maps rearranged to one row per anchor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from twins.heads.layers import full_precision
from twins.ops.padding import valid_mask

RATIOS = (0.5, 1.0, 2.0)
"""Height divided by width of the anchors at each location."""


def grid_anchors(x: Tensor, stride: int, scales: Sequence[float]) -> Tensor:
    """Return the anchors of a map `(B, C, H, W)`: xyxy in pixels, `(H * W * A, 4)`, row by row.

    As in mmdetection the centre of an anchor is its location times the nominal stride for maps of every size, and
    its sides are not rounded. Torchvision divides the padded image by the map, and rounds. The `A` anchors of a
    location are ordered by ratio, then by scale.

    Args:
        x: the map; the anchors have its device and type, but at least float32.
        stride: pixels per location.
        scales: sides of the square anchors in multiples of the stride.
    """
    like = full_precision(x[:0])
    halves = [(scale / ratio**0.5 / 2, scale * ratio**0.5 / 2) for ratio in RATIOS for scale in scales]
    corners = stride * like.new_tensor([(-w, -h, w, h) for w, h in halves])  # (A, 4)
    rows, columns = (torch.arange(side, device=x.device).to(like) * stride for side in x.shape[2:])
    ys, xs = torch.meshgrid(rows, columns, indexing="ij")  # (H, W)
    centres = torch.stack([xs, ys, xs, ys], dim=2)
    return (centres[:, :, None] + corners).flatten(0, 2)


def split_by_anchor(x: Tensor, values: int) -> Tensor:
    """Rearrange a map `(B, A * values, H, W)` to `(B, H * W * A, values)`, in the order of `grid_anchors`."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, values)


def anchors_inside(x: Tensor, sizes: Tensor, per_location: int) -> Tensor:
    """Return which anchors of a map `(B, C, H, W)` have their location inside the image, bool `(B, N)`.

    Args:
        x: the map.
        sizes: true sizes of the images in units of the map, `(B, 2)`.
        per_location: anchors at each location.
    """
    return valid_mask(sizes.to(x.device), *x.shape[2:]).flatten(1).repeat_interleave(per_location, dim=1)
