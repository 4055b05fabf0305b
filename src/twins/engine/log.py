"""The log of a run: rows of `metrics.jsonl`, sentences of `log.txt`, a progress bar, and trackers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich import progress as bars
from rich.console import Console

from twins.engine.progress import Plan, Progress
from twins.errors import TrainingError
from twins.run_folder import LOG, METRICS


def format_metrics(values: Mapping[str, float], most: int = 5) -> str:
    """Return the first of an evaluation's numbers in a line; the log has all."""
    return "  ".join(f"{name} {number:.4g}" for name, number in islice(values.items(), most))


class Log:
    """Writes a run's rows and sentences, and draws its progress where somebody watches.

    Args:
        run: the run's folder.
        active: whether this process writes; others are silent.
        tracker: gives every row to the experiment trackers.
        console: where sentences and progress are shown; stderr by default. Without a terminal there is no bar.
    """

    def __init__(
        self, run: Path, *, active: bool = True, tracker: Accelerator | None = None, console: Console | None = None
    ) -> None:
        self.run, self.active, self.tracker = run, active, tracker
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: bars.Progress | None = None
        self._task = bars.TaskID(0)
        self._images, self._seconds = 0, 0.0  # since the newest training row

    def write_row(self, kind: str, *, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Append a row to `metrics.jsonl`.

        Raises:
            TrainingError: the disk is full or refuses.
        """
        if not self.active:
            return
        line = json.dumps({"kind": kind, "step": step, "epoch": round(epoch, 4), **values})
        self._append(METRICS, line)
        if self.tracker is not None:
            self.tracker.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def info(self, sentence: str, *, style: str = "") -> None:
        """Show a sentence, and keep it in `log.txt` with its time."""
        if not self.active:
            return
        self.console.print(sentence, style=style, markup=False)
        self._append(LOG, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {sentence}")

    def step(self, at: Progress, plan: Plan, *, rate: float, loss: float, images: int, seconds: float) -> None:
        """Count a step, move the bar, and write a training row every `log_every` steps and at the end.

        Args:
            at: where the run is after the step.
            plan: how long it is.
            rate: the step's learning rate.
            loss: the step's loss.
            images: the step's images, over all processes.
            seconds: the time that it took.
        """
        at.loss_sum, at.loss_count = at.loss_sum + loss, at.loss_count + 1
        self._images, self._seconds = self._images + images, self._seconds + seconds
        speed = self._images / self._seconds
        if self._bar is not None:
            self._bar.update(self._task, completed=plan.done(at), description=f"epoch {plan.epoch(at):.1f}")
            self._bar.update(self._task, speed=f"loss {loss:.3f}  {speed:.0f} images/s")
        if at.step % plan.config.log_every == 0 or plan.finished(at):
            values = {"lr": rate, "loss": at.loss_sum / at.loss_count, "images_per_s": round(speed, 2)}
            self.write_row("train", step=at.step, epoch=plan.epoch(at), values=values)
            at.loss_sum, at.loss_count, self._images, self._seconds = 0.0, 0, 0, 0.0

    def drop_rows_after(self, step: int) -> None:
        """Drop the rows of steps beyond `step`, and what is no row, such as one cut short; they are made again."""
        path = self.run / METRICS
        if not self.active or not path.exists():
            return
        kept = [line for line in path.read_text(errors="replace").splitlines(keepends=True) if _step_of(line) <= step]
        beside = path.with_name(f".{METRICS}.new")
        with beside.open("w") as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)

    def start(self, *, done: float) -> None:
        """Show a bar, where there is a terminal; `done` is the share 0..1 that is behind."""
        if self.active and self.console.is_terminal:
            columns = (
                bars.TextColumn("{task.description}"),
                bars.BarColumn(),
                bars.TextColumn("{task.percentage:>3.0f}%"),
                bars.TextColumn("{task.fields[speed]}"),
                bars.TimeRemainingColumn(),
            )
            self._bar = bars.Progress(*columns, console=self.console, transient=True, refresh_per_second=4)
            self._task = self._bar.add_task("training", total=1.0, speed="")
            self._bar.update(self._task, completed=done)
            self._bar.start()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _append(self, name: str, line: str) -> None:
        try:
            with (self.run / name).open("a") as file:
                file.write(line + "\n")
        except OSError as error:
            raise TrainingError(
                f"{self.run / name} could not be written ({error.strerror or error}); free space and go on with "
                f'`resume="{self.run}"`'
            ) from error


def read_rows(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of a run's `metrics.jsonl`, or those of one kind; what is no row is left out."""
    path = run / METRICS
    rows = [json.loads(line) for line in path.read_text(errors="replace").splitlines() if _step_of(line) < float("inf")]
    return [row for row in rows if kind is None or row.get("kind") == kind]


def _step_of(line: str) -> float:
    """Return a row's step; a row that is damaged belongs to no step that anybody resumes from."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return float("inf")
