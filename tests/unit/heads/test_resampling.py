"""Resizing and pooling: in a padded batch each image's part is resampled as PyTorch resamples it alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from twins.heads.layers import ConvNormAct
from twins.heads.resampling import AveragePool, resize_map, upsample_nearest
from twins.ops.private_torch import as_if_compiled

SIZES = torch.tensor([[9, 13], [1, 7], [6, 1], [8, 12]])
OUT_SIZES = torch.tensor([[17, 26], [2, 13], [5, 1], [31, 7]])


def padded(sizes: torch.Tensor = SIZES, outside: float = 1e3) -> torch.Tensor:
    """Return maps of random images whose padding holds large values."""
    x = torch.full((len(sizes), 3, *sizes.amax(dim=0).tolist()), outside)
    for image, (height, width) in zip(x, sizes.tolist(), strict=True):
        image[:, :height, :width] = torch.randn(3, height, width)
    return x


@pytest.mark.parametrize(("resize", "mode"), [(resize_map, "bilinear"), (upsample_nearest, "nearest")])
def test_each_images_part_is_resized_as_the_image_alone(resize, mode):
    torch.manual_seed(0)
    x = padded()
    together = resize(x, OUT_SIZES.amax(dim=0).tolist(), SIZES, OUT_SIZES)
    for image, own, (height, width), out in zip(x, together, SIZES.tolist(), OUT_SIZES.tolist(), strict=True):
        alone = F.interpolate(image[None, :, :height, :width], size=out, mode=mode)[0]
        torch.testing.assert_close(own[:, : out[0], : out[1]], alone, rtol=1e-5, atol=1e-6)
        assert own.count_nonzero() == own[:, : out[0], : out[1]].count_nonzero()


@pytest.mark.parametrize("side", [1, 2, 3, 6])
def test_bins_are_those_of_pytorch(side):
    torch.manual_seed(0)
    x, pool = padded(), AveragePool(side)
    together = pool(x, SIZES)
    for image, own, (height, width) in zip(x, together, SIZES.tolist(), strict=True):
        torch.testing.assert_close(own, F.adaptive_avg_pool2d(image[:, :height, :width], side))
    with as_if_compiled(exporting=True):
        torch.testing.assert_close(pool(x), F.adaptive_avg_pool2d(x, side))


def test_resizing_has_a_gradient_and_follows_half_precision():
    x = padded(outside=0.0).requires_grad_()
    y = resize_map(x, (32, 32), SIZES, OUT_SIZES)
    y.sum().backward()
    assert not x.grad[1, :, 1:].any()
    assert x.grad[1, :, :1, :7].all()
    half = resize_map(x.detach().bfloat16(), (32, 32), SIZES, OUT_SIZES)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), y.detach(), atol=0.05, rtol=0)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_layer_of_a_head_does_not_read_padding(norm, kernel):
    torch.manual_seed(0)
    layer = ConvNormAct(3, 8, kernel, norm=norm).double().eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = padded().double()
    for image, own, (height, width) in zip(x, layer(x, SIZES), SIZES.tolist(), strict=True):
        torch.testing.assert_close(own[:, :height, :width], layer(image[None, :, :height, :width])[0])
