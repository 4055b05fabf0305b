"""Window attention on the map of projections in its own layout: no copy into windows, no padding, no copy back.

A program takes some heads of one window, one after the other. Its 49 tokens fill one tile, so the softmax needs no
second pass, and the backward pass recomputes it from the projections, which are all that is kept.
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
from twins.ops.gpu.tiles import attention_gradients, place_tokens, read_tokens, softmax, write_tokens
from twins.ops.padding import Padding, image_key_limits, key_limits

_GROUP, _STAGES, _WARPS = 4, 3, 4
"""Heads that a program takes one after the other, how many of them are loaded at a time, and its warps.

In float32, which tensor cores do not compute exactly, it is one head, so that the tiles fit what a consumer's GPU has,
and twice as many warps, which halve the code that each runs and the time it takes to build.
"""


@triton.jit
def _read(x, pads, start, place, inside, keys, row_width, WIDTH: tl.constexpr, LANES: tl.constexpr):
    """Load one projection of the tokens, `(TOKENS, LANES)`; a key beyond the map is what the projection makes of 0."""
    y = read_tokens(x, start, place, inside, row_width, WIDTH, LANES)
    if pads is not None:
        lane = tl.arange(0, LANES)
        pad = tl.load(pads + start + lane, mask=lane < WIDTH, other=0.0)
        y = tl.where((keys & ~inside)[:, None], pad[None, :].to(y.dtype), y)
    return y


@triton.jit
def _attend(
    qkv,
    pads,
    start,
    place,
    inside,
    keys,
    SCALE: tl.constexpr,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    LANES: tl.constexpr,
):
    """Return queries, keys and values of a head of a window, `(TOKENS, LANES)`, and the weights between its tokens."""
    q = _read(qkv, pads, start, place, inside, keys, 3 * C, WIDTH, LANES)
    k = _read(qkv, pads, C + start, place, inside, keys, 3 * C, WIDTH, LANES)
    v = _read(qkv, pads, 2 * C + start, place, inside, keys, 3 * C, WIDTH, LANES)
    return q, k, v, softmax(q, k, keys, SCALE)


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
    LANES: tl.constexpr,
    WINDOW: tl.constexpr,
    TOKENS: tl.constexpr,
    GROUP: tl.constexpr,
):
    C: tl.constexpr = HEADS * WIDTH
    _, group, place, inside, keys = place_tokens(limits, height, width, rows, columns, HEADS // GROUP, WINDOW, TOKENS)
    for head in range(GROUP):
        start = (group * GROUP + head) * WIDTH
        _q, _k, v, weights = _attend(qkv, pads, start, place, inside, keys, SCALE, C, WIDTH, LANES)
        y = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        write_tokens(out, y, start, place, inside, C, WIDTH, LANES)


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
    LANES: tl.constexpr,
    WINDOW: tl.constexpr,
    TOKENS: tl.constexpr,
    GROUP: tl.constexpr,
):
    C: tl.constexpr = HEADS * WIDTH
    window, group, place, inside, keys = place_tokens(
        limits, height, width, rows, columns, HEADS // GROUP, WINDOW, TOKENS
    )
    for head in range(GROUP):
        start = (group * GROUP + head) * WIDTH
        q, k, v, weights = _attend(qkv, pads, start, place, inside, keys, SCALE, C, WIDTH, LANES)
        g = read_tokens(dy, start, place, inside, C, WIDTH, LANES)  # zero for queries that nobody reads
        dq, dk, dv = attention_gradients(q, k, v, weights, g, SCALE)
        write_tokens(dqkv, dq, start, place, inside, 3 * C, WIDTH, LANES)
        write_tokens(dqkv, dk, C + start, place, inside, 3 * C, WIDTH, LANES)
        write_tokens(dqkv, dv, 2 * C + start, place, inside, 3 * C, WIDTH, LANES)
        if dpads is not None:
            lane = tl.arange(0, LANES)
            beyond = (keys & ~inside)[:, None]
            row = dpads + window.to(tl.int64) * (2 * C) + start + lane
            tl.store(row, tl.sum(tl.where(beyond, dk, 0.0), 0), mask=lane < WIDTH)
            tl.store(row + C, tl.sum(tl.where(beyond, dv, 0.0), 0), mask=lane < WIDTH)


def attend_in_place(
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
    """Return `twins.ops.windows.window_attention` of the same arguments; a padded token is the fill value projected."""
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
    """Attend within the windows of a map.

    Args:
        qkv: projections `(B, H, W, 3 * h * d)`: queries, keys, values.
        pads: the projections `(3 * h * d,)` of a token beyond the map; `None` where none is ever a key.
        limits: rows and columns `(B, 2)` of each image that may be keys; `None` when all have `rows` and `columns`.
        rows: rows that may be keys where there are no `limits`.
        columns: columns, likewise.
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
    """Return the gradients of `qkv` and of `pads`; without `pads` the second one is empty."""
    batch, height, width, channels = qkv.shape
    qkv, dy = qkv.contiguous(), dy.contiguous()
    dqkv = torch.empty_like(qkv)
    windows = batch * -(-height // window) * -(-width // window)
    shares = None if pads is None else qkv.new_empty((windows, 2 * channels // 3), dtype=torch.float32)
    arguments = (qkv, _contiguous(pads), _contiguous(limits), dy, dqkv, shares, height, width, rows, columns)
    with on_device(qkv):
        wrap_triton(_backward)[_grid(qkv, window, heads)](*arguments, SCALE=scale, **_constants(qkv, window, heads))
    if pads is None or shares is None:
        return dqkv, qkv.new_empty(0)
    return dqkv, torch.cat([shares.new_zeros(channels // 3), shares.sum(0)]).to(pads.dtype)


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
        "LANES": tile(width),
        "WINDOW": window,
        "TOKENS": tile(window * window),
        "GROUP": _group(qkv, heads),
        "num_stages": 2 if qkv.dtype == torch.float32 else _STAGES,
        "num_warps": _WARPS if qkv.dtype != torch.float32 else 2 * _WARPS,
    }


def _keep(ctx, inputs, output) -> None:
    qkv, pads, limits, *ctx.rest = inputs
    ctx.save_for_backward(qkv, pads, limits)


def _differentiate(ctx, dy):
    qkv, pads, limits = ctx.saved_tensors
    dqkv, dpads = window_attention_backward(dy, qkv, pads, limits, *ctx.rest)
    return dqkv, None if pads is None else dpads, None, None, None, None, None, None


window_attention.register_autograd(_differentiate, setup_context=_keep)
