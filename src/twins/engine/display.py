"""Progress that people see: bars on a terminal, and lines every few seconds in `log.txt` and elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich import progress as bars
from rich.console import Console

from twins.data.loading.batch import Batch
from twins.engine.progress import Plan, Progress

PHASE_SECONDS = 3.0
"""A phase that takes longer is named in a line."""
LINE_SECONDS = (10.0, 60.0)
"""Least seconds between two lines of a run: at its begin, and after ten minutes; between them it grows."""


class Bars:
    """Bars on a terminal, one for each phase that is going on; without phases nothing is shown.

    Args:
        console: the terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: bars.Progress | None = None

    def add(self, name: str, total: float | None, text: str = "") -> bars.TaskID:
        """Show a bar with a text behind it; it moves to and fro if there is no `total`."""
        if self._bars is None:
            columns = (
                bars.TextColumn("{task.description}"),
                bars.BarColumn(20),
                bars.TextColumn("{task.fields[text]}"),
            )
            self._bars = bars.Progress(*columns, console=self._console, transient=True, refresh_per_second=4)
            self._bars.start()
        return self._bars.add_task(name, total=total, text=text)

    def update(self, bar: bars.TaskID, done: float, text: str, name: str | None = None) -> None:
        """Move a bar, and change the text behind it and its name."""
        if self._bars is not None:
            self._bars.update(bar, completed=done, description=name, text=text)

    def remove(self, bar: bars.TaskID) -> None:
        """Remove a bar; the terminal's cursor comes back with the last one."""
        if self._bars is not None and len(self._bars.tasks) > 1:
            self._bars.remove_task(bar)
        elif self._bars is not None:
            self._bars.stop()
            self._bars = None


@contextmanager
def phase(
    name: str, images: int | None, bars: Bars | None, say: Callable[[str], None]
) -> Iterator[Callable[[int], None]]:
    """Show a phase until the block ends: a bar if there is a terminal, and lines if it takes long.

    Args:
        name: what is done, such as `opening the data`.
        images: number of images of the phase, if they are counted.
        bars: the terminal's bars, or `None`.
        say: writes a line.

    Yields:
        a function that is called with the number of images that were done since its last call.
    """
    done, total, spoken_at = 0, images or 0, time.monotonic()
    bar = None if bars is None else bars.add(name, images, f"0 of {total:,} images" if images else "")

    def count(new: int) -> None:
        """Add images that are done, on the bar or as a line from time to time."""
        nonlocal done, spoken_at
        done += new
        if bars is not None and bar is not None:
            bars.update(bar, done, f"{done:,} of {total:,} images")
        if time.monotonic() - spoken_at > LINE_SECONDS[0]:
            spoken_at = time.monotonic()
            say(f"{name}: {done:,} of {total:,} images")

    late = threading.Timer(PHASE_SECONDS, say, (f"{name} ...",))
    late.daemon = True
    late.start()
    try:
        yield count
    finally:
        late.cancel()
        if bars is not None and bar is not None:
            bars.remove(bar)


def count_images(batches: Iterable[tuple[Any, Batch]], count: Callable[[int], None]) -> Iterator[tuple[Any, Batch]]:
    """Yield batches with their predictions, and count their images once they have been used."""
    for predictions, batch in batches:
        yield predictions, batch
        count(len(batch.indices) or len(batch.skipped))


class Pace:
    """How fast a run goes since it began or resumed: the loss and speed since the last line, and the remaining time.

    The first step is much slower than the others, so the remaining time is estimated from those after it.

    Args:
        plan: length of the run.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._started = self._spoken_at = time.monotonic()
        self._first_step: tuple[float, float] | None = None  # when it ended, and the share of the run done by then
        self.steps, self.images, self.seconds = 0, 0, 0.0
        self.sums: dict[str, float] = {}
        self.newest_loss = 0.0

    def add(self, progress: Progress, losses: Mapping[str, float], images: int, seconds: float) -> None:
        """Add a step: the position after it, its loss and the parts of it, its images and its time."""
        if self._first_step is None:
            self._first_step = time.monotonic(), self.plan.share_done(progress)
        self.steps, self.images, self.seconds = self.steps + 1, self.images + images, self.seconds + seconds
        self.newest_loss = losses["loss"]
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    @property
    def line_due(self) -> bool:
        """Whether it is time for the next line."""
        now, (least, most) = time.monotonic(), LINE_SECONDS
        return now - self._spoken_at >= min(most, max(least, (now - self._started) / 10.0))

    def remaining(self, share_done: float) -> float:
        """Return the estimated seconds until the last step, with evaluations; infinity until the second step."""
        ended, share = self._first_step or (0.0, share_done)
        new = share_done - share
        return (time.monotonic() - ended) * (1.0 - share_done) / new if new > 0 else float("inf")

    def text(self, progress: Progress) -> str:
        """Return the newest loss, the speed and the remaining time, for a bar."""
        share = self.plan.share_done(progress)
        left = clock(self.remaining(share))
        return f"{share:4.0%}  loss {self.newest_loss:.3g}  {self._speed:.3g} images/s  {left} left"

    def line(self, progress: Progress, rate: float) -> str:
        """Return a line with position, mean loss since the last line, rate, speed and end."""
        share = self.plan.share_done(progress)
        left = self.remaining(share)
        end = time.strftime("%H:%M", time.localtime(time.time() + left)) if left < 1e6 else "?"
        line = (
            f"{position(progress, self.plan)}  {share:4.0%}  {losses_text(self._means)}  rate {rate:.2g}  "
            f"{self._speed:.3g} images/s  {clock(left)} left, until {end}"
        )
        self._spoken_at = time.monotonic()
        self.steps, self.images, self.seconds, self.sums = 0, 0, 0.0, {}
        return line

    @property
    def _speed(self) -> float:
        return self.images / max(self.seconds, 1e-9)

    @property
    def _means(self) -> dict[str, float]:
        return {name: value / max(self.steps, 1) for name, value in self.sums.items()}


def position(progress: Progress, plan: Plan) -> str:
    """Return the epoch and step of a run, as its lines begin."""
    return f"epoch {plan.epoch(progress):6.2f}  step {progress.step:6d}"


def losses_text(losses: Mapping[str, float]) -> str:
    """Return a loss with its parts: `loss 0.71 (classification 0.5, boxes 0.21)`."""
    parts = ", ".join(f"{name.removeprefix('loss_')} {value:.3g}" for name, value in losses.items() if name != "loss")
    return f"loss {losses['loss']:.3g}" + (f" ({parts})" if parts else "")


def clock(seconds: float) -> str:
    """Return a time as `0:05`, `12:30` or `3:04:05`; `?` if it is not known."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
