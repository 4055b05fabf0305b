"""Regions are pooled from the level that suits their size, and only from their own image."""

from __future__ import annotations

import torch

from twins.heads.fpn import Levels
from twins.heads.roi import pool_regions

STRIDES = (4, 8, 16, 32, 64)


def levels(*sides: tuple[int, int], sizes: torch.Tensor | None = None, fill=torch.randn) -> Levels:
    height, width = sides[0]
    shapes = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
    maps = tuple(fill(1 if sizes is None else len(sizes), 3, *shape, dtype=torch.float64) for shape in shapes)
    level_sizes = None if sizes is None else tuple((sizes + stride - 1) // stride for stride in STRIDES)
    return Levels(maps, STRIDES, level_sizes, torch.tensor(sides) if sizes is None else sizes)


def test_larger_regions_are_pooled_from_coarser_levels():
    pyramid = levels((512, 512))
    for level, x in enumerate(pyramid.maps):
        x.fill_(level)
    sides = torch.tensor([20.0, 111.0, 113.0, 223.0, 225.0, 447.0, 449.0, 512.0], dtype=torch.float64)
    boxes = torch.stack([torch.zeros_like(sides), torch.zeros_like(sides), sides, sides], dim=1)
    pooled_levels = pool_regions(pyramid, boxes, torch.zeros(len(sides), dtype=torch.int64), 7).amax(dim=(1, 2, 3))
    assert pooled_levels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_region_at_the_border_of_an_image_is_pooled_without_padding():
    torch.manual_seed(0)
    sizes = torch.tensor([[128, 160], [70, 90]])
    batch = levels((128, 160), sizes=sizes)
    boxes = torch.tensor([[60.0, 40.0, 90.0, 70.0], [0.0, 0.0, 90.0, 70.0], [20.0, 5.0, 160.0, 128.0]]).double()
    pooled = pool_regions(batch, boxes, torch.tensor([1, 1, 0]), 7)
    parts = (x[1:, :, :h, :w] for x, (h, w) in zip(batch.maps, (size[1].tolist() for size in batch.sizes), strict=True))
    alone = Levels(tuple(parts), STRIDES, None, sizes[1:])
    torch.testing.assert_close(pooled[:2], pool_regions(alone, boxes[:2], torch.tensor([0, 0]), 7), atol=1e-12, rtol=0)
    first = Levels(tuple(x[:1] for x in batch.maps), STRIDES, None, sizes[:1])
    torch.testing.assert_close(pooled[2:], pool_regions(first, boxes[2:], torch.tensor([0]), 7), atol=1e-12, rtol=0)
