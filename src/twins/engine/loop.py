"""The training loop: a task, data, a metric and settings in; weights, a log and states on disk out."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from accelerate import Accelerator
from torch import Tensor

from twins.data.loading.batch import Batch, Skipped
from twins.engine.checkpoints import Checkpoints
from twins.engine.config import TrainConfig
from twins.engine.contracts import Metric, Source
from twins.engine.log import Log, format_metrics
from twins.engine.measure import EvaluationStopped, check_measured, measure, predict_batches
from twins.engine.memory import OutOfMemory, out_of_memory
from twins.engine.optim import set_rate
from twins.engine.processes import gather, silence_warnings, sum_over_processes
from twins.engine.progress import Plan, Progress
from twins.engine.randomness import deterministic
from twins.engine.schedule import scheduled_rate
from twins.engine.signals import Stop, stop_on_signals
from twins.engine.step import TrainStep
from twins.errors import DataError, TrainingError
from twins.run_folder import LOG
from twins.tasks.network import TaskNetwork


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    reason: Literal["finished", "patience", "stopped"]
    """All steps or minutes were used, `patience` evaluations brought no improvement, or a signal came."""
    progress: Progress
    """Where the run is."""
    metrics: dict[str, float]
    """The newest evaluation of this session; empty when there was none."""


@dataclass(frozen=True)
class _Run:
    """The parts of a run, see `training_loop`, and where it is."""

    step: TrainStep
    checkpoints: Checkpoints
    plan: Plan
    at: Progress
    log: Log
    metric: Metric
    monitor: str
    stop: Stop


def training_loop(
    task: TaskNetwork,
    source: Source,
    metric: Metric,
    config: TrainConfig,
    accelerator: Accelerator,
    log: Log,
    *,
    monitor: str = "top1",
    fingerprint: str = "",
) -> Outcome:
    """Train a task, from the beginning or from a run's newest state, until it is finished or told to stop.

    Args:
        task: the network with its losses; it is trained in place and moved to the accelerator's device.
        source: this process's share of the data.
        metric: what evaluations measure.
        config: the run's settings; with `resume` the run goes on from its newest state.
        accelerator: device, precision and processes.
        log: writes to the run's folder, which exists.
        monitor: the metric that chooses the best weights; larger is better.
        fingerprint: tells the training data from another, so that a run resumes with its own.

    Raises:
        TrainingError: loss not finite, memory or disk full; the newest whole state is kept.
        DataError: too many images cannot be read.
    """
    with silence_warnings(), deterministic(accelerator.device), stop_on_signals() as stop, closing(log):
        step = TrainStep(task, source, config, accelerator)
        if step.note is not None:
            log.info(f"note: {step.note}")
        checkpoints, plan = Checkpoints(log.run, step, fingerprint), Plan(config, source.steps_per_epoch)
        at = checkpoints.resume() if config.resume else Progress()
        if config.resume:
            log.drop_rows_after(at.step)
            log.info(f"going on with {log.run} from step {at.step}, epoch {plan.epoch(at):.2f}")
        run = _Run(step, checkpoints, plan, at, log, metric, monitor, stop)
        with step.batches(at.step) as batches:
            return _train(run, batches)


def _train(run: _Run, batches: Iterator[Batch]) -> Outcome:
    """Evaluate, save and step in turn, until the run is finished or told to stop."""
    at, plan, step, config, accelerator = run.at, run.plan, run.step, run.step.config, run.step.accelerator
    run.log.start(done=plan.done(at))
    metrics: dict[str, float] = {}
    stopped = False
    while True:
        if plan.evaluation_due(at):
            metrics = _evaluate(run) or metrics
        if plan.saving_due(at):
            run.checkpoints.save(at)
        if stopped or plan.finished(at):
            break
        since = time.monotonic()
        passes = list(islice(batches, config.accumulate))
        rate = scheduled_rate(config, plan.done(at))
        set_rate(step.optimizer, rate)
        try:
            own = step.gradients(passes, at.step)
        except OutOfMemory as failure:
            (count, fits), kept = failure.args, run.checkpoints.rescue(at, alone=True)
            raise out_of_memory(config, count, fits, accelerator.num_processes, kept) from None
        loss, images, skipped, seconds, stop = _exchange(run, passes, own)
        if not math.isfinite(loss):
            raise _lost(run, f"the loss is {loss}", [] if math.isfinite(own.item()) else passes)
        norm = step.clip()
        if accelerator.scaler is None and not math.isfinite(norm.item()):  # fp16's scaler skips such steps and goes on
            raise _lost(run, "the gradients are not finite", passes)
        at.step, at.seconds = at.step + 1, seconds
        step.update(at.step)
        run.log.step(at, plan, rate=rate, loss=loss, images=round(images), seconds=time.monotonic() - since)
        if skipped:
            _note_skipped(run, [item for batch in passes for item in batch.skipped], "train")
        stopped = stop > 0
    run.checkpoints.save(at)
    return _end(run, metrics, stopped=stopped and not plan.finished(at))


def _end(run: _Run, metrics: dict[str, float], *, stopped: bool) -> Outcome:
    """Say why the training ended, and how it resumes where it was stopped."""
    at, plan = run.at, run.plan
    if stopped:
        run.log.info(
            f"stopped at step {at.step}, epoch {plan.epoch(at):.2f}; go on with: twins train --resume {run.log.run}"
        )
        return Outcome(reason="stopped", progress=at, metrics=metrics)
    if plan.done(at) >= 1.0:
        return Outcome(reason="finished", progress=at, metrics=metrics)
    run.log.info(f"ended early: no better result in {at.stale} evaluations")
    return Outcome(reason="patience", progress=at, metrics=metrics)


def _evaluate(run: _Run) -> dict[str, float] | None:
    """Measure the weights, log the numbers and keep the best; `None` where a signal ended it early."""
    at, log = run.at, run.log
    accelerator, source = run.step.accelerator, run.step.source
    found = predict_batches(run.step.evaluated, source.evaluation, accelerator)
    try:
        skipped = measure(found, run.metric, accelerator=accelerator, stop=run.stop)
    except EvaluationStopped:
        return None
    values = run.metric.compute()
    _note_skipped(run, skipped, "val")
    at.evaluated = at.step
    log.write_row("eval", step=at.step, epoch=run.plan.epoch(at), values=values)
    check_measured(values, run.monitor, source.val_count)
    better = at.best is None or values[run.monitor] > at.best
    at.stale += 1
    if better:
        at.best, at.best_step, at.stale = values[run.monitor], at.step, 0
        run.checkpoints.save_best()
    mark = "  (best)" if better else ""
    log.info(f"epoch {run.plan.epoch(at):6.2f}  step {at.step:6d}  {format_metrics(values)}{mark}")
    return values


def _exchange(run: _Run, passes: Sequence[Batch], loss: Tensor) -> tuple[float, ...]:
    """Let all processes know what each knows of a step, once its gradients are there.

    Returns:
        the mean loss over processes, not finite when any of them is not; the step's images; how many images were found
        unreadable; the main process's clock; how many processes were asked to stop.
    """
    accelerator, known = run.step.accelerator, run.at.skipped["train"]
    new = {item.path for batch in passes for item in batch.skipped} - known.keys()
    images = sum(len(batch.indices) for batch in passes)
    seconds = run.at.clock() if accelerator.is_main_process else 0.0
    summed = sum_over_processes(accelerator, [loss.item(), images, len(new), seconds, run.stop.requested])
    return summed[0] / accelerator.num_processes, *summed[1:]


def _lost(run: _Run, what: str, passes: Sequence[Batch]) -> TrainingError:
    """Return the error of a step whose numbers are lost, with the sound state before it saved."""
    here = [run.step.source.path(index) for batch in passes for index in batch.indices]
    paths = [path for share in gather(run.step.accelerator, here) for path in share]
    kept = run.checkpoints.rescue(run.at)
    shown = ", ".join(paths[:8]) + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")
    return TrainingError(
        f"{what} at step {run.at.step + 1}, and training stopped before the weights moved; {kept}; look at "
        f'its images ({shown}), or train with a smaller `optimizer.lr` or `precision="fp32"`'
    )


def _note_skipped(run: _Run, found: Sequence[Skipped], split: Literal["train", "val"]) -> None:
    """Log each image that some process could not read once; raise DataError when a split has more than its share."""
    known, most = run.at.skipped[split], run.step.config.max_skipped
    images = run.step.source.train_count if split == "train" else run.step.source.val_count
    everywhere = {item.path: item.reason for share in gather(run.step.accelerator, list(found)) for item in share}
    new = {path: reason for path, reason in everywhere.items() if path not in known}
    known.update(new)
    for path, reason in new.items():
        run.log.info(f"skipped: {reason if path in reason else f'{path}: {reason}'}")
    if new and len(known) > most * images:
        raise DataError(
            f"{len(known)} of {images} images cannot be read, a larger share than `max_skipped={most:g}`; mend or "
            f"remove them, {run.log.run / LOG} lists them"
        )
