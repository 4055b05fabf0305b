"""Report sections of semantic networks: predictions beside the ground truth, worst images, attention, classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twins.charts import confusion_table, picture, share, table
from twins.data.formats.masks import IGNORE
from twins.data.formats.scenes import SceneMaps
from twins.drawing import Palette, grid, overlay, palette, thumbnail
from twins.errors import number_of
from twins.predictions import Prediction
from twins.tasks.contract import Examples, Explain

NUM_SHOWN, NUM_EXPLAINED, SIDE = 4, 2, 300


@dataclass(frozen=True)
class _MappedImage:
    """A held-out image with its ground truth and its predicted label map."""

    image: Image.Image
    truth: NDArray[np.uint8]
    predicted: NDArray[Any]
    path: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def accuracy(self) -> float:
        """Share of correct pixels, without ignored ones."""
        counted = self.truth != IGNORE
        return float((self.predicted == self.truth)[counted].mean()) if counted.any() else 1.0


def sections(result: dict[str, Any], examples: Examples, explain: Explain) -> list[str]:
    """Return a semantic network's sections."""
    images, colours = list[_MappedImage](), cast(Palette, ())
    for example in examples:
        assert example.prediction.label_map is not None
        colours = colours or palette(example.prediction)
        images.append(_MappedImage(example.image, example.target, example.prediction.label_map, example.path))
    worst = sorted(images, key=lambda x: x.accuracy)[:NUM_SHOWN]
    spread = images[:: max(1, len(images) // NUM_SHOWN)][:NUM_SHOWN]
    names = tuple(row["name"] for row in result["per_class"])
    return [
        f"<h2>Predictions</h2>{_legend(names, colours, spread)}{_rows(spread, colours)}",
        f"<h2>Worst images</h2><p>The lowest pixel accuracies of {number_of(len(images), 'held-out image')}.</p>"
        f"{_rows(worst, colours)}",
        explain([(x.image, x.name) for x in images[:NUM_EXPLAINED]]),
        _classes(result),
    ]


def _rows(images: list[_MappedImage], colours: Palette) -> str:
    """Return a row for each image: the image, its ground truth and its prediction."""
    return "".join(
        "<div class=triple>"
        + picture(thumbnail(x.image, SIDE), x.name)
        + picture(thumbnail(overlay(x.image, x.truth, colours), SIDE), "ground truth")
        + picture(
            thumbnail(overlay(x.image, x.predicted, colours), SIDE), f"prediction, {x.accuracy:.1%} of pixels right"
        )
        + "</div>"
        for x in images
    )


def _legend(names: tuple[str, ...], colours: Palette, images: list[_MappedImage]) -> str:
    """Return the colours of the classes in some images, at most 40."""
    label_maps = [label_map for x in images for label_map in (x.truth, x.predicted)]
    present = sorted({int(label) for label_map in label_maps for label in np.unique(label_map)} - {IGNORE})
    return (
        "<p class=legend>"
        + "".join(
            f"<span><i style='background:rgb{tuple(colours[label])}'></i>{escape(names[label])}</span>"
            for label in present[:40]
        )
        + "</p>"
    )


def _classes(result: dict[str, Any]) -> str:
    rows = sorted((r for r in result["per_class"] if r["iou"] is not None), key=lambda row: row["iou"])
    head = ("class", "pixels", "IoU", "accuracy", "boundary F1")
    shares = ("iou", "accuracy", "boundary_f1")
    lines = [(r["name"], f"{r['pixels']:,}", *(share(r.get(key)) for key in shares)) for r in rows[:200]]
    names = [row["name"] for row in result["per_class"]]
    return (
        f"<h2>Classes</h2><div class=scroll>{table(head, lines)}</div>"
        f"<h2>Confusion</h2>{confusion_table(names, result['confusion'], shares=True)}"
    )


def demo_picture(predict: Callable[[list[Image.Image]], list[Prediction]]) -> Image.Image:
    """Return the first held-out scenes, each beside a copy with the predicted classes."""
    scenes, count = SceneMaps(train=False), 6
    images = [scenes.load(index) for index in range(count)]
    shown, captions = [], []
    for image, prediction in zip(images, predict(images), strict=True):
        assert prediction.label_map is not None
        areas = {name: pixels for name, pixels in prediction.to_dict()["areas"].items() if name != "background"}
        digits = sorted(name for name, pixels in areas.items() if pixels >= 40)
        shown += [image, overlay(image, prediction.label_map, palette(prediction))]
        captions += ["", f"finds {' '.join(digits)}"]
    return grid(shown, captions, columns=6, side=150)
