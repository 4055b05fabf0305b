"""A block of the inference form as two kernels in half precision: normed window attention, and the rest of the block.

A program of the first kernel norms the tokens of a window, projects them and computes attention, one head after the
other; it writes the attention output before projection. A program of the second projects that output, adds the
residual, norms the sum, computes the feed-forward part with some hidden channels at a time, and writes the output of
the block.

The affine of both norms and the scale of attention are folded into weights, see `twins.backbone.fused`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from twins.ops.gpu.launch import on_device, tile, wrap_triton
from twins.ops.gpu.tiles import attention_weights, locate_tokens, read_tokens, standardise, write_tokens

_ATTENTION = {"num_warps": 4, "num_stages": 2}
"""Launch options of the attention kernel. Triton 3.6 compiled it to wrong code for an H200 with one stage."""
_TAIL = {
    64: {"TOKENS": 64, "STEP": 64, "num_warps": 4, "num_stages": 2},
    128: {"TOKENS": 64, "STEP": 64, "num_warps": 4, "num_stages": 3},
}
"""Tokens of a program, hidden channels that it computes at a time, and its launch options, by `BLOCK_C`."""


@triton.jit
def _project(y, weight, bias, start, channel, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr):
    """Return the outputs `start` to `start + WIDTH` of a linear layer, `(TOKENS, BLOCK_D)`."""
    output = tl.arange(0, BLOCK_D)
    mask = (channel < CHANNELS)[:, None] & (output < WIDTH)[None, :]
    w = tl.load(weight + (start + output)[None, :] * CHANNELS + channel[:, None], mask=mask, other=0.0)
    b = tl.load(bias + start + output, mask=output < WIDTH, other=0.0).to(tl.float32)
    return (tl.dot(y, w, input_precision="ieee") + b[None, :]).to(y.dtype)


@triton.jit
def _window_attention(
    x,
    weight,
    bias,
    fill,
    out,
    height,
    width,
    rows,
    columns,
    EPS: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
    WINDOW: tl.constexpr,
    TOKENS: tl.constexpr,
):
    C: tl.constexpr = HEADS * WIDTH
    channel = tl.arange(0, BLOCK_C)
    _, _, index, inside, is_key = locate_tokens(None, height, width, rows, columns, 1, WINDOW, TOKENS)
    y = read_tokens(x, 0, index, inside, C, C, BLOCK_C).to(tl.float32)
    y, _ = standardise(y, (channel < C)[None, :], EPS, C)
    if fill is not None:
        padding = tl.load(fill + channel, mask=channel < C, other=0.0).to(tl.float32)
        y = tl.where(inside[:, None], y, padding[None, :])
    y = y.to(x.dtype.element_ty)
    for head in range(HEADS):
        start = head * WIDTH
        q = _project(y, weight, bias, start, channel, C, WIDTH, BLOCK_D)
        k = _project(y, weight, bias, C + start, channel, C, WIDTH, BLOCK_D)
        v = _project(y, weight, bias, 2 * C + start, channel, C, WIDTH, BLOCK_D)
        attended = tl.dot(attention_weights(q, k, is_key, 1.0).to(v.dtype), v, input_precision="ieee")
        write_tokens(out, attended, start, index, inside, C, WIDTH, BLOCK_D)


@triton.jit
def _gelu(x):
    """Return the GELU, exact to 1e-6: `max(x, 0) - |x| erfc(|x| / sqrt(2)) / 2`.

    The complementary error function is Abramowitz and Stegun's 7.1.28, as in `twins.ops.gpu.gelu`.
    """
    size = tl.minimum(tl.abs(x), 16.0)  # beyond, erfc is 0 in float32
    p = 5.38297490493278e-06 * size + 4.889063711743802e-05
    p = p * size + 3.8003574445610866e-05
    p = p * size + 0.0032776263542473316
    p = p * size + 0.02114100567996502
    p = p * size + 0.04986734688282013
    erfc = tl.rsqrt(p * size + 1.0)
    for _ in tl.static_range(5):
        erfc *= erfc
    return tl.maximum(x, 0.0) - 0.5 * size * erfc


@triton.jit
def _tail(
    x,
    attended,
    w0,
    b0,
    w1,
    b1,
    w2,
    b2,
    out,
    rows,
    EPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TOKENS: tl.constexpr,
    STEP: tl.constexpr,
):
    index = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    channel, step = tl.arange(0, BLOCK_C), tl.arange(0, STEP)
    valid_channel, inside = channel < CHANNELS, index < rows
    y = read_tokens(x, 0, index, inside, CHANNELS, CHANNELS, BLOCK_C).to(tl.float32)
    y += tl.load(b0 + channel, mask=valid_channel, other=0.0).to(tl.float32)[None, :]
    for first in range(0, CHANNELS, STEP):
        inner = first + step
        mask = inside[:, None] & (inner < CHANNELS)[None, :]
        part = tl.load(attended + index[:, None] * CHANNELS + inner[None, :], mask=mask, other=0.0)
        mask = (inner < CHANNELS)[:, None] & valid_channel[None, :]
        w = tl.load(w0 + channel[None, :] * CHANNELS + inner[:, None], mask=mask, other=0.0)
        y = tl.dot(part, w, y, input_precision="ieee")
    normed, _ = standardise(y, valid_channel[None, :], EPS, CHANNELS)
    normed = normed.to(x.dtype.element_ty)
    y += tl.load(b2 + channel, mask=valid_channel, other=0.0).to(tl.float32)[None, :]
    for first in range(0, HIDDEN, STEP):
        inner = first + step
        w = tl.load(w1 + inner[None, :] * CHANNELS + channel[:, None], mask=valid_channel[:, None], other=0.0)
        hidden = tl.dot(normed, w, input_precision="ieee") + tl.load(b1 + inner).to(tl.float32)[None, :]
        w = tl.load(w2 + channel[None, :] * HIDDEN + inner[:, None], mask=valid_channel[None, :], other=0.0)
        y = tl.dot(_gelu(hidden).to(x.dtype.element_ty), w, y, input_precision="ieee")
    write_tokens(out, y, 0, index, inside, CHANNELS, CHANNELS, BLOCK_C)


@triton_op("twins::normed_window_attention", mutates_args=())
def normed_window_attention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    fill: Tensor | None,
    rows: int,
    columns: int,
    window: int,
    heads: int,
    eps: float,
) -> Tensor:
    """Layer norm without affine, projection to queries, keys and values, and window attention.

    Args:
        x: map `(B, H, W, C)`.
        weight: weight of queries (times the scale), keys and values, `(3 * C, C)`.
        bias: their bias, `(3 * C,)`.
        fill: fill value for padding after the norm, `(C,)`; `None` if no padded token is a key.
        rows: number of rows that may be keys.
        columns: number of columns that may be keys.
        window: side of a window in tokens, at most 8.
        heads: heads, each of at most 64 channels.
        eps: added to the variance.

    Returns:
        attention output before projection, `(B, H, W, C)`.
    """
    batch, height, width, channels = x.shape
    x = x.contiguous()
    out = torch.empty_like(x)
    arguments = (x, weight, bias, fill, out, height, width, rows, columns)
    with on_device(x):
        wrap_triton(_window_attention)[(batch * -(-height // window) * -(-width // window),)](
            *arguments,
            EPS=eps,
            HEADS=heads,
            WIDTH=channels // heads,
            BLOCK_D=tile(channels // heads),
            BLOCK_C=tile(channels),
            WINDOW=window,
            TOKENS=tile(window * window),
            **_ATTENTION,
        )
    return out


@triton_op("twins::block_tail", mutates_args=())
def block_tail(
    x: Tensor, attended: Tensor, w0: Tensor, b0: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, eps: float
) -> Tensor:
    """Return the output of a block from its input and its attention output before projection, maps `(B, H, W, C)`.

    Args:
        x: input of the block.
        attended: attention output before projection.
        w0: weight of attention's projection, `(C, C)`.
        b0: its bias, `(C,)`.
        w1: weight of the feed-forward part's first layer, `(C_hidden, C)`; 64 divides `C_hidden`.
        b1: its bias, `(C_hidden,)`.
        w2: weight of the second layer, `(C, C_hidden)`.
        b2: its bias, `(C,)`.
        eps: added to the variance by the norm before the feed-forward part.
    """
    x, attended = x.contiguous(), attended.contiguous()
    out = torch.empty_like(x)
    channels = x.shape[-1]
    rows = x.numel() // channels
    block = max(64, tile(channels))
    constants = _TAIL[block]
    arguments = (x, attended, w0, b0, w1, b1, w2, b2, out, rows)
    with on_device(x):
        wrap_triton(_tail)[(triton.cdiv(rows, constants["TOKENS"]),)](
            *arguments, EPS=eps, CHANNELS=channels, HIDDEN=w1.shape[0], BLOCK_C=block, **constants
        )
    return out
