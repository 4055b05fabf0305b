"""Masks: cut out of an image and laid back into it."""

from __future__ import annotations

import numpy as np
import torch

from twins.heads import mask as module
from twins.heads.mask import SIDE, crop_masks, mask_loss, paste_masks


def test_a_full_mask_fills_its_box_and_no_more():
    boxes = torch.tensor([[10.0, 20.0, 40.0, 50.0], [-8.0, 90.0, 30.0, 130.0], [3.2, 3.2, 3.4, 3.4]])
    found = paste_masks(torch.ones(3, SIDE, SIDE), boxes, (100, 80))
    assert found.shape == (3, 100, 80)
    assert found[0].sum() == 30 * 30
    assert found[0, 20:50, 10:40].all()
    assert found[1].sum() == 30 * 10  # what of it lies on the image
    assert found[2].sum() <= 1


def test_what_is_cut_out_is_laid_back():
    rows, columns = np.mgrid[:120, :160]
    disc = torch.from_numpy((rows - 60) ** 2 + (columns - 70) ** 2 < 40**2)
    box = torch.tensor([[30.0, 20.0, 110.0, 100.0]])
    found = paste_masks(crop_masks(disc[None], torch.tensor([0]), box), box, (120, 160))[0]
    shared, either = (found & disc.numpy()).sum(), (found | disc.numpy()).sum()
    assert shared / either > 0.96


def test_masks_are_cut_alike_however_few_are_held(monkeypatch):
    torch.manual_seed(0)
    masks, numbers = torch.rand(4, 30, 40) > 0.4, torch.tensor([0, 3, 3, 1, 2])
    boxes = torch.tensor([[1.0, 2.0, 20.0, 29.0]]).repeat(5, 1) + torch.rand(5, 4) * 5
    whole = crop_masks(masks, numbers, boxes)
    monkeypatch.setattr(module, "PIXELS", 1200)
    assert torch.equal(crop_masks(masks.to(torch.uint8), numbers, boxes), whole)


def test_no_region_gives_no_loss():
    targets = [{"masks": torch.zeros(0, 8, 8, dtype=torch.bool)}]
    none = torch.zeros(0, dtype=torch.int64)
    assert mask_loss(torch.zeros(0, SIDE, SIDE), torch.zeros(0, 4), none, none, targets) == 0
