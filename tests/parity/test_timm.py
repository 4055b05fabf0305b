"""Networks give timm's results with weights through the real converter, at 224 and at other sizes, unmasked."""

from __future__ import annotations

import pytest
import timm
import torch

import twins


@pytest.fixture(scope="module", params=["twins_pcpvt_small", "twins_svt_small"])
def pair(request, tmp_path_factory):
    torch.manual_seed(0)
    theirs = timm.create_model(request.param, num_classes=10).double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("timm") / "model.pth"
    torch.save(theirs.state_dict(), path)
    ours = twins.create_model(request.param, num_classes=10, padding="unmasked").double().eval()
    twins.load_weights(ours, path)
    return ours, theirs


@pytest.mark.slow
@pytest.mark.parametrize("size", [(224, 224), (96, 160), (224, 256), (70, 101)])
def test_logits_and_maps_are_timms(pair, size):
    ours, theirs = pair
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.inference_mode():
        expected, actual = theirs(images), ours(images)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9 * float(expected.std()))


@pytest.mark.slow
def test_gradients_are_timms(pair):
    ours, theirs = pair
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    ours(images).square().sum().backward()
    theirs(images).square().sum().backward()
    for actual, expected in [
        (ours.head.weight.grad, theirs.head.weight.grad),
        (ours.backbone.stages[0].patch_embed.proj.weight.grad, theirs.patch_embeds[0].proj.weight.grad),
        (ours.backbone.stages[1].blocks[1].attn.sr.weight.grad, theirs.blocks[1][1].attn.sr.weight.grad),
    ]:
        torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-9 * float(expected.std()))
