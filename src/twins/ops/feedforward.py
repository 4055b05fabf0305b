"""The feed-forward part of a block, with a choice of tensors to keep for the backward pass; others are recomputed."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from twins.ops import dispatch
from twins.ops.cpu.feedforward import ChunkedFeedForward
from twins.ops.linear import linear, linear_add, linear_gelu
from twins.ops.recompute import recomputed

Keep = Literal["all", "hidden", "input"]
"""Tensors kept for the backward pass: `all`; `hidden`, all except the result of the GELU; `input`, only the input."""


def feed_forward(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, *, keep: Keep = "all") -> Tensor:
    """Return `linear(gelu(linear(x, w1, b1)), w2, b2)`.

    Gradients are the same to the bit for every `keep`. On a CPU with a gradient, both passes compute the rows in
    chunks, and `all` keeps no more than `hidden`.

    Args:
        x: `(..., C_in)`.
        w1: `(C_hidden, C_in)`.
        b1: `(C_hidden,)`.
        w2: `(C_out, C_hidden)`.
        b2: `(C_out,)`.
        keep: tensors kept for the backward pass; the others are recomputed there.

    Returns:
        `(..., C_out)`.
    """
    if dispatch.should_chunk_feed_forward(x, w1, b1, w2, b2):
        return ChunkedFeedForward.apply(x, w1, b1, w2, b2, keep != "input")
    if keep == "all" or not torch.is_grad_enabled():
        return _two_linear_layers(x, w1, b1, w2, b2)
    if keep == "input":
        return checkpoint(_two_linear_layers, x, w1, b1, w2, b2, use_reentrant=False)
    hidden = linear(x, w1, b1)
    active = F.gelu(hidden)
    with recomputed(active, lambda: F.gelu(hidden)):
        return linear(active, w2, b2)


def feed_forward_add(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, residual: Tensor, *, packed: bool = False
) -> Tensor:
    """Return `feed_forward(x, w1, b1, w2, b2) + residual`, for inference; `packed` as in `linear`."""
    if packed and dispatch.should_use_packed_operators(x, w1):
        return torch.ops.twins.packed_feed_forward_add(x, w1, b1, w2, b2, residual)
    return linear_add(linear_gelu(x, w1, b1, packed=packed), w2, b2, residual, packed=packed)


def _two_linear_layers(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return linear(linear_gelu(x, w1, b1), w2, b2)
