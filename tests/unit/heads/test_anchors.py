"""Anchors are at nominal strides, and maps are rearranged in their order."""

from __future__ import annotations

import torch

from twins.heads.anchors import anchors_inside, grid_anchors, split_by_anchor


def test_anchors_are_at_the_nominal_stride_for_any_map_size():
    anchors = grid_anchors(torch.zeros(1, 1, 3, 5), 8, (4.0,))
    assert anchors.shape == (3 * 5 * 3, 4)
    square = anchors.view(3, 5, 3, 4)[:, :, 1]
    assert square[2, 3].tolist() == [3 * 8 - 16, 2 * 8 - 16, 3 * 8 + 16, 2 * 8 + 16]
    sides = anchors[:3, 2:] - anchors[:3, :2]
    torch.testing.assert_close(sides.prod(dim=1), torch.full((3,), 1024.0))
    torch.testing.assert_close(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 1.0, 2.0]))


def test_a_map_is_rearranged_in_the_order_of_its_anchors():
    count, height, width = 2, 3, 5
    x = torch.arange(count * 4 * height * width).view(1, count * 4, height, width)
    row = (2 * width + 3) * count + 1  # the second anchor at (2, 3)
    assert split_by_anchor(x, 4)[0, row].tolist() == x[0, 4:8, 2, 3].tolist()


def test_anchors_with_their_location_outside_an_image_are_marked():
    marked = anchors_inside(torch.zeros(2, 1, 3, 5), torch.tensor([[3, 5], [2, 4]]), 2).view(2, 3, 5, 2)
    assert marked[0].all()
    assert marked[1].sum() == 2 * 4 * 2
    assert marked[1, :2, :4].all()
