"""The exported network: the same number, and predictions from it."""

from __future__ import annotations

import torch

from twins.tasks.table import part_of


class BrightnessExport:
    """The output `brightness` `(B,)`."""

    def outputs(self, network, images, sizes, *, logits):
        """Return the brightness of each image."""
        return {"brightness": network(images, sizes)}

    def predictions(self, info, outputs, sizes, originals, selection):
        """Return the brightness as the score of class 0."""
        network = part_of(info.task, "network").Brightness
        return network.to_predictions(info, torch.from_numpy(outputs["brightness"]), originals)


EXPORT = BrightnessExport()
