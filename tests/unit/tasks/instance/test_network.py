"""Mask R-CNN: batch invariance, losses for any number of objects, masks in pixels of the user's image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import twins
from twins.errors import InputError
from twins.tasks.inference import SelectionConfig

SIZES = torch.tensor([[96, 64], [47, 70], [64, 96]])


def objects(count: int, side: int = 64) -> dict[str, torch.Tensor]:
    top_left = torch.randint(0, side - 20, (count, 2))
    boxes = torch.cat([top_left, top_left + torch.randint(6, 20, (count, 2))], dim=1)
    masks = torch.zeros(count, 64, 64, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.tolist(), strict=True):
        mask[top:bottom, left:right] = True
    return {"boxes": boxes.float(), "labels": torch.randint(0, 5, (count,)), "masks": masks}


def certain_order(scores, boxes) -> list[int]:
    """Return the order of objects by score, and by box where scores tie: two boxes may show the same cells."""
    keys = [
        (-round(score, 9), *(round(side, 4) for side in box))
        for score, box in zip(scores.tolist(), boxes.tolist(), strict=True)
    ]
    return sorted(range(len(keys)), key=keys.__getitem__)


@pytest.mark.slow
def test_an_image_alone_equals_the_image_in_a_batch(detector, padded):
    model = detector("mask_rcnn").double()
    batch = padded(SIZES, torch.float64)
    originals = [(96, 64), (94, 70), (50, 33)]
    with torch.inference_mode():
        together = model(batch, SIZES)
        decoded = model.decode(together, SIZES, originals)
        for index, (height, width) in enumerate(SIZES.tolist()):
            single = model(batch[index : index + 1, :, :height, :width])
            valid = single["scores"][0] > 0
            assert valid.sum() > 40
            first = certain_order(together["scores"][index, valid], together["boxes"][index, valid])
            second = certain_order(single["scores"][0, valid], single["boxes"][0, valid])
            for name, atol in (("boxes", 1e-6), ("scores", 1e-9), ("labels", 0), ("masks", 1e-6)):
                one, other = together[name][index, valid][first], single[name][0, valid][second]
                torch.testing.assert_close(one, other, atol=atol, rtol=0)
            assert (together["scores"][index, ~valid] == 0).all()
            alone = model.decode(single, None, originals[index : index + 1])[0]
            assert np.array_equal(decoded[index].masks[first], alone.masks[second])


def test_masks_lie_in_their_boxes_on_the_users_image(detector, padded):
    model = detector("mask_rcnn")
    with torch.inference_mode():
        prediction = model.decode(model(padded(SIZES, torch.float32), SIZES), SIZES, [(200, 90), (47, 70), (64, 96)])[0]
    assert prediction.masks.shape == (len(prediction.boxes), 200, 90)
    assert prediction.masks.dtype == np.bool_
    filled = 0
    for mask, (left, top, right, bottom) in zip(prediction.masks, prediction.boxes, strict=True):
        rows, columns = np.nonzero(mask)
        if len(rows):
            filled += 1
            assert left - 1 <= columns.min() <= columns.max() < right + 1
            assert top - 1 <= rows.min() <= rows.max() < bottom + 1
    assert filled > 30


def test_without_objects_there_are_no_masks(detector, padded):
    model = detector("mask_rcnn")
    model.selection = SelectionConfig(score=0.999999)
    torch.nn.init.zeros_(model.roi_head.bbox_head.fc_cls.weight)
    with torch.inference_mode():
        outputs = model(padded(SIZES[:1], torch.float32))
        prediction = model.decode(outputs, None, [(40, 30)])[0]
    assert outputs["masks"].shape == (1, 100, 28, 28)
    assert prediction.masks.shape == (0, 40, 30)


@pytest.mark.slow
def test_losses_are_finite_for_any_number_of_objects():
    torch.manual_seed(0)
    model = twins.create_model("twins_svt_nano", task="instance", num_classes=5).train()
    images = torch.randn(3, 3, 64, 64)
    for counts in ((0, 0, 0), (1, 0, 1000)):
        model.zero_grad()
        losses = model.losses(images, [objects(count) for count in counts])
        assert set(losses) == {"proposal_scores", "proposal_boxes", "classification", "boxes", "masks"}
        assert all(loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert all(parameter.grad.any() for parameter in model.parameters())


@pytest.mark.slow
def test_a_few_steps_fit_the_mask_of_one_object():
    torch.manual_seed(0)
    model = twins.create_model("twins_svt_nano", task="instance", num_classes=2).train()
    model.roi_head.samples = 128
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    disc = (rows - 32) ** 2 + (columns - 24) ** 2 <= 15**2
    images = 3 * disc.float().expand(1, 3, 64, 64)
    target = {"boxes": torch.tensor([[9.0, 17.0, 40.0, 48.0]]), "labels": torch.tensor([1]), "masks": disc[None]}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(30):
        losses = model.losses(images, [target])
        loss = sum(losses.values())
        history.append((loss.item(), losses["masks"].item()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(last < 0.6 * first for first, last in zip(history[0], history[-1], strict=True))
    with torch.inference_mode():
        prediction = model.eval().decode(model(images), None, [(64, 64)])[0]
    mask = prediction.masks[0]
    assert (mask & disc.numpy()).sum() / (mask | disc.numpy()).sum() > 0.6


@pytest.mark.slow
def test_the_whole_network_can_be_exported(detector):
    # in float64, because RoIAlign rounds the size of a region up, and float32 rounding may add a sample
    model = detector("mask_rcnn").double()
    with torch.no_grad():
        exported = torch.export.export(model, (torch.randn(1, 3, 64, 64, dtype=torch.float64),)).module()
        image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
        expected, outputs = model(image), exported(image)
    assert (expected["scores"] > 0).sum() > 40
    for name, value in expected.items():
        torch.testing.assert_close(outputs[name], value, atol=1e-9, rtol=1e-9)


def test_targets_without_masks_are_an_error():
    model = twins.create_model("twins_svt_nano", task="instance", num_classes=5)
    target = {name: value for name, value in objects(1).items() if name != "masks"}
    with pytest.raises(InputError, match=r"targets\[0\] needs masks \(1, 64, 64\), one per box, found none"):
        model.losses(torch.zeros(1, 3, 64, 64), [target])
