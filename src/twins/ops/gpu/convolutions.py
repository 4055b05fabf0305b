"""Depth-wise 3x3 convolution with its bias, and the residual add of the PEG, in one pass over a channels-last map."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from twins.ops.gpu.launch import on_device, tile, wrap_triton

_TOKENS, _BLOCK_C = 64, 64
_SPLIT = 1024
"""Tokens per program of the weight gradient; partial sums are then added in a fixed order, so that a run repeats."""


@triton.jit
def _offsets(index, channel, CHANNELS: tl.constexpr):
    """Return the offsets of the channels of tokens, `(TOKENS, BLOCK_C)`, in 64 bits, since large maps exceed 32."""
    return index.to(tl.int64)[:, None] * CHANNELS + channel[None, :]


@triton.jit
def _tap(x, index, row, column, height, width, down, right, channel, mask, CHANNELS: tl.constexpr):
    """Load the neighbours of tokens, `down` rows and `right` columns away, `(TOKENS, BLOCK_C)`; zero outside."""
    row, column = row + down, column + right
    valid = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    index = index + down * width + right
    return tl.load(x + _offsets(index, channel, CHANNELS), mask=mask & valid[:, None], other=0.0).to(tl.float32)


@triton.jit
def _weight(weight, tap: tl.constexpr, channel, CHANNELS: tl.constexpr):
    """Load one of the nine weights of each channel, `(1, BLOCK_C)` in float32."""
    return tl.load(weight + tap * CHANNELS + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)[None, :]


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
    BLOCK_C: tl.constexpr,
):
    index = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    row, column = index // width % height, index % width
    mask = (index < tokens)[:, None] & (channel < CHANNELS)[None, :]
    offsets = _offsets(index, channel, CHANNELS)
    y = tl.zeros((TOKENS, BLOCK_C), tl.float32)
    if RESIDUAL:
        y += tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
    if bias is not None:
        y += tl.load(bias + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)[None, :]
    for tap in tl.static_range(9):
        neighbour = _tap(x, index, row, column, height, width, tap // 3 - 1, tap % 3 - 1, channel, mask, CHANNELS)
        y += _weight(weight, tap, channel, CHANNELS) * neighbour
    tl.store(out + offsets, y.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _weight_gradient(
    x,
    dy,
    partials,
    tokens,
    height,
    width,
    CHANNELS: tl.constexpr,
    SPLIT: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Partial sums over some tokens of the gradients of a row of taps, and of the bias, stored as the tenth tap."""
    down, split = tl.program_id(0), tl.program_id(1)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    left, centre = tl.zeros((TOKENS, BLOCK_C), tl.float32), tl.zeros((TOKENS, BLOCK_C), tl.float32)
    right, bias_sum = tl.zeros((TOKENS, BLOCK_C), tl.float32), tl.zeros((TOKENS, BLOCK_C), tl.float32)
    for step in range(0, SPLIT, TOKENS):
        index = split * SPLIT + step + tl.arange(0, TOKENS)
        mask = (index < tokens)[:, None] & (channel < CHANNELS)[None, :]
        g = tl.load(dy + _offsets(index, channel, CHANNELS), mask=mask, other=0.0).to(tl.float32)
        row, column = index // width % height, index % width
        left += g * _tap(x, index, row, column, height, width, down - 1, -1, channel, mask, CHANNELS)
        centre += g * _tap(x, index, row, column, height, width, down - 1, 0, channel, mask, CHANNELS)
        right += g * _tap(x, index, row, column, height, width, down - 1, 1, channel, mask, CHANNELS)
        bias_sum += g
    valid_channel = channel < CHANNELS
    sums = partials + split.to(tl.int64) * (10 * CHANNELS) + channel
    tl.store(sums + 3 * down * CHANNELS, tl.sum(left, 0), mask=valid_channel)
    tl.store(sums + (3 * down + 1) * CHANNELS, tl.sum(centre, 0), mask=valid_channel)
    tl.store(sums + (3 * down + 2) * CHANNELS, tl.sum(right, 0), mask=valid_channel)
    if down == 0:
        tl.store(sums + 9 * CHANNELS, tl.sum(bias_sum, 0), mask=valid_channel)


@triton_op("twins::depthwise_convolution", mutates_args=())
def depthwise_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool) -> Tensor:
    """Depth-wise 3x3 convolution of a map with zero padding, `(B, H, W, C)` to the same shape.

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
    block = min(_BLOCK_C, tile(channels))
    grid = (triton.cdiv(tokens, _TOKENS), triton.cdiv(channels, block))
    taps = weight.flatten(1).t().contiguous()  # (9, C)
    arguments = (x, taps, None if bias is None else bias.contiguous(), out, tokens, height, width)
    with on_device(x):
        wrap_triton(_forward)[grid](*arguments, RESIDUAL=residual, CHANNELS=channels, TOKENS=_TOKENS, BLOCK_C=block)
    return out


@triton_op("twins::depthwise_convolution_backward", mutates_args=())
def depthwise_convolution_backward(dy: Tensor, x: Tensor) -> Tensor:
    """Return the gradients of the nine weights and, as the last row, of the bias: `(10, C)` in float32."""
    x, dy = x.contiguous(), dy.contiguous()
    batch, height, width, channels = x.shape
    tokens = batch * height * width
    block = min(_BLOCK_C, tile(channels))
    grid = (3, triton.cdiv(tokens, _SPLIT), triton.cdiv(channels, block))
    partials = x.new_empty((grid[1], 10, channels), dtype=torch.float32)
    with on_device(x):
        wrap_triton(_weight_gradient)[grid](
            x, dy, partials, tokens, height, width, CHANNELS=channels, SPLIT=_SPLIT, TOKENS=_TOKENS // 2, BLOCK_C=block
        )
    return partials.sum(0)


def _save_for_backward(ctx, inputs, output) -> None:
    x, weight, bias, ctx.residual = inputs
    ctx.save_for_backward(x, weight)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _autograd_backward(ctx, dy):
    x, weight = ctx.saved_tensors
    dx = dweight = dbias = None
    if ctx.needs_input_grad[0]:  # the same convolution with the kernel flipped
        dx = depthwise_convolution(dy, weight.flip(2, 3), None, ctx.residual)
    if any(ctx.needs_input_grad[1:]):
        sums = depthwise_convolution_backward(dy, x)
        dweight = sums[:9].t().reshape(weight.shape).to(weight.dtype)
        dbias = None if ctx.bias_dtype is None else sums[9].to(ctx.bias_dtype)
    return dx, dweight, dbias, None


depthwise_convolution.register_autograd(_autograd_backward, setup_context=_save_for_backward)
