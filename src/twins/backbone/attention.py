"""The two attentions of Twins: within local windows (LSA), and from all tokens to sub-sampled keys (GSA)."""

from __future__ import annotations

from torch import Tensor, nn

from twins.backbone.layers import PATCH_NORM_EPS, CellConvolution, Linear
from twins.errors import InputError
from twins.ops import dispatch
from twins.ops.attention import attend_to_keys, attention_weights, split_heads
from twins.ops.chunks import in_chunks
from twins.ops.cpu.attention import attend_folded, fold_heads
from twins.ops.padding import Padding, fit_cells, pad_to_multiple, reduce_sizes, valid_mask
from twins.ops.windows import split_window_heads, window_attention, window_key_mask


class LocalAttention(nn.Module):
    """Locally-grouped self-attention, LSA (paper, section 3.3): a token attends to the tokens of its own window.

    Attributes:
        scale: factor of the scores.
        fill: fill value for padding, `(C,)`; `None` is zeros. See `twins.backbone.fused`.
    """

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
        self.scale = (channels // num_heads) ** -0.5
        self.register_buffer("fill", None, persistent=False)
        self.fill: Tensor | None
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return window attention over a normed map `(B, H, W, C)`, which holds the fill value outside `sizes`."""
        return self.proj_drop(self.proj(self.attend(x, sizes)))

    def forward_add(self, x: Tensor, residual: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return `residual + self(x, sizes)`, for inference."""
        return self.proj.forward_add(self.attend(x, sizes), residual)

    def weights(self, x: Tensor, sizes: Tensor | None = None, token: tuple[int, int] | None = None) -> Tensor:
        """Return the attention weights for a normed map `(B, H, W, C)`, windows row by row.

        Args:
            x: normed map, which holds the fill value outside `sizes`.
            sizes: true sizes `(B, 2)` of the images inside the map, in tokens.
            token: row and column of a token; only its weights are computed.

        Returns:
            `(B, G, h, S, S)`, or for one token `(B, h, S)`, to the tokens of its window.

        Raises:
            InputError: the token is outside the map.
        """
        if token is not None:
            return self._token_weights(x, sizes, token)
        _, height, width, _ = x.shape
        projected = self.qkv(pad_to_multiple(x, self.window, self.fill))  # (B, H, W, 3 * C)
        q, k, _ = split_window_heads(projected, self.window, 3, self.num_heads)  # (B * G, h, S, d)
        mask = window_key_mask(height, width, self.window, padding=self.padding, sizes=sizes, device=x.device)
        weights = attention_weights(q, k, mask, scale=self.scale)  # (B * G, h, S, S)
        return weights.view(x.shape[0], -1, *weights.shape[1:])

    def _token_weights(self, x: Tensor, sizes: Tensor | None, token: tuple[int, int]) -> Tensor:
        """Return the attention weights `(B, h, S)` of one token; its window alone is projected."""
        _, height, width, _ = x.shape
        _check_token(token, height, width)
        side = self.window
        top, left = (position // side * side for position in token)
        window = x[:, top : top + side, left : left + side]
        projected = self.qkv(pad_to_multiple(window, side, self.fill))  # (B, w, w, 3 * C)
        q, k, _ = split_window_heads(projected, side, 3, self.num_heads)  # (B, h, S, d)
        mask = window_key_mask(height, width, side, padding=self.padding, sizes=sizes, device=x.device)
        if mask is not None:
            mask = mask.view(-1, -(-height // side), -(-width // side), side**2)  # (B or 1, rows, columns, S)
            mask = mask[:, top // side, left // side]
        query = q[:, :, (token[0] - top) * side + token[1] - left, None]  # (B, h, 1, d)
        return attention_weights(query, k, mask, scale=self.scale)[:, :, 0]

    def attend(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return the attention output before projection, `(B, H, W, C)`; arguments as in `forward`."""
        return window_attention(
            x,
            self.qkv,
            self.window,
            self.num_heads,
            padding=self.padding,
            sizes=sizes,
            dropout=self.attn_drop if self.training else 0.0,
            scale=self.scale,
            fill=self.fill,
        )


class GlobalAttention(nn.Module):
    """Global sub-sampled attention, GSA (paper, section 3.3): all tokens attend to one key per cell of the map.

    Attributes:
        scale: factor of the scores.
        fill: fill value for padding, `(C,)`; `None` is zeros. See `twins.backbone.fused`.
    """

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
        self.scale = (channels // num_heads) ** -0.5
        self.register_buffer("fill", None, persistent=False)
        self.fill: Tensor | None
        self.q = Linear(channels, channels)
        self.kv = Linear(channels, 2 * channels)
        self.proj = Linear(channels, channels)
        self.proj_drop = nn.Dropout(proj_drop)
        if cell > 1:
            self.sr = CellConvolution(channels, channels, cell)
            self.norm = nn.LayerNorm(channels, eps=PATCH_NORM_EPS)

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return global attention over a normed map `(B, H, W, C)`, which holds the fill value outside `sizes`."""
        return self.proj_drop(self.proj(self.attend(x, sizes)))

    def attend(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return the attention output before projection, `(B, H, W, C)`; arguments as in `forward`."""
        kv, mask = self._keys_and_values(x, sizes)
        dropout = self.attn_drop if self.training else 0.0
        q = self.q(x.flatten(1, 2))  # (B, N, C)
        y = attend_to_keys(q, kv, self.num_heads, mask, dropout=dropout, scale=self.scale)
        return y.view(x.shape)

    def forward_add(self, x: Tensor, residual: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return `residual + self(x, sizes)`, for inference; on a CPU in chunks of the map."""
        kv, mask = self._keys_and_values(x, sizes)
        k, v = split_heads(kv, 2, self.num_heads)
        if mask is None and dispatch.should_fold_heads(x, k):
            folded = fold_heads(k, v, self.q.weight, self.q.bias, self.proj.weight, self.proj.bias, scale=self.scale)
            return in_chunks(lambda images, rows: attend_folded(x, residual, folded, images, rows), x)

        def chunk(images: slice, rows: slice) -> Tensor:
            part, key_mask = residual[images, rows], None if mask is None else mask[images]
            q = self.q(x[images, rows].flatten(1, 2))  # (B, N, C)
            y = attend_to_keys(q, kv[images], self.num_heads, key_mask, scale=self.scale)
            return self.proj.forward_add(y.view(part.shape), part)

        return in_chunks(chunk, x)

    def weights(self, x: Tensor, sizes: Tensor | None = None, token: tuple[int, int] | None = None) -> Tensor:
        """Return the attention weights to each key, one per cell, cells row by row.

        Args:
            x: normed map `(B, H, W, C)`, which holds the fill value outside `sizes`.
            sizes: true sizes `(B, 2)` of the images inside the map, in tokens.
            token: row and column of a token; only its weights are computed.

        Returns:
            `(B, h, H * W, M)`, or for one token `(B, h, M)`.

        Raises:
            InputError: the token is outside the map.
        """
        if token is not None:
            _check_token(token, x.shape[1], x.shape[2])
        queries = x.flatten(1, 2) if token is None else x[:, token[0], token[1], None]  # (B, N, C), of one token N = 1
        kv, mask = self._keys_and_values(x, sizes)
        k, _ = split_heads(kv, 2, self.num_heads)  # (B, h, M, d)
        (q,) = split_heads(self.q(queries), 1, self.num_heads)  # (B, h, N, d)
        weights = attention_weights(q, k, mask, scale=self.scale)
        return weights if token is None else weights[:, :, 0]

    def key_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of cells of a map of `height` x `width` tokens."""
        if self.padding == "exact":
            return -(-height // self.cell), -(-width // self.cell)
        return height // self.cell, width // self.cell

    def _keys_and_values(self, x: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the keys and values of a normed map, `(B, M, 2 * C)`, and their key mask `(B, M)` or `None`."""
        cells, mask = self._subsample(x, sizes)
        return self.kv(cells.flatten(1, 2)), mask

    def _subsample(self, x: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return one token per cell, `(B, H', W', C)`, and their key mask `(B, H' * W')` or `None`."""
        if self.cell > 1:
            x = fit_cells(x, self.cell, self.padding, self.fill)
            x = self.norm(self.sr(x))
            sizes = reduce_sizes(sizes, self.cell, self.padding)
        mask = None if sizes is None else valid_mask(sizes, x.shape[1], x.shape[2]).flatten(1)
        return x, mask


def _check_token(token: tuple[int, int], height: int, width: int) -> None:
    if not (0 <= token[0] < height and 0 <= token[1] < width):
        raise InputError(f"`token` must be a row and column of a map of {height} x {width} tokens, found {token}")


Attention = LocalAttention | GlobalAttention
