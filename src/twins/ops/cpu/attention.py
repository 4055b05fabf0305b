"""Attention to few keys: as batched matrix products, and with both projections folded into the keys and values.

Queries are a linear layer of the tokens, and the output is a linear layer of the attended values. If an image has
many tokens and few keys, it is less work to apply both layers to the keys and values than to every token:
`(x Wq) K^T = x (Wq K^T)` and `(P V) Wo = P (V Wo)`. No layout changes for the heads: they stay side by side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def attend_by_products(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, *, scale: float | None
) -> Tensor:
    """Return `F.scaled_dot_product_attention` of the same arguments, as two products and a softmax."""
    batch, heads, tokens, width = q.shape
    q, k, v = (x.reshape(batch * heads, -1, width) for x in (q, k, v))  # (B * h, N or M, d)
    factor = width**-0.5 if scale is None else scale
    scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=factor)  # (B * h, N, M)
    if mask is not None:
        scores = scores.view(batch, heads, tokens, -1).masked_fill_(~mask, -torch.inf).flatten(0, 1)
    weights = F.dropout(scores.softmax(dim=-1), dropout)
    return torch.bmm(weights, v).view(batch, heads, tokens, width)


class FoldedHeads(NamedTuple):
    """Keys and values with the query and output projections folded in; `h` heads of `M` keys side by side."""

    keys: Tensor
    """`(B, C, h * M)`, times the scale."""
    offsets: Tensor
    """Constant part of the scores, from the bias of the query projection, `(B, 1, h * M)`."""
    values: Tensor
    """`(B, h * M, C)`; includes the bias of the output projection, divided by `h` as each head's weights sum to 1."""
    heads: int
    """`h`."""


def fold_heads(
    k: Tensor,
    v: Tensor,
    query_weight: Tensor,
    query_bias: Tensor,
    output_weight: Tensor,
    output_bias: Tensor,
    *,
    scale: float,
) -> FoldedHeads:
    """Fold the query and output projections, weights `(C, C)`, into keys and values `(B, h, M, d)`."""
    batch, heads, keys, width = k.shape
    k = k * scale
    queries = query_weight.view(heads, width, -1)  # (h, d, C)
    outputs = output_weight.view(-1, heads, width).permute(1, 2, 0)  # (h, d, C)
    offsets = k @ query_bias.view(heads, width, 1)  # (B, h, M, 1)
    values = v @ outputs + output_bias / heads  # (B, h, M, C)
    return FoldedHeads(
        keys=(k @ queries).view(batch, heads * keys, -1).transpose(1, 2),
        offsets=offsets.view(batch, 1, heads * keys),
        values=values.view(batch, heads * keys, -1),
        heads=heads,
    )


def attend_folded(x: Tensor, residual: Tensor, folded: FoldedHeads, images: slice, rows: slice) -> Tensor:
    """Return the residual plus attention with both projections, for a chunk of a map.

    Args:
        x: normed map `(B, H, W, C)`.
        residual: map of the same shape.
        folded: keys and values of all images of the map.
        images: images of the chunk.
        rows: rows of the chunk.
    """
    residual = residual[images, rows]
    tokens = x[images, rows].flatten(1, 2)  # (B, N, C)
    scores = torch.baddbmm(folded.offsets[images], tokens, folded.keys[images])  # (B, N, h * M)
    weights = scores.view(*scores.shape[:2], folded.heads, -1).softmax(dim=-1).flatten(2)  # (B, N, h * M)
    return torch.baddbmm(residual.flatten(1, 2), weights, folded.values[images]).view(residual.shape)
