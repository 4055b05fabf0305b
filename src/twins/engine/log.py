"""The logger of a run: rows of `metrics.jsonl`, messages of `log.txt`, a progress bar, and experiment trackers."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from rich import progress as bars
from rich.console import Console

from twins.engine.progress import Plan, Progress
from twins.engine.trackers import Trackers
from twins.errors import TrainingError
from twins.files import json_text
from twins.run_folder import LOG, METRICS


def format_metrics(values: Mapping[str, float], max_shown: int = 5) -> str:
    """Return the first few metrics in one line; `metrics.jsonl` has all of them."""
    return "  ".join(f"{name} {number:.4g}" for name, number in islice(values.items(), max_shown))


class Log:
    """Writes the rows and messages of a run, and shows a progress bar on a terminal.

    Args:
        run: run folder.
        active: whether this process writes; the others are silent.
        tracker: passes every row to the experiment trackers.
        console: shows messages and the bar; stderr by default. Without a terminal there is no bar.
    """

    def __init__(
        self, run: Path, *, active: bool = True, tracker: Trackers | None = None, console: Console | None = None
    ) -> None:
        self.run, self.active, self.tracker = run, active, tracker
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: bars.Progress | None = None
        self._task = bars.TaskID(0)
        self._images, self._seconds = 0, 0.0  # since the newest training row

    def write_row(self, kind: str, *, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Append a row to `metrics.jsonl`.

        Raises:
            TrainingError: the disk is full or not writable.
        """
        if not self.active:
            return
        line = json_text({"kind": kind, "step": step, "epoch": round(epoch, 4), **values})
        self._append(METRICS, line)
        if self.tracker is not None:
            self.tracker.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def info(self, message: str, *, style: str = "") -> None:
        """Print a message, and append it to `log.txt` with the time."""
        if not self.active:
            return
        self.console.print(message, style=style, markup=False)
        self._append(LOG, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}")

    def step(self, progress: Progress, plan: Plan, *, rate: float, loss: float, images: int, seconds: float) -> None:
        """Log an optimiser step: update the bar, and write a training row every `log_every` steps and at the end.

        Args:
            progress: position of the run after the step.
            plan: length of the run.
            rate: learning rate of the step.
            loss: loss of the step.
            images: images of the step, over all processes.
            seconds: time of the step.
        """
        progress.loss_sum, progress.loss_count = progress.loss_sum + loss, progress.loss_count + 1
        self._images, self._seconds = self._images + images, self._seconds + seconds
        speed = self._images / self._seconds
        if self._bar is not None:
            self._bar.update(
                self._task, completed=plan.share_done(progress), description=f"epoch {plan.epoch(progress):.1f}"
            )
            self._bar.update(self._task, speed=f"loss {loss:.3f}  {speed:.0f} images/s")
        if progress.step % plan.config.log_every == 0 or plan.finished(progress):
            values = {"lr": rate, "loss": progress.loss_sum / progress.loss_count, "images_per_s": round(speed, 2)}
            self.write_row("train", step=progress.step, epoch=plan.epoch(progress), values=values)
            progress.loss_sum, progress.loss_count, self._images, self._seconds = 0.0, 0, 0, 0.0

    def drop_rows_after(self, step: int) -> None:
        """Drop rows of steps after `step`, which the resumed run writes again, and damaged lines."""
        path = self.run / METRICS
        if not self.active or not path.exists():
            return
        rows = [line for line in path.read_text(errors="replace").splitlines(keepends=True) if _step_of(line) <= step]
        temporary = path.with_name(f".{METRICS}.new")
        with temporary.open("w") as file:
            file.writelines(rows)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def start(self, *, share_done: float) -> None:
        """Show the bar if there is a terminal; `share_done` is the share of the run that is done, 0..1."""
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
            self._bar.update(self._task, completed=share_done)
            self._bar.start()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _append(self, name: str, line: str) -> None:
        try:
            with (self.run / name).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(line + "\n")
        except OSError as error:
            raise TrainingError(
                f"{self.run / name} could not be written ({error.strerror or error}); free space and continue with "
                f'`resume="{self.run}"`'
            ) from error


def read_rows(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of a run's `metrics.jsonl`, or only those of one kind; damaged lines are skipped.

    Numbers that are not finite are null in the file, and NaN in the rows.
    """
    path = run / METRICS
    rows = [json.loads(line) for line in path.read_text(errors="replace").splitlines() if _step_of(line) < float("inf")]
    rows = [{name: math.nan if value is None else value for name, value in row.items()} for row in rows]
    return [row for row in rows if kind is None or row.get("kind") == kind]


def _step_of(line: str) -> float:
    """Return the step of a row; infinity for a damaged line, so that every reader drops it."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return float("inf")
