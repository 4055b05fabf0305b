"""What `twins predict` writes and prints. Files grow as predictions come, so memory does not."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from PIL.Image import Image

from twins.data.classes import built_in
from twins.data.loading.video import VideoWriter, is_video_file
from twins.drawing import index_image, palette
from twins.errors import ConfigError
from twins.files import atomic_file
from twins.metrics.coco_results import coco_results
from twins.predictions import FORMAT, Prediction
from twins.tasks.contract import spec_of
from twins.tasks.table import facts_of
from twins.weights.info import ModelInfo

_LONGEST = 200
"""Bytes of an image's name that what is drawn of it is called by: file systems take 255 of a whole name."""


class Seen(NamedTuple):
    """An image that was looked at."""

    path: Path
    """The file that it comes from."""
    place: int
    """Its number among all images and frames, from 0; images that could not be read count."""
    image: Image
    """RGB."""
    frame: int | None = None
    """Its number in a video."""
    seconds: float | None = None
    """When it is shown in a video."""

    def origin(self) -> dict[str, Any]:
        """Return where it comes from: `image`, and of a video `frame` and `seconds`."""
        moment = {} if self.seconds is None else {"frame": self.frame, "seconds": round(self.seconds, 3)}
        return {"image": str(self.path)} | moment


Add = Callable[[Seen, Prediction], None]
"""Takes the next image with its prediction."""


@contextmanager
def json_file(path: Path, task: str, top: int) -> Iterator[Add]:
    """Write `format` and `predictions`: where each image comes from, with what `Prediction.to_dict` returns.

    `top` classes of a classifier are given for each image; a detector's objects are given all.
    """
    with atomic_file(path) as beside, beside.open("w", encoding="utf-8") as file:
        file.write(f'{{"format": {FORMAT}, "predictions": [')
        append, most = _lines(file.write), None if facts_of(task).selection else top
        yield lambda seen, prediction: append(seen.origin() | prediction.to_dict(top=most))
        file.write("\n]}\n")


@contextmanager
def coco_file(path: Path, info: ModelInfo, paths: Sequence[Path]) -> Iterator[Add]:
    """Write what a detector finds as COCO results, see `twins.metrics.coco_results`.

    `image_id` is the number that is a file's name, as COCO's `000000397133.jpg` is 397133's, where every name is one
    and no two are alike; else, and with videos, the image's or frame's place among all that was named, from 0.
    `category_id` is COCO's own of a network that knows COCO's 80 names, else the class id, from 0.
    """
    table = built_in("coco")
    values = dict(zip(table.names, table.values, strict=True))
    known = set(info.names) == set(values)
    categories = [values[name] for name in info.names] if known else list(range(info.num_classes))
    numbers = _numbers(paths)
    with atomic_file(path) as beside, beside.open("w", encoding="utf-8") as file:
        file.write("[")
        append = _lines(file.write)

        def add(seen: Seen, prediction: Prediction) -> None:
            number = seen.place if numbers is None else numbers[seen.path]
            for entry in coco_results(prediction, image_id=number, category_ids=categories):
                append(entry)

        yield add
        file.write("\n]\n")


@contextmanager
def csv_file(path: Path, task: str, top: int, *, video: bool) -> Iterator[Add]:
    """Write a line for each object, each class of a semantic map, or each of a classifier's `top` classes."""
    spec = spec_of(task)
    with atomic_file(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *(("frame", "seconds") if video else ()), *spec.csv_columns])

        def add(seen: Seen, prediction: Prediction) -> None:
            origin = [seen.path, *((seen.frame, seen.origin().get("seconds")) if video else ())]
            writer.writerows([*origin, *row] for row in spec.csv_rows(prediction, top))

        yield add


