"""Layer norm, alone or with the residual add before it, in one pass over a map; a program takes several rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from twins.ops.gpu.launch import on_device, tile, wrap_triton
from twins.ops.gpu.tiles import standardise

_TILE = 2048
"""Elements of a program's tile."""
_SPLIT = 256
"""Rows per program of the backward pass; partial sums are then added in a fixed order, so that a run repeats."""


@triton.jit
def _forward(
    x,
    branch,
    weight,
    bias,
    total,
    normed,
    rows,
    EPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, BLOCK_C)
    mask = (row < rows)[:, None] & (channel < CHANNELS)[None, :]
    offsets = row.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    y = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
    if branch is not None:
        y += tl.load(branch + offsets, mask=mask, other=0.0).to(tl.float32)
        rounded = y.to(total.dtype.element_ty)
        tl.store(total + offsets, rounded, mask=mask)
        y = rounded.to(tl.float32)  # norm the rounded sum, from which the backward pass recomputes the norm
    y, _ = standardise(y, mask, EPS, CHANNELS)
    y *= tl.load(weight + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)[None, :]
    y += tl.load(bias + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)[None, :]
    tl.store(normed + offsets, y.to(normed.dtype.element_ty), mask=mask)


@triton.jit
def _backward(
    total,
    weight,
    dtotal,
    dnormed,
    dx,
    partials,
    rows,
    EPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    split = tl.program_id(0)
    channel = tl.arange(0, BLOCK_C)
    w = tl.load(weight + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)[None, :]
    dweight, dbias = tl.zeros((ROWS, BLOCK_C), tl.float32), tl.zeros((ROWS, BLOCK_C), tl.float32)
    for step in range(0, SPLIT, ROWS):
        row = split * SPLIT + step + tl.arange(0, ROWS)
        mask = (row < rows)[:, None] & (channel < CHANNELS)[None, :]
        offsets = row.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
        y, scale = standardise(tl.load(total + offsets, mask=mask, other=0.0).to(tl.float32), mask, EPS, CHANNELS)
        g = tl.load(dnormed + offsets, mask=mask, other=0.0).to(tl.float32)
        dweight += g * y
        dbias += g
        g *= w
        g = scale * (g - (tl.sum(g, 1) / CHANNELS)[:, None] - y * (tl.sum(g * y, 1) / CHANNELS)[:, None])
        if dtotal is not None:
            g += tl.load(dtotal + offsets, mask=mask, other=0.0).to(tl.float32)
        tl.store(dx + offsets, g.to(dx.dtype.element_ty), mask=mask)
    sums = partials + split.to(tl.int64) * (2 * CHANNELS)
    tl.store(sums + channel, tl.sum(dweight, 0), mask=channel < CHANNELS)
    tl.store(sums + CHANNELS + channel, tl.sum(dbias, 0), mask=channel < CHANNELS)


@triton_op("twins::add_norm", mutates_args=())
def add_norm(
    x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, eps: float, kind: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return `x + branch` `(..., C)` and its layer norm over the channels, the latter in the dtype `kind`."""
    x, branch = x.contiguous(), branch.contiguous()
    total = x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, branch.dtype))
    normed = x.new_empty(x.shape, dtype=kind)
    _launch_forward(x, branch, weight, bias, total, normed, eps)
    return total, normed


@triton_op("twins::norm", mutates_args=())
def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, kind: torch.dtype) -> Tensor:
    """Return the layer norm of `x` `(..., C)` over the channels, in the dtype `kind`."""
    x = x.contiguous()
    normed = x.new_empty(x.shape, dtype=kind)
    _launch_forward(x, None, weight, bias, None, normed, eps)
    return normed


@triton_op("twins::norm_backward", mutates_args=())
def norm_backward(
    dtotal: Tensor | None, dnormed: Tensor, total: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the gradient of the normed sum `total` `(..., C)`, and those of weight and bias, `(2, C)` in float32."""
    total, dnormed = total.contiguous(), dnormed.contiguous()
    channels = total.shape[-1]
    rows = total.numel() // channels
    programs = triton.cdiv(rows, _SPLIT)
    dx = torch.empty_like(total)
    partials = total.new_empty((programs, 2, channels), dtype=torch.float32)
    dtotal = None if dtotal is None else dtotal.contiguous()
    arguments = (total, weight.contiguous(), dtotal, dnormed, dx, partials, rows)
    with on_device(total):
        wrap_triton(_backward)[(programs,)](*arguments, EPS=eps, SPLIT=_SPLIT, **_constants(channels))
    return dx, partials.sum(0)


def _launch_forward(
    x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor, total: Tensor | None, normed: Tensor, eps: float
) -> None:
    channels = x.shape[-1]
    rows = x.numel() // channels
    constants = _constants(channels)
    with on_device(x):
        wrap_triton(_forward)[(triton.cdiv(rows, constants["ROWS"]),)](
            x, branch, weight.contiguous(), bias.contiguous(), total, normed, rows, EPS=eps, **constants
        )


def _constants(channels: int) -> dict[str, int]:
    block = tile(channels)
    return {"CHANNELS": channels, "ROWS": max(1, _TILE // block), "BLOCK_C": block}


def _save_sum_for_backward(ctx, inputs, output) -> None:
    x, branch, weight, bias, ctx.eps, _ = inputs
    ctx.save_for_backward(output[0], weight)
    ctx.dtypes = (x.dtype, branch.dtype, bias.dtype)


def _autograd_backward_of_sum(ctx, dtotal, dnormed):
    total, weight = ctx.saved_tensors
    dx, sums = norm_backward(dtotal, dnormed, total, weight, ctx.eps)
    kind, branch, bias = ctx.dtypes
    return dx.to(kind), dx.to(branch), sums[0].to(weight.dtype), sums[1].to(bias), None, None


def _save_for_backward(ctx, inputs, output) -> None:
    x, weight, bias, ctx.eps, _ = inputs
    ctx.save_for_backward(x, weight)
    ctx.bias_dtype = bias.dtype


def _autograd_backward(ctx, dnormed):
    x, weight = ctx.saved_tensors
    dx, sums = norm_backward(None, dnormed, x, weight, ctx.eps)
    return dx, sums[0].to(weight.dtype), sums[1].to(ctx.bias_dtype), None, None


add_norm.register_autograd(_autograd_backward_of_sum, setup_context=_save_sum_for_backward)
norm.register_autograd(_autograd_backward, setup_context=_save_for_backward)
