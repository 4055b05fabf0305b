"""What a task brings besides its network: data, transforms, metric, and what a run should be warned of."""

# ruff: noqa: D102  # members that say what they are by name and type
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from twins.data.base import Splits
from twins.data.checks.classification import CheckReport
from twins.data.config import DataConfig
from twins.data.loading.batch import Batch
from twins.data.loading.loader import Transform
from twins.engine.config import TrainConfig
from twins.engine.contracts import Metric
from twins.factory import TaskNetwork
from twins.metrics.semantic import Absent
from twins.preprocess import Preprocess


class DetailedMetric(Metric, Protocol):
    """A metric that can also say more than its named numbers."""

    def details(self) -> dict[str, Any]:
        """Return JSON-ready tables, `per_class` among them."""
        ...


class Kit(Protocol):
    """A task's parts; `twins.tasks.table` lists them by task."""

    leading: str
    """The metric that chooses the best weights; larger is better."""

    def open(self, config: DataConfig) -> Splits[Any]:
        """Open a data set; raises DataError where it cannot be used."""
        ...

    def check(self, config: DataConfig) -> CheckReport:
        """Read a whole data set and report what would spoil a run."""
        ...

    def warnings(self, splits: Splits[Any]) -> list[str]:
        """Return a sentence for each thing about the data that a run should begin by saying."""
        ...

    def preprocess(self, config: TrainConfig, known: Preprocess) -> Preprocess:
        """Return how a run prepares images for evaluation; `known` is how its weights' were."""
        ...

    def train_transform(self, config: TrainConfig, preprocess: Preprocess) -> Transform: ...
    def eval_transform(self, preprocess: Preprocess) -> Transform: ...

    def shapes(self, images: Any) -> list[tuple[int, int]] | None:
        """Return each image's height and width, where batches should be of alike ones and the annotations say them."""
        ...

    def prepare(self, config: TrainConfig, batch: Batch, epoch: int, classes: int) -> tuple[Tensor, Any]:
        """Return the images and targets that a training batch is learned from."""
        ...

    def set_up(self, network: TaskNetwork, config: TrainConfig, images: Any) -> None:
        """Give a network and its losses what the settings and the training images say of them."""
        ...

    def metric(self, names: Sequence[str], *, full: bool = False, absent: Absent = "left_out") -> DetailedMetric:
        """Return an empty metric.

        Args:
            names: class names by class id.
            full: measure what takes too long for each evaluation of a run too.
            absent: what a class that neither truth nor prediction has counts in a mean over classes.

        Raises:
            ConfigError: `absent` is chosen for a task that has no such mean.
        """
        ...

    def relabel(self, images: Any, classes: Sequence[int]) -> Any:
        """Return images whose class `i` is called `classes[i]`."""
        ...
