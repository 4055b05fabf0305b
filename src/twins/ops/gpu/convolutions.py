"""A depth-wise 3x3 with its bias in one pass over a channels-last map; with its residual the positional convolution."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from twins.ops.gpu.launch import on_device, tile, wrap_triton

_TOKENS, _LANES = 64, 64
_SHARE = 1024
"""Tokens that one program sums over; the sums are added in a second step, in one order, so that a run repeats."""


@triton.jit
def _offsets(place, lane, CHANNELS: tl.constexpr):
    """Return where the channels of tokens lie, `(TOKENS, LANES)`, in 64 bits: maps outgrow 32."""
    return place.to(tl.int64)[:, None] * CHANNELS + lane[None, :]


@triton.jit
def _tap(x, place, row, column, height, width, down, right, lane, mask, CHANNELS: tl.constexpr):
    """Load the neighbours `(TOKENS, LANES)` of tokens in float32; zero beyond the map."""
    row, column = row + down, column + right
    seen = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    place = place + down * width + right
    return tl.load(x + _offsets(place, lane, CHANNELS), mask=mask & seen[:, None], other=0.0).to(tl.float32)


@triton.jit
def _weight(weight, tap: tl.constexpr, lane, CHANNELS: tl.constexpr):
    """Load one of the nine weights of each channel, `(1, LANES)` in float32."""
    return tl.load(weight + tap * CHANNELS + lane, mask=lane < CHANNELS, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _forward(
    x,
    weight,
    bias,
    out,
    tokens,
    height,
    width,
    RESIDUAL: tl.constexpr,
    CHANNELS: tl.constexpr,
    TOKENS: tl.constexpr,
    LANES: tl.constexpr,
):
    place = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    lane = tl.program_id(1) * LANES + tl.arange(0, LANES)
    row, column = place // width % height, place % width
    mask = (place < tokens)[:, None] & (lane < CHANNELS)[None, :]
    offsets = _offsets(place, lane, CHANNELS)
    y = tl.zeros((TOKENS, LANES), tl.float32)
    if RESIDUAL:
        y += tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
    if bias is not None:
        y += tl.load(bias + lane, mask=lane < CHANNELS, other=0.0).to(tl.float32)[None, :]
    for tap in tl.static_range(9):
        near = _tap(x, place, row, column, height, width, tap // 3 - 1, tap % 3 - 1, lane, mask, CHANNELS)
        y += _weight(weight, tap, lane, CHANNELS) * near
    tl.store(out + offsets, y.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _weight_gradient(
    x,
    dy,
    shares,
    tokens,
    height,
    width,
    CHANNELS: tl.constexpr,
    SHARE: tl.constexpr,
    TOKENS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Sum what one share of the tokens adds to the gradients of a row of taps, and of the bias: the tenth tap."""
    down, share = tl.program_id(0), tl.program_id(1)
    lane = tl.program_id(2) * LANES + tl.arange(0, LANES)
    left, here = tl.zeros((TOKENS, LANES), tl.float32), tl.zeros((TOKENS, LANES), tl.float32)
    right, total = tl.zeros((TOKENS, LANES), tl.float32), tl.zeros((TOKENS, LANES), tl.float32)
    for step in range(0, SHARE, TOKENS):
        place = share * SHARE + step + tl.arange(0, TOKENS)
        mask = (place < tokens)[:, None] & (lane < CHANNELS)[None, :]
        g = tl.load(dy + _offsets(place, lane, CHANNELS), mask=mask, other=0.0).to(tl.float32)
        row, column = place // width % height, place % width
        left += g * _tap(x, place, row, column, height, width, down - 1, -1, lane, mask, CHANNELS)
        here += g * _tap(x, place, row, column, height, width, down - 1, 0, lane, mask, CHANNELS)
        right += g * _tap(x, place, row, column, height, width, down - 1, 1, lane, mask, CHANNELS)
        total += g
    used = lane < CHANNELS
    sums = shares + share.to(tl.int64) * (10 * CHANNELS) + lane
    tl.store(sums + 3 * down * CHANNELS, tl.sum(left, 0), mask=used)
    tl.store(sums + (3 * down + 1) * CHANNELS, tl.sum(here, 0), mask=used)
    tl.store(sums + (3 * down + 2) * CHANNELS, tl.sum(right, 0), mask=used)
    if down == 0:
        tl.store(sums + 9 * CHANNELS, tl.sum(total, 0), mask=used)


@triton_op("twins::depthwise_convolution", mutates_args=())
def depthwise_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool) -> Tensor:
    """Return the depth-wise 3x3 convolution of a map with zero padding.

    Args:
        x: map `(B, H, W, C)`.
        weight: `(C, 1, 3, 3)`.
        bias: `(C,)` or `None`.
        residual: whether to add `x`.
    """
    x = x.contiguous()
    batch, height, width, channels = x.shape
    out = torch.empty_like(x)
    tokens = batch * height * width
    lanes = min(_LANES, tile(channels))
    grid = (triton.cdiv(tokens, _TOKENS), triton.cdiv(channels, lanes))
    taps = weight.flatten(1).t().contiguous()  # a tap's weights side by side
    arguments = (x, taps, None if bias is None else bias.contiguous(), out, tokens, height, width)
    with on_device(x):
        wrap_triton(_forward)[grid](*arguments, RESIDUAL=residual, CHANNELS=channels, TOKENS=_TOKENS, LANES=lanes)
    return out


@triton_op("twins::depthwise_convolution_backward", mutates_args=())
def depthwise_convolution_backward(dy: Tensor, x: Tensor) -> Tensor:
    """Return the gradients of the weights and, last, of the bias, `(10, C)` in float32."""
    x, dy = x.contiguous(), dy.contiguous()
    batch, height, width, channels = x.shape
    tokens = batch * height * width
    lanes = min(_LANES, tile(channels))
    grid = (3, triton.cdiv(tokens, _SHARE), triton.cdiv(channels, lanes))
    shares = x.new_empty((grid[1], 10, channels), dtype=torch.float32)
    with on_device(x):
        wrap_triton(_weight_gradient)[grid](
            x, dy, shares, tokens, height, width, CHANNELS=channels, SHARE=_SHARE, TOKENS=_TOKENS // 2, LANES=lanes
        )
    return shares.sum(0)


def _keep(ctx, inputs, output) -> None:
    x, weight, bias, ctx.residual = inputs
    ctx.save_for_backward(x, weight)
    ctx.bias_type = None if bias is None else bias.dtype


def _differentiate(ctx, dy):
    x, weight = ctx.saved_tensors
    dx = dweight = dbias = None
    if ctx.needs_input_grad[0]:  # the same operator with the kernel turned around
        dx = depthwise_convolution(dy, weight.flip(2, 3), None, ctx.residual)
    if any(ctx.needs_input_grad[1:]):
        sums = depthwise_convolution_backward(dy, x)
        dweight = sums[:9].t().reshape(weight.shape).to(weight.dtype)
        dbias = None if ctx.bias_type is None else sums[9].to(ctx.bias_type)
    return dx, dweight, dbias, None


depthwise_convolution.register_autograd(_differentiate, setup_context=_keep)
