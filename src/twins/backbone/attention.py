"""The two attentions of Twins: within local windows (LSA), and from every token to sub-sampled keys (GSA)."""

from __future__ import annotations

from torch import Tensor, nn

from twins.backbone.layers import PATCH_NORM_EPS, CellConvolution, Linear
from twins.ops.attention import attend, attention_weights, split_heads
from twins.ops.padding import Padding, fit_cells, inside, pad_to_multiple, reduce_sizes
from twins.ops.windows import split_window_heads, window_attention, window_key_mask


class LocalAttention(nn.Module):
    """Locally-grouped self-attention, LSA (paper, section 3.3): tokens see the tokens of their own window."""

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window: int,
        *,
        padding: Padding,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads, self.window, self.padding, self.attn_drop = num_heads, window, padding, attn_drop
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Attend within the windows of a map `(B, H, W, C)` that is zero outside `sizes`."""
        y = window_attention(
            x,
            self.qkv,
            self.window,
            self.num_heads,
            padding=self.padding,
            sizes=sizes,
            dropout=self.attn_drop if self.training else 0.0,
        )
        return self.proj_drop(self.proj(y))

    def weights(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return the attention weights `(B, G, h, S, S)` of a normed map `(B, H, W, C)`; windows row by row."""
        _, height, width, _ = x.shape
        projected = self.qkv(pad_to_multiple(x, self.window))  # (B, H, W, 3 * C)
        q, k, _ = split_window_heads(projected, self.window, 3, self.num_heads)
        keys = window_key_mask(height, width, self.window, padding=self.padding, sizes=sizes, device=x.device)
        weights = attention_weights(q, k, keys)  # (B * G, h, S, S)
        return weights.view(x.shape[0], -1, *weights.shape[1:])


class GlobalAttention(nn.Module):
    """Global sub-sampled attention, GSA (paper, section 3.3): every token sees one key per cell of the map."""

    def __init__(
        self,
        channels: int,
        num_heads: int,
        cell: int,
        *,
        padding: Padding,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads, self.cell, self.padding, self.attn_drop = num_heads, cell, padding, attn_drop
        self.q = Linear(channels, channels)
        self.kv = Linear(channels, 2 * channels)
        self.proj = Linear(channels, channels)
        self.proj_drop = nn.Dropout(proj_drop)
        if cell > 1:
            self.sr = CellConvolution(channels, channels, cell)
            self.norm = nn.LayerNorm(channels, eps=PATCH_NORM_EPS)

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Attend from every token of a map `(B, H, W, C)`, zero outside `sizes`, to its sub-sampled keys."""
        q, k, v, keys = self._project(x, sizes)
        y = attend(q, k, v, keys, dropout=self.attn_drop if self.training else 0.0)
        y = self.proj(y.transpose(1, 2).flatten(2))  # (B, N, C)
        return self.proj_drop(y.view(x.shape))

    def weights(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return the attention weights `(B, h, H * W, K)` of a normed map; the `K` cells are listed row by row."""
        q, k, _, keys = self._project(x, sizes)
        return attention_weights(q, k, keys)

    def key_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return how many rows and columns of cells a map of `height` x `width` tokens has."""
        if self.padding == "exact":
            return -(-height // self.cell), -(-width // self.cell)
        return height // self.cell, width // self.cell

    def _project(self, x: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        (q,) = split_heads(self.q(x.flatten(1, 2)), 1, self.num_heads)
        cells, keys = self._subsample(x, sizes)
        k, v = split_heads(self.kv(cells.flatten(1, 2)), 2, self.num_heads)
        return q, k, v, keys

    def _subsample(self, x: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return one token per cell `(B, H', W', C)`, and which of them lie in an image, `(B, H' * W')`."""
        if self.cell > 1:
            x = fit_cells(x, self.cell, self.padding)
            x = self.norm(self.sr(x))
            sizes = reduce_sizes(sizes, self.cell, self.padding)
        keys = None if sizes is None else inside(sizes, x.shape[1], x.shape[2]).flatten(1)
        return x, keys


Attention = LocalAttention | GlobalAttention
