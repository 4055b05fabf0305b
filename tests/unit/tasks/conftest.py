"""Detectors whose random weights detect objects, and batches of images of several sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import twins

DETECTORS = {"retinanet": "detection", "faster_rcnn": "detection", "mask_rcnn": "instance"}


@pytest.fixture
def detector() -> Callable[..., Any]:
    """Return a function that builds a small detector of 5 classes whose random weights detect dozens of objects."""
    return _detector


@pytest.fixture
def padded() -> Callable[[torch.Tensor, torch.dtype], torch.Tensor]:
    """Return a function that builds a batch of random images of given sizes, with NaN in the padding."""
    return _padded


def _detector(head: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    model = twins.create_model("twins_svt_nano", task=DETECTORS[head], head=head, num_classes=5, **settings)
    for name, parameter in model.named_parameters():
        if not name.startswith("backbone."):
            spread = 1.4 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1
            spread *= 0.3 if "_reg." in name and "conv" not in name else 1  # boxes stay near their anchors
            torch.nn.init.normal_(parameter, std=spread)
    return model.eval()


def _padded(sizes: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    batch = torch.full((len(sizes), 3, *sizes.amax(dim=0).tolist()), torch.nan, dtype=dtype)
    for image, (height, width) in zip(batch, sizes.tolist(), strict=True):
        image[:, :height, :width] = torch.randn(3, height, width, generator=generator, dtype=dtype)
    return batch
