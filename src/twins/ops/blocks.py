"""The two kernels of a block in its inference form: local attention, and all that follows attention.

`serve` says where they may be called; everywhere else the block's own parts do the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from twins.ops import kernels
from twins.ops.padding import Padding
from twins.ops.windows import key_borders

_CHANNELS, _STEP = 128, 64
"""Most channels of a map whose blocks gain by kernels that keep them together, and what divides the hidden ones."""


def serve(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels take a block: on a GPU, in half precision, for no gradient.

    Args:
        x: the block's input, `(B, H, W, C)`.
        weight: of the first layer of the feed-forward part, `(C_hidden, C)`.
    """
    hidden, channels = weight.shape
    return (
        x.dtype == weight.dtype != torch.float32
        and kernels.serves(x)
        and not torch.is_grad_enabled()
        and channels <= _CHANNELS
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
    blank: Tensor,
    eps: float,
) -> Tensor:
    """Return what `window_attention` makes of the norm of `x` without an affine.

    Args:
        x: map `(B, H, W, C)`, not normed.
        weight: of queries, scaled, keys and values, `(3 * C, C)`.
        bias: `(3 * C,)`.
        window: side of a window in tokens, 8 at most.
        heads: heads of attention, of 64 channels at most.
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


def tail(x: Tensor, mixed: Tensor, layers: Sequence[tuple[Tensor, Tensor]], eps: float) -> Tensor:
    """Return what a block makes of its input and of what its attention mixed, all maps `(B, H, W, C)`.

    Args:
        x: the block's input.
        mixed: what attention mixed; autocast may have given it another type.
        layers: weight and bias of attention's projection and of the feed-forward part's two layers.
        eps: what the norm of the sum of both, without an affine, adds to the variance.
    """
    from twins.ops.kernels.blocks import block_tail

    (w0, b0), (w1, b1), (w2, b2) = layers
    return block_tail(x, mixed.to(x.dtype), w0, b0, w1, b1, w2, b2, eps)
