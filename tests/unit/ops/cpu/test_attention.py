"""Folded attention gives the result of attention between both projections, and is chosen where it is less work."""

from __future__ import annotations

import pytest
import torch

from twins.ops.attention import attend, split_heads
from twins.ops.chunks import ALL
from twins.ops.cpu.attention import attend_folded, fold_heads
from twins.ops.dispatch import should_fold_heads


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_folded_attention_is_attention(heads):
    torch.manual_seed(0)
    x, residual = (torch.randn(2, 5, 6, 8, dtype=torch.float64) for _ in range(2))
    cells = torch.randn(2, 7, 16, dtype=torch.float64)
    k, v = split_heads(cells, 2, heads)
    q, proj = (torch.nn.Linear(8, 8).double() for _ in range(2))
    (queries,) = split_heads(q(x.flatten(1, 2)), 1, heads)
    expected = residual + proj(attend(queries, k, v, scale=0.3).transpose(1, 2).reshape(x.shape))
    folded = fold_heads(k, v, q.weight, q.bias, proj.weight, proj.bias, scale=0.3)
    torch.testing.assert_close(attend_folded(x, residual, folded, ALL, ALL), expected, rtol=0, atol=1e-12)
    part = attend_folded(x, residual, folded, slice(1, 2), slice(2, 4))
    torch.testing.assert_close(part, expected[1:2, 2:4], rtol=0, atol=1e-12)


def test_folding_pays_for_many_tokens_and_few_keys():
    early, late = torch.zeros(1, 56, 56, 64), torch.zeros(1, 7, 7, 512)
    with torch.no_grad():
        assert should_fold_heads(early, torch.zeros(1, 2, 49, 32))
        assert not should_fold_heads(early, torch.zeros(1, 2, 1024, 32))
        assert not should_fold_heads(late, torch.zeros(1, 16, 49, 32))
    assert not should_fold_heads(early, torch.zeros(1, 2, 49, 32))  # with a gradient
