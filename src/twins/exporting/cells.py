"""The cells of a map: its windows, patches and cells of sub-sampling, whose tokens are gathered by index.

The sides of a map are ints, or symbols while a network is traced with open sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from twins.ops.padding import count_cells, is_divided


@dataclass(frozen=True)
class Cells:
    """The cells of a map of `N = H * W` tokens: `M` cells, row by row, of `S = side ** 2` tokens each."""

    side: int
    """Side of a cell in tokens."""
    rows: int
    """Rows of cells."""
    columns: int
    """Columns of cells."""
    order: Tensor | None
    """Index of each token, cell by cell, `(M * S,)`; of another token where it is padded. `None` in row order."""
    back: Tensor | None
    """Index of each token of the map among those listed cell by cell, `(N,)`; `None` in row order."""
    valid: Tensor | None
    """Whether a token is inside its image, bool `(B, M * S)`, or `(1, M * S)` if images fill the map.

    `None` if every token is known to be inside.
    """
    of_images: bool
    """Whether images have true sizes; otherwise a cell always has tokens of its image."""

    def gather(self, tokens: Tensor) -> Tensor:
        """Return tokens `(B, N, C)` cell by cell, `(B, M * S, C)`; a padded one is any token of the map."""
        return tokens if self.order is None else tokens.index_select(1, self.order)

    def gather_zeroed(self, tokens: Tensor) -> Tensor:
        """Return tokens `(B, N, C)` cell by cell, `(B, M * S, C)`, zero where they are not inside their image."""
        x = self.gather(tokens)
        return x if self.valid is None else x * self.valid[..., None].to(x.dtype)

    def gather_back(self, tokens: Tensor) -> Tensor:
        """Inverse of `gather`: return tokens `(B, N, C)` for `(B, M * S, C)`."""
        return tokens if self.back is None else tokens.index_select(1, self.back)

    def token_mask(self, batch: int) -> Tensor | None:
        """Return which tokens of a cell are inside their image, bool `(B * M, S)`, or `None` if every one is."""
        if self.valid is None:
            return None
        valid = self.valid
        if not self.of_images:  # `expand` to an open batch would exclude a batch of 1
            valid = valid.index_select(0, torch.zeros(batch, dtype=torch.int64))
        return valid.reshape(-1, self.side**2)

    def cell_mask(self) -> Tensor | None:
        """Return which cells are inside their image, in part or whole, bool `(B, M)`, or `None` if every one is."""
        return self.valid[:, :: self.side**2] if self.valid is not None and self.of_images else None


def cells_of(height: int, width: int, side: int, sizes: Tensor | None) -> Cells:
    """Return the cells of a map.

    Args:
        height: height of the map in tokens.
        width: width of the map in tokens.
        side: side of a cell in tokens.
        sizes: true sizes `(B, 2)` of images on the map; `None` if images fill it.
    """
    rows, columns = count_cells(height, side), count_cells(width, side)
    y = torch.arange(rows * side).view(rows, 1, side, 1)
    x = torch.arange(columns * side).view(columns, 1, side)
    order = back = valid = None
    if side > 1:
        order = (y.clamp(max=height - 1) * width + x.clamp(max=width - 1)).flatten()  # (R, C, S, S) cell by cell
        index = torch.arange(rows * columns * side**2).view(rows, columns, side, side)
        index = contiguous_copy(index.transpose(1, 2)).view(rows * side, columns * side)
        back = contiguous_copy(index[:height, :width]).flatten()
    if sizes is not None:
        heights, widths = sizes[:, :, None, None, None, None].unbind(1)
        valid = ((y < heights) & (x < widths)).flatten(1)
    elif not (is_divided(height, side) and is_divided(width, side)):
        valid = ((y < height) & (x < width)).flatten()[None]
    return Cells(side, rows, columns, order, back, valid, sizes is not None)


def contiguous_copy(x: Tensor) -> Tensor:
    """Return a contiguous copy, traced without the guard that sides are larger than 1; a product copies anyway."""
    return x.clone(memory_format=torch.contiguous_format)
