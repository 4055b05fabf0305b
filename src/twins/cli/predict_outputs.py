"""The files that `twins predict` writes, while it runs, so that memory does not grow."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from PIL.Image import Image

from twins.data.classes import built_in
from twins.data.loading.sources import Item, Source, stem_of
from twins.data.loading.video import VideoWriter
from twins.drawing import DrawConfig, index_image, palette
from twins.errors import ConfigError
from twins.files import atomic_file, json_text
from twins.metrics.coco_results import coco_results
from twins.predictions import FORMAT, Prediction
from twins.tasks.contract import spec_of
from twins.tasks.table import facts_of
from twins.weights.info import ModelInfo

_MAX_STEM_BYTES = 200
"""Bytes of an image's name that are kept in a drawing's name, since file systems allow 255 for the whole name."""


Writer = Callable[[Source, Prediction], None]
"""Writes the prediction of the next image or frame."""


@contextmanager
def json_file(path: Path, task: str, top: int) -> Iterator[Writer]:
    """Write a JSON file with `format` and `predictions`: the origin of each image with `Prediction.to_dict`.

    A classifier's `top` classes are written for each image, and all objects of a detector.
    """
    with atomic_file(path) as temporary, _open(temporary) as file:
        file.write(f'{{"format": {FORMAT}, "predictions": [')
        append, limit = _list_writer(file.write), None if facts_of(task).selection else top
        yield lambda source, prediction: append(source.origin() | prediction.to_dict(top=limit))
        file.write("\n]}\n")


@contextmanager
def coco_file(path: Path, info: ModelInfo, items: Sequence[Item]) -> Iterator[Writer]:
    """Write a detector's objects as COCO results, see `twins.metrics.coco_results`.

    `image_id` is the number in the file's name, such as 397133 for COCO's `000000397133.jpg`, if all names are
    different numbers. Otherwise, and with videos, it is the position among all images and frames, from 0.
    `category_id` is COCO's own if the network has COCO's 80 class names, otherwise the class id, from 0.
    """
    table = built_in("coco")
    values = dict(zip(table.names, table.values, strict=True))
    has_coco_names = set(info.names) == set(values)
    categories = [values[name] for name in info.names] if has_coco_names else list(range(info.num_classes))
    numbers = _numbers(items)
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("[")
        append = _list_writer(file.write)

        def write(source: Source, prediction: Prediction) -> None:
            number = source.position if numbers is None else numbers[source.name]
            for entry in coco_results(prediction, image_id=number, category_ids=categories):
                append(entry)

        yield write
        file.write("\n]\n")


@contextmanager
def csv_file(path: Path, task: str, top: int, *, video: bool, track: bool = False) -> Iterator[Writer]:
    """Write a line for each object, each class of a semantic map, or each of a classifier's `top` classes.

    With `video` each line has the number and time of its frame, with `track` the track of its object.
    """
    spec = spec_of(task)
    with atomic_file(path) as temporary, _open(temporary) as file:
        lines = csv.writer(file)
        lines.writerow(
            ["image", *(("frame", "seconds") if video else ()), *spec.csv_columns, *(("track",) if track else ())]
        )

        def write(source: Source, prediction: Prediction) -> None:
            origin = [source.name, *((source.frame, source.origin().get("seconds")) if video else ())]
            lines.writerows([*origin, *row] for row in spec.csv_rows(prediction, top))

        yield write


@contextmanager
def drawings(folder: Path, config: DrawConfig) -> Iterator[Writer]:
    """Draw each image to a PNG and each video to an MP4, without overwriting existing files.

    Raises:
        ConfigError: `folder` is a file, or cannot be created or written to.
    """
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise ConfigError(f"--out {folder} is a file; name a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # raises where the folder cannot be written to
            pass
    except OSError as error:
        raise ConfigError(
            f"--out {folder} cannot be made or written to ({error.strerror}); choose another folder"
        ) from error
    with ExitStack() as stack:
        yield _Drawings(folder, stack, config).add


class _Drawings:
    """Draws into a folder; the stack holds the video that is being written."""

    def __init__(self, folder: Path, stack: ExitStack, config: DrawConfig) -> None:
        self._folder, self._stack, self._config = folder, stack, config
        self._video: VideoWriter | None = None

    def add(self, source: Source, prediction: Prediction) -> None:
        """Draw an image or a frame; for an image of a semantic network also write the map of class ids.

        Raises:
            TrainingError: the disk is full or writing fails.
        """
        if source.first:
            self._stack.close()  # the video before, if there was one
        if source.seconds is not None:
            self._add_frame(source, prediction)
            return
        endings = (".png",) if prediction.label_map is None else (".png", "-classes.png")
        path = self._unused_path(source.stem, *endings)
        _save(self._drawn(source, prediction), path)
        if prediction.label_map is not None:
            classes = index_image(prediction.label_map, palette(prediction))
            _save(classes, path.with_name(f"{path.stem}-classes.png"))

    def _add_frame(self, source: Source, prediction: Prediction) -> None:
        assert source.seconds is not None
        if source.first:
            temporary = self._stack.enter_context(atomic_file(self._unused_path(source.stem, ".mp4")))
            self._video = self._stack.enter_context(VideoWriter(temporary))
        assert self._video is not None
        self._video.add(self._drawn(source, prediction), source.seconds)

    def _drawn(self, source: Source, prediction: Prediction) -> Image:
        """Return the image with its prediction; pictures of frames have one size."""
        return prediction.draw(source.picture(), self._config, steady=source.seconds is not None)

    def _unused_path(self, stem: str, *endings: str) -> Path:
        """Return a path with the first ending, numbered if a file with any of the endings exists."""
        raw = os.fsencode(stem)
        stem = stem if len(raw) <= _MAX_STEM_BYTES else raw[:_MAX_STEM_BYTES].decode(errors="ignore")
        name, number = stem, 1
        while any(os.path.exists(self._folder / f"{name}{ending}") for ending in endings):
            number += 1
            name = f"{stem}-{number}"
        return self._folder / f"{name}{endings[0]}"


def _save(image: Image, path: Path) -> None:
    """Write a complete PNG or none."""
    with atomic_file(path) as temporary:
        image.save(temporary, format="PNG")


def _open(path: Path) -> TextIO:
    """Open a text file to write; bytes of file names that are no text become escapes such as `\\udcff`, as in JSON."""
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")


def _list_writer(write: Callable[[str], object]) -> Callable[[Any], None]:
    """Return a function that appends a value to a JSON list, on a line of its own."""
    separator = "\n"

    def append(value: Any) -> None:
        nonlocal separator
        write(separator + json_text(value))
        separator = ",\n"

    return append


def _numbers(items: Sequence[Item]) -> dict[str, int] | None:
    """Return the number in each file's name; `None` if a name is not a number, or two numbers are equal."""
    names = {item.name: stem_of(item.name) for item in items}
    if any(item.kind not in ("file", "web") or not _is_number(names[item.name]) for item in items):
        return None
    numbers = {name: int(stem) for name, stem in names.items()}
    return numbers if len(set(numbers.values())) == len(items) else None


def _is_number(stem: str) -> bool:
    return stem.isascii() and stem.isdigit()
