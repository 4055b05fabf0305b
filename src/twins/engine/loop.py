"""The training loop: trains a network on a source of batches, evaluates it, and writes weights, states and a log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from accelerate import Accelerator

from twins.data.loading.batch import Batch, Skipped
from twins.engine.checkpoints import Checkpoints
from twins.engine.config import TrainConfig
from twins.engine.contracts import Metric, Source
from twins.engine.display import count_images, position
from twins.engine.log import Log, format_metrics
from twins.engine.measure import EvaluationStopped, HeldOutLosses, Samples, check_measured, measure, predict_batches
from twins.engine.memory import OutOfMemory, out_of_memory
from twins.engine.optim import set_rate
from twins.engine.processes import gather, silence_warnings, sum_over_processes
from twins.engine.progress import Plan, Progress
from twins.engine.randomness import deterministic
from twins.engine.schedule import scheduled_rate
from twins.engine.signals import Stop, stop_on_signals
from twins.engine.step import TrainStep
from twins.errors import DataError, TrainingError, number_of
from twins.run_folder import LOG
from twins.tasks.network import TaskNetwork

STOPPING = "stopping: the current step is finished and the state is saved; a second signal stops at once, unsaved"
"""Acknowledgement of a stop signal."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    reason: Literal["finished", "patience", "stopped"]
    """All steps or minutes are done, no improvement for `patience` evaluations, or a signal."""
    progress: Progress
    """Position of the run."""
    metrics: dict[str, float]
    """Metrics of the newest evaluation since the run began or resumed; empty if there was none."""


AfterEvaluation = Callable[[Progress, Samples], None]
"""Called on the main process after each evaluation, with the position of the run and some predictions."""


@dataclass(frozen=True)
class _Run:
    """The parts of a run, see `training_loop`, and its progress."""

    step: TrainStep
    checkpoints: Checkpoints
    plan: Plan
    progress: Progress
    log: Log
    metric: Metric
    monitor: str
    metrics: Collection[str]
    stop: Stop
    after_evaluation: AfterEvaluation | None


def training_loop(
    network: TaskNetwork,
    source: Source,
    metric: Metric,
    config: TrainConfig,
    accelerator: Accelerator,
    log: Log,
    *,
    monitor: str = "top1",
    metrics: Collection[str] = (),
    fingerprint: str = "",
    stop: Stop | None = None,
    after_evaluation: AfterEvaluation | None = None,
) -> Outcome:
    """Train a network, from step 0 or from the newest state of a run, until the run is finished or a signal stops it.

    Args:
        network: it is trained in place and moved to the accelerator's device.
        source: this process's share of the data.
        metric: metric of the evaluations.
        config: settings of the run; with `resume` the run resumes from its newest state.
        accelerator: device, precision and processes.
        log: logger of the run; the run folder exists.
        monitor: name of the monitored metric, which chooses the best weights; larger is better.
        metrics: names of the metrics that an evaluation's line shows.
        stop: the stop signal; `None` listens to signals for the time of the training.
        fingerprint: hash of the training data; a run resumes only with the same one.
        after_evaluation: called after each evaluation on the main process.

    Raises:
        TrainingError: the loss or the gradients are not finite, or memory or disk is full; the newest whole state is
            kept.
        DataError: too many images cannot be read.
    """
    stopping = stop_on_signals(log.problem) if stop is None else nullcontext(stop)
    with silence_warnings(), deterministic(accelerator.device), stopping as stop, closing(log):
        stop.after_step(STOPPING)
        step = TrainStep(network, source, config, accelerator)
        if step.note is not None:
            log.info(f"note: {step.note}")
        checkpoints, plan = Checkpoints(log.run, step, fingerprint), Plan(config, source.steps_per_epoch)
        progress = checkpoints.resume() if config.resume else Progress()
        if config.extend:
            progress.stale = 0
        if config.resume:
            log.drop_rows_after(progress.step)
            log.info(f"continuing {log.run} from step {progress.step}, epoch {plan.epoch(progress):.2f}")
        run = _Run(step, checkpoints, plan, progress, log, metric, monitor, metrics, stop, after_evaluation)
        with step.batches(progress.step) as batches:
            return _train(run, batches)


def _train(run: _Run, batches: Iterator[Batch]) -> Outcome:
    """Train step by step, evaluate and save when due, until the run is finished or a signal stops it."""
    progress, plan, step, config, accelerator = run.progress, run.plan, run.step, run.step.config, run.step.accelerator
    run.log.start(plan, progress)
    metrics: dict[str, float] = {}
    stopped = False
    while True:
        if plan.evaluation_due(progress):
            metrics = _evaluate(run) or metrics
        if plan.saving_due(progress):
            run.checkpoints.save(progress)
        if stopped or plan.finished(progress):
            break
        started = time.monotonic()
        passes = list(islice(batches, config.accumulate))
        rate = scheduled_rate(config, plan.share_done(progress))
        set_rate(step.optimizer, rate)
        try:
            local_losses = step.compute_gradients(passes, progress.step)
        except OutOfMemory as failure:
            (count, fitting), state_message = failure.args, run.checkpoints.rescue(progress, main_only=True)
            raise out_of_memory(config, count, fitting, accelerator.num_processes, state_message) from None
        losses, (images, skipped, seconds, stop) = _sum_step(run, passes, local_losses)
        if not math.isfinite(losses["loss"]):
            suspects = [] if math.isfinite(local_losses["loss"]) else passes
            raise _not_finite_error(run, f"the loss is {losses['loss']}", suspects)
        norm = step.clip()
        if accelerator.scaler is None and not math.isfinite(norm.item()):  # with fp16 the scaler skips such steps
            raise _not_finite_error(run, "the gradients are not finite", passes)
        progress.step, progress.seconds = progress.step + 1, seconds
        step.update(progress.step)
        seconds = time.monotonic() - started
        run.log.step(progress, plan, rate=rate, losses=losses, images=round(images), seconds=seconds)
        if skipped:
            _log_skipped(run, [item for batch in passes for item in batch.skipped], "train")
        stopped = stop > 0
    run.checkpoints.save(progress)
    return _end(run, metrics, stopped=stopped and not plan.finished(progress))


