"""Locally-grouped attention's windows (paper, section 3.3): partition, the way back, and who may be a key."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from twins.ops import dispatch
from twins.ops.attention import attend
from twins.ops.chunks import ALL, in_chunks
from twins.ops.padding import Padding, image_key_limits, key_limits, pad_to_multiple, valid_mask


def window_attention(
    x: Tensor,
    project: Callable[[Tensor], Tensor],
    window: int,
    heads: int,
    *,
    padding: Padding,
    sizes: Tensor | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
    fill: Tensor | None = None,
) -> Tensor:
    """Window attention over a feature map.

    Args:
        x: map `(B, H, W, C)`, filled outside `sizes`.
        project: maps `(..., C)` to queries, keys and values side by side, `(..., 3 * h * d)`, token by token.
        window: side of a window in tokens.
        heads: `h`.
        padding: what is a key at borders that windows do not divide, as in `window_key_mask`.
        sizes: true sizes `(B, 2)` of the images inside the map, in tokens.
        dropout: probability of dropping an attention weight.
        scale: factor of the scores; `None` is `d ** -0.5`.
        fill: value of padded tokens, `(C,)`; `None` is zeros.

    Returns:
        map `(B, H, W, h * d)`; zeros in a window without a key.
    """
    _, height, width, _ = x.shape
    if dispatch.can_use_window_kernel(x, window, heads, dropout):
        from twins.ops.gpu.windows import attend_in_place

        return attend_in_place(x, project, window, heads, padding=padding, sizes=sizes, scale=scale, fill=fill)
    key_mask = window_key_mask(height, width, window, padding=padding, sizes=sizes, device=x.device)

    def chunk(images: slice, rows: slice) -> Tensor:
        """Return those rows of those images of the result, all columns."""
        part, mask = x[images, rows], None if key_mask is None else _mask_of(key_mask, x, window, images, rows)
        q, k, v = split_window_heads(project(pad_to_multiple(part, window, fill)), window, 3, heads)
        y = attend(q, k, v, mask, dropout=dropout, scale=scale)
        return merge_windows(y.transpose(1, 2), window, part.shape[1], width)

    return in_chunks(chunk, x, window)


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
    down, across = -(-height // window) * window, -(-width // window) * window
    if sizes is None:
        borders = key_limits(height, width, window, padding)
        if borders == (down, across):
            return None
        limits = torch.tensor([borders], device=device)
    else:
        limits = image_key_limits(sizes, window, padding)
    allowed = valid_mask(limits, down, across)[..., None]  # (B, H, W, 1)
    (windows,) = split_window_heads(allowed, window, 1, 1)  # (B * G, 1, S, 1)
    return windows.flatten(1)


def _mask_of(mask: Tensor, x: Tensor, window: int, images: slice, rows: slice) -> Tensor:
    """Return the rows of a mask `(B * G or G, S)` for the windows of a chunk of `x` `(B, H, W, C)`."""
    if images == rows == ALL:
        return mask
    down, across = -(-x.shape[1] // window), -(-x.shape[2] // window)
    grid = mask.view(-1, down, across, mask.shape[1])
    some = ALL if rows == ALL else slice(rows.start // window, -(-rows.stop // window))
    return grid[images if grid.shape[0] > 1 else ALL, some].flatten(0, 2)
