"""The training loop: a task, data, a metric and settings in; weights, records and a state on disk out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from accelerate import Accelerator

from twins.engine.config import TrainConfig
from twins.engine.contracts import Batch, Metric, Source, Task
from twins.engine.optim import set_rate
from twins.engine.randomness import repeatable
from twins.engine.records import Records
from twins.engine.schedule import scheduled_rate
from twins.engine.session import Session
from twins.engine.signals import Stop, stop_on_signals
from twins.engine.state import Progress


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    reason: Literal["finished", "patience", "stopped"]
    """All steps or minutes were used, evaluations stopped getting better, or a signal came."""
    progress: Progress
    """Where the run is."""
    metrics: dict[str, float]
    """The newest evaluation of this session; empty when there was none."""


def fit(
    task: Task,
    source: Source,
    metric: Metric,
    config: TrainConfig,
    accelerator: Accelerator,
    records: Records,
    *,
    leading: str = "top1",
    fingerprint: str = "",
) -> Outcome:
    """Train a task, from the beginning or from a run's newest state, until it is finished or told to stop.

    Args:
        task: the network with its losses; it is trained in place and moved to the accelerator's device.
        source: this process's share of the data.
        metric: what evaluations measure.
        config: the run's settings; with `resume` the run goes on from its newest state.
        accelerator: device, precision and processes.
        records: writes to the run's folder, which exists.
        leading: the metric that chooses the best weights; larger is better.
        fingerprint: tells the training data from another, so that a run goes on with its own.

    Raises:
        TrainingError: loss not finite, memory or disk full; the newest whole state is kept.
        DataError: too many images cannot be read.
    """
    with repeatable(accelerator.device), stop_on_signals() as stop:
        session = Session(task, source, metric, config, accelerator, records, leading=leading, fingerprint=fingerprint)
        try:
            if config.resume:
                session.resume()
            with session.passes() as batches:
                return _train(session, batches, stop)
        finally:
            records.close()


def _train(session: Session, batches: Iterator[Batch], stop: Stop) -> Outcome:
    config = session.config
    session.records.start(done=session.done)
    stopped = False
    while True:
        session.evaluate_if_due(stop)
        session.save_if_due()
        if stopped or session.finished:
            break
        since = time.monotonic()
        step = list(islice(batches, config.accumulate))
        rate = scheduled_rate(config, session.done)
        set_rate(session.optimizer, rate)
        loss = session.learn(step)
        report = session.exchange(loss, step, stop)
        session.check_loss(report, step, loss)
        session.check_norm(session.clip(), step)
        session.move(rate)
        session.record(report, rate, step, since)
        if report.unreadable:
            found = [item for batch in step for item in batch.skipped]
            session.note_unreadable(found, "train", session.source.train_count)
        stopped = report.stop
    return _end(session, stopped=stopped and not session.finished)


def _end(session: Session, *, stopped: bool) -> Outcome:
    """Save what is not saved yet, and say how the run goes on."""
    if session.saved != session.progress.step:
        session.save()
    if stopped:
        session.records.say(
            f"stopped at step {session.progress.step}, epoch {session.epoch:.2f}; go on with: "
            f"twins train --resume {session.run}"
        )
        return Outcome(reason="stopped", progress=session.progress, metrics=session.metrics)
    patient = session.patience_out and session.done < 1.0
    if patient:
        session.records.say(f"ended early: no better result in {session.progress.stale} evaluations")
    return Outcome(reason="patience" if patient else "finished", progress=session.progress, metrics=session.metrics)
