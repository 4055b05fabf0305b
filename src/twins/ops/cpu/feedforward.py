"""The feed-forward part in training as one autograd function, in chunks of rows that share their buffers.

It calls standard operators only, so that tools which count or record operators see all of its work.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from twins.ops import chunks


class ChunkedFeedForward(torch.autograd.Function):
    """`twins.ops.feedforward.feed_forward` with its own backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, keep_hidden: bool) -> Tensor:
        """Return `(..., C_out)`; tensors as in `feed_forward`, `keep_hidden` keeps the hidden map before the GELU."""
        rows = x.reshape(-1, x.shape[-1])
        parts = _parts(rows, w1)
        active = rows.new_empty(_longest(parts), len(w1))
        hidden = rows.new_empty(len(rows), len(w1)) if keep_hidden else None
        y = rows.new_empty(len(rows), len(w2))
        for part in parts:
            a = active[: part.stop - part.start]
            h = torch.addmm(b1, rows[part], w1.t(), out=a if hidden is None else hidden[part])
            torch.ops.aten.gelu.out(h, out=a)
            torch.addmm(b2, a, w2.t(), out=y[part])
        ctx.save_for_backward(x, w1, b1, w2, b2, hidden)
        return y.view(*x.shape[:-1], len(w2))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the arguments of `forward` from the gradient of its result, `(..., C_out)`."""
        *inputs, hidden = ctx.saved_tensors
        if torch.is_grad_enabled():  # second derivatives are asked for
            return _differentiable_gradients(inputs, gradients[0], ctx.needs_input_grad)
        x, w1, b1, w2, _ = inputs
        rows, dy = x.reshape(-1, x.shape[-1]), gradients[0].reshape(-1, len(w2))
        parts = _parts(rows, w1)
        recomputed, active, dhidden = (rows.new_empty(_longest(parts), len(w1)) for _ in range(3))
        dx, dw1, db1, dw2 = torch.empty_like(rows), torch.zeros_like(w1), torch.zeros_like(b1), torch.zeros_like(w2)
        for part in parts:
            a, dh, h = (buffer[: part.stop - part.start] for buffer in (active, dhidden, recomputed))
            h = torch.addmm(b1, rows[part], w1.t(), out=h) if hidden is None else hidden[part]
            torch.mm(dy[part], w2, out=dh)
            if any(ctx.needs_input_grad[1:]):
                torch.addmm(dw2, dy[part].t(), torch.ops.aten.gelu.out(h, out=a), out=dw2)
            torch.ops.aten.gelu_backward.grad_input(dh, h, grad_input=dh)
            if any(ctx.needs_input_grad[1:]):
                torch.addmm(dw1, dh.t(), rows[part], out=dw1)
                db1.add_(dh.sum(0))
            torch.mm(dh, w1, out=dx[part])
        return dx.view(x.shape), dw1, db1, dw2, dy.sum(0), None


def _parts(rows: Tensor, w1: Tensor) -> list[slice]:
    return chunks.chunk_slices(len(rows), len(w1) * rows.element_size(), chunks.HIDDEN_BYTES_TRAINING)


def _longest(parts: list[slice]) -> int:
    return max((part.stop - part.start for part in parts), default=0)


def _differentiable_gradients(inputs: list[Tensor], dy: Tensor, needed: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    """Return the gradients of the inputs that need one, computed by operators that have gradients themselves."""
    leaves = [value for value, need in zip(inputs, needed, strict=False) if need]
    x, w1, b1, w2, b2 = inputs
    y = F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)
    gradients = iter(torch.autograd.grad(y, leaves, dy, create_graph=True))
    return tuple(next(gradients) if need else None for need in needed)
