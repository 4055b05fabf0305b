"""What a task brings to a run besides its network: data, transforms, metric, rows for files and the screen."""

# ruff: noqa: D102  # members that say what they are by name and type
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL.Image import Image
from torch import Tensor

from twins.data.base import Splits
from twins.data.checks.scan import CheckReport
from twins.data.config import DataConfig
from twins.data.loading.batch import Batch
from twins.data.loading.loader import Transform
from twins.engine.config import EvalConfig, TrainConfig
from twins.engine.contracts import Metric
from twins.metrics.semantic import Absent
from twins.predictions import Prediction
from twins.preprocess import Preprocess
from twins.tasks.inference import InferenceConfig
from twins.tasks.network import TaskNetwork
from twins.tasks.table import part_of


class DetailedMetric(Metric, Protocol):
    """A metric that can also say more than its named numbers."""

    def details(self) -> dict[str, Any]:
        """Return JSON-ready tables, `per_class` among them."""


@dataclass(frozen=True)
class Example:
    """One held-out image with its truth and what the network predicts, as a report shows it."""

    image: Image
    target: Any
    prediction: Prediction
    path: str


class Examples(Protocol):
    """Held-out images spread over a set; each is predicted when it is asked for, so that memory stays small."""

    def __len__(self) -> int:
        """Return how many there are, those that turn out to be unreadable included."""

    def __iter__(self) -> Iterator[Example]: ...


Explain = Callable[[Sequence[tuple[Image, str]]], str]
"""Returns the section that shows where attention looks in some images, each given with its caption."""


class TaskSpec(Protocol):
    """A task's part of a run: `SPEC` of `tasks/<task>/spec.py`."""

    examined: int
    """Held-out images that a report looks at."""
    columns: tuple[str, ...]
    """Names of what `rows` gives."""
    listed: str
    """What `text` lists."""

    def open(self, config: DataConfig) -> Splits[Any]:
        """Open a data set; raises DataError where it cannot be used."""

    def check(self, config: DataConfig) -> CheckReport:
        """Read a whole data set and report what would spoil a run."""

    def warnings(self, splits: Splits[Any]) -> list[str]:
        """Return a sentence for each thing about the data that a run should begin by saying."""

    def preprocess(self, config: TrainConfig, known: Preprocess) -> Preprocess:
        """Return how a run prepares images for evaluation; `known` is how its weights' were."""

    def train_transform(self, config: TrainConfig, preprocess: Preprocess) -> Transform: ...
    def eval_transform(self, preprocess: Preprocess) -> Transform: ...

    def shapes(self, images: Any) -> list[tuple[int, int]] | None:
        """Return each image's height and width, where batches should be of alike ones and the annotations say them."""

    def prepare(self, config: TrainConfig, batch: Batch, epoch: int, classes: int) -> tuple[Tensor, Any]:
        """Return the images and targets that a training batch is learned from."""

    def set_up(self, network: TaskNetwork, config: TrainConfig, images: Any) -> None:
        """Give a network and its losses what the settings and the training images say of them."""

    def metric(self, names: Sequence[str], *, full: bool = False, absent: Absent = "left_out") -> DetailedMetric:
        """Return an empty metric.

        Args:
            names: class names by class id.
            full: measure what takes too long for each evaluation of a run too.
            absent: what a class that neither truth nor prediction has counts in a mean over classes.

        Raises:
            ConfigError: `absent` is chosen for a task that has no such mean.
        """

    def relabel(self, images: Any, classes: Sequence[int]) -> Any:
        """Return images whose class `i` is called `classes[i]`."""

    def check_pair(self, image: Image, target: Any) -> None:
        """Raise DataError where an image and its target do not belong together."""

    def look(self, network: TaskNetwork, image: Image, inference: InferenceConfig) -> Prediction:
        """Return the prediction of one image by inference settings that are not plain; for tasks whose facts have
        `inference`.
        """

    def protocol(self, network: TaskNetwork, config: EvalConfig, data: DataConfig) -> dict[str, Any]:
        """Return what a measurement depends on beyond every task's model, size, precision and data."""

    def weakest(self, rows: Sequence[dict[str, Any]], most: int = 5) -> list[str]:
        """Return a line for each of the classes with the lowest scores, from the metric's `per_class`."""

    def rows(self, prediction: Prediction, top: int) -> Iterator[list[Any]]:
        """Yield the rows of a CSV file for one image."""

    def text(self, prediction: Prediction, top: int) -> str:
        """Return one image's result in a line."""

    def counts(self, prediction: Prediction) -> Mapping[str, int]:
        """Return what to count over the frames of a video, by class name."""

    def total(self, counts: Mapping[str, int]) -> str:
        """Return counts over a video in a line."""

    def example_target(self, height: int, width: int) -> Any:
        """Return a made-up target of an image of this size, of two classes; for `twins bench` alone."""

    def example_batch(self, images: Tensor, classes: int) -> Any:
        """Return made-up targets of a batch `(B, 3, H, W)`; for `twins bench` alone."""


def spec_of(task: str) -> TaskSpec:
    """Return a task's spec; raises NotFoundError where no task is called so."""
    return part_of(task, "spec").SPEC
