"""One optimiser step: the gradients of `accumulate` batches, then the update of the weights and of their EMA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from twins.data.loading.batch import Batch, to_device
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
    """A task's losses as a forward pass, because distributed wrapping and compilation only see `forward`."""

    def __init__(self, network: TaskNetwork) -> None:
        super().__init__()
        self.task = network

    def forward(self, images: Tensor, targets: Any, sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Return the task's named losses."""
        return self.task.losses(images, targets, sizes)


class TrainStep:
    """The network in training on one process, with its optimiser and, if configured, its EMA and its bf16 copy.

    Args:
        network: it is trained in place; parameters without `requires_grad` are frozen.
        source: this process's share of the data.
        config: settings of the run.
        accelerator: device, precision and processes.

    Attributes:
        master: the network with the weights that the optimiser updates, in fp32.
        network: the network of the forward and backward passes: `master` or its bf16 copy.
        eval_network: the network that is evaluated, and saved as the best: `master` or its EMA.
        note: a sentence on batch norm in several processes, for the log, or `None`.
    """

    def __init__(self, network: TaskNetwork, source: Source, config: TrainConfig, accelerator: Accelerator) -> None:
        assert isinstance(network, nn.Module)
        self.master, self.source, self.config, self.accelerator = network, source, config, accelerator
        losses = Losses(network).to(accelerator.device)
        self.note = synchronise_batch_norms(losses, accelerator)
        self.copy = Bf16Copy(network) if config.precision == "bf16-true" else None
        self.network: Any = network if self.copy is None else self.copy.network
        losses = losses if self.copy is None else Losses(self.network)
        if config.compile:
            (losses if network.one_graph else self.network.backbone).compile()
        train_mode(losses)
        self.optimizer = accelerator.prepare_optimizer(build_optimizer(network, config.optimizer))
        self.ema = EMA(network, config.ema_decay) if config.ema_decay else None
        self.eval_network: TaskNetwork = network if self.ema is None else self.ema.network
        self.losses: nn.Module = accelerator.prepare_model(losses)
        # collected last: moving a module, which accelerate does too, can replace its buffers by new tensors
        self.buffers, self.statistics = list(network.buffers()), running_statistics(network)
        self._buffers_before = clone_buffers(self.buffers)

    @contextmanager
    def batches(self, step: int) -> Iterator[Iterator[Batch]]:
        """Yield batches without end from optimiser step `step` on; the loader processes end when the block does."""
        with closing(load_batches(lambda: self.source.train(step))) as batches:
            if self.accelerator.num_processes == 1:
                yield batches
                return
            # DDP changes the order of its sums after its first backward pass. That pass is discarded here, so that a
            # resumed run sums in the same order as one that was never stopped.
            first, self._buffers_before = next(batches), clone_buffers(self.buffers)
            torch.autograd.backward(self._losses(first, step)["loss"])
            self._clear_gradients()
            self.restore_statistics()
            yield chain([first], batches)

    def compute_gradients(self, passes: Sequence[Batch], step: int) -> dict[str, float]:
        """Accumulate the gradients of one optimiser step; return the mean loss of its passes and its parts.

        Args:
            passes: `accumulate` batches, for each of which there is one forward and backward pass.
            step: number of optimiser steps before this one; seeds dropout.

        Returns:
            `loss`, and if the network has several losses, `loss_<name>` for each.

        Raises:
            OutOfMemory: a batch did not fit in memory; with the number of images that fits.
        """
        if not self.network.training:  # an evaluation left it in eval mode
            train_mode(self.network)
        self._buffers_before = clone_buffers(self.buffers)
        losses: list[dict[str, Tensor]] = []
        try:
            for index, batch in enumerate(passes):
                reseed(self.config.seed, step, index, self.accelerator.process_index)
                losses.append(self._backward(batch, step, last=index == len(passes) - 1))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        if len(losses) < len(passes):  # outside the except block, so that the tensors of the failed pass are freed
            raise self._out_of_memory(passes[len(losses)])
        if self.copy is not None:
            self.copy.move_gradients_to_master()
        average_statistics(self.statistics, self.accelerator)
        return _sums(losses)

    def clip(self) -> Tensor:
        """Clip the gradients by their total norm; return the norm before clipping."""
        limit = self.config.optimizer.clip_grad
        parameters = [p for p in self.master.parameters() if p.requires_grad]
        return self.accelerator.clip_grad_norm_(parameters, float("inf") if limit is None else limit)

    def update(self, step: int) -> None:
        """Update the weights and the EMA; `step` counts the optimiser steps, this one included."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.copy is not None:
            self.copy.copy_master_weights()
        if self.ema is not None:
            self.ema.update(self.master, step)

    def restore_statistics(self) -> None:
        """Restore the buffers, such as running statistics, to their values before the newest `compute_gradients`."""
        restore_buffers(self.buffers, self._buffers_before)

    def state(self, progress: Progress, fingerprint: str) -> State:
        """Return everything that the run needs to resume exactly."""
        scaler = self.accelerator.scaler
        return State(
            weights=detach_to_cpu(self.master.state_dict()),
            progress=progress,
            optimizer=self.optimizer.state_dict(),
            average=None if self.ema is None else detach_to_cpu(self.ema.network.state_dict()),
            scaler=None if scaler is None else scaler.state_dict(),
            fingerprint=fingerprint,
        )

    def load(self, state: State) -> None:
        """Load a state that `state` returned."""
        self.master.load_state_dict(state.weights)
        if self.copy is not None:
            self.copy.copy_master_weights()
        self.optimizer.load_state_dict(state.optimizer)
        if self.ema is not None and state.average is not None:
            self.ema.network.load_state_dict(state.average)
        if self.accelerator.scaler is not None and state.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.scaler)

    def _backward(self, batch: Batch, step: int, *, last: bool) -> dict[str, Tensor]:
        # processes exchange gradients once per step, in its last pass
        with nullcontext() if last else self.accelerator.no_sync(self.losses):
            losses = self._losses(batch, step)
            self.accelerator.backward(losses["loss"])
        return {name: loss.detach() for name, loss in losses.items()}

    def _losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Return a pass's share of the step's `loss`, the sum, and if there are several, of each `loss_<name>`."""
        images, targets = self.source.prepare(batch, step // self.source.steps_per_epoch)
        images, targets, sizes = (to_device(part, self.accelerator.device) for part in (images, targets, batch.sizes))
        images = images if self.copy is None else images.bfloat16()
        losses = self.losses(images, targets, sizes)
        shares = {"loss": torch.stack(list(losses.values())).sum() / self.config.accumulate}
        if len(losses) > 1:
            shares |= {f"loss_{name}": loss.detach() / self.config.accumulate for name, loss in losses.items()}
        return shares

    def _out_of_memory(self, batch: Batch) -> OutOfMemory:
        """Clear the gradients, find out how many images of a batch fit in memory, and return the error for it."""
        self._clear_gradients()
        free_memory()
        images, targets = self.source.prepare(batch, 0)
        sizes = batch.sizes
        fitting = largest_batch(
            len(images),
            lambda count: self._probe(images[:count], targets[:count], None if sizes is None else sizes[:count]),
        )
        self._clear_gradients()
        free_memory()
        return OutOfMemory(len(images), fitting)

    def _probe(self, images: Tensor, targets: Any, sizes: Tensor | None) -> None:
        """Run a forward and a backward pass, to see whether these images fit in memory."""
        device = self.accelerator.device
        images = images.to(device) if self.copy is None else images.to(device, torch.bfloat16)
        with self.accelerator.autocast():
            losses = self.network.losses(images, to_device(targets, device), to_device(sizes, device))
        torch.autograd.backward(torch.stack(list(losses.values())).sum())

    def _clear_gradients(self) -> None:
        self.network.zero_grad()
        self.optimizer.zero_grad()


def _sums(losses: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    """Return the sum of each loss over the passes, with a single wait for the device."""
    sums = [torch.stack([shares[name].float() for shares in losses]).sum() for name in losses[0]]
    return dict(zip(losses[0], torch.stack(sums).tolist(), strict=True))
