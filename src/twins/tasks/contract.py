"""`TaskSpec`, what a task provides for a run besides its network: data, transforms, metric, and its results as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from twins.bands import AnyImage
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
    """A metric with tables besides its named numbers."""

    def details(self) -> dict[str, Any]:
        """Return JSON-ready tables; `per_class` is one of them, a list with a dict for each class."""


@dataclass(frozen=True)
class Example:
    """A held-out image with its target and the network's prediction, for a report."""

    image: Image
    target: Any
    """The ground truth, as the task's image sets give it."""
    prediction: Prediction
    path: str


class Examples(Protocol):
    """Held-out images spread evenly over a data set; iteration predicts one image at a time, to save memory."""

    def __len__(self) -> int:
        """Return the number of images, unreadable ones included; iteration leaves those out."""

    def __iter__(self) -> Iterator[Example]: ...


@dataclass(frozen=True)
class TrainingPart:
    """The training part of a run's data, for a report."""

    images: Any
    """Image set of the task."""
    views: Sequence[tuple[Image, Any]]
    """Augmented views as the network is shown them, with their targets as the losses take them."""
    names: tuple[str, ...]
    """Class names by class id."""
    colours: tuple[tuple[int, int, int], ...]
    """RGB of each class; empty: chosen automatically."""
    preprocess: Preprocess
    """Preprocessing in evaluation."""


@dataclass(frozen=True)
class Decision:
    """What a network decided about an image, such as a class or an object, and the value that evidence explains."""

    label: int
    """Class id."""
    score: float | None
    """Score in 0..1; `None` for a class of a semantic map."""
    value: Tensor
    """The network's own score for it, a scalar with gradient, such as a logit."""
    box: tuple[float, float, float, float] | None = None
    """Box of an object, xyxy in pixels of the user's image."""


class Explain(Protocol):
    """Returns the report's section on attention, HTML."""

    def __call__(
        self, images: Sequence[tuple[Image, str]], predictions: Sequence[Prediction] = (), source: str = ""
    ) -> str:
        """Explain some images.

        Args:
            images: each with its caption.
            predictions: of each image; the evidence for `TaskSpec.decision` is shown. Empty: attention alone.
            source: a sentence on what is explained.
        """


class TaskSpec(Protocol):
    """A task's part of a run; `SPEC` in `tasks/<task>/spec.py` is the task's instance."""

    max_report_images: int
    """Maximum number of held-out images from which a report is made."""
    csv_columns: tuple[str, ...]
    """Names of the values in each row of `csv_rows`."""
    summary_columns: tuple[str, ...]
    """Names of the values of `summary_row`."""

    def open(self, config: DataConfig) -> Splits[Any]:
        """Open a data set; raises DataError if it cannot be used."""

    def check(self, config: DataConfig) -> CheckReport:
        """Read a whole data set and report its problems, for `twins check`."""

    def warnings(self, splits: Splits[Any]) -> list[str]:
        """Return sentences on weaknesses of the data; a run prints them before it trains."""

    def preprocess(self, config: TrainConfig, initial: Preprocess) -> Preprocess:
        """Return the preprocessing of a run's evaluation; `initial` is that of the initial weights."""

    def train_transform(self, config: TrainConfig, preprocess: Preprocess) -> Transform:
        """Return the transform of training images and targets, with augmentation."""

    def eval_transform(self, preprocess: Preprocess) -> Transform:
        """Return the transform of images and targets for evaluation."""

    def shapes(self, images: Any) -> list[tuple[int, int]] | None:
        """Return each image's `(height, width)`, to batch images of similar shape.

        `None` means any order: images are brought to one size, or the annotations do not give all shapes.
        """

    def sides(self, target: Any) -> NDArray[np.float64]:
        """Return the sides of what has to be seen in an image, relative to the image's shorter side.

        They are the sides of its objects, or the widths of its regions; empty if the task looks at whole images.
        """

    def prepare_batch(self, config: TrainConfig, batch: Batch, epoch: int, num_classes: int) -> tuple[Tensor, Any]:
        """Return a training batch's images and targets as `TaskNetwork.losses` takes them, mixed if configured."""

    def loss_targets(self, batch: Batch) -> Any:
        """Return an evaluation batch's targets as `TaskNetwork.forward_with_losses` takes them."""

    def configure(self, network: TaskNetwork, config: TrainConfig, images: Any) -> None:
        """Configure a network and its losses by the settings and the training images, such as class weights."""

    def metric(self, names: Sequence[str], *, full: bool = False, absent: Absent = "left_out") -> DetailedMetric:
        """Return an empty metric.

        Args:
            names: class names by class id.
            full: also compute measures that are too slow for the evaluations during training.
            absent: how a mean over classes treats classes that neither ground truth nor predictions contain.

        Raises:
            ConfigError: the task has no such mean and `absent` is not its default.
        """

    def relabel(self, images: Any, class_ids: Sequence[int | None]) -> Any:
        """Return images whose class ids `i` are replaced by `class_ids[i]`; `None` leaves the class out."""

    def left_out(self, images: Any, class_ids: Sequence[int | None]) -> str:
        """Return what `relabel` leaves out, such as `3 images`; only called where a class id is `None`."""

    def check_pair(self, image: Image, target: Any) -> None:
        """Raise DataError if an image and its target do not fit together."""

    def decision(self, outputs: Any, prediction: Prediction) -> Decision | None:
        """Return what a network decided about an image, to explain it; `None` if it found nothing.

        Args:
            outputs: of the network's `forward` for this image alone, with gradients.
            prediction: of the image, in descending order of score; it may come from the inference form.
        """

    def infer(self, network: TaskNetwork, image: AnyImage, inference: InferenceConfig) -> Prediction:
        """Predict one image with settings other than the defaults, those of `TaskFacts.inference`."""

    def protocol(self, network: TaskNetwork, config: EvalConfig, data: DataConfig) -> dict[str, Any]:
        """Return the settings that this task's numbers depend on, besides model, size, precision and data."""

    def worst_classes(self, per_class: Sequence[dict[str, Any]], limit: int = 5) -> list[str]:
        """Return a line for each of the `limit` classes with the lowest scores; `per_class` is the metric's table."""

    def csv_rows(self, prediction: Prediction, top: int) -> Iterator[list[Any]]:
        """Yield one image's rows of the CSV file; a ranking of all classes ends after `top` rows."""

    def summary(self, prediction: Prediction, top: int) -> str:
        """Return one image's result in one line, for people; it lists at most `top` classes."""

    def summary_row(self, prediction: Prediction, top: int) -> Sequence[object]:
        """Return one image's result as the columns of tab-separated output, the most wanted first."""

    def counts(self, prediction: Prediction) -> Mapping[str, int]:
        """Return one image's counts by class name, which are added up over the frames of a video."""

    def counts_summary(self, counts: Mapping[str, int]) -> str:
        """Return a video's counts in one line."""

    def synthetic_target(self, height: int, width: int) -> Any:
        """Return a target with two classes for an image of this size, for `twins bench`."""

    def synthetic_targets(self, images: Tensor, num_classes: int) -> Any:
        """Return targets for a batch `(B, 3, H, W)` as `TaskNetwork.losses` takes them, for `twins bench`."""


def spec_of(task: str) -> TaskSpec:
    """Return a task's spec; raises NotFoundError for an unknown task."""
    return part_of(task, "spec").SPEC
