"""Masks are cropped from an image and pasted back into it."""

from __future__ import annotations

import numpy as np
import torch

from twins.heads import mask as module
from twins.heads.mask import MASK_SIDE, crop_masks, mask_loss, paste_masks


def test_a_full_mask_fills_exactly_its_box():
    boxes = torch.tensor([[10.0, 20.0, 40.0, 50.0], [-8.0, 90.0, 30.0, 130.0], [3.2, 3.2, 3.4, 3.4]])
    pasted = paste_masks(torch.ones(3, MASK_SIDE, MASK_SIDE), boxes, (100, 80))
    assert pasted.shape == (3, 100, 80)
    assert pasted[0].sum() == 30 * 30
    assert pasted[0, 20:50, 10:40].all()
    assert pasted[1].sum() == 30 * 10  # the part of the box inside the image
    assert pasted[2].sum() <= 1


def test_parts_of_an_object_are_pasted_together():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [8.0, 0.0, 30.0, 10.0], [40.0, 40.0, 50.0, 50.0]])
    pasted = paste_masks(torch.ones(3, MASK_SIDE, MASK_SIDE), boxes, (60, 60), [0, 0, 1])
    assert pasted.shape == (2, 60, 60)
    assert pasted[0].sum() == pasted[0, :10, :30].sum() == 300
    assert pasted[1].sum() == 100


def test_a_cropped_mask_is_pasted_back_in_its_place():
    rows, columns = np.mgrid[:120, :160]
    disc = torch.from_numpy((rows - 60) ** 2 + (columns - 70) ** 2 < 40**2)
    box = torch.tensor([[30.0, 20.0, 110.0, 100.0]])
    pasted = paste_masks(crop_masks(disc[None], torch.tensor([0]), box), box, (120, 160))[0]
    intersection, union = (pasted & disc.numpy()).sum(), (pasted | disc.numpy()).sum()
    assert intersection / union > 0.96


def test_cropping_in_chunks_equals_cropping_at_once(monkeypatch):
    torch.manual_seed(0)
    masks, indices = torch.rand(4, 30, 40) > 0.4, torch.tensor([0, 3, 3, 1, 2])
    boxes = torch.tensor([[1.0, 2.0, 20.0, 29.0]]).repeat(5, 1) + torch.rand(5, 4) * 5
    expected = crop_masks(masks, indices, boxes)
    monkeypatch.setattr(module, "CHUNK_PIXELS", 1200)
    assert torch.equal(crop_masks(masks.to(torch.uint8), indices, boxes), expected)


def test_the_loss_of_no_region_is_0():
    targets = [{"masks": torch.zeros(0, 8, 8, dtype=torch.bool)}]
    no_index = torch.zeros(0, dtype=torch.int64)
    assert mask_loss(torch.zeros(0, MASK_SIDE, MASK_SIDE), torch.zeros(0, 4), no_index, no_index, targets) == 0