def _end(run: _Run, metrics: dict[str, float], *, stopped: bool) -> Outcome:
    """Log why the training ended and, after a signal, the command that resumes it."""
    progress, plan = run.progress, run.plan
    if stopped:
        run.log.problem(
            f"stopped at step {progress.step}, epoch {plan.epoch(progress):.2f}; "
            f"continue with: twins train --resume {run.log.run}"
        )
        return Outcome(reason="stopped", progress=progress, metrics=metrics)
    if plan.share_done(progress) >= 1.0:
        return Outcome(reason="finished", progress=progress, metrics=metrics)
    run.log.info(f"ended early: no better result in {progress.stale} evaluations")
    return Outcome(reason="patience", progress=progress, metrics=metrics)


def _evaluate(run: _Run) -> dict[str, float] | None:
    """Evaluate the weights, log the metrics and save the best weights; `None` if a signal interrupted it."""
    progress, log = run.progress, run.log
    accelerator, source = run.step.accelerator, run.step.source
    losses, samples = HeldOutLosses(source.loss_targets), Samples()
    predicted_batches = predict_batches(run.step.eval_network, source.evaluation, accelerator, losses=losses)
    try:
        with log.phase("evaluating", source.val_count) as count:
            counted = count_images(predicted_batches, lambda images: count(images * accelerator.num_processes))
            skipped = measure(samples.collect(counted), run.metric, accelerator=accelerator, stop=run.stop)
    except EvaluationStopped:
        return None
    values = run.metric.compute() | losses.compute(accelerator)
    _log_skipped(run, skipped, "val")
    progress.evaluated = progress.step
    log.write_row("eval", step=progress.step, epoch=run.plan.epoch(progress), values=values)
    check_measured(values, run.monitor, source.val_count)
    improved = progress.best is None or values[run.monitor] > progress.best
    progress.stale += 1
    if improved:
        progress.best, progress.best_step, progress.stale = values[run.monitor], progress.step, 0
        run.checkpoints.save_best()
    mark = "  (best)" if improved else ""
    log.info(f"{position(progress, run.plan)}  {format_metrics(values, ('loss', *run.metrics))}{mark}")
    if run.after_evaluation is not None and accelerator.is_main_process:
        run.after_evaluation(progress, samples)
    return values


def _sum_step(
    run: _Run, passes: Sequence[Batch], local_losses: Mapping[str, float]
) -> tuple[dict[str, float], list[float]]:
    """Sum the measurements of a step over the processes, after its gradients are computed.

    Returns:
        the mean loss over processes, not finite if it is not finite on one of them, and its parts; then the number of
        images; of newly found unreadable images; the main process's clock in seconds; the number of processes with a
        stop signal.
    """
    accelerator, logged = run.step.accelerator, run.progress.skipped["train"]
    new_paths = {item.path for batch in passes for item in batch.skipped} - logged.keys()
    images = sum(len(batch.indices) for batch in passes)
    seconds = run.progress.clock() if accelerator.is_main_process else 0.0
    counts = [images, len(new_paths), seconds, run.stop.requested]
    sums = sum_over_processes(accelerator, [*local_losses.values(), *counts])
    means = [value / accelerator.num_processes for value in sums[: len(local_losses)]]
    return dict(zip(local_losses, means, strict=True)), sums[len(local_losses) :]


def _not_finite_error(run: _Run, problem: str, passes: Sequence[Batch]) -> TrainingError:
    """Save the state before a step that is not finite, and return the error that names the images of the step."""
    local_paths = [run.step.source.path(index) for batch in passes for index in batch.indices]
    paths = [path for share in gather(run.step.accelerator, local_paths) for path in share]
    state_message = run.checkpoints.rescue(run.progress)
    shown = ", ".join(paths[:8]) + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")
    return TrainingError(
        f"{problem} at step {run.progress.step + 1}, and training stopped before the weights moved; {state_message}; "
        f'look at its images ({shown}), or train with a smaller `optimizer.lr` or `precision="fp32"`'
    )


def _log_skipped(run: _Run, skipped: Sequence[Skipped], split: Literal["train", "val"]) -> None:
    """Log each unreadable image once, over all processes; if they exceed `max_skipped` of the split, save and raise."""
    logged, max_share = run.progress.skipped[split], run.step.config.max_skipped
    images = run.step.source.train_count if split == "train" else run.step.source.val_count
    reasons = {item.path: item.reason for share in gather(run.step.accelerator, list(skipped)) for item in share}
    new_reasons = {path: reason for path, reason in reasons.items() if path not in logged}
    logged.update(new_reasons)
    for path, reason in new_reasons.items():
        run.log.problem(f"skipped: {reason if path in reason else f'{path}: {reason}'}")
    if new_reasons and len(logged) > max_share * images:
        count = len(logged)
        for path in new_reasons:  # the resumed run tries them again
            del logged[path]
        run.checkpoints.save(run.progress)
        raise DataError(
            f"{count} of {number_of(images, 'image')} cannot be read, a larger share than `max_skipped={max_share:g}`; "
            f"{run.log.run / LOG} lists them: repair them and continue from step {run.progress.step} with "
            f'`resume="{run.log.run}"`, or remove them and start a new run'
        )
