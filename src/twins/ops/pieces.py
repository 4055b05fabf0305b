"""Pieces of a map that a CPU takes one after the other, so that what it makes of each stays in the cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_AT_ONCE = 1 << 20
"""Bytes of the part of a map that is taken at a time on a CPU; attention makes some six times as much of it."""


def by_pieces(compute: Callable[[slice, slice], Tensor], x: Tensor, multiple: int = 1) -> Tensor:
    """Put a map like `x` together from its pieces, images and rows in order; all at once but on a CPU.

    Args:
        compute: returns, of some images and rows of all columns, that part of the result.
        x: map `(B, H, W, C)`.
        multiple: pieces end at a multiple of it, or at the last row.
    """
    found = _pieces(x, multiple)
    if len(found) == 1:
        return compute(*found[0])
    y = torch.empty_like(x)
    for images, rows in found:
        y[images, rows] = compute(images, rows)
    return y


def _pieces(x: Tensor, multiple: int) -> list[tuple[slice, slice]]:
    batch, height = x.shape[:2]
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return [(slice(0, batch), slice(0, height))]
    image = x[0].numel() * x.element_size()
    if image <= _AT_ONCE:
        count = _AT_ONCE // image
        return [(slice(at, min(at + count, batch)), slice(0, height)) for at in range(0, batch, count)]
    count = max(1, _AT_ONCE * height // (image * multiple)) * multiple
    return [
        (slice(at, at + 1), slice(row, min(row + count, height)))
        for at in range(batch)
        for row in range(0, height, count)
    ]
