"""A block of the inference form in two passes over its map, in half precision: local attention, and all that follows.

A program of the first norms the tokens of a window, projects them and lets them attend, one head after the other;
only attention's output is written. A program of the second projects that, adds the residual, norms the sum and feeds
it forward, some hidden channels at a time; only the block's output is written.

The affine of both norms and the scale of attention lie in the weights that read them, as `twins.backbone.fused` puts
them there.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from twins.ops.gpu.launch import on_device, tile, wrap_triton
from twins.ops.gpu.tiles import place_tokens, read_tokens, softmax, standardise, write_tokens

_ATTENTION = {"num_warps": 4, "num_stages": 2}
"""How attention's kernel runs. With one stage, which loads nothing ahead, what Triton 3.6 made of it was wrong on an
H200."""
_TAIL = {
    64: {"TOKENS": 64, "STEP": 64, "num_warps": 4, "num_stages": 2},
    128: {"TOKENS": 64, "STEP": 64, "num_warps": 4, "num_stages": 3},
}
"""Tokens and hidden channels that a program takes at a time, and how it runs, by the lanes of a map."""


@triton.jit
def _project(y, weight, bias, start, lane, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, HEAD: tl.constexpr):
    """Return `WIDTH` outputs of a linear layer from `start` on, `(TOKENS, HEAD)`."""
    output = tl.arange(0, HEAD)
    mask = (lane < CHANNELS)[:, None] & (output < WIDTH)[None, :]
    w = tl.load(weight + (start + output)[None, :] * CHANNELS + lane[:, None], mask=mask, other=0.0)
    b = tl.load(bias + start + output, mask=output < WIDTH, other=0.0).to(tl.float32)
    return (tl.dot(y, w, input_precision="ieee") + b[None, :]).to(y.dtype)


@triton.jit
def _within_windows(
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
    HEAD: tl.constexpr,
    LANES: tl.constexpr,
    WINDOW: tl.constexpr,
    TOKENS: tl.constexpr,
):
    C: tl.constexpr = HEADS * WIDTH
    lane = tl.arange(0, LANES)
    _, _, place, inside, keys = place_tokens(None, height, width, rows, columns, 1, WINDOW, TOKENS)
    y = read_tokens(x, 0, place, inside, C, C, LANES).to(tl.float32)
    y, _ = standardise(y, (lane < C)[None, :], EPS, C)
    if fill is not None:
        beyond = tl.load(fill + lane, mask=lane < C, other=0.0).to(tl.float32)
        y = tl.where(inside[:, None], y, beyond[None, :])
    y = y.to(x.dtype.element_ty)
    for head in range(HEADS):
        start = head * WIDTH
        q = _project(y, weight, bias, start, lane, C, WIDTH, HEAD)
        k = _project(y, weight, bias, C + start, lane, C, WIDTH, HEAD)
        v = _project(y, weight, bias, 2 * C + start, lane, C, WIDTH, HEAD)
        attended = tl.dot(softmax(q, k, keys, 1.0).to(v.dtype), v, input_precision="ieee")
        write_tokens(out, attended, start, place, inside, C, WIDTH, HEAD)


@triton.jit
def _gelu(x):
    """Return the exact GELU to 1e-6: `max(x, 0) - |x| erfc(|x| / sqrt(2)) / 2`.

    The complementary error function is Abramowitz and Stegun's 7.1.28, as in `twins.ops.gpu.gelu`.
    """
    size = tl.minimum(tl.abs(x), 16.0)  # from there on nothing is left of it
    p = 5.38297490493278e-06 * size + 4.889063711743802e-05
    p = p * size + 3.8003574445610866e-05
    p = p * size + 0.0032776263542473316
    p = p * size + 0.02114100567996502
    p = p * size + 0.04986734688282013
    rest = tl.rsqrt(p * size + 1.0)
    for _ in tl.static_range(5):
        rest *= rest
    return tl.maximum(x, 0.0) - 0.5 * size * rest


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
    LANES: tl.constexpr,
    TOKENS: tl.constexpr,
    STEP: tl.constexpr,
):
    place = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    lane, step = tl.arange(0, LANES), tl.arange(0, STEP)
    used, inside = lane < CHANNELS, place < rows
    y = read_tokens(x, 0, place, inside, CHANNELS, CHANNELS, LANES).to(tl.float32)
    y += tl.load(b0 + lane, mask=used, other=0.0).to(tl.float32)[None, :]
    for first in range(0, CHANNELS, STEP):
        some = first + step
        mask = inside[:, None] & (some < CHANNELS)[None, :]
        part = tl.load(attended + place[:, None] * CHANNELS + some[None, :], mask=mask, other=0.0)
        mask = (some < CHANNELS)[:, None] & used[None, :]
        w = tl.load(w0 + lane[None, :] * CHANNELS + some[:, None], mask=mask, other=0.0)
        y = tl.dot(part, w, y, input_precision="ieee")
    normed, _ = standardise(y, used[None, :], EPS, CHANNELS)
    normed = normed.to(x.dtype.element_ty)
    y += tl.load(b2 + lane, mask=used, other=0.0).to(tl.float32)[None, :]
    for first in range(0, HIDDEN, STEP):
        some = first + step
        w = tl.load(w1 + some[None, :] * CHANNELS + lane[:, None], mask=used[:, None], other=0.0)
        hidden = tl.dot(normed, w, input_precision="ieee") + tl.load(b1 + some).to(tl.float32)[None, :]
        w = tl.load(w2 + lane[None, :] * HIDDEN + some[:, None], mask=used[None, :], other=0.0)
        y = tl.dot(_gelu(hidden).to(x.dtype.element_ty), w, y, input_precision="ieee")
    write_tokens(out, y, 0, place, inside, CHANNELS, CHANNELS, LANES)


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
    """Norm the tokens of a map `(B, H, W, C)` without an affine, project them, and let them attend within windows.

    Args:
        x: map `(B, H, W, C)`.
        weight: of queries, scaled, keys and values, `(3 * C, C)`.
        bias: `(3 * C,)`.
        fill: a normed token beyond the map, `(C,)`; `None` where none is ever a key.
        rows: rows that may be keys.
        columns: columns that may be keys.
        window: side of a window in tokens, 8 at most.
        heads: heads of attention, of 64 channels at most.
        eps: what the norm adds to the variance.

    Returns:
        attention's output before its projection, `(B, H, W, C)`.
    """
    batch, height, width, channels = x.shape
    x = x.contiguous()
    out = torch.empty_like(x)
    arguments = (x, weight, bias, fill, out, height, width, rows, columns)
    with on_device(x):
        wrap_triton(_within_windows)[(batch * -(-height // window) * -(-width // window),)](
            *arguments,
            EPS=eps,
            HEADS=heads,
            WIDTH=channels // heads,
            HEAD=tile(channels // heads),
            LANES=tile(channels),
            WINDOW=window,
            TOKENS=tile(window * window),
            **_ATTENTION,
        )
    return out


@triton_op("twins::block_tail", mutates_args=())
def block_tail(
    x: Tensor, attended: Tensor, w0: Tensor, b0: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, eps: float
) -> Tensor:
    """Return a block's output from its input and the output of its attention, all maps `(B, H, W, C)`.

    Args:
        x: the block's input.
        attended: attention's output before its projection.
        w0: attention's projection, `(C, C)`.
        b0: `(C,)`.
        w1: the first layer of the feed-forward part, `(C_hidden, C)`; 64 divides `C_hidden`.
        b1: `(C_hidden,)`.
        w2: the second one, `(C, C_hidden)`.
        b2: `(C,)`.
        eps: what the norm before the feed-forward part adds to the variance.
    """
    x, attended = x.contiguous(), attended.contiguous()
    out = torch.empty_like(x)
    channels = x.shape[-1]
    rows = x.numel() // channels
    lanes = max(64, tile(channels))
    constants = _TAIL[lanes]
    arguments = (x, attended, w0, b0, w1, b1, w2, b2, out, rows)
    with on_device(x):
        wrap_triton(_tail)[(triton.cdiv(rows, constants["TOKENS"]),)](
            *arguments, EPS=eps, CHANNELS=channels, HIDDEN=w1.shape[0], LANES=lanes, **constants
        )
    return out
