"""Follows a run while it lives: at each evaluation its page is written again, and its trackers get sample pictures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from PIL import Image

from twins.bands import to_rgb
from twins.data.base import ImageSet
from twins.drawing import thumbnail
from twins.engine.log import Log
from twins.engine.measure import Samples
from twins.engine.progress import Progress
from twins.errors import TwinsError
from twins.files import first_line
from twins.predictions import Prediction
from twins.report.page import write_live_report
from twins.run_folder import REPORT
from twins.tasks.inference import SHOWN

MAX_SHARE = 0.02
"""Largest share of a run's time that its pictures and pages take; those that would exceed it are left out."""
PICTURE_SIDE = 480
"""Longer side of a sample picture in pixels."""
Pictures = list[tuple[Image.Image, str]]
"""Drawn predictions with captions."""


@contextmanager
def follow(run: Path, images: ImageSet, log: Log) -> Iterator[Follower]:
    """Yield the follower of a run; at the end, finish its trackers and, unless a final report comes, its page.

    Args:
        run: the run folder.
        images: the held-out images.
        log: the logger of the run, with its trackers.
    """
    follower = Follower(run, images, log)
    try:
        yield follower
    finally:
        if log.tracker is not None:
            log.tracker.finish()
        if not follower.finished:
            follower.write_page(live=False)


class Follower:
    """Draws sample pictures and writes the page as long as that takes a small share of the run's time.

    Call it after each evaluation, on the main process.

    Attributes:
        finished: whether the run has finished, so that the final report will replace the page.
    """

    def __init__(self, run: Path, images: ImageSet, log: Log) -> None:
        self.run, self.images, self.log = run, images, log
        self.finished = False
        self._pictures: Pictures = []
        self._spent = 0.0
        self._costs = {"pictures": 0.0, "page": 0.0}
        self._progress: Progress | None = None

    def __call__(self, progress: Progress, samples: Samples) -> None:
        """Draw and write what the time allows."""
        self._progress, self._pictures = progress, []
        if self._affordable("pictures"):
            with self._timed("pictures"):
                self._pictures = list(self._draw(samples))
                if self.log.tracker is not None:
                    self.log.tracker.log_pictures([image for image, _ in self._pictures], progress.step)
        if self._affordable("page"):
            with self._timed("page"):
                self.write_page(live=True)

    def write_page(self, *, live: bool) -> None:
        """Write the page of the newest evaluation, if there was one; a failure is only noted."""
        if self._progress is None:
            return
        try:
            write_live_report(self.run, self._pictures, live=live)
        except (TwinsError, OSError) as error:
            self.log.info(f"note: {REPORT} was not written ({first_line(error)})")

    def _affordable(self, part: str) -> bool:
        """Return whether a part, if it takes as long as before, stays within the share of the run's time."""
        assert self._progress is not None
        return self._spent + self._costs[part] <= MAX_SHARE * self._progress.clock() or not self._costs[part]

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._costs[part] = time.monotonic() - started
        self._spent += self._costs[part]

    def _draw(self, samples: Samples) -> Iterator[tuple[Image.Image, str]]:
        for index, prediction in samples.items:
            try:
                picture = _shown(prediction).draw(to_rgb(self.images.load(index)))
            except TwinsError:  # the image cannot be read, or the prediction not be drawn
                continue
            if max(picture.size) > PICTURE_SIDE:
                picture = thumbnail(picture, PICTURE_SIDE)
            yield picture, Path(self.images.path(index)).name


def _shown(prediction: Prediction) -> Prediction:
    """Return a prediction without objects of low scores, which an evaluation keeps and a picture would drown in."""
    if prediction.boxes is None or prediction.scores is None:
        return prediction
    kept = prediction.scores > SHOWN.score
    arrays = {name: getattr(prediction, name) for name in ("boxes", "labels", "scores", "masks")}
    return replace(prediction, **{name: array[kept] for name, array in arrays.items() if array is not None})
