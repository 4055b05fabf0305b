"""Predictions over a set, each image exactly once over all processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from twins.engine.contracts import Batch, Metric, Task, Unreadable
from twins.engine.loading import loading
from twins.engine.processes import gather
from twins.engine.signals import Stop
from twins.ops.padding import true_sizes
from twins.predictions import Prediction


class EvaluationStopped(Exception):
    """The process was asked to stop in the middle of an evaluation; it is made again when the run goes on."""


def predictions(
    network: Task, batches: Iterable[Batch], accelerator: Accelerator
) -> Iterator[tuple[list[Prediction], Batch]]:
    """Yield each batch with the network's decoded predictions, one per image."""
    network.eval()
    for batch in loading(lambda: batches):
        if not len(batch.indices):
            yield [], batch
            continue
        with accelerator.autocast():
            found = predict_batch(network, batch.images, batch.sizes, batch.originals)
        yield found, batch


@torch.inference_mode()
def predict_batch(
    network: Task, images: Tensor, sizes: Tensor | None, originals: Sequence[tuple[int, int]]
) -> list[Prediction]:
    """Return the decoded predictions of a batch, on the network's device and in its number format.

    Args:
        network: in evaluation mode.
        images: prepared `(B, 3, H, W)`: uint8, which is normalised as the network has it, or normalised floats.
        sizes: true sizes in pixels, int `(B, 2)`, or `None`: every image fills its batch.
        originals: height and width of each of the users' images in pixels.
    """
    reference = next(iter(network.parameters()))
    sizes = None if sizes is None else sizes.to(reference.device)
    images = images.to(reference.device, non_blocking=True)
    images = network.info.preprocess.normalise(images, sizes)
    outputs = network(images.to(reference.dtype), sizes)
    return network.decode(outputs, true_sizes(images, sizes), originals)


def evaluate(
    network: Task, batches: Iterable[Batch], metric: Metric, accelerator: Accelerator, stop: Stop | None = None
) -> tuple[dict[str, float], list[Unreadable]]:
    """Measure a network on a set that is spread over the processes.

    Args:
        network: on the accelerator's device.
        batches: this process's share, of any length; over all processes each image once.
        metric: reset first; holds the whole set's state afterwards, on every process.
        accelerator: device, precision and processes.
        stop: ends the evaluation early, where the process is alone.

    Returns:
        the metric's numbers, the same on every process, and the images of all processes that could not be read.

    Raises:
        EvaluationStopped: `stop` was requested.
    """
    metric.reset()
    unreadable: list[Unreadable] = []
    for predicted, batch in predictions(network, batches, accelerator):
        unreadable += batch.skipped
        if predicted:
            metric.update(predicted, batch.targets)
        if stop is not None and stop.requested and accelerator.num_processes == 1:
            raise EvaluationStopped
    if accelerator.num_processes > 1:
        states = gather(accelerator, metric.state())
        metric.reset()
        metric.merge(states)
        unreadable = [item for share in gather(accelerator, unreadable) for item in share]
    return metric.compute(), unreadable
