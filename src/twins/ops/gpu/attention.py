"""Attention from many tokens to a few keys, on projections in their own layout: no head is copied.

A program takes one head of some tokens of an image. All keys fill one tile, so the softmax needs no second pass, and
the backward pass recomputes it from the projections, which are all that is kept.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from twins.ops.gpu.launch import on_device, tile, wrap_triton
from twins.ops.gpu.tiles import attention_gradients, read_tokens, softmax, write_tokens

_WARPS, _TOKENS = 4, 64
"""Warps of a program in half precision, and tokens that it holds at a time."""
_SHARE = 512
"""Tokens that one program of the backward pass sums over; the sums are added in one order, so that a run repeats."""


@triton.jit
def _keys(
    kv, mask, image, head, keys, HEADS: tl.constexpr, WIDTH: tl.constexpr, LANES: tl.constexpr, KEYS: tl.constexpr
):
    """Load keys and values of a head of an image, `(KEYS, LANES)` both, and which of them may be seen."""
    C: tl.constexpr = HEADS * WIDTH
    key = tl.arange(0, KEYS)
    seen = key < keys
    place = image * keys + key
    k = read_tokens(kv, head * WIDTH, place, seen, 2 * C, WIDTH, LANES)
    v = read_tokens(kv, C + head * WIDTH, place, seen, 2 * C, WIDTH, LANES)
    if mask is not None:
        seen = seen & (tl.load(mask + place, mask=seen, other=0) != 0)
    return k, v, seen


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
    LANES: tl.constexpr,
    TOKENS: tl.constexpr,
    KEYS: tl.constexpr,
):
    image, head = (tl.program_id(0) // HEADS).to(tl.int64), tl.program_id(0) % HEADS
    k, v, seen = _keys(kv, mask, image, head, keys, HEADS, WIDTH, LANES, KEYS)
    C: tl.constexpr = HEADS * WIDTH
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    place, inside = image * tokens + token, token < tokens
    weights = softmax(read_tokens(q, head * WIDTH, place, inside, C, WIDTH, LANES), k, seen, SCALE)
    y = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    write_tokens(out, y, head * WIDTH, place, inside, C, WIDTH, LANES)


@triton.jit
def _backward(
    q,
    kv,
    mask,
    dy,
    dq,
    shares,
    tokens,
    keys,
    SCALE: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    LANES: tl.constexpr,
    TOKENS: tl.constexpr,
    KEYS: tl.constexpr,
    SHARE: tl.constexpr,
):
    share, image, head = tl.program_id(1), (tl.program_id(0) // HEADS).to(tl.int64), tl.program_id(0) % HEADS
    k, v, seen = _keys(kv, mask, image, head, keys, HEADS, WIDTH, LANES, KEYS)
    C: tl.constexpr = HEADS * WIDTH
    dk, dv = tl.zeros((KEYS, LANES), tl.float32), tl.zeros((KEYS, LANES), tl.float32)
    for step in range(0, SHARE, TOKENS):
        token = share * SHARE + step + tl.arange(0, TOKENS)
        place, inside = image * tokens + token, token < tokens
        x = read_tokens(q, head * WIDTH, place, inside, C, WIDTH, LANES)
        g = read_tokens(dy, head * WIDTH, place, inside, C, WIDTH, LANES)
        dx, more_dk, more_dv = attention_gradients(x, k, v, softmax(x, k, seen, SCALE), g, SCALE)
        dk += more_dk
        dv += more_dv
        write_tokens(dq, dx, head * WIDTH, place, inside, C, WIDTH, LANES)
    key = tl.arange(0, KEYS)
    place = (share * tl.num_programs(0) // HEADS + image) * keys + key
    write_tokens(shares, dk, head * WIDTH, place, key < keys, 2 * C, WIDTH, LANES)
    write_tokens(shares, dv, C + head * WIDTH, place, key < keys, 2 * C, WIDTH, LANES)


@triton_op("twins::few_keys_attention", mutates_args=())
def few_keys_attention(q: Tensor, kv: Tensor, mask: Tensor | None, heads: int, scale: float) -> Tensor:
    """Attend from every token of an image to its keys; a token of an image without a key gets zeros.

    Args:
        q: queries `(B, N, h * d)`.
        kv: keys and values side by side, `(B, M, 2 * h * d)`.
        mask: bool `(B, M)`, which keys may be seen; `None` when all may.
        heads: `h`.
        scale: factor of the scores.

    Returns:
        `(B, N, h * d)`.
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
    count = triton.cdiv(q.shape[1], _SHARE)
    shares = kv.new_empty((count, *kv.shape), dtype=torch.float32)
    arguments = (q, kv, None if mask is None else mask.contiguous(), dy, dq, shares, q.shape[1], kv.shape[1])
    with on_device(q):
        wrap_triton(_backward)[(q.shape[0] * heads, count)](
            *arguments, SCALE=scale, SHARE=_SHARE, **_constants(q, kv, heads)
        )
    return dq, shares.sum(0).to(kv.dtype)


def _constants(q: Tensor, kv: Tensor, heads: int) -> dict[str, int]:
    width = q.shape[-1] // heads
    return {
        "HEADS": heads,
        "WIDTH": width,
        "LANES": tile(width),
        "TOKENS": _TOKENS,
        "KEYS": tile(kv.shape[1]),
        "num_warps": _WARPS if q.dtype != torch.float32 else 2 * _WARPS,
        "num_stages": 3 if q.dtype != torch.float32 else 2,
    }


def _keep(ctx, inputs, output) -> None:
    q, kv, mask, *ctx.rest = inputs
    ctx.save_for_backward(q, kv, mask)


def _differentiate(ctx, dy):
    return *few_keys_attention_backward(dy, *ctx.saved_tensors, *ctx.rest), None, None, None


few_keys_attention.register_autograd(_differentiate, setup_context=_keep)
