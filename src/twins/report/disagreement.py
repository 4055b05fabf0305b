"""The held-out images on which the best weights of several runs disagree most."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twins.bands import to_rgb
from twins.data.base import ImageSet
from twins.drawing import overlay, palette
from twins.engine.config import TrainConfig
from twins.errors import DataError, NotFoundError
from twins.predictions import Prediction
from twins.predictor import load
from twins.tasks.contract import spec_of

MATCHED_IOU = 0.5
"""Intersection over union from which two boxes of one class are one object."""
CHUNK = 16
"""Images that all runs predict in turn, between two looks at the clock."""


@dataclass(frozen=True)
class Disagreement:
    """An image with the prediction of each run."""

    path: str
    score: float
    """Mean disagreement of the other runs with the first one, 0..1."""
    pictures: list[Image.Image]
    """The drawn prediction of each run, in their order."""
    truth: str
    """The class of the image; empty if the truth is no single class."""


@dataclass(frozen=True)
class Search:
    """The result of a search for disagreements."""

    images: list[Disagreement]
    """The images with the largest disagreement, largest first; those without any are left out."""
    predicted: int
    """Images that were predicted."""
    shared: int
    """Held-out images that all runs have."""


def find_disagreements(
    runs: Sequence[tuple[str | Path, TrainConfig]], *, count: int, seconds: float, device: str = "auto"
) -> Search:
    """Predict the held-out images that all runs share, spread evenly over them, until the time is over.

    Args:
        runs: run folders with their settings, of one task.
        count: largest number of images to return.
        seconds: time after which no further images are predicted.
        device: device for predictions: `auto`, `cpu`, `cuda` or `mps`.

    Raises:
        TwinsError: the data or the weights of a run cannot be used.
    """
    images, indices = _shared_images([config for _, config in runs])
    predictors = [load(run, device=device) for run, _ in runs]
    best: list[tuple[float, int, list[Prediction]]] = []
    predicted, end = 0, time.monotonic() + seconds
    remaining = _readable(images, _spread(indices))
    while time.monotonic() < end and (chunk := list(islice(remaining, CHUNK))):
        results = [predictor.predict([image for _, image in chunk], batch_size=CHUNK) for predictor in predictors]
        for (index, _), predictions in zip(chunk, zip(*results, strict=True), strict=True):
            score = sum(disagreement(predictions[0], other) for other in predictions[1:]) / (len(predictions) - 1)
            best.append((score, index, list(predictions)))
        predicted += len(chunk)
        best = sorted((item for item in best if item[0] > 0), key=lambda item: -item[0])[:count]
    return Search([_drawn(images, *item) for item in best], predicted, len(indices))


def disagreement(first: Prediction, second: Prediction) -> float:
    """Return how far two predictions for one image differ, 0..1; classes are compared by name.

    Maps: the share of pixels with another class. Objects: the share of both predictions' objects that the other does
    not have. Classes: the total variation distance of the probabilities, plus 1 if the first class differs, halved.
    """
    if first.label_map is not None and second.label_map is not None:
        return float((first.label_map != _renamed(second, first)[second.label_map]).mean())
    if first.boxes is not None and second.boxes is not None:
        total = len(first.boxes) + len(second.boxes)
        return 1 - 2 * _matched(first, second) / total if total else 0.0
    distance = _total_variation(_by_name(first), _by_name(second))
    return (distance + (_top(first) != _top(second))) / 2


def _total_variation(first: dict[str, float], second: dict[str, float]) -> float:
    names = first.keys() | second.keys()
    return min(1.0, sum(abs(first.get(name, 0.0) - second.get(name, 0.0)) for name in names) / 2)


def _by_name(prediction: Prediction) -> dict[str, float]:
    assert prediction.labels is not None
    assert prediction.scores is not None
    pairs = zip(prediction.labels.tolist(), prediction.scores.tolist(), strict=True)
    return {prediction.name(label): score for label, score in pairs}


def _top(prediction: Prediction) -> str:
    assert prediction.labels is not None
    return prediction.name(int(prediction.labels[0]))


def _renamed(prediction: Prediction, other: Prediction) -> NDArray[np.int64]:
    """Return for each class id of a prediction the id of its name in another one; classes that it lacks get -1."""
    if prediction.names == other.names:
        return np.arange(256 if prediction.label_map is None else int(prediction.label_map.max(initial=0)) + 1)
    ids = {name: label for label, name in enumerate(other.names)}
    return np.array([ids.get(name, -1) for name in prediction.names], dtype=np.int64)


def _matched(first: Prediction, second: Prediction) -> int:
    """Return how many objects of two predictions are the same, matched in descending order of overlap."""
    assert first.boxes is not None
    assert second.boxes is not None
    if not len(first.boxes) or not len(second.boxes):
        return 0
    overlaps = _overlaps(first.boxes, second.boxes)
    overlaps[np.array(_object_names(first))[:, None] != np.array(_object_names(second))[None]] = 0.0
    matched = 0
    while overlaps.size and overlaps.max() >= MATCHED_IOU:
        row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
        overlaps[row], overlaps[:, column] = 0.0, 0.0
        matched += 1
    return matched


def _object_names(prediction: Prediction) -> list[str]:
    assert prediction.labels is not None
    return [prediction.name(label) for label in prediction.labels.tolist()]


def _overlaps(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the intersection over union of boxes `(N, 4)` and `(M, 4)`: `(N, M)`."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clip(min=0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def _shared_images(configs: Sequence[TrainConfig]) -> tuple[ImageSet, list[int]]:
    """Return the first run's held-out images, and the indices of those that all other runs hold out too."""
    sets = [spec_of(config.task).open(config.source).select("val") for config in configs]
    paths = [{_identity(images.path(index)) for index in range(len(images))} for images in sets[1:]]
    first: ImageSet = sets[0]
    return first, [i for i in range(len(first)) if all(_identity(first.path(i)) in others for others in paths)]


def _identity(path: str) -> str:
    return str(Path(path).resolve())


def _spread(indices: Sequence[int]) -> Iterator[int]:
    """Yield indices in an order whose every beginning is spread evenly over them."""
    step = 1 << max(0, len(indices) - 1).bit_length()
    done = set[int]()
    while step:
        for position in range(0, len(indices), step):
            if position not in done:
                done.add(position)
                yield indices[position]
        step //= 2


def _readable(images: ImageSet, indices: Iterator[int]) -> Iterator[tuple[int, Any]]:
    for index in indices:
        try:
            yield index, images.load(index)
        except (DataError, NotFoundError):  # the evaluation has skipped it too
            continue


def _drawn(images: ImageSet, score: float, index: int, predictions: Sequence[Prediction]) -> Disagreement:
    image = to_rgb(images.load(index))
    target = images.target(index)
    truth = str(images.names[target]) if isinstance(target, int) and images.names else ""
    return Disagreement(images.path(index), score, [_draw(image, prediction) for prediction in predictions], truth)


def _draw(image: Image.Image, prediction: Prediction) -> Image.Image:
    if prediction.label_map is not None:
        return overlay(image, prediction.label_map, palette(prediction))
    return prediction.draw(image)
