"""The pyramid: the part of an image in a padded batch equals its own pyramid; extra levels."""

from __future__ import annotations

import pytest
import torch

from twins.heads.fpn import FeaturePyramid


@pytest.mark.parametrize("extra", ["none", "pool", "convolutions"])
@pytest.mark.parametrize("round_up", [True, False])  # partly filled cells are used, or cropped
def test_an_images_part_of_a_padded_pyramid_equals_its_own_pyramid(extra, round_up):
    torch.manual_seed(0)
    neck = FeaturePyramid((3, 4, 5), 6, extra=extra).double()
    for parameter in neck.parameters():
        torch.nn.init.normal_(parameter)
    first = torch.tensor([[12, 16], [7, 13], [9, 4], [5, 5]])
    sizes = [first]
    for _ in range(2):
        sizes.append((sizes[-1] + round_up) // 2)
    maps = []
    for channels, size in zip((3, 4, 5), sizes, strict=True):
        x = torch.zeros(4, channels, *size.amax(dim=0).tolist(), dtype=torch.float64)
        for image, (height, width) in zip(x, size.tolist(), strict=True):
            image[:, :height, :width] = torch.randn(channels, height, width)
        maps.append(x)
    level_sizes = neck.level_sizes(sizes)
    together = neck(maps, level_sizes)
    assert len(together) == len(level_sizes) == len(neck.channels)
    for index in range(4):
        limits = [size[index].tolist() for size in sizes]
        part = [x[index : index + 1, :, :h, :w] for x, (h, w) in zip(maps, limits, strict=True)]
        for level, alone in enumerate(neck(part)):
            height, width = level_sizes[level][index].tolist()
            assert alone.shape[2:] == (height, width)
            torch.testing.assert_close(together[level][index, :, :height, :width], alone[0], atol=1e-12, rtol=0)


def test_p7_is_computed_from_p6_without_a_relu():
    neck = FeaturePyramid((2, 2), 2, extra="convolutions")
    maps = [torch.randn(1, 2, 8, 8), torch.randn(1, 2, 4, 4)]
    *_, p6, p7 = neck(maps)
    torch.testing.assert_close(p7, neck.fpn_convs[-1](p6))
    assert (p6 < 0).any()
    assert (p6.shape[2], p7.shape[2]) == (2, 1)
