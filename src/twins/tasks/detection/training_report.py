"""Report section on a detector's training part: augmented views, objects by class, sizes of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from twins.charts import Axis, bar_chart, histogram, picture
from twins.drawing import Mark, Palette, mark, palette, thumbnail
from twins.errors import DataError, NotFoundError, number_of
from twins.predictions import Prediction
from twins.preprocess import Preprocess, fit_within
from twins.tasks.contract import TrainingPart

MAX_IMAGES, MAX_CLASSES, SIDE = 500, 30, 420
"""Largest number of images whose objects are counted, and of classes that are listed; longer side of a view."""


def training_sections(training: TrainingPart) -> list[str]:
    """Return augmented views with their objects, and statistics of the objects."""
    colours = _colours(training)
    views = "".join(
        picture(thumbnail(mark(image, _marks(target, training.names, colours)), SIDE), _count_text(target))
        for image, target in training.views
    )
    return [
        "<h2>Training images</h2><p>Augmented as the network is shown them, with the objects that it learns.</p>"
        f"<div class='thumbs wide'>{views}</div>{_statistics(training)}"
    ]


def _colours(training: TrainingPart) -> Palette:
    nothing = np.zeros((0, 4), dtype=np.float32)
    return palette(
        Prediction(task="", size=(1, 1), names=training.names, colours=training.colours, boxes=nothing, labels=None)
    )


def _marks(target: dict[str, Tensor], names: tuple[str, ...], colours: Palette) -> list[Mark]:
    """Return marks of a training target, see `twins.heads.targets.Target`."""
    masks: Any = target["masks"].numpy() if "masks" in target else [None] * len(target["labels"])
    rows = zip(target["boxes"].tolist(), target["labels"].tolist(), masks, strict=True)
    return [Mark(box=box, colour=colours[label], text=names[label], mask=mask) for box, label, mask in rows]


def _count_text(target: dict[str, Tensor]) -> str:
    return number_of(len(target["labels"]), "object")


def _statistics(training: TrainingPart) -> str:
    """Return the objects by class, and the sizes of their boxes in pixels of the network's input."""
    count = len(training.images)
    indices = range(0, count, max(1, -(-count // MAX_IMAGES)))
    labels, sizes = _labels_and_sizes(training.images, indices, training.preprocess)
    if not len(labels):
        return ""
    counts = np.bincount(labels, minlength=len(training.images.names)).tolist()
    bars = sorted(zip(training.images.names, counts, strict=True), key=lambda pair: -pair[1])[:MAX_CLASSES]
    of = "" if len(indices) == count else f" of {count:,}"
    mean = len(labels) / len(indices)
    return (
        f"<p>{len(labels):,} objects in {len(indices):,}{of} training images, {mean:.1f} in each. "
        f"In the median, the side of a box is {np.median(sizes):.0f} pixels at the network's input.</p>"
        f"<div class=charts><div><h3>Objects by class</h3>{bar_chart([(a, float(n), f'{n:,}') for a, n in bars])}</div>"
        f"{_size_chart(sizes)}</div>"
    )


def _labels_and_sizes(
    images: Any, indices: Sequence[int], preprocess: Preprocess
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return class and box side (square root of the area) of all objects without crowd regions."""
    labels, sizes = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    for index in indices:
        try:
            objects = images.target(index)
        except (DataError, NotFoundError):  # the training has left it out too
            continue
        height, width = objects.size
        scale = fit_within(width, height, preprocess.size, preprocess.longest)[0] / max(width, 1)
        sides = (objects.boxes[:, 2:] - objects.boxes[:, :2]).clip(min=0)[~objects.crowd]
        labels.append(objects.labels[~objects.crowd])
        sizes.append(scale * np.sqrt(sides.prod(axis=1)))
    return np.concatenate(labels), np.concatenate(sizes)


def _size_chart(sizes: NDArray[np.float64]) -> str:
    """Return a histogram of box sides, in bins whose ends are powers of two."""
    top = max(3, int(np.ceil(np.log2(max(sizes.max(), 1)))))
    edges = [2.0**power for power in range(1, top + 1)]
    counts = np.histogram(sizes.clip(edges[0], edges[-1] - 1e-9), edges)[0].tolist()
    bins = list(pairwise(edges))
    tips = [f"{a:g} to {b:g} pixels: {n:,} objects" for (a, b), n in zip(bins, counts, strict=True)]
    axis = Axis(tuple(edges), logarithmic=True)
    title = "Sides of boxes, square root of the area"
    return histogram(title, title, bins, [("size", counts)], tips, axis, "pixels at the network's input")
