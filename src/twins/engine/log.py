"""The logger of a run: rows of `metrics.jsonl`, messages of `log.txt`, its progress, and experiment trackers."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import TaskID

from twins.engine.display import Bars, Pace, losses_text, phase, position
from twins.engine.progress import Plan, Progress
from twins.engine.trackers import Trackers
from twins.errors import TrainingError
from twins.files import json_text
from twins.run_folder import LOG, METRICS

Output = Literal["quiet", "normal", "verbose"]


def format_metrics(values: Mapping[str, float], names: Collection[str] = ()) -> str:
    """Return metrics in one line, those with `names` or the first few; `metrics.jsonl` has all of them."""
    shown = [item for item in values.items() if item[0] in names] or islice(values.items(), 5)
    return "  ".join(f"{name} {number:.4g}" for name, number in shown)


class Log:
    """Writes the rows and messages of a run, and shows its progress.

    Args:
        run: run folder; without it, messages are kept until `open`.
        active: whether this process writes; the others are silent.
        tracker: passes every row to the experiment trackers.
        console: shows messages and, on a terminal, bars; stderr by default.
        output: what the console shows: only problems and the end, or also the start, evaluations and progress, or also
            every training row. `log.txt` has all messages.
    """

    def __init__(
        self,
        run: Path | None = None,
        *,
        active: bool = True,
        tracker: Trackers | None = None,
        console: Console | None = None,
        output: Output = "normal",
    ) -> None:
        self.active, self.tracker, self.output = active, tracker, output
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._run, self._early = run, list[str]()
        self._bars = Bars(self.console) if active and self.console.is_terminal and output != "quiet" else None
        self._bar: TaskID | None = None
        self._pace: Pace | None = None
        self._images, self._seconds = 0, 0.0  # since the newest training row

    @property
    def run(self) -> Path:
        """The run folder."""
        assert self._run is not None, "the run folder is not open yet"
        return self._run

    def open(self, run: Path) -> None:
        """Write to a run folder from now on, first the messages until now."""
        self._run = run
        for line in self._early:
            self._append(LOG, line)
        self._early.clear()

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
        """Print a message unless the output is `quiet`, and append it to `log.txt` with the time."""
        self._write(message, shown=self.output != "quiet", style=style)

    def problem(self, message: str) -> None:
        """Print a message whatever the output, and append it to `log.txt`."""
        self._write(message, shown=True)

    def phase(self, name: str, images: int | None = None) -> AbstractContextManager[Callable[[int], None]]:
        """Show what is going on in a block, such as `opening the data`.

        Args:
            name: name of the phase.
            images: number of images that it goes through, if any; the block's value is then called with the number that
                was done since the last call.
        """
        return phase(name, images, self._bars, self._progress if self.active else lambda line: None)

    def step(
        self,
        progress: Progress,
        plan: Plan,
        *,
        rate: float,
        losses: Mapping[str, float],
        images: int,
        seconds: float,
    ) -> None:
        """Log an optimiser step: show it, and write a training row every `log_every` steps and at the end.

        Args:
            progress: position of the run after the step.
            plan: length of the run.
            rate: learning rate of the step.
            losses: `loss` of the step and, if it has several, its parts.
            images: images of the step, over all processes.
            seconds: time of the step.
        """
        progress.add_loss(losses)
        self._images, self._seconds = self._images + images, self._seconds + seconds
        self._show_step(progress, plan, rate, losses, images, seconds)
        if progress.step % plan.config.log_every == 0 or plan.finished(progress):
            speed = round(self._images / self._seconds, 2)
            values = {"lr": rate, **progress.take_losses(), "images_per_s": speed}
            self.write_row("train", step=progress.step, epoch=plan.epoch(progress), values=values)
            self._images, self._seconds = 0, 0.0
            if self.active and self.output == "verbose":
                line = (
                    f"{position(progress, plan)}  {losses_text(_losses(values))}  rate {rate:.2g}  {speed:.3g} images/s"
                )
                self.console.print(line, markup=False)

    def _show_step(
        self, progress: Progress, plan: Plan, rate: float, losses: Mapping[str, float], images: int, seconds: float
    ) -> None:
        if not self.active or self._pace is None:
            return
        self._pace.add(progress, losses, images, seconds)
        if self._bars is not None and self._bar is not None:
            name = f"epoch {plan.epoch(progress):.1f}"
            self._bars.update(self._bar, plan.share_done(progress), self._pace.text(progress), name)
        if self._pace.line_due:
            self._progress(self._pace.line(progress, rate))

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

    def start(self, plan: Plan, progress: Progress) -> None:
        """Begin to show the progress of the training, from its position on."""
        self._pace = Pace(plan)
        if self._bars is not None:
            self._bar = self._bars.add(f"epoch {plan.epoch(progress):.1f}", 1.0)
            self._bars.update(self._bar, plan.share_done(progress), "learning")

    def close(self) -> None:
        """End the progress of the training."""
        self._pace = None
        if self._bars is not None and self._bar is not None:
            self._bars.remove(self._bar)
            self._bar = None

    def _progress(self, line: str) -> None:
        """Append a line of progress to `log.txt`, and print it where no bar shows the same."""
        self._write(line, shown=self.output != "quiet" and self._bars is None)

    def _write(self, message: str, *, shown: bool, style: str = "") -> None:
        if not self.active:
            return
        if shown:
            self.console.print(message, style=style, markup=False)
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}"
        if self._run is None:
            self._early.append(line)
        else:
            self._append(LOG, line)

    def _append(self, name: str, line: str) -> None:
        try:
            with (self.run / name).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(line + "\n")
        except OSError as error:
            raise TrainingError(
                f"{self.run / name} could not be written ({error.strerror or error}); free space and continue with "
                f'`resume="{self.run}"`'
            ) from error


def _losses(values: Mapping[str, float]) -> dict[str, float]:
    """Return the loss and its parts of a training row."""
    return {name: value for name, value in values.items() if name.startswith("loss")}


def read_rows(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of a run's `metrics.jsonl`, or only those of one kind; damaged lines are skipped.

    Numbers that are not finite are null in the file, and NaN in the rows.
    """
    lines = (run / METRICS).read_text(errors="replace").splitlines()
    rows = [
        {name: math.nan if value is None else value for name, value in row.items()} for row in map(_row, lines) if row
    ]
    return [row for row in rows if kind is None or row["kind"] == kind]


def _row(line: str) -> dict[str, Any] | None:
    """Return a row: its kind, and numbers, or null where a number is not finite; `None` for a damaged line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str):
        return None
    numbers = [value for name, value in row.items() if name != "kind"]
    is_number = all(value is None or type(value) in (int, float) for value in numbers)
    return row if is_number and type(row.get("step")) is int and row.get("epoch") is not None else None


def _step_of(line: str) -> float:
    """Return the step of a row of any kind; infinity for a damaged line, so that it is dropped."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return math.inf
