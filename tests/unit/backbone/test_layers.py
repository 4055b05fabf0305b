"""Stochastic depth keeps its expectation, grows linearly, and is applied once."""

from __future__ import annotations

import pytest
import torch

from twins.backbone.config import VARIANTS
from twins.backbone.layers import DropPath
from twins.backbone.network import Twins, init_weights


def test_drop_path_drops_whole_images_and_keeps_the_expectation():
    torch.manual_seed(0)
    y = DropPath(0.3).train()(torch.ones(20_000, 2, 3))
    assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert torch.equal(y, y[:, :1, :1].expand_as(y))
    assert float(y.mean()) == pytest.approx(1.0, abs=0.015)  # 3 standard errors are 0.014


def test_drop_path_does_nothing_in_evaluation():
    x = torch.randn(4, 2)
    assert DropPath(0.9).eval()(x) is x


def test_drop_path_grows_linearly_from_the_first_block_to_the_last():
    backbone = Twins(VARIANTS["twins_svt_small"], drop_path_rate=0.34)
    rates = [m.rate for m in backbone.modules() if isinstance(m, DropPath)]
    assert len(rates) == 18  # one per block: both branches share it, and nothing else drops
    assert rates[0] == 0.0
    assert rates == pytest.approx([0.34 * i / 17 for i in range(18)])


def test_a_residual_branch_survives_with_the_stated_probability():
    torch.manual_seed(0)
    block = Twins(VARIANTS["twins_pcpvt_nano"], drop_path_rate=0.4).stages[3].blocks[1].train()
    x = torch.randn(1, 1, 1, 256).expand(4000, 1, 1, 256)
    with torch.no_grad():
        changed = (block(x) != x).any(dim=3).float().mean()
    assert float(changed) == pytest.approx(1 - 0.4**2, abs=0.02)  # unchanged only when both branches drop


def test_initialisation_is_the_references():
    torch.manual_seed(0)
    backbone = Twins(VARIANTS["twins_svt_nano"])
    attn = backbone.stages[2].blocks[1].attn
    assert float(backbone.stages[3].blocks[0].mlp.fc1.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(attn.sr.weight.detach().std()) == pytest.approx((2 / (2 * 2 * 128)) ** 0.5, rel=0.05)
    assert float(backbone.stages[3].position.conv.weight.detach().std()) == pytest.approx((2 / 9) ** 0.5, rel=0.1)
    assert not any(p.any() for name, p in backbone.named_parameters() if name.endswith("bias"))
    linear = torch.nn.Linear(4, 4)
    init_weights(linear)
    assert not linear.bias.any()
