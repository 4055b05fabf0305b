"""Window attention of LSA (paper, section 3.3): partition of a map into windows, its inverse, and the key mask."""

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
        x: map `(B, H, W, C)`; holds the fill value outside `sizes`.
        project: linear layer of each token, `(..., C)` to queries, keys and values side by side, `(..., 3 * h * d)`.
        window: side of a window in tokens.
        heads: `h`.
        padding: policy for padded tokens as keys, see `window_key_mask`.
        sizes: true sizes `(B, 2)` of the images inside the map, in tokens.
        dropout: probability of dropping an attention weight.
        scale: factor of the scores; `None` is `d ** -0.5`.
        fill: fill value for padding, `(C,)`; `None` is zeros.

    Returns:
        attention output before projection, map `(B, H, W, h * d)`; zeros in a window without a valid key.
    """
    _, height, width, _ = x.shape
    if dispatch.can_use_window_kernel(x, window, heads, dropout):
        from twins.ops.gpu.windows import project_and_attend

        return project_and_attend(x, project, window, heads, padding=padding, sizes=sizes, scale=scale, fill=fill)
    key_mask = window_key_mask(height, width, window, padding=padding, sizes=sizes, device=x.device)

    def chunk(images: slice, rows: slice) -> Tensor:
        """Return the result `(B, H, W, C)` for some images and whole rows of windows."""
        part = x[images, rows]
        mask = None if key_mask is None else _chunk_key_mask(key_mask, x, window, images, rows)
        projected = project(pad_to_multiple(part, window, fill))  # (B, H, W, 3 * h * d)
        q, k, v = split_window_heads(projected, window, 3, heads)  # (B * G, h, S, d)
        y = attend(q, k, v, mask, dropout=dropout, scale=scale)
        return merge_windows(y.transpose(1, 2), window, part.shape[1], width)

    return in_chunks(chunk, x, window)


def split_window_heads(x: Tensor, window: int, parts: int, heads: int) -> tuple[Tensor, ...]:
    """Partition the projections of a map into windows and heads, in one copy.

    Args:
        x: map `(B, H, W, parts * h * d)`; `window` divides `H` and `W`.
        window: side of a window in tokens, `S = window ** 2`.
        parts: number of projections side by side in the channels.
        heads: `h`.

    Returns:
        `parts` tensors `(B * G, h, S, d)`; the `G` windows of an image are in row-major order.
    """
    batch, height, width, channels = x.shape
    rows, columns = height // window, width // window
    x = x.view(batch, rows, window, columns, window, parts, heads, channels // (parts * heads))
    x = x.permute(5, 0, 1, 3, 6, 2, 4, 7)  # (parts, B, H / w, W / w, h, w, w, d)
    return x.reshape(parts, batch * rows * columns, heads, window * window, -1).unbind(0)


def merge_windows(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """Inverse of the partition: windows `(B * G, S, ...)` to a map `(B, height, width, C)`, cropped to its size.

    The last dimensions become channels: `(B * G, S, h, d)` gives `C = h * d`.
    """
    rows, columns = -(-height // window), -(-width // window)
    x = windows.view(-1, rows, columns, window, window, *windows.shape[2:]).transpose(2, 3)
    x = x.reshape(-1, rows * window, columns * window, math.prod(windows.shape[2:]))  # (B, H, W, C), padded
    return x if (rows * window, columns * window) == (height, width) else x[:, :height, :width]


def window_key_mask(
    height: int, width: int, window: int, *, padding: Padding, sizes: Tensor | None, device: torch.device
) -> Tensor | None:
    """Return the key mask of each window, bool `(B * G, S)` or one for all images `(G, S)`; `None` if all are keys.

    Args:
        height: rows of the map before padding, in tokens.
        width: columns of the map before padding, in tokens.
        window: side of a window in tokens.
        padding: `exact`: no padded token is a key; `unmasked`: every padded token is a key, in windows with tokens of
            the image; `reference`, like the published segmentation code: as `exact` if both sides need padding, as
            `unmasked` if only one does.
        sizes: true sizes `(B, 2)` of the images inside the map, in tokens.
        device: device of the mask.
    """
    padded_height, padded_width = -(-height // window) * window, -(-width // window) * window
    if sizes is None:
        limit = key_limits(height, width, window, padding)
        if limit == (padded_height, padded_width):
            return None
        limits = torch.tensor([limit], device=device)
    else:
        limits = image_key_limits(sizes, window, padding)
    mask = valid_mask(limits, padded_height, padded_width)[..., None]  # (B, H, W, 1)
    (windows,) = split_window_heads(mask, window, 1, 1)  # (B * G, 1, S, 1)
    return windows.flatten(1)


def _chunk_key_mask(key_mask: Tensor, x: Tensor, window: int, images: slice, rows: slice) -> Tensor:
    """Return the part of a key mask `(B * G, S)` or `(G, S)` for the windows of a chunk of `x` `(B, H, W, C)`."""
    if images == rows == ALL:
        return key_mask
    grid_height, grid_width = -(-x.shape[1] // window), -(-x.shape[2] // window)
    grid = key_mask.view(-1, grid_height, grid_width, key_mask.shape[1])
    window_rows = ALL if rows == ALL else slice(rows.start // window, -(-rows.stop // window))
    return grid[images if grid.shape[0] > 1 else ALL, window_rows].flatten(0, 2)
