"""Tests of RetinaNet's random weights."""

import pytest
import torch

from twins.heads.fpn import Levels
from twins.heads.retinanet import PRIOR, RetinaNetHead


@pytest.mark.parametrize(("width", "std"), [(256, 0.01), (64, 0.02)], ids=["published", "nano"])
def test_hidden_convolutions_begin_as_published_or_by_their_width(width, std):
    torch.manual_seed(0)
    head = RetinaNetHead(width, 3)
    hidden = [conv.conv for conv in (*head.cls_convs, *head.reg_convs)]
    assert [float(conv.weight.detach().std()) for conv in hidden] == pytest.approx([std] * 8, rel=0.05)
    last = [float(layer.weight.detach().std()) for layer in (head.retina_cls, head.retina_reg)]
    assert last == pytest.approx([0.01] * 2, rel=0.05)
    biases = [conv.bias for conv in hidden] + [head.retina_reg.bias]
    assert not any(bias.any() for bias in biases)


@torch.no_grad()
@pytest.mark.parametrize("width", [256, 64], ids=["published", "nano"])
def test_a_narrow_head_passes_on_as_much_signal_as_the_published_one(width):
    torch.manual_seed(0)
    head, x = RetinaNetHead(width, 3), torch.randn(2, width, 16, 16)
    outputs = head(Levels((x,), (8,), None, torch.full((2, 2), 128)))
    assert float(outputs["logits"].sigmoid().mean()) == pytest.approx(PRIOR, rel=0.1)
    for conv in head.reg_convs:
        x = conv(x)
    assert 0.003 < float(x.std()) < 0.03  # 1 before the four layers, each of which keeps about a third
