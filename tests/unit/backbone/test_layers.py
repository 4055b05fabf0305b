"""Stochastic depth keeps its expectation, grows linearly, and is applied once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from twins.backbone.config import VARIANTS
from twins.backbone.layers import DropPath
from twins.backbone.network import Twins, init_weights
from twins.errors import ConfigError


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


@pytest.mark.parametrize(
    ("linear_init", "std"),
    [("published", 0.02), ("width", 0.5 * (2 / (256 + 1024)) ** 0.5)],
    ids=["published", "width"],
)
def test_initialisation_is_the_references_or_by_the_width_of_linear_layers(linear_init, std):
    torch.manual_seed(0)
    backbone = Twins(replace(VARIANTS["twins_svt_nano"], linear_init=linear_init))
    attn = backbone.stages[2].blocks[1].attn
    assert float(backbone.stages[3].blocks[0].mlp.fc1.weight.detach().std()) == pytest.approx(std, rel=0.05)
    assert float(attn.sr.weight.detach().std()) == pytest.approx((2 / (2 * 2 * 128)) ** 0.5, rel=0.05)
    assert float(backbone.stages[3].position.conv.weight.detach().std()) == pytest.approx((2 / 9) ** 0.5, rel=0.1)
    assert not any(p.any() for name, p in backbone.named_parameters() if name.endswith("bias"))
    linear = torch.nn.Linear(4, 4)
    init_weights(linear)
    assert not linear.bias.any()


def test_published_networks_begin_as_the_reference_and_narrower_ones_by_their_widths():
    assert {name: config.linear_init for name, config in VARIANTS.items() if config.linear_init != "published"} == {
        "twins_pcpvt_nano": "width",
        "twins_svt_nano": "width",
    }


@torch.no_grad()
@pytest.mark.parametrize("name", ["twins_svt_nano", "twins_pcpvt_nano"])
def test_each_branch_of_a_narrow_network_adds_to_the_signal_from_the_start(name):
    torch.manual_seed(0)
    backbone, shares = Twins(VARIANTS[name]).eval(), []

    def keep(module, arguments, output):
        shares.append(float(output.std() / arguments[0].std()))

    for stage in backbone.stages:
        for block in stage.blocks:
            block.attn.register_forward_hook(keep)
            block.mlp.register_forward_hook(keep)
    backbone(torch.randn(2, 3, 112, 112))
    assert len(shares) == 16
    assert min(shares) > 0.02  # the published rule: 0.0016


def test_an_unknown_initialisation_is_an_error():
    with pytest.raises(ConfigError, match="`linear_init` must be published or width, found 'xavier'"):
        replace(VARIANTS["twins_svt_nano"], linear_init="xavier")
