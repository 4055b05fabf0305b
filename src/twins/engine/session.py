"""The parts of a training run put together, and the few things the loop does with them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from twins.engine.config import TrainConfig
from twins.engine.contracts import Batch, Metric, Source, Task, Unreadable, check_measured
from twins.engine.ema import Average
from twins.engine.evaluate import EvaluationStopped, evaluate
from twins.engine.loading import loading
from twins.engine.memory import free_memory, is_out_of_memory, largest_fit, out_of_memory
from twins.engine.norms import average_statistics, copies, kept, restore, running_statistics, synchronise
from twins.engine.optim import all_finite, build_optimizer, train_mode
from twins.engine.processes import gather, on_main, total
from twins.engine.randomness import reseed
from twins.engine.records import LOG, Records, brief
from twins.engine.schedule import progress_of, total_steps
from twins.engine.signals import Stop
from twins.engine.state import LAST, Progress, State, load_state, plain, save_state
from twins.engine.working import WorkingCopy
from twins.errors import DataError, TrainingError
from twins.weights.files import write_tensors

BEST = "best.safetensors"


class Losses(nn.Module):
    """A task's losses as a forward pass, which is all that distributed wrapping and compilation see."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, images: Tensor, targets: Any, sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Return the task's named losses."""
        return self.task.losses(images, targets, sizes)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What all processes know of a step once its gradients are there, and before the weights move."""

    loss: float
    """Mean loss over processes and passes; not finite when any of them is not."""
    stop: bool
    """Whether a process was asked to stop."""
    unreadable: int
    """Images found unreadable in this step, over all processes."""
    seconds: float
    """The main process's clock: time spent on the run."""


