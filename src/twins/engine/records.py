"""What a run tells: rows of `metrics.jsonl`, sentences of `log.txt`, a progress bar, and trackers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from twins.errors import TrainingError

METRICS, LOG = "metrics.jsonl", "log.txt"


def brief(values: Mapping[str, float], most: int = 5) -> str:
    """Return the first of an evaluation's numbers in a line; the records have all."""
    return "  ".join(f"{name} {number:.4g}" for name, number in islice(values.items(), most))


class Tracker(Protocol):
    """Where numbers go besides the run's own files; accelerate's `Accelerator` is one."""

    def log(self, values: dict[str, Any], step: int) -> None:
        """Take named numbers of a step."""
        ...


class Records:
    """Writes a run's rows and sentences, and draws its progress where somebody watches.

    Args:
        run: the run's folder.
        active: whether this process writes; others are silent.
        tracker: gets every row too.
        console: where sentences and progress are shown; stderr by default. Without a terminal there is no bar.
    """

    def __init__(
        self, run: Path, *, active: bool = True, tracker: Tracker | None = None, console: Console | None = None
    ) -> None:
        self.run, self.active, self.tracker = run, active, tracker
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def row(self, kind: str, *, step: int, epoch: float, values: Mapping[str, float]) -> None:
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

    def say(self, sentence: str, *, style: str = "") -> None:
        """Show a sentence, and keep it in `log.txt` with its time."""
        if not self.active:
            return
        self.console.print(sentence, style=style, markup=False)
        self._append(LOG, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {sentence}")

    def forget_after(self, step: int) -> None:
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
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[speed]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self.console, transient=True, refresh_per_second=4)
            self._task = self._bar.add_task("training", total=1.0, speed="")
            self._bar.update(self._task, completed=done)
            self._bar.start()

    def advance(self, *, done: float, epoch: float, loss: float | None, images_per_s: float | None) -> None:
        """Move the bar to the share `done`, 0..1."""
        if self._bar is not None and self._task is not None:
            parts = [] if loss is None else [f"loss {loss:.3f}"]
            parts += [] if images_per_s is None else [f"{images_per_s:.0f} images/s"]
            self._bar.update(
                self._task, completed=done, description=f"epoch {epoch:.1f}", speed="  ".join(parts) or None
            )

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
                f"twins train --resume {self.run}"
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
