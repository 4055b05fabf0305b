"""Two linear layers with a GELU between them, and how little of them the backward pass needs kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from twins.ops.linear import linear, linear_gelu, plain_on_cpu
from twins.ops.recompute import recomputed

Keep = Literal["all", "hidden", "input"]
"""What the backward pass finds kept: everything, all but the GELU's result, or the input alone."""
_AT_ONCE = 16 << 20
"""Bytes of a hidden map that a training step on a CPU takes at a time: larger ones cost fresh pages, and products
over fewer rows are slower."""


def feed_forward(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, *, keep: Keep = "all") -> Tensor:
    """Return `linear(gelu(linear(x, w1, b1)), w2, b2)`.

    On a CPU, with a gradient, forward and backward pass take some rows at a time, and no more than the hidden map
    before the GELU is ever kept. Every choice of `keep` gives the same gradients to the bit.

    Args:
        x: `(..., C_in)`.
        w1: `(C_hidden, C_in)`.
        b1: `(C_hidden,)`.
        w2: `(C_out, C_hidden)`.
        b2: `(C_out,)`.
        keep: what is kept for the backward pass; the rest is computed again there.

    Returns:
        `(..., C_out)`.
    """
    if _pieces_serve(x, w1, b1, w2, b2):
        return _InPieces.apply(x, w1, b1, w2, b2, keep != "input")
    if keep == "input" and torch.is_grad_enabled():
        return checkpoint(_whole, x, w1, b1, w2, b2, use_reentrant=False)
    if keep == "all" or not torch.is_grad_enabled():
        return _whole(x, w1, b1, w2, b2)
    hidden = linear(x, w1, b1)
    active = F.gelu(hidden)
    with recomputed(active, lambda: F.gelu(hidden)):
        return linear(active, w2, b2)


def _whole(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return linear(linear_gelu(x, w1, b1), w2, b2)


def _pieces_serve(*tensors: Tensor) -> bool:
    """Whether rows are taken some at a time: where a gradient is recorded on a CPU in a precision that sums can be
    gathered in.
    """
    return (
        not torch.compiler.is_compiling()  # first: a compiler cannot look into the rest
        and torch.is_grad_enabled()
        and tensors[0].dtype in (torch.float32, torch.float64)
        and plain_on_cpu(*tensors)
    )


def _parts(rows: Tensor, hidden: int) -> Iterator[slice]:
    """Yield slices of `rows` `(N, C)`, of as many as have a hidden map of `_AT_ONCE` bytes."""
    count = max(1, _AT_ONCE // (hidden * rows.element_size()))
    for first in range(0, len(rows), count):
        yield slice(first, min(first + count, len(rows)))


class _InPieces(torch.autograd.Function):
    """The whole part as one operator, on a CPU; buffers of a piece's size are used again for the next one.

    It is made of operators that those who count and record know.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, keep_hidden: bool) -> Tensor:
        """Return the part's output `(..., C_out)`; tensors as in `feed_forward`, `keep_hidden` for the way back."""
        rows = x.reshape(-1, x.shape[-1])
        parts = list(_parts(rows, len(w1)))
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
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of what `forward` takes, from that of its output `(..., C_out)`."""
        *inputs, hidden = ctx.saved_tensors
        if torch.is_grad_enabled():  # of these gradients gradients are wanted
            return _differentiable(inputs, slopes[0], ctx.needs_input_grad)
        x, w1, b1, w2, _ = inputs
        rows, dy = x.reshape(-1, x.shape[-1]), slopes[0].reshape(-1, len(w2))
        parts = list(_parts(rows, len(w1)))
        again, active, slope = (rows.new_empty(_longest(parts), len(w1)) for _ in range(3))
        dx, dw1, db1, dw2 = torch.empty_like(rows), torch.zeros_like(w1), torch.zeros_like(b1), torch.zeros_like(w2)
        for part in parts:
            a, d, h = (buffer[: part.stop - part.start] for buffer in (active, slope, again))
            h = torch.addmm(b1, rows[part], w1.t(), out=h) if hidden is None else hidden[part]
            torch.mm(dy[part], w2, out=d)
            if any(ctx.needs_input_grad[1:]):
                torch.addmm(dw2, dy[part].t(), torch.ops.aten.gelu.out(h, out=a), out=dw2)
            torch.ops.aten.gelu_backward.grad_input(d, h, grad_input=d)
            if any(ctx.needs_input_grad[1:]):
                torch.addmm(dw1, d.t(), rows[part], out=dw1)
                db1.add_(d.sum(0))
            torch.mm(d, w1, out=dx[part])
        return dx.view(x.shape), dw1, db1, dw2, dy.sum(0), None


def _longest(parts: list[slice]) -> int:
    return max((part.stop - part.start for part in parts), default=0)


def _differentiable(inputs: list[Tensor], dy: Tensor, needed: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    """Return the gradients of the inputs that need one by operators that have gradients themselves."""
    wanted = [value for value, need in zip(inputs, needed, strict=False) if need]
    x, w1, b1, w2, b2 = inputs
    y = F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)
    found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True))
    return tuple(next(found) if need else None for need in needed)
