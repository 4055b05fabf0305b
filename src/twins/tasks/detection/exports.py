"""Detection's part of an export: objects as outputs of a graph, and predictions from a file's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from twins.errors import ConfigError
from twins.heads.merging import Detections
from twins.predictions import Prediction
from twins.tasks.detection.network import predictions
from twins.tasks.exports import Arrays, TaskExport
from twins.tasks.inference import SelectionConfig
from twins.weights.info import ModelInfo


class DetectionExport:
    """Exports of a detector; a network of instance segmentation has masks too."""

    def outputs(self, network: Any, images: Tensor, sizes: Tensor | None, *, logits: bool) -> dict[str, Tensor]:
        """Return the objects, padded by zeros to `R`, the largest number of objects per image.

        Returns:
            `boxes` `(B, R, 4)` in pixels of `images`; `scores` `(B, R)` in descending order; `labels` `(B, R)`;
            `count` `(B,)`, the number of objects of each image; in instance segmentation `masks` `(B, R, 28, 28)`,
            probabilities inside the boxes. For arguments see `TaskExport.outputs`.

        Raises:
            ConfigError: with `logits`, which a detector does not return.
        """
        if logits:
            raise ConfigError("`logits` is for classifiers and semantic networks, found a detector; leave `logits` out")
        objects = network.detections(network(images, sizes))
        valid = objects[1] > 0  # (B, M), by the scores
        outputs = {
            name: _pad(torch.where(valid.view(*valid.shape, *[1] * (value.ndim - 2)), value, 0), network.selection.most)
            for name, value in zip(Detections._fields, objects, strict=False)
        }
        return outputs | {"count": valid.sum(dim=1)}

    def predictions(
        self,
        info: ModelInfo,
        outputs: Arrays,
        sizes: Sequence[tuple[int, int]],
        originals: Sequence[tuple[int, int]],
        selection: SelectionConfig,
    ) -> list[Prediction]:
        """Return each image's objects in the coordinates of the user's image; see `TaskExport.predictions`."""
        names = [name for name in Detections._fields if name in outputs]
        images = []
        for row, count in enumerate(outputs["count"].tolist()):
            values = {name: torch.tensor(outputs[name][row, :count][: selection.most]) for name in names}
            chosen = values["scores"] > selection.score
            images.append(Detections(**{name: value[chosen] for name, value in values.items()}))
        return predictions(info, images, torch.tensor(sizes), originals)


def _pad(x: Tensor, rows: int) -> Tensor:
    """Pad `(B, M, ...)` by zeros to `(B, rows, ...)`."""
    return F.pad(x, (*[0] * (2 * x.ndim - 4), 0, rows - x.shape[1]))


EXPORT: TaskExport = DetectionExport()
