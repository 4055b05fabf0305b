"""Tests of RetinaNet's random weights."""

import pytest
import torch

from twins.heads.fpn import Levels
from twins.heads.retinanet import PRIOR, RetinaNetHead


@pytest.mark.parametrize(("width", "std"), [(256, 0.01), (64, (2 / (9 * 64)) ** 0.5)], ids=["published", "nano"])
def test_hidden_convolutions_begin_as_published_or_by_their_width(width, std):
    torch.manual_seed(0)
    head = RetinaNetHead(width, 3)
    hidden = [conv.conv for conv in (*head.cls_convs, *head.reg_convs)]
    assert [float(conv.weight.detach().std()) for conv in hidden] == pytest.approx([std] * 8, rel=0.05)
    last = [float(layer.weight.detach().std()) for layer in (head.retina_cls, head.retina_reg)]
    assert last == pytest.approx([0.01] * 2, rel=0.05)
    biases = [conv.bias for conv in hidden] + [head.retina_reg.bias]
    assert not any(bias.any() for bias in biases)


def test_a_narrow_head_sees_its_input_from_the_start():
    torch.manual_seed(0)
    head, x = RetinaNetHead(64, 3), torch.randn(2, 64, 8, 8)
    with torch.no_grad():
        outputs = head(Levels((x,), (8,), None, torch.full((2, 2), 64)))
    for values in outputs["logits"], outputs["deltas"]:
        assert 0.05 < float(values.std()) < 0.3
    assert float(outputs["logits"].sigmoid().mean()) == pytest.approx(PRIOR, rel=0.1)
