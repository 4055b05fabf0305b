"""The one door to scaled dot-product attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from twins.ops import kernels
from twins.ops.precision import emulated
from twins.ops.tracing import exporting


def attend_to_keys(
    q: Tensor, kv: Tensor, heads: int, keys: Tensor | None = None, *, dropout: float = 0.0, scale: float | None = None
) -> Tensor:
    """Return `attend` of projections as they lie, heads side by side.

    Args:
        q: queries `(B, N, h * d)`.
        kv: keys and values side by side, `(B, M, 2 * h * d)`.
        heads: `h`.
        keys: as in `attend`.
        dropout: as there.
        scale: as there.

    Returns:
        `(B, N, h * d)`.
    """
    held = kernels.hold(kv.shape[1], q.shape[2], heads)
    if held and not dropout and kernels.serves(q) and q.dtype == kv.dtype:
        from twins.ops.kernels.keys import few_keys_attention as fused

        keys = None if keys is None else expand_keys(keys, q.shape[0])
        return fused(q, kv, keys, heads, (q.shape[2] // heads) ** -0.5 if scale is None else scale)
    (queries,) = split_heads(q, 1, heads)
    k, v = split_heads(kv, 2, heads)
    return attend(queries, k, v, keys, dropout=dropout, scale=scale).transpose(1, 2).flatten(2)


def attend(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None = None, *, dropout: float = 0.0, scale: float | None = None
) -> Tensor:
    """Scaled dot-product attention; a row with no valid key gives zeros.

    Args:
        q: queries `(B, h, N, d)`.
        k: keys `(B, h, M, d)`.
        v: values `(B, h, M, d)`.
        keys: bool `(B or a divisor of B, M)`, true where a key may be seen; `None` when all may. With fewer rows
            than `B` they repeat.
        dropout: probability of dropping an attention weight.
        scale: factor of the scores; `None` is `d ** -0.5`.

    Returns:
        `(B, h, N, d)`.
    """
    if emulated(q):
        return attend(q.float(), k.float(), v.float(), keys, dropout=dropout, scale=scale).to(q.dtype)
    products = _attend_by_products if _products_are_faster(q, k) else F.scaled_dot_product_attention
    if keys is None:
        return products(q, k, v, None, dropout, scale=scale)
    keys = expand_keys(keys, q.shape[0])
    seen = keys.any(dim=1)[:, None, None, None]  # (B, 1, 1, 1)
    mask = keys[:, None, None, :] | ~seen  # a row with no key attends everywhere and is zeroed below
    if exporting():
        mask = mask.expand(-1, -1, q.shape[2], -1)  # ONNX Runtime's operator wants a row for each query
    y = products(q, k, v, mask, dropout, scale=scale)
    return torch.where(seen, y, y.new_zeros(()))


def _products_are_faster(q: Tensor, k: Tensor) -> bool:
    """Whether two batched matrix products beat the fused kernel: on a CPU, over the 49 keys of Twins.

    The fused CPU kernel is made for long rows of keys. Against it the products take a half of the time in bfloat16
    (a seventh with the backward pass), and nine tenths in float32 until the scores outgrow the cache.
    """
    few = k.shape[-2] <= 64 and (q.dtype == torch.bfloat16 or q.shape[-2] <= 1024)
    return few and q.device.type == "cpu" and not exporting()


def _attend_by_products(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, *, scale: float | None
) -> Tensor:
    batch, heads, tokens, width = q.shape
    q, k, v = (x.reshape(batch * heads, -1, width) for x in (q, k, v))
    factor = width**-0.5 if scale is None else scale
    scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=factor)
    if mask is not None:
        scores = scores.view(batch, heads, tokens, -1).masked_fill_(~mask, -torch.inf).flatten(0, 1)
    weights = F.dropout(scores.softmax(dim=-1), dropout)
    return torch.bmm(weights, v).view(batch, heads, tokens, width)


def attention_weights(q: Tensor, k: Tensor, keys: Tensor | None = None, *, scale: float | None = None) -> Tensor:
    """Return the weights `(B, h, N, M)` by which `attend` mixes values; arguments as there."""
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)
    if keys is None:
        return scores.softmax(dim=-1)
    mask = expand_keys(keys, q.shape[0])[:, None, None, :]
    return scores.masked_fill(~mask, -torch.inf).softmax(dim=-1).nan_to_num(0.0)


def expand_keys(keys: Tensor, batch: int) -> Tensor:
    """Repeat a mask `(G, M)` until it has `batch` rows."""
    return keys if keys.shape[0] == batch else keys.repeat(batch // keys.shape[0], 1)


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """View `(B, N, parts * h * d)` as `parts` tensors of `(B, h, N, d)`, without a copy."""
    batch, tokens, width = x.shape
    x = x.view(batch, tokens, parts, heads, width // (parts * heads))
    return x.transpose(1, 3).unbind(2)
