"""A whole block of the inference form in two kernels: attention, and all that follows it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from twins.ops import kernels
from twins.ops.padding import Padding
from twins.ops.windows import key_borders

KEYS = 64
"""Most keys, of a window or of an image, that the kernels take."""
_CHANNELS, _WIDTH, _STEP = 256, 64, 64
"""Most channels of a map and of a head that they take, and what divides the hidden channels."""


def serve(x: Tensor, weight: Tensor, heads: int) -> bool:
    """Whether the kernels take a block: on a GPU, in half precision, for no gradient.

    Args:
        x: the block's input, `(B, H, W, C)`.
        weight: of the first layer of the feed-forward part, `(C_hidden, C)`.
        heads: heads of attention.
    """
    hidden, channels = weight.shape
    return (
        x.dtype == weight.dtype != torch.float32
        and kernels.serves(x)
        and not torch.is_grad_enabled()
        and channels <= min(_CHANNELS, _WIDTH * heads)
        and hidden % _STEP == 0
    )


def attend_within_windows(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    window: int,
    heads: int,
    *,
    padding: Padding,
    blank: Tensor | None,
    eps: float,
) -> Tensor:
    """Return what `window_attention` makes of the norm of `x` without an affine.

    Args:
        x: map `(B, H, W, C)`, not normed.
        weight: of queries, scaled, keys and values, `(3 * C, C)`.
        bias: `(3 * C,)`.
        window: side of a window in tokens.
        heads: heads of attention.
        padding: as there.
        blank: as there.
        eps: what the norm adds to the variance.

    Returns:
        map `(B, H, W, C)`, not projected.
    """
    from twins.ops.kernels.blocks import normed_window_attention

    _, height, width, _ = x.shape
    rows, columns = key_borders(height, width, window, padding)
    beyond = blank if (rows, columns) != (height, width) else None
    return normed_window_attention(x, weight, bias, beyond, rows, columns, window, heads, eps)


def attend_to_few_keys(x: Tensor, weight: Tensor, bias: Tensor, kv: Tensor, heads: int, *, eps: float) -> Tensor:
    """Return the attention of the norm of `x`, without an affine, to an image's keys.

    Args:
        x: map `(B, H, W, C)`, not normed.
        weight: of queries, scaled, `(C, C)`.
        bias: `(C,)`.
        kv: keys and values side by side, `(B, M, 2 * C)`.
        heads: heads of attention.
        eps: what the norm adds to the variance.

    Returns:
        map `(B, H, W, C)`, not projected.
    """
    from twins.ops.kernels.blocks import normed_global_attention

    return normed_global_attention(x, weight, bias, kv, heads, eps)


def tail(x: Tensor, mixed: Tensor, layers: Sequence[tuple[Tensor, Tensor]], eps: float) -> Tensor:
    """Return what a block makes of its input and of what its attention mixed, all maps `(B, H, W, C)`.

    Args:
        x: the block's input.
        mixed: what attention mixed.
        layers: weight and bias of attention's projection and of the feed-forward part's two layers.
        eps: what the norm of the sum of both, without an affine, adds to the variance.
    """
    from twins.ops.kernels.blocks import block_tail

    (w0, b0), (w1, b1), (w2, b2) = layers
    return block_tail(x, mixed, w0, b0, w1, b1, w2, b2, eps)
