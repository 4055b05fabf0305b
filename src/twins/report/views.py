"""Augmented views of training images, as the network is shown them."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from twins.data.base import Splits
from twins.data.loading.batch import collate, normalise_batch
from twins.data.loading.loader import TrainSamples
from twins.engine.config import TrainConfig
from twins.preprocess import Preprocess
from twins.tasks.contract import TaskSpec
from twins.weights.info import ModelInfo

COUNT = 8
"""Number of views."""


def training_views(
    config: TrainConfig, spec: TaskSpec, splits: Splits[Any], info: ModelInfo
) -> list[tuple[Image.Image, Any]]:
    """Return views of the first epoch of a run with their targets, of training images spread over the set.

    Normalisation is undone, so that fills and mixed images are as the network is shown them.

    Raises:
        DataError, NotFoundError: no training image can be read.
    """
    samples = TrainSamples(splits.train, spec.train_transform(config, info.preprocess), seed=config.seed)
    step = max(1, len(splits.train) // COUNT)
    indices = range(step // 2, len(splits.train), step)[:COUNT]
    batch = normalise_batch(collate([samples[0, index, 0] for index in indices]), info.preprocess, torch.device("cpu"))
    images, targets = spec.prepare_batch(config, batch, 0, info.num_classes)
    sizes = [images.shape[2:]] * len(images) if batch.sizes is None else batch.sizes.tolist()
    return [
        (_image(image[:, :height, :width], info.preprocess), targets[number])
        for number, (image, (height, width)) in enumerate(zip(images, sizes, strict=True))
    ]


def _image(normalised: Tensor, preprocess: Preprocess) -> Image.Image:
    """Return a normalised image `(C, H, W)` as RGB; of other numbers of channels, the first three or the first."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocess.mean, preprocess.std))
    pixels = ((normalised.float() * std + mean) * 255).round().clamp(0, 255).byte()
    pixels = pixels[:3] if len(pixels) >= 3 else pixels[:1].expand(3, -1, -1)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
