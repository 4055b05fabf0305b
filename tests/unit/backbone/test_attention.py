"""The two attentions against the paper's definition written out, and their attention weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from twins.backbone.attention import GlobalAttention, LocalAttention
from twins.errors import InputError


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_local_attention_equals_attention_inside_each_window_alone():
    attn = LocalAttention(8, 2, 3, padding="exact").double()
    x = torch.randn(2, 7, 5, 8, dtype=torch.float64)
    y = attn(x)
    for top in range(0, 7, 3):
        for left in range(0, 5, 3):
            window = x[:, top : top + 3, left : left + 3]  # smaller at the border: padding is not a key
            q, k, v = attn.qkv(window.flatten(1, 2)).view(2, -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
            expected = ((q @ k.transpose(2, 3)) / 2).softmax(3) @ v
            expected = attn.proj(expected.transpose(1, 2).flatten(2)).view(window.shape)
            torch.testing.assert_close(y[:, top : top + 3, left : left + 3], expected)


def test_global_attention_equals_attention_to_a_strided_convolution():
    attn = GlobalAttention(8, 2, 2, padding="exact").double()
    x = torch.randn(2, 6, 4, 8, dtype=torch.float64)
    cells = attn.norm(
        F.conv2d(x.permute(0, 3, 1, 2), attn.sr.weight, attn.sr.bias, stride=2).flatten(2).transpose(1, 2)
    )
    q = attn.q(x.flatten(1, 2)).view(2, 24, 2, 4).transpose(1, 2)
    k, v = attn.kv(cells).view(2, 6, 2, 2, 4).permute(2, 0, 3, 1, 4)
    expected = ((q @ k.transpose(2, 3)) / 2).softmax(3) @ v
    expected = attn.proj(expected.transpose(1, 2).flatten(2)).view(x.shape)
    torch.testing.assert_close(attn(x), expected)


@pytest.mark.parametrize("sizes", [None, torch.tensor([[7, 5], [4, 5]])])
def test_attention_weights_are_probabilities_over_valid_keys(sizes):
    x = torch.randn(2, 7, 5, 8)
    local = LocalAttention(8, 2, 3, padding="exact").weights(x, sizes)
    assert local.shape == (2, 6, 2, 9, 9)
    sums = local.sum(-1)
    assert ((sums - 1).abs() < 1e-5).logical_or(sums == 0).all()
    assert not local[0, 1, :, :, [2, 5, 8]].any()  # the third column of the right windows is padding
    attn = GlobalAttention(8, 2, 2, padding="exact")
    weights = attn.weights(x, sizes)
    assert weights.shape == (2, 2, 35, 12)
    assert attn.key_grid(7, 5) == (4, 3)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 35))


@pytest.mark.parametrize("padding", ["exact", "reference", "unmasked"])
@pytest.mark.parametrize("shape", [(6, 9), (7, 5), (7, 6)])
@pytest.mark.parametrize("sizes", [None, torch.tensor([[6, 5], [4, 2]])])
def test_the_weights_of_one_token_are_its_row_of_the_full_weights(padding, shape, sizes):
    height, width = shape
    x = torch.randn(2, height, width, 8, dtype=torch.float64)
    local = LocalAttention(8, 2, 3, padding=padding).double()
    subsampled = GlobalAttention(8, 2, 2, padding=padding).double()
    local.fill = subsampled.fill = torch.randn(8, dtype=torch.float64)
    windows, keys = local.weights(x, sizes), subsampled.weights(x, sizes)
    for row in range(height):
        for column in range(width):
            window, inside = row // 3 * -(-width // 3) + column // 3, row % 3 * 3 + column % 3
            one = local.weights(x, sizes, token=(row, column))
            torch.testing.assert_close(one, windows[:, window, :, inside], rtol=0, atol=1e-12)
            one = subsampled.weights(x, sizes, token=(row, column))
            torch.testing.assert_close(one, keys[:, :, row * width + column], rtol=0, atol=1e-12)


@pytest.mark.parametrize("token", [(7, 0), (0, 5), (-1, 0)])
def test_a_token_outside_the_map_is_refused(token):
    for attn in (LocalAttention(8, 2, 3, padding="exact"), GlobalAttention(8, 2, 2, padding="exact")):
        with pytest.raises(InputError, match="7 x 5 tokens"):
            attn.weights(torch.randn(1, 7, 5, 8), token=token)


def test_a_window_without_a_valid_key_gives_zeros_before_the_projection():
    attn = LocalAttention(8, 2, 3, padding="exact")
    torch.nn.init.eye_(attn.proj.weight)
    torch.nn.init.zeros_(attn.proj.bias)
    y = attn(torch.randn(1, 6, 6, 8), torch.tensor([[3, 6]]))
    assert y[:, :3].abs().min() > 0
    assert not y[:, 3:].any()
