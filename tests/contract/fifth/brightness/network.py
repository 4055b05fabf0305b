"""The mean of the last map, and a linear layer that gives one number."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from twins.predictions import Prediction
from twins.tasks.network import TaskNetwork


class Brightness(TaskNetwork):
    """Images to one number each, `(B,)`."""

    task = "brightness"

    def __init__(self, backbone, info):
        super().__init__(backbone, info)
        self.regressor = nn.Linear(backbone.channels[-1], 1)

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return how bright each image is, `(B,)`."""
        maps = self.backbone.forward_features(images, sizes)
        return self.regressor(maps.mean(dim=(2, 3)))[:, 0].sigmoid()

    def losses(self, images, targets, sizes=None):
        """Return the mean square error."""
        return {"square": nn.functional.mse_loss(self(images, sizes).float(), torch.stack(list(targets)).to(images))}

    def decode(self, outputs, sizes, originals):
        """Return the number as the score of class 0."""
        return [
            Prediction(
                task=self.task,
                size=size,
                names=self.info.names,
                labels=np.zeros(1, dtype=np.int64),
                scores=np.array([value], dtype=np.float32),
            )
            for size, value in zip(originals, outputs.detach().float().cpu().numpy(), strict=True)
        ]


def build(backbone, info, *, drop_rate):
    """Return a fresh network."""
    return Brightness(backbone, info)
