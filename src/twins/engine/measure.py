"""The evaluation loop of training and of `twins.evaluate`: predicts each image once and updates a metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from twins.data.loading.batch import Batch, Skipped, to_device
from twins.engine.contracts import Metric
from twins.engine.loading import load_batches
from twins.engine.processes import gather
from twins.engine.randomness import seed_for
from twins.engine.signals import Stop
from twins.errors import DataError, number_of
from twins.ops.padding import true_sizes
from twins.predictions import Prediction
from twins.tasks.network import TaskNetwork, check_finite_scores


class EvaluationStopped(Exception):
    """A signal interrupted an evaluation; the resumed run starts it again."""


class HeldOutLosses:
    """The mean of each loss over the images of an evaluation.

    Args:
        targets_of: returns a batch's targets for the losses; see `TaskSpec.loss_targets`.
    """

    def __init__(self, targets_of: Callable[[Batch], Any]) -> None:
        self.targets_of = targets_of
        self._sums: dict[str, float] = {}
        self._images = 0

    def add(self, losses: Mapping[str, Tensor], images: int) -> None:
        """Add the mean losses of a batch of `images` images."""
        values = torch.stack(list(losses.values())).tolist()
        for name, value in zip(losses, values, strict=True):
            self._sums[name] = self._sums.get(name, 0.0) + value * images
        self._images += images

    def compute(self, accelerator: Accelerator | None = None) -> dict[str, float]:
        """Return `loss`, the sum, and if there are several `loss_<name>` of each; over all images of all processes."""
        share = (self._sums, self._images)
        shares = [share] if accelerator is None else gather(accelerator, share)
        images = max(1, sum(count for _, count in shares))
        names = dict.fromkeys(name for sums, _ in shares for name in sums)
        means = {name: sum(sums.get(name, 0.0) for sums, _ in shares) / images for name in names}
        parts = {f"loss_{name}": value for name, value in means.items()} if len(means) > 1 else {}
        return {"loss": sum(means.values()), **parts} if means else {}


class Samples:
    """A few predictions of an evaluation, of the same images each time: those whose hashed index is smallest.

    Attributes:
        items: index and prediction of each image.
    """

    def __init__(self, count: int = 6) -> None:
        self.count = count
        self.items: list[tuple[int, Prediction]] = []

    def collect(
        self, predicted_batches: Iterable[tuple[list[Prediction], Batch]]
    ) -> Iterator[tuple[list[Prediction], Batch]]:
        """Pass batches on, and keep the predictions of some images."""
        for predictions, batch in predicted_batches:
            self.items += zip(batch.indices, predictions, strict=True)
            self.items = sorted(self.items, key=lambda item: seed_for(item[0]))[: self.count]
            yield predictions, batch


def is_loss(name: str) -> bool:
    """Return whether a metric is the held-out loss or a part of it, which is smaller when better, and no share."""
    return name == "loss" or name.startswith("loss_")


def measure(
    predicted_batches: Iterable[tuple[list[Prediction], Batch]],
    metric: Metric,
    *,
    on_batch: Callable[[list[Prediction], Any], None] | None = None,
    accelerator: Accelerator | None = None,
    stop: Stop | None = None,
) -> list[Skipped]:
    """Update a metric with the predictions of a data set, and merge its state over the processes.

    Args:
        predicted_batches: this process's share of the batches with their predictions, from `predict_batches`.
        metric: reset first; afterwards holds the state of the whole data set, on every process.
        on_batch: also called with the predictions and targets of each batch.
        accelerator: the processes; `None` is a single process.
        stop: stops the evaluation after the current batch, with a single process only.

    Returns:
        the unreadable images of all processes.

    Raises:
        EvaluationStopped: a stop was requested.
    """
    single_process = accelerator is None or accelerator.num_processes == 1
    metric.reset()
    skipped: list[Skipped] = []
    for predictions, batch in predicted_batches:
        skipped += batch.skipped
        if predictions:
            metric.update(predictions, batch.targets)
            if on_batch is not None:
                on_batch(predictions, batch.targets)
        if stop is not None and stop.requested and single_process:
            raise EvaluationStopped
    if accelerator is None or single_process:
        return skipped
    states = gather(accelerator, metric.state())
    metric.reset()
    metric.merge(states)
    return [item for share in gather(accelerator, skipped) for item in share]


def predict_batches(
    network: TaskNetwork,
    batches: Callable[[], Iterable[Batch]],
    accelerator: Accelerator | None = None,
    *,
    losses: HeldOutLosses | None = None,
) -> Iterator[tuple[list[Prediction], Batch]]:
    """Yield the decoded predictions of each batch, one per image, with the batch; no predictions for an empty batch.

    Args:
        network: it is put in eval mode.
        batches: creates the loader.
        accelerator: sets autocast for the forward pass; `None` computes in the dtype of the weights.
        losses: also computed, in the same forward pass.
    """
    network.eval()
    for batch in load_batches(batches):
        if not batch.indices:
            yield [], batch
            continue
        with nullcontext() if accelerator is None else accelerator.autocast():
            predictions = _predict_labelled(network, batch, losses, check_scores=accelerator is None)
        yield predictions, batch


@torch.inference_mode()
def _predict_labelled(
    network: TaskNetwork, batch: Batch, losses: HeldOutLosses | None, *, check_scores: bool
) -> list[Prediction]:
    """Return the predictions of a batch with labels, and add its losses."""
    if losses is None:
        return predict_batch(network, batch.images, batch.sizes, batch.originals, check_scores=check_scores)
    images, sizes = network.prepare(batch.images, batch.sizes)
    targets = to_device(losses.targets_of(batch), images.device)
    outputs, batch_losses = network.forward_with_losses(images, targets, sizes)
    losses.add(batch_losses, len(batch.indices))
    return _decode(network, outputs, true_sizes(images, sizes), batch.originals, check_scores=check_scores)


@torch.inference_mode()
def predict_batch(
    network: TaskNetwork,
    images: Tensor,
    sizes: Tensor | None,
    originals: Sequence[tuple[int, int]],
    *,
    check_scores: bool = True,
) -> list[Prediction]:
    """Return the decoded predictions of a batch, computed on the network's device and in the dtype of its weights.

    Args:
        network: network in eval mode.
        images: `(B, 3, H, W)`: uint8, which is normalised by the network's `Preprocess`, or normalised floats.
        sizes: true height and width of each image in pixels, int `(B, 2)`; `None` means that every image fills the
            batch.
        originals: height and width in pixels of each image before it was resized.
        check_scores: whether scores that are not finite are an error; training has its own check, of the loss.

    Raises:
        WeightsError: scores are not finite.
    """
    images, sizes = network.prepare(images, sizes)
    outputs = network(images, sizes)
    return _decode(network, outputs, true_sizes(images, sizes), originals, check_scores=check_scores)


def _decode(
    network: TaskNetwork, outputs: Any, sizes: Tensor, originals: Sequence[tuple[int, int]], *, check_scores: bool
) -> list[Prediction]:
    if check_scores:
        check_finite_scores(outputs)
    return network.decode(outputs, sizes, originals)


def check_measured(values: Mapping[str, float], monitor: str, images: int) -> None:
    """Raise DataError if every validation pixel or object is ignored, so that the monitored metric has no value."""
    if monitor not in values:
        raise DataError(
            f"nothing in the {number_of(images, 'held-out image')} counts, so {monitor} cannot be measured; "
            "look at them with twins check"
        )
