"""The one evaluation loop: a network's predictions over a set, each image once over all processes, into a metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from twins.data.loading.batch import Batch, Skipped, normalise
from twins.engine.contracts import Metric
from twins.engine.loading import load_batches
from twins.engine.processes import gather
from twins.engine.signals import Stop
from twins.errors import DataError
from twins.ops.padding import true_sizes
from twins.predictions import Prediction
from twins.tasks.network import TaskNetwork


class EvaluationStopped(Exception):
    """The process was asked to stop in the middle of an evaluation; it is made again when the run resumes."""


def measure(
    predicted: Iterable[tuple[list[Prediction], Batch]],
    metric: Metric,
    *,
    each: Callable[[list[Prediction], Any], None] | None = None,
    accelerator: Accelerator | None = None,
    stop: Stop | None = None,
) -> list[Skipped]:
    """Feed a metric with the predictions of a set, which may be spread over processes.

    Args:
        predicted: each batch with its predictions, as `predict_batches` gives them: this process's share.
        metric: reset first; holds the whole set's state afterwards, on every process.
        each: is called with each batch's predictions and targets too.
        accelerator: the processes; `None` is this one alone.
        stop: ends the evaluation early, where the process is alone.

    Returns:
        the images of all processes that could not be read.

    Raises:
        EvaluationStopped: `stop` was requested.
    """
    alone = accelerator is None or accelerator.num_processes == 1
    metric.reset()
    skipped: list[Skipped] = []
    for found, batch in predicted:
        skipped += batch.skipped
        if found:
            metric.update(found, batch.targets)
            if each is not None:
                each(found, batch.targets)
        if stop is not None and stop.requested and alone:
            raise EvaluationStopped
    if accelerator is None or alone:
        return skipped
    states = gather(accelerator, metric.state())
    metric.reset()
    metric.merge(states)
    return [item for share in gather(accelerator, skipped) for item in share]


def predict_batches(
    network: TaskNetwork, batches: Callable[[], Iterable[Batch]], accelerator: Accelerator | None = None
) -> Iterator[tuple[list[Prediction], Batch]]:
    """Yield each batch with the network's decoded predictions, one per image; none where no image could be read.

    Args:
        network: is put in evaluation mode.
        batches: makes the loader.
        accelerator: says the number format of the forward pass; `None` is the network's own.
    """
    network.eval()
    for batch in load_batches(batches):
        if not batch.indices:
            yield [], batch
            continue
        with nullcontext() if accelerator is None else accelerator.autocast():
            found = predict_batch(network, batch.images, batch.sizes, batch.originals)
        yield found, batch


@torch.inference_mode()
def predict_batch(
    network: TaskNetwork, images: Tensor, sizes: Tensor | None, originals: Sequence[tuple[int, int]]
) -> list[Prediction]:
    """Return the decoded predictions of a batch, on the network's device and in its number format.

    Args:
        network: in evaluation mode.
        images: `(B, 3, H, W)`: uint8, which is normalised as the network has it, or normalised floats.
        sizes: true sizes in pixels, int `(B, 2)`, or `None`: every image fills its batch.
        originals: height and width of each of the users' images in pixels.
    """
    reference = next(iter(network.parameters()))
    sizes = None if sizes is None else sizes.to(reference.device)
    images = normalise(images, sizes, network.info.preprocess, reference.device)
    outputs = network(images.to(reference.dtype), sizes)
    return network.decode(outputs, true_sizes(images, sizes), originals)


def check_measured(values: Mapping[str, float], monitor: str, images: int) -> None:
    """Raise DataError where every held-out pixel or object is ignored, so that the monitored metric has no value."""
    if monitor not in values:
        raise DataError(
            f"nothing in the {images} held-out images counts, so {monitor} cannot be measured; "
            "look at them with twins check"
        )
