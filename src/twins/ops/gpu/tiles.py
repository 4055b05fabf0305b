"""What several kernels do with a tile of tokens: find, load and store it, norm it, let it attend, and the way back."""

from __future__ import annotations

import triton
import triton.language as tl

_LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def place_tokens(
    limits, height, width, rows, columns, GROUPS: tl.constexpr, WINDOW: tl.constexpr, TOKENS: tl.constexpr
):
    """Return this program's window and group, its tokens' places in the batch, and which lie in the map or are keys."""
    window, group = tl.program_id(0) // GROUPS, tl.program_id(0) % GROUPS
    down, across = tl.cdiv(height, WINDOW), tl.cdiv(width, WINDOW)
    image, inner = window // (down * across), window % (down * across)
    token = tl.arange(0, TOKENS)
    row = inner // across * WINDOW + token // WINDOW
    column = inner % across * WINDOW + token % WINDOW
    if limits is not None:
        rows = tl.load(limits + 2 * image)
        columns = tl.load(limits + 2 * image + 1)
    real = token < WINDOW * WINDOW
    inside = real & (row < height) & (column < width)
    keys = real & (row < rows) & (column < columns)
    place = (image.to(tl.int64) * height + row) * width + column
    return window, group, place, inside, keys


@triton.jit
def softmax(q, k, keys, SCALE: tl.constexpr):
    """Return the weights of queries `(TOKENS, LANES)` on keys `(KEYS, LANES)`, `(TOKENS, KEYS)` in float32.

    They are zeros where there is no key.
    """
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (SCALE * _LOG2_E)
    scores = tl.where(keys[None, :], scores, -float("inf"))
    top = tl.max(scores, 1)
    top = tl.where(top == -float("inf"), 0.0, top)
    weights = tl.exp2(scores - top[:, None])
    total = tl.sum(weights, 1)
    return weights / tl.where(total == 0.0, 1.0, total)[:, None]


@triton.jit
def attention_gradients(q, k, v, weights, dy, SCALE: tl.constexpr):
    """Return the gradients of queries, keys and values in float32, from the weights and that of the result."""
    dv = tl.dot(tl.trans(weights.to(dy.dtype)), dy, input_precision="ieee")
    dweights = tl.dot(dy, tl.trans(v), input_precision="ieee")
    dscores = weights * (dweights - tl.sum(weights * dweights, 1)[:, None])
    dscores = (dscores * SCALE).to(k.dtype)
    dq = tl.dot(dscores, k, input_precision="ieee")
    dk = tl.dot(tl.trans(dscores), q, input_precision="ieee")
    return dq, dk, dv


@triton.jit
def standardise(x, mask, EPS: tl.constexpr, CHANNELS: tl.constexpr):
    """Return rows `(ROWS, LANES)` with mean 0 and variance 1, and the factor `(ROWS, 1)` that made it 1."""
    centred = tl.where(mask, x - (tl.sum(x, 1) / CHANNELS)[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 1) / CHANNELS + EPS)[:, None]
    return centred * scale, scale


@triton.jit
def read_tokens(x, start, place, inside, row_width, WIDTH: tl.constexpr, LANES: tl.constexpr):
    """Load `WIDTH` channels of tokens from one on, `(TOKENS, LANES)`; zeros beyond them."""
    lane = tl.arange(0, LANES)
    mask = inside[:, None] & (lane < WIDTH)[None, :]
    return tl.load(x + place[:, None] * row_width + start + lane[None, :], mask=mask, other=0.0)


@triton.jit
def write_tokens(x, y, start, place, inside, row_width, WIDTH: tl.constexpr, LANES: tl.constexpr):
    """Store `WIDTH` channels of tokens, of `(TOKENS, LANES)`, from one on."""
    lane = tl.arange(0, LANES)
    mask = inside[:, None] & (lane < WIDTH)[None, :]
    tl.store(x + place[:, None] * row_width + start + lane[None, :], y.to(x.dtype.element_ty), mask=mask)
