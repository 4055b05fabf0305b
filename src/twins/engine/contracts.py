"""Protocols of a metric and of a source of batches, as the engine uses them; a network is a `TaskNetwork`."""

# ruff: noqa: D102  # names and types document these methods
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor

from twins.data.loading.batch import Batch
from twins.predictions import Prediction


class Metric(Protocol):
    """Accumulates predictions and targets into named numbers; processes exchange its state."""

    def update(self, predictions: Sequence[Prediction], targets: Any) -> None: ...
    def state(self) -> dict[str, Tensor]: ...
    def merge(self, states: Sequence[dict[str, Tensor]]) -> None: ...
    def compute(self) -> dict[str, float]: ...
    def reset(self) -> None: ...


class Source(Protocol):
    """One process's share of the data."""

    steps_per_epoch: int
    """Optimiser steps in a pass over the training images."""
    train_count: int
    """Number of training images."""
    val_count: int
    """Number of validation images."""

    def train(self, step: int) -> Iterator[Batch]:
        """Yield training batches without end, starting at optimiser step `step` of the run."""

    def evaluation(self) -> Iterable[Batch]:
        """Yield this process's share of the validation images; over all processes, each image exactly once."""

    def prepare(self, batch: Batch, epoch: int) -> tuple[Tensor, Any]:
        """Return the images and targets for the losses, normalised and mixed."""

    def loss_targets(self, batch: Batch) -> Any:
        """Return the targets of an evaluation batch as `TaskNetwork.forward_with_losses` takes them."""

    def path(self, index: int) -> str:
        """Return the path of a training image, for messages."""
