"""Device functions on a tile of tokens that several kernels share: locate, load, store, softmax, norm, gradients."""

from __future__ import annotations

import triton
import triton.language as tl

_LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def locate_tokens(
    limits, height, width, rows, columns, GROUPS: tl.constexpr, WINDOW: tl.constexpr, TOKENS: tl.constexpr
):
    """Locate the window of this program.

    Returns the window in the batch, the group of heads, and of each token its index, whether it is inside the map and
    whether it is a key. Keys end at `rows` and `columns`, or at the image's own `limits`.
    """
    window, group = tl.program_id(0) // GROUPS, tl.program_id(0) % GROUPS
    down, across = tl.cdiv(height, WINDOW), tl.cdiv(width, WINDOW)
    image, inner = window // (down * across), window % (down * across)
    token = tl.arange(0, TOKENS)
    row = inner // across * WINDOW + token // WINDOW
    column = inner % across * WINDOW + token % WINDOW
    if limits is not None:
        rows = tl.load(limits + 2 * image)
        columns = tl.load(limits + 2 * image + 1)
    in_window = token < WINDOW * WINDOW
    inside = in_window & (row < height) & (column < width)
    is_key = in_window & (row < rows) & (column < columns)
    index = (image.to(tl.int64) * height + row) * width + column
    return window, group, index, inside, is_key


@triton.jit
def attention_weights(q, k, is_key, SCALE: tl.constexpr):
    """Return the attention weights `(TOKENS, KEYS)` of queries `(TOKENS, BLOCK)` and keys `(KEYS, BLOCK)`, in float32.

    All are zeros where no key is valid.
    """
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (SCALE * _LOG2_E)
    scores = tl.where(is_key[None, :], scores, -float("inf"))
    top = tl.max(scores, 1)
    top = tl.where(top == -float("inf"), 0.0, top)
    weights = tl.exp2(scores - top[:, None])
    total = tl.sum(weights, 1)
    return weights / tl.where(total == 0.0, 1.0, total)[:, None]


@triton.jit
def attention_gradients(q, k, v, weights, dy, SCALE: tl.constexpr):
    """Return the gradients of queries, keys and values in float32, from the attention weights and `dy`."""
    dv = tl.dot(tl.trans(weights.to(dy.dtype)), dy, input_precision="ieee")
    dweights = tl.dot(dy, tl.trans(v), input_precision="ieee")
    dscores = weights * (dweights - tl.sum(weights * dweights, 1)[:, None])
    dscores = (dscores * SCALE).to(k.dtype)
    dq = tl.dot(dscores, k, input_precision="ieee")
    dk = tl.dot(tl.trans(dscores), q, input_precision="ieee")
    return dq, dk, dv


@triton.jit
def standardise(x, mask, EPS: tl.constexpr, CHANNELS: tl.constexpr):
    """Return rows `(ROWS, BLOCK)` with mean 0 and variance 1, and the inverse standard deviations `(ROWS, 1)`."""
    centred = tl.where(mask, x - (tl.sum(x, 1) / CHANNELS)[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 1) / CHANNELS + EPS)[:, None]
    return centred * scale, scale


@triton.jit
def read_tokens(x, start, index, inside, row_width, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Load the channels `start` to `start + WIDTH` of tokens, `(TOKENS, BLOCK)`; zeros elsewhere."""
    channel = tl.arange(0, BLOCK)
    mask = inside[:, None] & (channel < WIDTH)[None, :]
    return tl.load(x + index[:, None] * row_width + start + channel[None, :], mask=mask, other=0.0)


@triton.jit
def write_tokens(x, y, start, index, inside, row_width, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Store a tile `(TOKENS, BLOCK)` to the channels `start` to `start + WIDTH` of tokens."""
    channel = tl.arange(0, BLOCK)
    mask = inside[:, None] & (channel < WIDTH)[None, :]
    tl.store(x + index[:, None] * row_width + start + channel[None, :], y.to(x.dtype.element_ty), mask=mask)
