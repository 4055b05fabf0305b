"""Pieces of a map that a CPU takes one after the other, so that what it makes of each stays in the cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_AT_ONCE = 1 << 20
"""Bytes of the part of a map that is taken at a time on a CPU; attention makes some six times as much of it."""


WHOLE = slice(None)
"""All images, or all rows."""


def by_pieces(compute: Callable[[slice, slice], Tensor], x: Tensor, multiple: int = 1) -> Tensor:
    """Put a map together from its pieces: all at once, but on a CPU without a gradient.

    Args:
        compute: returns, of some images and rows of all columns, that part of the result; or of the `WHOLE`.
        x: map `(B, H, W, C)`; the result has its height and width.
        multiple: pieces end at a multiple of it, or at the last row.
    """
    found = _pieces(x, multiple)
    if len(found) < 2:
        return compute(WHOLE, WHOLE)
    first = compute(*found[0])
    y = first.new_empty(*x.shape[:3], first.shape[3])
    y[found[0]] = first
    for piece in found[1:]:
        y[piece] = compute(*piece)
    return y


def _pieces(x: Tensor, multiple: int) -> list[tuple[slice, slice]]:
    """Return images and rows of `_AT_ONCE` bytes: some images, or some rows of one; none where all go at once."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or x.device.type != "cpu" or not x.numel():
        return []
    batch, height = x.shape[:2]
    image = x[0].numel() * x.element_size()
    if image <= _AT_ONCE:
        return [(images, WHOLE) for images in _ranges(batch, _AT_ONCE // image)]
    count = max(1, _AT_ONCE * height // (image * multiple)) * multiple
    return [(slice(at, at + 1), rows) for at in range(batch) for rows in _ranges(height, count)]


def _ranges(length: int, count: int) -> list[slice]:
    return [slice(at, min(at + count, length)) for at in range(0, length, count)]
