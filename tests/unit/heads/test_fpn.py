"""The pyramid: an image's part of it is what it is alone, and its upper levels."""

from __future__ import annotations

import pytest
import torch

from twins.heads.fpn import FeaturePyramid


@pytest.mark.parametrize("extra", ["none", "pool", "convolutions"])
@pytest.mark.parametrize("up", [True, False])  # partly filled cells count, or are cropped
def test_an_images_part_of_a_padded_pyramid_is_its_own_pyramid(extra, up):
    torch.manual_seed(0)
    neck = FeaturePyramid((3, 4, 5), 6, extra=extra).double()
    for parameter in neck.parameters():
        torch.nn.init.normal_(parameter)
    first = torch.tensor([[12, 16], [7, 13], [9, 4], [5, 5]])
    sizes = [first]
    for _ in range(2):
        sizes.append((sizes[-1] + up) // 2)
    maps = []
    for channels, size in zip((3, 4, 5), sizes, strict=True):
        x = torch.zeros(4, channels, *size.amax(dim=0).tolist(), dtype=torch.float64)
        for image, (height, width) in zip(x, size.tolist(), strict=True):
            image[:, :height, :width] = torch.randn(channels, height, width)
        maps.append(x)
    own = neck.level_sizes(sizes)
    together = neck(maps, own)
    assert len(together) == len(own) == len(neck.channels)
    for index in range(4):
        limits = [size[index].tolist() for size in sizes]
        part = [x[index : index + 1, :, :h, :w] for x, (h, w) in zip(maps, limits, strict=True)]
        for level, alone in enumerate(neck(part)):
            height, width = own[level][index].tolist()
            assert alone.shape[2:] == (height, width)
            torch.testing.assert_close(together[level][index, :, :height, :width], alone[0], atol=1e-12, rtol=0)


def test_p7_sees_what_is_below_zero_in_p6():
    neck = FeaturePyramid((2, 2), 2, extra="convolutions")
    maps = [torch.randn(1, 2, 8, 8), torch.randn(1, 2, 4, 4)]
    *_, p6, p7 = neck(maps)
    torch.testing.assert_close(p7, neck.fpn_convs[-1](p6))
    assert (p6 < 0).any()
    assert (p6.shape[2], p7.shape[2]) == (2, 1)
