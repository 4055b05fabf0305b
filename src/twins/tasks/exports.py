"""`TaskExport`, what a task provides for exported files: decoding inside the graph, predictions from its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray
from torch import Tensor

from twins.predictions import Prediction
from twins.tasks.inference import SelectionConfig
from twins.tasks.network import TaskNetwork
from twins.tasks.table import part_of
from twins.weights.info import ModelInfo

Arrays = Mapping[str, NDArray[Any]]
"""Outputs of an exported file by name, as its runtime returns them."""


class TaskExport(Protocol):
    """A task's part of an export; `EXPORT` in `tasks/<task>/exports.py` is the task's instance."""

    def outputs(self, network: TaskNetwork, images: Tensor, sizes: Tensor | None, *, logits: bool) -> dict[str, Tensor]:
        """Return the decoded outputs of a file by name; they are traced, so all is computed by operators.

        Args:
            network: in eval mode; objects are selected by its `selection`.
            images: normalised float `(B, C, H, W)`.
            sizes: true sizes in pixels, int `(B, 2)`, or `None` if images fill the batch. Each image's outputs are then
                those it has alone.
            logits: return logits instead of decoded outputs.

        Raises:
            ConfigError: the task has no such outputs with `logits`.
        """

    def predictions(
        self,
        info: ModelInfo,
        outputs: Arrays,
        sizes: Sequence[tuple[int, int]],
        originals: Sequence[tuple[int, int]],
        selection: SelectionConfig,
    ) -> list[Prediction]:
        """Return each image's prediction in the coordinates of the user's image.

        Args:
            info: description of the network.
            outputs: what a file returned for a batch.
            sizes: height and width of each image inside the batch, in pixels.
            originals: height and width of each user's image in pixels.
            selection: objects below its score, and beyond its number, are left out.
        """


def export_of(task: str) -> TaskExport:
    """Return a task's part of an export; raises NotFoundError for an unknown task."""
    return part_of(task, "exports").EXPORT
