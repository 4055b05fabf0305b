"""Attention from many tokens to few keys, on projections in their original layout: no copies by head.

A program computes one head of some tokens of an image. All keys fit in one tile, so the softmax needs one pass. Only
the projections are kept; attention weights are recomputed in the backward pass.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from twins.ops.gpu.launch import on_device, tile, wrap_triton
from twins.ops.gpu.tiles import attention_gradients, attention_weights, read_tokens, write_tokens

_WARPS, _TOKENS = 4, 64
"""Warps of a program in half precision, and tokens of its tile."""
_SPLIT = 512
"""Tokens per program of the backward pass; partial sums are then added in a fixed order, so that a run repeats."""


@triton.jit
def _read_keys(
    kv, mask, image, head, keys, HEADS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, KEYS: tl.constexpr
):
    """Load keys and values of one head of an image, `(KEYS, BLOCK_D)` each, and the key mask `(KEYS,)`."""
    C: tl.constexpr = HEADS * WIDTH
    key = tl.arange(0, KEYS)
    valid = key < keys
    index = image * keys + key
    k = read_tokens(kv, head * WIDTH, index, valid, 2 * C, WIDTH, BLOCK_D)
    v = read_tokens(kv, C + head * WIDTH, index, valid, 2 * C, WIDTH, BLOCK_D)
    if mask is not None:
        valid = valid & (tl.load(mask + index, mask=valid, other=0) != 0)
    return k, v, valid


@triton.jit
def _forward(
    q,
    kv,
    mask,
    out,
    tokens,
    keys,
    SCALE: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TOKENS: tl.constexpr,
    KEYS: tl.constexpr,
):
    image, head = (tl.program_id(0) // HEADS).to(tl.int64), tl.program_id(0) % HEADS
    k, v, valid = _read_keys(kv, mask, image, head, keys, HEADS, WIDTH, BLOCK_D, KEYS)
    C: tl.constexpr = HEADS * WIDTH
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    index, inside = image * tokens + token, token < tokens
    weights = attention_weights(read_tokens(q, head * WIDTH, index, inside, C, WIDTH, BLOCK_D), k, valid, SCALE)
    y = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    write_tokens(out, y, head * WIDTH, index, inside, C, WIDTH, BLOCK_D)


@triton.jit
def _backward(
    q,
    kv,
    mask,
    dy,
    dq,
    partials,
    tokens,
    keys,
    SCALE: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TOKENS: tl.constexpr,
    KEYS: tl.constexpr,
    SPLIT: tl.constexpr,
):
    split, image, head = tl.program_id(1), (tl.program_id(0) // HEADS).to(tl.int64), tl.program_id(0) % HEADS
    k, v, valid = _read_keys(kv, mask, image, head, keys, HEADS, WIDTH, BLOCK_D, KEYS)
    C: tl.constexpr = HEADS * WIDTH
    dk, dv = tl.zeros((KEYS, BLOCK_D), tl.float32), tl.zeros((KEYS, BLOCK_D), tl.float32)
    for step in range(0, SPLIT, TOKENS):
        token = split * SPLIT + step + tl.arange(0, TOKENS)
        index, inside = image * tokens + token, token < tokens
        x = read_tokens(q, head * WIDTH, index, inside, C, WIDTH, BLOCK_D)
        g = read_tokens(dy, head * WIDTH, index, inside, C, WIDTH, BLOCK_D)
        dx, more_dk, more_dv = attention_gradients(x, k, v, attention_weights(x, k, valid, SCALE), g, SCALE)
        dk += more_dk
        dv += more_dv
        write_tokens(dq, dx, head * WIDTH, index, inside, C, WIDTH, BLOCK_D)
    key = tl.arange(0, KEYS)
    index = (split * tl.num_programs(0) // HEADS + image) * keys + key
    write_tokens(partials, dk, head * WIDTH, index, key < keys, 2 * C, WIDTH, BLOCK_D)
    write_tokens(partials, dv, C + head * WIDTH, index, key < keys, 2 * C, WIDTH, BLOCK_D)


@triton_op("twins::few_keys_attention", mutates_args=())
def few_keys_attention(q: Tensor, kv: Tensor, mask: Tensor | None, heads: int, scale: float) -> Tensor:
    """Attention from every token of an image to its keys; zeros for an image without a valid key.

    Args:
        q: queries `(B, N, h * d)`.
        kv: keys and values side by side, `(B, M, 2 * h * d)`.
        mask: key mask, bool `(B, M)`, true where a key is valid; `None` when all are.
        heads: `h`.
        scale: factor of the scores.

    Returns:
        attention output before projection, `(B, N, h * d)`.
    """
    q, kv = q.contiguous(), kv.contiguous()
    out = torch.empty_like(q)
    arguments = (q, kv, None if mask is None else mask.contiguous(), out, q.shape[1], kv.shape[1])
    with on_device(q):
        wrap_triton(_forward)[(q.shape[0] * heads, triton.cdiv(q.shape[1], _TOKENS))](
            *arguments, SCALE=scale, **_constants(q, kv, heads)
        )
    return out


@triton_op("twins::few_keys_attention_backward", mutates_args=())
def few_keys_attention_backward(
    dy: Tensor, q: Tensor, kv: Tensor, mask: Tensor | None, heads: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `q` and of `kv`."""
    q, kv, dy = q.contiguous(), kv.contiguous(), dy.contiguous()
    dq = torch.empty_like(q)
    count = triton.cdiv(q.shape[1], _SPLIT)
    partials = kv.new_empty((count, *kv.shape), dtype=torch.float32)
    arguments = (q, kv, None if mask is None else mask.contiguous(), dy, dq, partials, q.shape[1], kv.shape[1])
    with on_device(q):
        wrap_triton(_backward)[(q.shape[0] * heads, count)](
            *arguments, SCALE=scale, SPLIT=_SPLIT, **_constants(q, kv, heads)
        )
    return dq, partials.sum(0).to(kv.dtype)


def _constants(q: Tensor, kv: Tensor, heads: int) -> dict[str, int]:
    width = q.shape[-1] // heads
    return {
        "HEADS": heads,
        "WIDTH": width,
        "BLOCK_D": tile(width),
        "TOKENS": _TOKENS,
        "KEYS": tile(kv.shape[1]),
        "num_warps": _WARPS if q.dtype != torch.float32 else 2 * _WARPS,
        "num_stages": 3 if q.dtype != torch.float32 else 2,
    }


def _save_for_backward(ctx, inputs, output) -> None:
    q, kv, mask, *ctx.rest = inputs
    ctx.save_for_backward(q, kv, mask)


def _autograd_backward(ctx, dy):
    return *few_keys_attention_backward(dy, *ctx.saved_tensors, *ctx.rest), None, None, None


few_keys_attention.register_autograd(_autograd_backward, setup_context=_save_for_backward)
