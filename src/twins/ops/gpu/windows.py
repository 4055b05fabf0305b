"""Window attention that reads and writes maps in their original layout: no partition, no padding, no copy back.

A program computes some heads of one window, one after the other. The 49 tokens of a window fit in one tile, so the
softmax needs one pass. Only the projections are saved for the backward pass, which recomputes the attention weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from twins.ops.gpu.launch import on_device, tile, wrap_triton
from twins.ops.gpu.tiles import attention_gradients, attention_weights, locate_tokens, read_tokens, write_tokens
from twins.ops.padding import Padding, image_key_limits, key_limits

_GROUP, _STAGES, _WARPS = 4, 3, 4
"""Heads per program, pipeline stages of its loop over heads, and warps.

In float32, which tensor cores do not compute exactly, a program computes one head, so that its tiles fit in the shared
memory of a consumer GPU. It has twice the warps, which halves the code of each warp and the time to build it.
"""


@triton.jit
def _read_projection(x, pads, start, index, inside, is_key, row_width, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr):
    """Load one projection of the tokens, `(TOKENS, BLOCK_D)`; keys that are padding get the values of `pads`."""
    y = read_tokens(x, start, index, inside, row_width, WIDTH, BLOCK_D)
    if pads is not None:
        channel = tl.arange(0, BLOCK_D)
        pad = tl.load(pads + start + channel, mask=channel < WIDTH, other=0.0)
        y = tl.where((is_key & ~inside)[:, None], pad[None, :].to(y.dtype), y)
    return y


@triton.jit
def _head_attention(
    qkv,
    pads,
    start,
    index,
    inside,
    is_key,
    SCALE: tl.constexpr,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Return queries, keys and values of one head `(TOKENS, BLOCK_D)` and its attention weights `(TOKENS, TOKENS)`."""
    q = _read_projection(qkv, pads, start, index, inside, is_key, 3 * C, WIDTH, BLOCK_D)
    k = _read_projection(qkv, pads, C + start, index, inside, is_key, 3 * C, WIDTH, BLOCK_D)
    v = _read_projection(qkv, pads, 2 * C + start, index, inside, is_key, 3 * C, WIDTH, BLOCK_D)
    return q, k, v, attention_weights(q, k, is_key, SCALE)


@triton.jit
def _forward(
    qkv,
    pads,
    limits,
    out,
    height,
    width,
    rows,
    columns,
    SCALE: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    WINDOW: tl.constexpr,
    TOKENS: tl.constexpr,
    GROUP: tl.constexpr,
):
    C: tl.constexpr = HEADS * WIDTH
    _, group, index, inside, is_key = locate_tokens(
        limits, height, width, rows, columns, HEADS // GROUP, WINDOW, TOKENS
    )
    for head in range(GROUP):
        start = (group * GROUP + head) * WIDTH
        _q, _k, v, weights = _head_attention(qkv, pads, start, index, inside, is_key, SCALE, C, WIDTH, BLOCK_D)
        y = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        write_tokens(out, y, start, index, inside, C, WIDTH, BLOCK_D)


@triton.jit
def _backward(
    qkv,
    pads,
    limits,
    dy,
    dqkv,
    dpads,
    height,
    width,
    rows,
    columns,
    SCALE: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    WINDOW: tl.constexpr,
    TOKENS: tl.constexpr,
    GROUP: tl.constexpr,
):
    C: tl.constexpr = HEADS * WIDTH
    window, group, index, inside, is_key = locate_tokens(
        limits, height, width, rows, columns, HEADS // GROUP, WINDOW, TOKENS
    )
    for head in range(GROUP):
        start = (group * GROUP + head) * WIDTH
        q, k, v, weights = _head_attention(qkv, pads, start, index, inside, is_key, SCALE, C, WIDTH, BLOCK_D)
        g = read_tokens(dy, start, index, inside, C, WIDTH, BLOCK_D)  # zero outside the map
        dq, dk, dv = attention_gradients(q, k, v, weights, g, SCALE)
        write_tokens(dqkv, dq, start, index, inside, 3 * C, WIDTH, BLOCK_D)
        write_tokens(dqkv, dk, C + start, index, inside, 3 * C, WIDTH, BLOCK_D)
        write_tokens(dqkv, dv, 2 * C + start, index, inside, 3 * C, WIDTH, BLOCK_D)
        if dpads is not None:
            channel = tl.arange(0, BLOCK_D)
            padding_keys = (is_key & ~inside)[:, None]
            row = dpads + window.to(tl.int64) * (2 * C) + start + channel
            tl.store(row, tl.sum(tl.where(padding_keys, dk, 0.0), 0), mask=channel < WIDTH)
            tl.store(row + C, tl.sum(tl.where(padding_keys, dv, 0.0), 0), mask=channel < WIDTH)