class Session:
    """A run in progress on one process: network, optimiser, average, data, records, and where it is.

    Args:
        task: the network with its losses; frozen parameters are those that need no gradient.
        source: this process's share of the data.
        metric: what evaluations measure.
        config: the run's settings.
        accelerator: device, precision and processes.
        records: writes to the run's folder, which exists.
        leading: the metric that chooses the best weights; larger is better.
        fingerprint: tells the training data from another.
    """

    def __init__(
        self,
        task: Task,
        source: Source,
        metric: Metric,
        config: TrainConfig,
        accelerator: Accelerator,
        records: Records,
        *,
        leading: str,
        fingerprint: str,
    ) -> None:
        self.task, self.source, self.metric, self.config = task, source, metric, config
        self.accelerator, self.leading, self.fingerprint = accelerator, leading, fingerprint
        self.records, self.run = records, records.run
        losses = Losses(task).to(accelerator.device)
        if (said := synchronise(losses, accelerator)) is not None:
            records.say(f"note: {said}")
        self.copy = WorkingCopy(self.task_module) if config.precision == "bf16-true" else None
        if self.copy is not None:
            losses = Losses(self.working)
        if config.compile:
            (losses if task.one_graph else self.working.backbone).compile()
        train_mode(losses)
        self.optimizer = accelerator.prepare_optimizer(build_optimizer(task, config.optimizer))
        self.average = Average(task, config.ema_decay) if config.ema_decay else None
        self.losses: nn.Module = accelerator.prepare_model(losses)
        # only now: moving a module, which `prepare_model` does too, can put new tensors in its buffers' place
        self.buffers, self.statistics = list(self.task_module.buffers()), running_statistics(self.task_module)
        self._buffers_before = copies(self.buffers)
        self.progress, self.saved = Progress(), -1
        self.steps = total_steps(config, source.steps_per_epoch)
        self.eval_steps = max(1, round(config.eval_every * source.steps_per_epoch))
        self.metrics: dict[str, float] = {}
        self._busy, self._images = 0.0, 0
        self._started, self._before = time.monotonic(), 0.0

    # where the run is

    @property
    def done(self) -> float:
        """Return how much of the run is done, 0..1."""
        where = self.progress
        return progress_of(self.config, step=where.step, steps=self.steps, seconds=where.seconds)

    @property
    def epoch(self) -> float:
        """Return the passes made over the training images."""
        return self.progress.step / self.source.steps_per_epoch

    @property
    def patience_out(self) -> bool:
        """Return whether evaluations have not bettered for as long as the run waits."""
        return self.config.patience is not None and self.progress.stale >= self.config.patience

    @property
    def finished(self) -> bool:
        """Return whether nothing is left to train."""
        return self.done >= 1.0 or self.patience_out

    def seconds(self) -> float:
        """Return the wall-clock time spent on the run, over all its sessions."""
        return self._before + time.monotonic() - self._started

    # going on from a state

    def resume(self) -> None:
        """Take up the newest saved state; without one the run begins at its beginning.

        Raises:
            DataError: the training data is no longer what the state was made with.
        """
        if (self.run / LAST).exists():
            state = load_state(self.run)
            if state.fingerprint != self.fingerprint:
                raise DataError(
                    f"the training images have changed since {self.run} began, so it cannot go on exactly; put the "
                    "data back as it was, or start a new run"
                )
            self.task.load_state_dict(state.weights)
            if self.copy is not None:
                self.copy.read_weights()
            self.optimizer.load_state_dict(state.optimizer)
            if self.average is not None and state.average is not None:
                self.average.network.load_state_dict(state.average)
            if self.accelerator.scaler is not None and state.scaler is not None:
                self.accelerator.scaler.load_state_dict(state.scaler)
            self.progress, self.saved = state.progress, state.progress.step
            self._before = self.progress.seconds
        self.records.forget_after(self.progress.step)
        self.records.say(f"going on with {self.run} from step {self.progress.step}, epoch {self.epoch:.2f}")

    # learning

    @contextmanager
    def passes(self) -> Iterator[Iterator[Batch]]:
        """Give batches without end from where the run is, with the weights of every process in step.

        The processes that load them end with the block.
        """
        with closing(loading(lambda: self.source.train(self.progress.step))) as batches:
            if self.accelerator.num_processes == 1:
                yield batches
                return
            # the wrapper orders its sums anew after its first backward pass: let that be one that counts for nothing,
            # so that a run that was stopped adds in the same order as one that was not
            first = next(batches)
            with kept(self.buffers):
                torch.autograd.backward(self._loss(first, self.losses))
            self._forget_gradients()
            yield chain([first], batches)

    @property
    def task_module(self) -> nn.Module:
        """Return the task as the module that it is."""
        assert isinstance(self.task, nn.Module)
        return self.task

    @property
    def working(self) -> Any:
        """Return the task that computes: the one that is trained, or its copy in another number format."""
        return self.task if self.copy is None else self.copy.network

    def learn(self, batches: Sequence[Batch]) -> Tensor:
        """Gather the gradients of one optimiser step from its passes; return their mean loss, on the device.

        Raises:
            TrainingError: memory ran out; says what fits.
        """
        losses: list[Tensor] = []
        ran_out = False
        if not self.working.training:  # an evaluation came between
            train_mode(self.working)
        self._buffers_before = copies(self.buffers)
        try:
            for index, batch in enumerate(batches):
                reseed(self.config.seed, self.progress.step, index, self.accelerator.process_index)
                losses.append(self._backward(batch, last=index == len(batches) - 1))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            ran_out = True  # outside this block the failed pass's tensors are free again
        if ran_out:
            raise self._out_of_memory(batches[len(losses)])
        if self.copy is not None:
            self.copy.hand_over_gradients()
        average_statistics(self.statistics, self.accelerator)
        return torch.stack(losses).sum()

    def _backward(self, batch: Batch, *, last: bool) -> Tensor:
        if last:
            loss = self._loss(batch, self.losses)
            self.accelerator.backward(loss)
        else:
            with self.accelerator.no_sync(self.losses):  # ranks exchange gradients once per step
                loss = self._loss(batch, self.losses)
                self.accelerator.backward(loss)
        return loss.detach()

    def _loss(self, batch: Batch, losses: nn.Module) -> Tensor:
        device = self.accelerator.device
        epoch = self.progress.step // self.source.steps_per_epoch
        images, targets = self.source.prepare(batch, epoch)
        images, targets, sizes = (_to(part, device) for part in (images, targets, batch.sizes))
        images = images if self.copy is None else images.bfloat16()
        return torch.stack(list(losses(images, targets, sizes).values())).sum() / self.config.accumulate

    def exchange(self, loss: Tensor, batches: Sequence[Batch], stop: Stop) -> Report:
        """Let all processes know what each knows of a step."""
        new = {item.path for batch in batches for item in batch.skipped} - self.progress.skipped["train"].keys()
        main = self.accelerator.is_main_process
        mine = [loss.item(), float(stop.requested), float(len(new)), self.seconds() if main else 0.0]
        summed = total(self.accelerator, mine)
        mean = summed[0] / self.accelerator.num_processes
        return Report(loss=mean, stop=summed[1] > 0, unreadable=round(summed[2]), seconds=summed[3])

    def check_loss(self, report: Report, batches: Sequence[Batch], loss: Tensor) -> None:
        """Stop a run whose loss is no number, while its weights are still good.

        Raises:
            TrainingError: names the step and the images.
        """
        if math.isfinite(report.loss):
            return
        here = [self.source.path(index) for batch in batches for index in batch.indices]
        paths = [
            path for share in gather(self.accelerator, [] if math.isfinite(loss.item()) else here) for path in share
        ]
        self._lost(f"the loss is {report.loss}", paths)

    def check_norm(self, norm: Tensor, batches: Sequence[Batch]) -> None:
        """Stop a run whose gradients are no numbers; fp16's scaler skips such steps and goes on.

        Raises:
            TrainingError: names the step and the images.
        """
        if self.accelerator.scaler is None and not math.isfinite(norm.item()):
            here = [self.source.path(index) for batch in batches for index in batch.indices]
            self._lost("the gradients are not finite", [p for share in gather(self.accelerator, here) for p in share])

    def _lost(self, what: str, paths: list[str]) -> None:
        left = "no state was saved"
        restore(self.buffers, self._buffers_before)
        if self.saved != self.progress.step and all_finite(self.task_module):
            self.save()
        if self.saved >= 0:
            left = f"the state of step {self.saved} is kept in {self.run / LAST}"
        shown = ", ".join(paths[:8]) + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")
        raise TrainingError(
            f"{what} at step {self.progress.step + 1}, and training stopped before the weights moved; {left}; look at "
            f"its images ({shown}), or train with a smaller --optimizer.lr or --precision fp32"
        )

    def move(self, rate: float) -> None:
        """Let the optimiser move the weights, and the average follow."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.copy is not None:
            self.copy.read_weights()
        self.progress.step += 1
        if self.average is not None:
            self.average.update(self.task_module, self.progress.step)

    def clip(self) -> Tensor:
        """Bound the gradients' norm; return what it was."""
        limit = self.config.optimizer.clip_grad
        parameters = [p for p in self.task.parameters() if p.requires_grad]
        return self.accelerator.clip_grad_norm_(parameters, float("inf") if limit is None else limit)

    def _out_of_memory(self, batch: Batch) -> TrainingError:
        """Find out what fits, and keep the state: the weights have not moved, and statistics are put back."""
        self._forget_gradients()
        free_memory()
        images, targets = self.source.prepare(batch, 0)
        sizes = batch.sizes
        fits = largest_fit(
            len(images),
            lambda count: self._probe(images[:count], targets[:count], None if sizes is None else sizes[:count]),
        )
        self._forget_gradients()
        restore(self.buffers, self._buffers_before)
        free_memory()
        if self.accelerator.is_main_process and self.saved != self.progress.step:
            self._write_state()  # other processes may not have come here
        left = f"the state of step {self.progress.step} is kept in {self.run / LAST}"
        return out_of_memory(self.config, len(images), fits, self.accelerator.num_processes, left)

    def _probe(self, images: Tensor, targets: Any, sizes: Tensor | None) -> None:
        device = self.accelerator.device
        images = images.to(device) if self.copy is None else images.to(device, torch.bfloat16)
        with self.accelerator.autocast():
            losses = self.working.losses(images, _to(targets, device), _to(sizes, device))
        torch.autograd.backward(torch.stack(list(losses.values())).sum())

    def _forget_gradients(self) -> None:
        self.working.zero_grad()
        self.optimizer.zero_grad()

    # telling

    def record(self, report: Report, rate: float, batches: Sequence[Batch], since: float) -> None:
        """Keep a step's numbers, and write a training row where one is due."""
        where, images = self.progress, sum(len(batch.indices) for batch in batches)
        where.seconds, where.loss_sum, where.loss_count = (
            report.seconds,
            where.loss_sum + report.loss,
            where.loss_count + 1,
        )
        self._busy += time.monotonic() - since
        self._images += images * self.accelerator.num_processes
        speed = self._images / self._busy
        self.records.advance(done=self.done, epoch=self.epoch, loss=report.loss, images_per_s=speed)
        if where.step % self.config.log_every == 0 or self.finished:
            values = {"lr": rate, "loss": where.loss_sum / where.loss_count, "images_per_s": round(speed, 2)}
            self.records.row("train", step=where.step, epoch=self.epoch, values=values)
            where.loss_sum, where.loss_count, self._busy, self._images = 0.0, 0, 0.0, 0

    def note_unreadable(self, found: Sequence[Unreadable], split: str, images: int) -> None:
        """Name each unreadable image once, and end the run when they are more than its share.

        Args:
            found: this process's.
            split: `train` or `val`.
            images: size of the split.

        Raises:
            DataError: too many.
        """
        known = self.progress.skipped[split]
        everywhere = {item.path: item.reason for share in gather(self.accelerator, list(found)) for item in share}
        new = {path: reason for path, reason in everywhere.items() if path not in known}
        known.update(new)
        for path, reason in new.items():
            self.records.say(f"skipped: {reason if path in reason else f'{path}: {reason}'}")
        if new and len(known) > self.config.max_skipped * images:
            raise DataError(
                f"{len(known)} of {images} images cannot be read, a larger share than --max-skipped "
                f"{self.config.max_skipped:g}; mend or remove them, {self.run / LOG} lists them"
            )

    # evaluating and keeping

    def evaluate_if_due(self, stop: Stop) -> None:
        """Evaluate where this step calls for it, and keep the weights where they are the best."""
        where = self.progress
        due = where.step > 0 and (where.step % self.eval_steps == 0 or self.done >= 1.0)
        if not due or where.evaluated == where.step:
            return
        network = self.average.network if self.average is not None else self.task
        try:
            values, unreadable = evaluate(network, self.source.evaluation(), self.metric, self.accelerator, stop)
        except EvaluationStopped:
            return
        self.note_unreadable(unreadable, "val", self.source.val_count)
        self.metrics, where.evaluated = values, where.step
        self.records.row("eval", step=where.step, epoch=self.epoch, values=values)
        self._keep_best(values)

    def _keep_best(self, values: dict[str, float]) -> None:
        check_measured(values, self.leading, self.source.val_count)
        where, value = self.progress, values[self.leading]
        better = where.best is None or value > where.best
        if better:
            where.best, where.best_step, where.stale = value, where.step, 0
            network = self.average.network if self.average is not None else self.task
            on_main(self.accelerator, lambda: write_tensors(self.run / BEST, network.state_dict(), self.task.info))
        else:
            where.stale += 1
        numbers = brief(values)
        self.records.say(f"epoch {self.epoch:6.2f}  step {where.step:6d}  {numbers}{'  (best)' if better else ''}")

    def save_if_due(self) -> None:
        """Save the whole state after an evaluation, and every so many steps."""
        step, every = self.progress.step, self.config.save_every
        if step and step != self.saved and (self.progress.evaluated == step or (every and step % every == 0)):
            self.save()

    def save(self) -> None:
        """Save the whole state.

        Raises:
            TrainingError: the disk is full; the state before is untouched.
        """
        on_main(self.accelerator, self._write_state)
        self.saved = self.progress.step

    def _write_state(self) -> None:
        scaler = self.accelerator.scaler
        state = State(
            weights=plain(self.task.state_dict()),
            progress=replace(self.progress, seconds=self.seconds()),
            optimizer=self.optimizer.state_dict(),
            average=None if self.average is None else plain(self.average.network.state_dict()),
            scaler=None if scaler is None else scaler.state_dict(),
            fingerprint=self.fingerprint,
        )
        save_state(self.run, state, self.task.info)


def _to(targets: Any, device: torch.device) -> Any:
    """Bring what a batch holds to a device: a tensor, any nesting of lists and dicts of them, or nothing."""
    if isinstance(targets, Tensor):
        return targets.to(device, non_blocking=True)
    if isinstance(targets, dict):
        return {key: _to(value, device) for key, value in targets.items()}
    return [_to(value, device) for value in targets] if isinstance(targets, list | tuple) else targets
