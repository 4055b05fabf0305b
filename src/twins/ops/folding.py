"""Attention to a few keys with its projections folded into the keys and values: the same products in another order.

A query is a linear function of its token, and the output one of the attended values. Where an image has many tokens
and few keys, it is less work to bring both functions to the keys, once an image, than to every token:
`(x Wq) K^T = x (Wq K^T)` and `(P V) Wo = P (V Wo)`. Heads then lie side by side and nothing is laid out anew.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from twins.ops.linear import plain_on_cpu
from twins.ops.precision import emulated


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


def folding_pays(x: Tensor, k: Tensor) -> bool:
    """Whether to fold: on a CPU without a gradient, where products and copies saved outweigh what folding costs.

    Args:
        x: map `(B, H, W, C)`.
        k: keys `(B, h, M, d)`.
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or emulated(x) or not plain_on_cpu(x, k):
        return False
    if torch._C._len_torch_dispatch_stack():  # who counts operators counts the network's own
        return False
    tokens, channels = x.shape[1] * x.shape[2], x.shape[3]
    heads, keys = k.shape[1], k.shape[2]
    plain = tokens * 2 * channels * (channels + keys)
    folded = 2 * heads * keys * channels * (tokens + channels // heads)
    return folded < plain


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
    """Return attention with both projections, added to the residual, for a piece of a map.

    Args:
        x: normed map `(B, H, W, C)`.
        residual: map of the same shape.
        folded: what its images are attended by.
        images: the piece's images.
        rows: the piece's rows.
    """
    rest = residual[images, rows]
    scores = torch.baddbmm(folded.offsets[images], x[images, rows].flatten(1, 2), folded.keys[images])
    weights = scores.view(*scores.shape[:2], folded.heads, -1).softmax(dim=-1).flatten(2)  # (B, N, h * M)
    return torch.baddbmm(rest.flatten(1, 2), weights, folded.values[images]).view(rest.shape)
