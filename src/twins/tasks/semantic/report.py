"""A semantic network's part of a report: predictions beside the truth, the worst images, attention, classes."""

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
from twins.predictions import Prediction
from twins.tasks.contract import Examples, Explain

SHOWN, EXPLAINED, SIDE = 4, 2, 300


@dataclass(frozen=True)
class _Seen:
    """One held-out image with its truth and what was said."""

    image: Image.Image
    truth: NDArray[np.uint8]
    said: NDArray[Any]
    path: str

    @property
    def right(self) -> float:
        """Share of the pixels that count which are right."""
        counted = self.truth != IGNORE
        return float((self.said == self.truth)[counted].mean()) if counted.any() else 1.0


def sections(result: dict[str, Any], examples: Examples, explain: Explain) -> list[str]:
    """Return a semantic network's sections."""
    seen, colours = list[_Seen](), cast(Palette, ())
    for example in examples:
        assert example.prediction.label_map is not None
        colours = colours or palette(example.prediction)
        seen.append(_Seen(example.image, example.target, example.prediction.label_map, example.path))
    ordered = sorted(seen, key=lambda s: s.right)
    spread = seen[:: max(1, len(seen) // SHOWN)][:SHOWN]
    names = tuple(row["name"] for row in result["per_class"])
    return [
        f"<h2>Predictions</h2>{_legend(names, colours, spread)}{_rows(spread, colours)}",
        f"<h2>Worst images</h2><p>The fewest pixels right among {len(seen)} held-out images that were looked at.</p>"
        f"{_rows(ordered[:SHOWN], colours)}",
        explain([(s.image, s.path.rpartition("/")[2]) for s in seen[:EXPLAINED]]),
        _classes(result),
    ]


def _rows(seen: list[_Seen], colours: Palette) -> str:
    """Return a row for each image: as it is, with the truth, and with what was said."""
    return "".join(
        "<div class=triple>"
        + picture(thumbnail(s.image, SIDE), s.path.rpartition("/")[2])
        + picture(thumbnail(overlay(s.image, s.truth, colours), SIDE), "truth")
        + picture(thumbnail(overlay(s.image, s.said, colours), SIDE), f"prediction, {s.right:.1%} of pixels right")
        + "</div>"
        for s in seen
    )


def _legend(names: tuple[str, ...], colours: Palette, seen: list[_Seen]) -> str:
    """Return the colours of the classes in some images."""
    present = sorted({int(label) for s in seen for map_ in (s.truth, s.said) for label in np.unique(map_)} - {IGNORE})
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
    head = ("class", "true pixels", "IoU", "found (accuracy)", "boundary F1")
    shares = ("iou", "accuracy", "boundary_f1")
    lines = [(r["name"], f"{r['pixels']:,}", *(share(r.get(key)) for key in shares)) for r in rows[:200]]
    names = [row["name"] for row in result["per_class"]]
    return (
        f"<h2>Classes</h2><div class=scroll>{table(head, lines)}</div>"
        f"<h2>Confusion</h2>{confusion_table(names, result['confusion'], shares=True)}"
    )


def demo_picture(predict: Callable[[list[Image.Image]], list[Prediction]]) -> Image.Image:
    """Return the first held-out scenes, each with the digits that the network finds on it."""
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