@contextmanager
def drawings(folder: Path) -> Iterator[Add]:
    """Draw each image to a PNG and the frames of each video to an MP4, under names that nothing has taken.

    Raises:
        ConfigError: it is a file, or cannot be made or written to.
    """
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise ConfigError(f"--out {folder} is a file; name a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # whether files can be made in it
            pass
    except OSError as error:
        raise ConfigError(
            f"--out {folder} cannot be made or written to ({error.strerror}); choose another folder"
        ) from error
    with ExitStack() as stack:
        yield _Drawings(folder, stack).add


class _Drawings:
    """Draws into a folder; the stack holds the video that is being written."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._open = folder, stack
        self._video: VideoWriter | None = None

    def add(self, seen: Seen, prediction: Prediction) -> None:
        """Draw an image; of a semantic network write the map of class ids too.

        Raises:
            TrainingError: the disk is full or refuses.
        """
        if seen.frame == 0 or seen.frame is None:
            self._open.close()  # a video that was before
        if seen.seconds is not None:
            self._add_frame(seen, prediction)
            return
        endings = (".png",) if prediction.label_map is None else (".png", "-classes.png")
        path = self._free(seen.path.stem, *endings)
        _save(prediction.draw(seen.image), path)
        if prediction.label_map is not None:
            classes = index_image(prediction.label_map, palette(prediction))
            _save(classes, path.with_name(f"{path.stem}-classes.png"))

    def _add_frame(self, seen: Seen, prediction: Prediction) -> None:
        assert seen.seconds is not None
        if seen.frame == 0:
            beside = self._open.enter_context(atomic_file(self._free(seen.path.stem, ".mp4")))
            self._video = self._open.enter_context(VideoWriter(beside))
        assert self._video is not None
        self._video.add(prediction.draw(seen.image, steady=True), seen.seconds)

    def _free(self, stem: str, *endings: str) -> Path:
        """Return a path with the first ending under a name that no file with any of the endings has."""
        stem = stem if len(raw := os.fsencode(stem)) <= _LONGEST else raw[:_LONGEST].decode(errors="ignore")
        name, number = stem, 1
        while any(os.path.exists(self._folder / f"{name}{ending}") for ending in endings):
            number += 1
            name = f"{stem}-{number}"
        return self._folder / f"{name}{endings[0]}"


def _save(image: Image, path: Path) -> None:
    """Write a PNG whole or not at all."""
    with atomic_file(path) as beside:
        image.save(beside, format="PNG")


class Listing:
    """The table on the screen: a row for each image, with its `top` classes or objects, or for a video."""

    def __init__(self, task: str, top: int) -> None:
        self.spec, self.top = spec_of(task), top
        self.rows: list[tuple[str, str]] = []
        self._frames, self._counts = 0, Counter[str]()  # of the video that is seen

    def add(self, seen: Seen, prediction: Prediction) -> None:
        """Take the next image; the frames of a video are counted together."""
        if seen.frame is None:
            self.rows.append((str(seen.path), self.spec.summary(prediction, self.top)))
            return
        if seen.frame == 0:
            self._frames, self._counts = 0, Counter()
        else:
            self.rows.pop()
        self._frames += 1
        self._counts.update(self.spec.counts(prediction))
        self.rows.append((str(seen.path), f"{self._frames} frames; {self.spec.counts_summary(self._counts)}"))

    def show(self) -> None:
        """Print the table."""
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        table.add_column("image", overflow="fold")
        table.add_column(self.spec.summary_title, overflow="fold")
        for name, text in self.rows:
            table.add_row(escape(name), escape(text))
        Console().print(table)


def _lines(write: Callable[[str], object]) -> Callable[[Any], None]:
    """Return a function that appends a value to a JSON list, each on a line."""
    before = "\n"

    def append(value: Any) -> None:
        nonlocal before
        write(before + json.dumps(value, ensure_ascii=False))
        before = ",\n"

    return append


def _numbers(paths: Sequence[Path]) -> dict[Path, int] | None:
    """Return the numbers that files are named by; `None` where one is not, or two are alike."""
    if any(is_video_file(path) or not (path.stem.isascii() and path.stem.isdigit()) for path in paths):
        return None
    numbers = {path: int(path.stem) for path in paths}
    return numbers if len(set(numbers.values())) == len(paths) else None
