"""Locally-grouped attention's windows (paper, section 3.3): partition, the way back, and who may be a key."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from twins.ops.padding import Padding, inside


def split_window_heads(x: Tensor, window: int, parts: int, heads: int) -> tuple[Tensor, ...]:
    """Lay the projections of a map out by window and head, in one copy.

    Args:
        x: map `(B, H, W, parts * h * d)`; `window` divides `H` and `W`.
        window: side of a window in tokens, `S = window ** 2`.
        parts: how many projections lie side by side in the channels.
        heads: `h`.

    Returns:
        `parts` tensors `(B * G, h, S, d)`, the windows of an image row by row.
    """
    batch, height, width, channels = x.shape
    down, across = height // window, width // window
    x = x.view(batch, down, window, across, window, parts, heads, channels // (parts * heads))
    x = x.permute(5, 0, 1, 3, 6, 2, 4, 7)  # (parts, B, H / w, W / w, h, w, w, d)
    return x.reshape(parts, batch * down * across, heads, window * window, -1).unbind(0)


def merge_windows(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """Lay windows `(B * G, S, ...)` out as a map `(B, height, width, C)`; what was padding is dropped.

    The last dimensions become channels: `(B * G, S, h, d)` gives `C = h * d`.
    """
    down, across = -(-height // window), -(-width // window)
    x = windows.view(-1, down, across, window, window, *windows.shape[2:]).transpose(2, 3)
    x = x.reshape(-1, down * window, across * window, math.prod(windows.shape[2:]))
    return x if (down * window, across * window) == (height, width) else x[:, :height, :width]


def window_key_mask(
    height: int, width: int, window: int, *, padding: Padding, sizes: Tensor | None, device: torch.device
) -> Tensor | None:
    """Return which tokens of each window may be keys, bool `(B * G or G, S)`, or `None` when all may.

    Args:
        height: rows of the map before padding, in tokens.
        width: columns of the map before padding, in tokens.
        window: side of a window in tokens.
        padding: `exact`: no padded token is a key; `unmasked`: every padded token of an occupied window is one;
            `reference`: exact when both axes need padding and unmasked when one does, as the published
            segmentation code computes it.
        sizes: true sizes `(B, 2)` of the images inside the map, in tokens.
        device: where the mask is built.
    """
    if sizes is None:
        padded = (height % window > 0, width % window > 0)
        masked = {"exact": any(padded), "reference": all(padded), "unmasked": False}[padding]
        if not masked:
            return None
        limits = torch.tensor([[height, width]], device=device)
    else:
        limits = _key_limits(sizes, window, padding)
    down, across = -(-height // window) * window, -(-width // window) * window
    allowed = inside(limits, down, across)[..., None]  # (B, H, W, 1)
    (windows,) = split_window_heads(allowed, window, 1, 1)  # (B * G, 1, S, 1)
    return windows.flatten(1)


def windows_of(mask: Tensor, x: Tensor, window: int, images: slice, rows: slice) -> Tensor:
    """Return the rows of a mask `(B * G or G, S)` that are of some images' windows, `rows` of a map `(B, H, W, C)`."""
    down, across = -(-x.shape[1] // window), -(-x.shape[2] // window)
    grid = mask.view(-1, down, across, mask.shape[1])
    some = slice(rows.start // window, -(-rows.stop // window))
    return grid[images if grid.shape[0] > 1 else slice(None), some].flatten(0, 2)


def _key_limits(sizes: Tensor, window: int, padding: Padding) -> Tensor:
    """Return the rows and columns `(B, 2)` of each image's map that may be keys."""
    if padding == "exact":
        return sizes
    filled = (sizes + window - 1) // window * window
    if padding == "unmasked":
        return filled
    both = (filled != sizes).all(dim=1, keepdim=True)
    return torch.where(both, sizes, filled)
