"""Attention to a few keys by batched products, and with its projections folded into the keys and values.

A query is a linear function of its token, and the output one of the attended values. Where an image has many tokens
and few keys, it is less work to bring both functions to the keys, once an image, than to every token:
`(x Wq) K^T = x (Wq K^T)` and `(P V) Wo = P (V Wo)`. Heads then lie side by side and no layout changes.
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
    q, k, v = (x.reshape(batch * heads, -1, width) for x in (q, k, v))
    factor = width**-0.5 if scale is None else scale
    scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=factor)
    if mask is not None:
        scores = scores.view(batch, heads, tokens, -1).masked_fill_(~mask, -torch.inf).flatten(0, 1)
    weights = F.dropout(scores.softmax(dim=-1), dropout)
    return torch.bmm(weights, v).view(batch, heads, tokens, width)


class FoldedHeads(NamedTuple):
    """What every token of an image needs to attend, `h` heads of `M` keys side by side."""

    keys: Tensor
    """`(B, C, h * M)`, the scale included."""
    offsets: Tensor
    """What the queries' bias adds to the scores, `(B, 1, h * M)`."""
    values: Tensor
    """`(B, h * M, C)`, a share of the output's bias included: the weights of each head sum to 1."""
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
    """Fold the query's and the output's projection, weights `(C, C)`, into keys and values `(B, h, M, d)`."""
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
    """Return attention with both projections, added to the residual, for a chunk of a map.

    Args:
        x: normed map `(B, H, W, C)`.
        residual: map of the same shape.
        folded: keys and values of its images.
        images: the chunk's images.
        rows: the chunk's rows.
    """
    rest = residual[images, rows]
    scores = torch.baddbmm(folded.offsets[images], x[images, rows].flatten(1, 2), folded.keys[images])
    weights = scores.view(*scores.shape[:2], folded.heads, -1).softmax(dim=-1).flatten(2)  # (B, N, h * M)
    return torch.baddbmm(rest.flatten(1, 2), weights, folded.values[images]).view(rest.shape)
