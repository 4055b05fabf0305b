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
        return None if self.valid is None else self.valid.expand(batch, -1).reshape(-1, self.side**2)

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
    tokens = side**2
    index = torch.arange(rows * columns * tokens)
    cell, token = index // tokens, index % tokens
    row = cell // columns
    column = cell - row * columns  # ONNX export has no remainder by a symbol
    y, x = row * side + token // side, column * side + token % side
    order = back = valid = None
    if side > 1:
        order = y.clamp(max=height - 1) * width + x.clamp(max=width - 1)
        index = torch.arange(height * width)
        row = index // width
        column = index - row * width
        cell, token = row // side * columns + column // side, row % side * side + column % side
        back = cell * tokens + token
    if sizes is not None:
        valid = (y < sizes[:, :1]) & (x < sizes[:, 1:])
    elif not (is_divided(height, side) and is_divided(width, side)):
        valid = ((y < height) & (x < width))[None]
    return Cells(side, rows, columns, order, back, valid, sizes is not None)
