"""Exported classifiers: probabilities inside the graph, predictions from a file's outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from twins.errors import ConfigError
from twins.predictions import Prediction
from twins.tasks.classification.network import probabilities, to_predictions
from twins.tasks.exports import Arrays, TaskExport
from twins.tasks.inference import SelectionConfig
from twins.tasks.network import TaskNetwork
from twins.weights.info import ModelInfo


class ClassificationExport:
    """The output `probabilities` `(B, K)`, or `logits` `(B, K)`."""

    def outputs(self, network: TaskNetwork, images: Tensor, sizes: Tensor | None, *, logits: bool) -> dict[str, Tensor]:
        """Return the outputs of a file; see `TaskExport.outputs`."""
        if not network.num_classes:
            raise ConfigError("a classifier with 0 classes has no probabilities; export its features (`features=True`)")
        scores = network(images, sizes)
        return {"logits": scores.float()} if logits else {"probabilities": probabilities(network.info, scores)}

    def predictions(
        self,
        info: ModelInfo,
        outputs: Arrays,
        sizes: Sequence[tuple[int, int]],
        originals: Sequence[tuple[int, int]],
        selection: SelectionConfig,
    ) -> list[Prediction]:
        """Return all classes of each image in descending order of probability; see `TaskExport.predictions`."""
        arrays = {name: torch.from_numpy(array) for name, array in outputs.items()}
        scores = arrays["probabilities"] if "probabilities" in arrays else probabilities(info, arrays["logits"])
        return to_predictions(info, scores, originals)


EXPORT: TaskExport = ClassificationExport()
