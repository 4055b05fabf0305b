"""Detectors on a GPU give the detections of the CPU, alone and in a batch; skipped without a GPU."""

from __future__ import annotations

import pytest
import torch

import twins

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU on this machine")
DETECTORS = [("detection", "retinanet"), ("detection", "faster_rcnn"), ("instance", "mask_rcnn")]
SIZES = torch.tensor([[96, 64], [47, 70]])


def detector(task: str, head: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = twins.create_model("twins_svt_nano", task=task, head=head, num_classes=5)
    for name, parameter in model.named_parameters():
        if not name.startswith("backbone."):
            std = 1.4 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1
            torch.nn.init.normal_(parameter, std=std * (0.3 if "_reg." in name and "conv" not in name else 1))
    return model.eval()


@pytest.mark.parametrize(("task", "head"), DETECTORS)
def test_in_float64_detections_are_those_of_the_cpu(task, head):
    model = detector(task, head).double()
    images = torch.randn(2, 3, 96, 70, dtype=torch.float64)
    originals = [(96, 64), (47, 70)]
    with torch.inference_mode():
        expected = model.decode(model(images, SIZES), SIZES, originals)
        model.cuda()
        actual = model.decode(model(images.cuda(), SIZES.cuda()), SIZES, originals)
    for prediction, reference in zip(actual, expected, strict=True):
        assert len(reference.boxes) > 20
        assert prediction.labels.tolist() == reference.labels.tolist()
        assert abs(prediction.boxes - reference.boxes).max() < 1e-3
        assert abs(prediction.scores - reference.scores).max() < 1e-5


@pytest.mark.parametrize(("task", "head"), DETECTORS)
def test_losses_and_gradients_are_finite_in_float32_and_under_bfloat16_autocast(task, head):
    model = twins.create_model("twins_svt_nano", task=task, head=head, num_classes=5).cuda().train()
    images = torch.randn(2, 3, 96, 70, device="cuda")
    target = {
        "boxes": torch.tensor([[5.0, 5.0, 40.0, 40.0]], device="cuda"),
        "labels": torch.tensor([1], device="cuda"),
        "masks": torch.ones(1, 96, 70, dtype=torch.bool, device="cuda"),
    }
    for enabled in (False, True):
        with torch.autocast("cuda", torch.bfloat16, enabled=enabled):
            losses = model.losses(images, [target, target])
        torch.stack(list(losses.values())).sum().backward()
        assert all(loss.isfinite() for loss in losses.values())
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
