"""Attention: both forms agree in values and gradients, with and without a key mask."""

import pytest
import torch
import torch.nn.functional as F

from twins.ops import dispatch
from twins.ops.attention import attend, attention_weights


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("by_products", [True, False], ids=["products", "fused"])
def test_both_forms_agree_with_the_definition(by_products, masked, monkeypatch):
    monkeypatch.setattr(dispatch, "should_attend_by_products", lambda q, k: by_products)
    q, k, v = (torch.randn(3, 2, 9, 4, dtype=torch.float64).requires_grad_() for _ in range(3))
    key_mask = torch.rand(3, 9) > 0.4 if masked else None
    if key_mask is not None:
        key_mask[1] = False  # a row without a valid key
    y = attend(q, k, v, key_mask)
    expected = attention_weights(q, k, key_mask) @ v
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=0)
    gradients = torch.autograd.grad(y.square().sum(), (q, k, v))
    if key_mask is None:  # in a row without a valid key the definition has a gradient of NaN
        for one, other in zip(gradients, torch.autograd.grad(expected.square().sum(), (q, k, v)), strict=True):
            torch.testing.assert_close(one, other, atol=1e-12, rtol=0)
    assert all(g.isfinite().all() for g in gradients)


def test_the_form_follows_the_number_of_keys():
    few, many = torch.zeros(1, 2, 49, 8), torch.zeros(1, 2, 256, 8)
    assert dispatch.should_attend_by_products(few, few)
    assert not dispatch.should_attend_by_products(few, many)
    assert not dispatch.should_attend_by_products(torch.zeros(1, 2, 3136, 8), few)
    assert dispatch.should_attend_by_products(torch.zeros(1, 2, 3136, 8, dtype=torch.bfloat16), few)


@pytest.mark.parametrize("tokens", [16, 49])
def test_dropout_keeps_the_expectation(tokens):
    torch.manual_seed(0)
    q = torch.zeros(4000, 1, 1, 4)
    k = torch.zeros(4000, 1, tokens, 4)
    y = attend(q, k, torch.ones_like(k), dropout=0.5)
    assert y.std() > 0
    assert abs(y.mean().item() - 1.0) < 0.02


def test_products_and_fused_kernel_agree_in_bfloat16():
    torch.manual_seed(0)
    q, k, v = (torch.randn(8, 2, 49, 32).bfloat16() for _ in range(3))
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    fused = (F.scaled_dot_product_attention(q, k, v).double() - exact).abs().mean()
    products = (attend(q, k, v).double() - exact).abs().mean()
    assert products < 2 * fused
