"""Maps computed in chunks on a CPU, so that intermediate results stay in the cache, and the byte limits of chunks."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from twins.ops import dispatch

MAP_BYTES = 1 << 20
"""Size of a chunk of a map in attention; the intermediate results are some six times as large."""
HIDDEN_BYTES = 4 << 20
"""Size of a chunk of a hidden map in inference: it fits in the cache, and the allocator reuses its memory."""
HIDDEN_BYTES_TRAINING = 16 << 20
"""Size of a chunk of a hidden map in training: larger ones need fresh pages, smaller ones make slower products."""
HIDDEN_BYTES_COMPILED = 32 << 20
"""Largest hidden map that compiled code computes in one call: the allocator gives larger ones fresh pages each time."""
ALL = slice(None)
"""All images, or all rows."""


def chunk_slices(length: int, size: int, limit: int, multiple: int = 1) -> list[slice]:
    """Cut `length` items of `size` bytes each into slices of at most `limit` bytes.

    Slices start at multiples of `multiple` items, and have at least that many even if the limit is smaller.
    """
    count = max(1, limit // (size * multiple)) * multiple
    return [slice(first, min(first + count, length)) for first in range(0, length, count)]


def in_chunks(compute: Callable[[slice, slice], Tensor], x: Tensor, multiple: int = 1) -> Tensor:
    """Compute a map in chunks on a CPU without gradients, otherwise in one call.

    Args:
        compute: function of a slice of images and a slice of rows, each of which may be `ALL`; returns this part
            of the result with all columns.
        x: input map `(B, H, W, C)`; the result has its batch, height and width.
        multiple: chunks of rows start at multiples of this, such as the side of a window.
    """
    parts = _map_chunks(x, multiple) if x.numel() and dispatch.should_chunk(x) else []
    if len(parts) < 2:
        return compute(ALL, ALL)
    first = compute(*parts[0])
    y = first.new_empty(*x.shape[:3], first.shape[3])
    y[parts[0]] = first
    for part in parts[1:]:
        y[part] = compute(*part)
    return y


def _map_chunks(x: Tensor, multiple: int) -> list[tuple[slice, slice]]:
    """Return images and rows of chunks of at most `MAP_BYTES`: whole images, or some rows of one image."""
    batch, height = x.shape[:2]
    row_bytes = x[0, 0].numel() * x.element_size()
    if height * row_bytes <= MAP_BYTES:
        return [(images, ALL) for images in chunk_slices(batch, height * row_bytes, MAP_BYTES)]
    rows = chunk_slices(height, row_bytes, MAP_BYTES, multiple)
    return [(slice(image, image + 1), part) for image in range(batch) for part in rows]
