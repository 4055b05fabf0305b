"""The network: the mean of the last map and a linear layer with one output."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from twins.predictions import Prediction
from twins.tasks.network import TaskNetwork


class Brightness(TaskNetwork):
    """Predicts one number per image."""

    task = "brightness"

    def __init__(self, backbone, info):
        super().__init__(backbone, info)
        self.regressor = nn.Linear(backbone.channels[-1], 1)

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return the brightness `(B,)`, 0..1, of images `(B, 3, H, W)`."""
        maps = self.backbone.forward_features(images, sizes)
        return self.regressor(maps.mean(dim=(2, 3)))[:, 0].sigmoid()

    def losses(self, images, targets, sizes=None):
        """Return the mean squared error."""
        return {"square": nn.functional.mse_loss(self(images, sizes).float(), torch.stack(list(targets)).to(images))}

    def decode(self, outputs, sizes, originals):
        """Return the brightness as the score of class 0."""
        return self.to_predictions(self.info, outputs, originals)

    @staticmethod
    def to_predictions(info, brightness, originals):
        """Return the brightness `(B,)` of each image as the score of class 0."""
        return [
            Prediction(
                task=info.task,
                size=size,
                names=info.names,
                labels=np.zeros(1, dtype=np.int64),
                scores=np.array([value], dtype=np.float32),
            )
            for size, value in zip(originals, brightness.detach().float().cpu().numpy(), strict=True)
        ]


def build(backbone, info, *, drop_rate):
    """Return a network with random weights."""
    return Brightness(backbone, info)