def project_and_attend(
    x: Tensor,
    project: Callable[[Tensor], Tensor],
    window: int,
    heads: int,
    *,
    padding: Padding,
    sizes: Tensor | None,
    scale: float | None,
    fill: Tensor | None,
) -> Tensor:
    """Return `twins.ops.windows.window_attention` of the same arguments; one padded token is projected for all."""
    _, height, width, channels = x.shape
    rows, columns = key_limits(height, width, window, padding)
    padded = padding != "exact" and (height % window or width % window)
    pads = project(x.new_zeros(channels) if fill is None else fill) if padded else None
    limits = None if sizes is None else image_key_limits(sizes, window, padding)
    projected = project(x)
    factor = (projected.shape[-1] // (3 * heads)) ** -0.5 if scale is None else scale
    return window_attention(projected, pads, limits, rows, columns, window, heads, factor)


@triton_op("twins::window_attention", mutates_args=())
def window_attention(
    qkv: Tensor,
    pads: Tensor | None,
    limits: Tensor | None,
    rows: int,
    columns: int,
    window: int,
    heads: int,
    scale: float,
) -> Tensor:
    """Window attention on a map of projections.

    Args:
        qkv: queries, keys and values side by side, `(B, H, W, 3 * h * d)`.
        pads: projections of a padded token, `(3 * h * d,)`; `None` if no padded token is a key.
        limits: numbers of rows and columns of each image that may be keys, `(B, 2)`; `None` when `rows` and `columns`
            apply to all.
        rows: number of rows that may be keys, without `limits`.
        columns: number of columns that may be keys, without `limits`.
        window: side of a window in tokens.
        heads: `h`.
        scale: factor of the scores.

    Returns:
        map `(B, H, W, h * d)`.
    """
    batch, height, width, channels = qkv.shape
    qkv = qkv.contiguous()
    out = qkv.new_empty(batch, height, width, channels // 3)
    arguments = (qkv, _contiguous(pads), _contiguous(limits), out, height, width, rows, columns)
    with on_device(qkv):
        wrap_triton(_forward)[_grid(qkv, window, heads)](*arguments, SCALE=scale, **_constants(qkv, window, heads))
    return out


@triton_op("twins::window_attention_backward", mutates_args=())
def window_attention_backward(
    dy: Tensor,
    qkv: Tensor,
    pads: Tensor | None,
    limits: Tensor | None,
    rows: int,
    columns: int,
    window: int,
    heads: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `qkv` and of `pads`; the second is empty without `pads`."""
    batch, height, width, channels = qkv.shape
    qkv, dy = qkv.contiguous(), dy.contiguous()
    dqkv = torch.empty_like(qkv)
    windows = batch * -(-height // window) * -(-width // window)
    partials = None if pads is None else qkv.new_empty((windows, 2 * channels // 3), dtype=torch.float32)
    arguments = (qkv, _contiguous(pads), _contiguous(limits), dy, dqkv, partials, height, width, rows, columns)
    with on_device(qkv):
        wrap_triton(_backward)[_grid(qkv, window, heads)](*arguments, SCALE=scale, **_constants(qkv, window, heads))
    if pads is None or partials is None:
        return dqkv, qkv.new_empty(0)
    return dqkv, torch.cat([partials.new_zeros(channels // 3), partials.sum(0)]).to(pads.dtype)


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _grid(qkv: Tensor, window: int, heads: int) -> tuple[int]:
    batch, height, width, _ = qkv.shape
    return (batch * -(-height // window) * -(-width // window) * (heads // _group(qkv, heads)),)


def _group(qkv: Tensor, heads: int) -> int:
    return 1 if qkv.dtype == torch.float32 else math.gcd(heads, _GROUP)


def _constants(qkv: Tensor, window: int, heads: int) -> dict[str, int | float]:
    width = qkv.shape[-1] // (3 * heads)
    return {
        "HEADS": heads,
        "WIDTH": width,
        "BLOCK_D": tile(width),
        "WINDOW": window,
        "TOKENS": tile(window * window),
        "GROUP": _group(qkv, heads),
        "num_stages": 2 if qkv.dtype == torch.float32 else _STAGES,
        "num_warps": _WARPS if qkv.dtype != torch.float32 else 2 * _WARPS,
    }


def _save_for_backward(ctx, inputs, output) -> None:
    qkv, pads, limits, *ctx.rest = inputs
    ctx.save_for_backward(qkv, pads, limits)


def _autograd_backward(ctx, dy):
    qkv, pads, limits = ctx.saved_tensors
    dqkv, dpads = window_attention_backward(dy, qkv, pads, limits, *ctx.rest)
    return dqkv, None if pads is None else dpads, None, None, None, None, None, None


window_attention.register_autograd(_autograd_backward, setup_context=_save_for_backward)
