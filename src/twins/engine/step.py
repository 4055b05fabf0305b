"""One optimiser step: the gradients of its passes, then the update of the weights and of their EMA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from twins.data.loading.batch import Batch
from twins.engine.config import TrainConfig
from twins.engine.contracts import Source
from twins.engine.copies import EMA, Bf16Copy
from twins.engine.loading import load_batches
from twins.engine.memory import OutOfMemory, free_memory, is_out_of_memory, largest_batch
from twins.engine.norms import (
    average_statistics,
    clone_buffers,
    restore_buffers,
    running_statistics,
    synchronise_batch_norms,
)
from twins.engine.optim import build_optimizer, train_mode
from twins.engine.progress import Progress
from twins.engine.randomness import reseed
from twins.engine.state import State, detach_to_cpu
from twins.tasks.network import TaskNetwork


class Losses(nn.Module):
    """A task's losses as a forward pass, which is all that distributed wrapping and compilation see."""

    def __init__(self, task: TaskNetwork) -> None:
        super().__init__()
        self.task = task

    def forward(self, images: Tensor, targets: Any, sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Return the task's named losses."""
        return self.task.losses(images, targets, sizes)


class TrainStep:
    """The network in training on one process, with its optimiser, its EMA and its bf16 copy where there are such.

    `task` holds the weights that move, in float32, `network` is what computes (the same, or the bf16 copy), `evaluated`
    what is measured and kept as best (the same, or the EMA).

    Args:
        task: the network with its losses; it is trained in place, frozen parameters are those that need no gradient.
        source: this process's share of the data.
        config: the run's settings.
        accelerator: device, precision and processes.
    """

    def __init__(self, task: TaskNetwork, source: Source, config: TrainConfig, accelerator: Accelerator) -> None:
        assert isinstance(task, nn.Module)
        self.task, self.source, self.config, self.accelerator = task, source, config, accelerator
        losses = Losses(task).to(accelerator.device)
        self.note = synchronise_batch_norms(losses, accelerator)
        self.copy = Bf16Copy(task) if config.precision == "bf16-true" else None
        self.network: Any = task if self.copy is None else self.copy.network
        losses = losses if self.copy is None else Losses(self.network)
        if config.compile:
            (losses if task.one_graph else self.network.backbone).compile()
        train_mode(losses)
        self.optimizer = accelerator.prepare_optimizer(build_optimizer(task, config.optimizer))
        self.ema = EMA(task, config.ema_decay) if config.ema_decay else None
        self.evaluated: TaskNetwork = task if self.ema is None else self.ema.network
        self.losses: nn.Module = accelerator.prepare_model(losses)
        # only now: moving a module, which accelerate does too, can put new tensors in its buffers' place
        self.buffers, self.statistics = list(task.buffers()), running_statistics(task)
        self._before = clone_buffers(self.buffers)

    @contextmanager
    def batches(self, step: int) -> Iterator[Iterator[Batch]]:
        """Give batches without end from optimiser step `step` of the run on; their processes end with the block."""
        with closing(load_batches(lambda: self.source.train(step))) as batches:
            if self.accelerator.num_processes == 1:
                yield batches
                return
            # the wrapper orders its sums anew after its first backward pass: let that be one that is thrown away,
            # so that a run that was stopped adds in the same order as one that was not
            first, self._before = next(batches), clone_buffers(self.buffers)
            torch.autograd.backward(self._loss(first, step))
            self._forget_gradients()
            self.undo()
            yield chain([first], batches)

    def gradients(self, passes: Sequence[Batch], step: int) -> Tensor:
        """Gather the gradients of one optimiser step from its passes; return their mean loss, on the device.

        Args:
            passes: `accumulate` batches.
            step: optimiser steps made before, which seeds dropout.

        Raises:
            OutOfMemory: says how many images fit.
        """
        if not self.network.training:  # an evaluation came between
            train_mode(self.network)
        self._before = clone_buffers(self.buffers)
        losses: list[Tensor] = []
        try:
            for index, batch in enumerate(passes):
                reseed(self.config.seed, step, index, self.accelerator.process_index)
                losses.append(self._backward(batch, step, last=index == len(passes) - 1))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        if len(losses) < len(passes):  # outside that block the failed pass's tensors are free again
            raise self._out_of_memory(passes[len(losses)])
        if self.copy is not None:
            self.copy.hand_over_gradients()
        average_statistics(self.statistics, self.accelerator)
        return torch.stack(losses).sum()

    def clip(self) -> Tensor:
        """Bound the gradients' norm; return what it was."""
        limit = self.config.optimizer.clip_grad
        parameters = [p for p in self.task.parameters() if p.requires_grad]
        return self.accelerator.clip_grad_norm_(parameters, float("inf") if limit is None else limit)

    def update(self, step: int) -> None:
        """Move the weights, and let the EMA follow; `step` counts this one."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.copy is not None:
            self.copy.read_weights()
        if self.ema is not None:
            self.ema.update(self.task, step)

    def undo(self) -> None:
        """Put running statistics back as they were before the newest `gradients`; the weights have not moved."""
        restore_buffers(self.buffers, self._before)

    def state(self, at: Progress, fingerprint: str) -> State:
        """Return all that the run needs to resume exactly."""
        scaler = self.accelerator.scaler
        return State(
            weights=detach_to_cpu(self.task.state_dict()),
            progress=at,
            optimizer=self.optimizer.state_dict(),
            average=None if self.ema is None else detach_to_cpu(self.ema.network.state_dict()),
            scaler=None if scaler is None else scaler.state_dict(),
            fingerprint=fingerprint,
        )

    def load(self, state: State) -> None:
        """Take up what `state` returned."""
        self.task.load_state_dict(state.weights)
        if self.copy is not None:
            self.copy.read_weights()
        self.optimizer.load_state_dict(state.optimizer)
        if self.ema is not None and state.average is not None:
            self.ema.network.load_state_dict(state.average)
        if self.accelerator.scaler is not None and state.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.scaler)

    def _backward(self, batch: Batch, step: int, *, last: bool) -> Tensor:
        with nullcontext() if last else self.accelerator.no_sync(self.losses):  # ranks exchange gradients once per step
            loss = self._loss(batch, step)
            self.accelerator.backward(loss)
        return loss.detach()

    def _loss(self, batch: Batch, step: int) -> Tensor:
        images, targets = self.source.prepare(batch, step // self.source.steps_per_epoch)
        images, targets, sizes = (_to(part, self.accelerator.device) for part in (images, targets, batch.sizes))
        images = images if self.copy is None else images.bfloat16()
        return torch.stack(list(self.losses(images, targets, sizes).values())).sum() / self.config.accumulate

    def _out_of_memory(self, batch: Batch) -> OutOfMemory:
        """Find out how many images of a batch fit; leaves no gradients."""
        self._forget_gradients()
        free_memory()
        images, targets = self.source.prepare(batch, 0)
        sizes = batch.sizes
        fits = largest_batch(
            len(images),
            lambda count: self._probe(images[:count], targets[:count], None if sizes is None else sizes[:count]),
        )
        self._forget_gradients()
        free_memory()
        return OutOfMemory(len(images), fits)

    def _probe(self, images: Tensor, targets: Any, sizes: Tensor | None) -> None:
        device = self.accelerator.device
        images = images.to(device) if self.copy is None else images.to(device, torch.bfloat16)
        with self.accelerator.autocast():
            losses = self.network.losses(images, _to(targets, device), _to(sizes, device))
        torch.autograd.backward(torch.stack(list(losses.values())).sum())

    def _forget_gradients(self) -> None:
        self.network.zero_grad()
        self.optimizer.zero_grad()


def _to(targets: Any, device: torch.device) -> Any:
    """Bring what a batch holds to a device: a tensor, any nesting of lists and dicts of them, or nothing."""
    if isinstance(targets, Tensor):
        return targets.to(device, non_blocking=True)
    if isinstance(targets, dict):
        return {key: _to(value, device) for key, value in targets.items()}
    return [_to(value, device) for value in targets] if isinstance(targets, list | tuple) else targets
