"""What `twins predict` prints: a line for each image on standard output, progress and a summary on standard error."""

from __future__ import annotations

import os
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import TextIO

from rich.cells import cell_len

from twins.data.loading.sources import Source
from twins.errors import TrainingError, name_counts, number_of
from twins.predictions import Prediction
from twins.tasks.contract import spec_of
from twins.tracking import VideoTracks

_SECONDS = 0.2
"""Seconds between two updates of the progress line."""


class Lines:
    """Prints a line for each image, for each video when it ends, and for each frame of a live stream.

    On a terminal, lines are aligned: path, milliseconds, result. Elsewhere they have columns that are separated by
    tabs: path, the task's `summary_columns`, milliseconds.

    Args:
        task: the network's task.
        top: number of classes to list.
        quiet: print nothing.
    """

    def __init__(self, task: str, top: int, *, quiet: bool = False) -> None:
        self.closed = False
        """Whether nobody reads standard output any more, as after `head`."""
        self.images, self.videos, self.frames, self.failures = 0, 0, 0, 0
        self._spec, self._top, self._quiet = spec_of(task), top, quiet
        self._terminal, self._width = sys.stdout.isatty(), 0
        self._started = time.perf_counter()
        self.progress = Progress(shown=not quiet and sys.stderr.isatty())
        self._video: _Video | None = None

    def add(self, source: Source, prediction: Prediction, milliseconds: float, tracks: VideoTracks | None) -> None:
        """Print the line of an image or of a live frame, and of the video before; `tracks` are those of the video."""
        if source.first:
            self._end_video()
        if source.frame is None:
            self.images += 1
            self._print_one(source.name, prediction, milliseconds)
        else:
            if source.first:
                self.videos += 1
                self._video = _Video(source, tracks)
            assert self._video is not None
            self.frames += 1
            self._video.add(self._spec.counts(prediction), milliseconds)
            if source.live:
                self._print_one(f"{source.name}#{source.frame}", prediction, milliseconds)
        self.progress.show(self._state(source))

    def close(self) -> None:
        """Print the line of the last video."""
        self._end_video()

    def report(self, sentence: str) -> None:
        """Print a sentence on standard error, above the progress line."""
        self.progress.clear()
        print(_clean(sentence), file=sys.stderr, flush=True)

    def failed(self, sentence: str) -> None:
        """Print why a source could not be read; also if the lines are quiet."""
        self.failures += 1
        self.report(f"not read: {sentence}")

    def summary(self, files: Mapping[str, str]) -> None:
        """Print the number of images, the speed and the files on standard error; `files` have a word before each."""
        if self._quiet or self.closed:
            return
        seconds = time.perf_counter() - self._started
        done = number_of(self.images, "image") if self.images or not self.videos else ""
        videos = f"{number_of(self.videos, 'video')} ({number_of(self.frames, 'frame')})" if self.videos else ""
        speed = (self.images + self.frames) / max(seconds, 1e-9)
        self.report(f"{' and '.join(filter(None, (done, videos)))} in {seconds:.1f} s ({speed:.3g} images/s)")
        if self.failures:
            self.report(f"{number_of(self.failures, 'source')} could not be read, see above")
        for word, path in files.items():
            self.report(f"{word} {path}")

    def _state(self, source: Source) -> str:
        done = self.images + self.frames
        speed = done / max(time.perf_counter() - self._started, 1e-9)
        where = "" if source.frame is None else f", frame {source.frame} of {source.name}"
        return f"{number_of(done, 'image')}, {speed:.3g} images/s{where}"

    def _end_video(self) -> None:
        video, self._video = self._video, None
        if video is None:
            return
        text = f"{number_of(video.frames, 'frame')}; {self._spec.counts_summary(video.counts)}"
        if video.tracks is not None:
            text += f"; tracks: {name_counts(video.tracks.counts()) or 'none'}"
        if video.source.live and not self._quiet:
            self.report(f"{video.source.name}: {text}")
        elif not video.source.live:
            empty = [""] * (len(self._spec.summary_columns) - 1)
            self._print(video.source.name, text, [text, *empty], video.milliseconds / video.frames)

    def _print_one(self, name: str, prediction: Prediction, milliseconds: float) -> None:
        summary, row = (get(prediction, self._top) for get in (self._spec.summary, self._spec.summary_row))
        self._print(name, str(summary), list(row), milliseconds)

    def _print(self, name: str, summary: str, row: list[object], milliseconds: float) -> None:
        if self._quiet or self.closed:
            return
        name = _clean(name)
        if self._terminal:
            self._width = max(self._width, cell_len(name))
            line = f"{name}{' ' * (self._width - cell_len(name))}  {milliseconds:7.1f} ms  {_clean(summary)}"
        else:
            line = "\t".join([name, *(_clean(str(value)) for value in row), f"{milliseconds:.1f}"])
        self.progress.clear()
        try:
            print(line, flush=True)
        except BrokenPipeError:  # the reader, such as `head`, closed the pipe
            _to_null(sys.stdout)
            self.closed = True
        except OSError as error:
            _to_null(sys.stdout)
            raise TrainingError(
                f"standard output cannot be written to ({error.strerror}); free space or choose another file"
            ) from error


class _Video:
    """What the line of a video adds up."""

    def __init__(self, source: Source, tracks: VideoTracks | None) -> None:
        self.source, self.tracks = source, tracks
        self.frames, self.milliseconds, self.counts = 0, 0.0, Counter[str]()

    def add(self, counts: Mapping[str, int], milliseconds: float) -> None:
        self.frames += 1
        self.milliseconds += milliseconds
        self.counts.update(counts)


class Progress:
    """A line at the end of a terminal's standard error that is written over."""

    def __init__(self, *, shown: bool) -> None:
        self._shown, self._time, self._text = shown, 0.0, ""

    def show(self, text: str) -> None:
        """Show a text, unless one was shown a moment ago; what is too long for the terminal is cut off."""
        if not self._shown or time.monotonic() - self._time < _SECONDS:
            return
        columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        self._text, self._time = _clean(text)[: columns - 1], time.monotonic()
        print(f"\r\x1b[K{self._text}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Remove the text, before something else is printed."""
        if self._text:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._text = ""


def _to_null(stream: TextIO) -> None:
    """Let a stream lead to nowhere, so that nothing fails when it is closed with text that it still holds."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _clean(text: str) -> str:
    """Return a text without tabs, line breaks and other control characters, which become escapes such as `\\t`."""
    return re.sub(r"[\x00-\x1f\x7f]", lambda match: repr(match[0])[1:-1], text)
