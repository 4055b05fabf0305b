"""Scaled dot-product attention with a key mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from twins.ops import dispatch
from twins.ops.cpu.attention import attend_by_products
from twins.ops.private_torch import is_exporting


def attend_to_keys(
    q: Tensor,
    kv: Tensor,
    heads: int,
    key_mask: Tensor | None = None,
    *,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """Multi-head attention on projections as linear layers give them: heads side by side in the channels.

    Args:
        q: queries `(B, N, h * d)`.
        kv: keys and values side by side, `(B, M, 2 * h * d)`.
        heads: `h`.
        key_mask: as in `attend`.
        dropout: as in `attend`.
        scale: as in `attend`.

    Returns:
        attention output before projection, `(B, N, h * d)`.
    """
    if dispatch.can_use_keys_kernel(q, kv, heads, dropout):
        from twins.ops.gpu.attention import few_keys_attention as kernel

        key_mask = None if key_mask is None else repeat_key_mask(key_mask, q.shape[0])
        return kernel(q, kv, key_mask, heads, (q.shape[2] // heads) ** -0.5 if scale is None else scale)
    (queries,) = split_heads(q, 1, heads)  # (B, h, N, d)
    k, v = split_heads(kv, 2, heads)  # (B, h, M, d)
    return attend(queries, k, v, key_mask, dropout=dropout, scale=scale).transpose(1, 2).flatten(2)


def attend(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, *, dropout: float = 0.0, scale: float | None = None
) -> Tensor:
    """Scaled dot-product attention; where every key is masked, the result is zeros.

    Args:
        q: queries `(B, h, N, d)`.
        k: keys `(B, h, M, d)`.
        v: values `(B, h, M, d)`.
        key_mask: bool `(B, M)`, true where a key is valid; `None` when all are. A mask of fewer rows, a divisor of `B`,
            is repeated.
        dropout: probability of dropping an attention weight.
        scale: factor of the scores; `None` is `d ** -0.5`.

    Returns:
        `(B, h, N, d)`.
    """
    if dispatch.should_compute_in_float32(q):
        return attend(q.float(), k.float(), v.float(), key_mask, dropout=dropout, scale=scale).to(q.dtype)
    attention = attend_by_products if dispatch.should_attend_by_products(q, k) else F.scaled_dot_product_attention
    if key_mask is None:
        return attention(q, k, v, None, dropout, scale=scale)
    key_mask = repeat_key_mask(key_mask, q.shape[0])
    has_key = key_mask.any(dim=1)[:, None, None, None]  # (B, 1, 1, 1)
    mask = key_mask[:, None, None, :] | ~has_key  # a softmax over no key is NaN: attend to all, zeroed below
    if is_exporting():
        mask = mask.expand(-1, -1, q.shape[2], -1)  # (B, 1, N, M): ONNX Runtime does not broadcast over queries
    y = attention(q, k, v, mask, dropout, scale=scale)
    return torch.where(has_key, y, y.new_zeros(()))


def attention_weights(q: Tensor, k: Tensor, key_mask: Tensor | None = None, *, scale: float | None = None) -> Tensor:
    """Return the attention weights `(B, h, N, M)` of `attend` for the same arguments."""
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)
    if key_mask is None:
        return scores.softmax(dim=-1)
    mask = repeat_key_mask(key_mask, q.shape[0])[:, None, None, :]
    return scores.masked_fill(~mask, -torch.inf).softmax(dim=-1).nan_to_num(0.0)


def repeat_key_mask(key_mask: Tensor, batch: int) -> Tensor:
    """Repeat a key mask `(G, M)` along its first dimension until it has `batch` rows."""
    return key_mask if key_mask.shape[0] == batch else key_mask.repeat(batch // key_mask.shape[0], 1)


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """View `(B, N, parts * h * d)` as `parts` tensors `(B, h, N, d)`, without a copy."""
    batch, tokens, channels = x.shape
    x = x.view(batch, tokens, parts, heads, channels // (parts * heads))
    return x.transpose(1, 3).unbind(2)  # of (B, h, parts, N, d)
