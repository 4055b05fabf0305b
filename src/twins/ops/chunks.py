"""Maps in chunks that a CPU takes one after the other, so that what it makes of each stays in the cache."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from twins.ops import dispatch

MAP_BYTES = 1 << 20
"""Bytes of the part of a map that attention takes at a time; it makes some six times as much of it."""
HIDDEN_BYTES = 4 << 20
"""Bytes of a hidden map for inference: it stays in the cache, and in memory that the allocator does not give back."""
HIDDEN_BYTES_TRAINING = 16 << 20
"""Bytes of a hidden map in a training step: larger ones cost fresh pages, products over fewer rows are slower."""
HIDDEN_BYTES_COMPILED = 32 << 20
"""Bytes of a hidden map that compiled code still makes whole: an allocator gives larger ones fresh pages every time."""
ALL = slice(None)
"""All images, or all rows."""


def chunk_slices(length: int, size: int, limit: int, multiple: int = 1) -> list[slice]:
    """Cut `length` items of `size` bytes into chunks of at most `limit` bytes, each a multiple of `multiple` items."""
    count = max(1, limit // (size * multiple)) * multiple
    return [slice(first, min(first + count, length)) for first in range(0, length, count)]


def in_chunks(compute: Callable[[slice, slice], Tensor], x: Tensor, multiple: int = 1) -> Tensor:
    """Compute a map in chunks on a CPU without gradients, otherwise in one call.

    Args:
        compute: returns some images and rows of the result, all columns; or the `ALL`.
        x: map `(B, H, W, C)`; the result has its height and width.
        multiple: chunks end at a multiple of so many rows, or at the last one.
    """
    parts = _parts(x, multiple) if x.numel() and dispatch.should_chunk(x) else []
    if len(parts) < 2:
        return compute(ALL, ALL)
    first = compute(*parts[0])
    y = first.new_empty(*x.shape[:3], first.shape[3])
    y[parts[0]] = first
    for part in parts[1:]:
        y[part] = compute(*part)
    return y


def _parts(x: Tensor, multiple: int) -> list[tuple[slice, slice]]:
    """Return images and rows of `MAP_BYTES` bytes: some images, or some rows of one."""
    batch, height = x.shape[:2]
    row = x[0, 0].numel() * x.element_size()
    if height * row <= MAP_BYTES:
        return [(images, ALL) for images in chunk_slices(batch, height * row, MAP_BYTES)]
    return [(slice(at, at + 1), rows) for at in range(batch) for rows in chunk_slices(height, row, MAP_BYTES, multiple)]
