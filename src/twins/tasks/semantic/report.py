"""A semantic network's part of a report: predictions beside the truth, the worst images, attention, classes."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twins.charts import confusion_table, picture, share
from twins.data.base import MappedImages
from twins.data.classes import distinct_colours
from twins.data.formats.masks import IGNORE
from twins.data.transforms.semantic import check_fit
from twins.drawing import Palette, overlay
from twins.errors import DataError, NotFoundError
from twins.evaluation import match_classes
from twins.predictor import Predictor
from twins.report.pictures import attention_section, thumbnail
from twins.tasks.semantic.spec import SemanticKit

SHOWN, EXAMINED, EXPLAINED, SIDE = 4, 100, 2, 300


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


def sections(predictor: Predictor, images: MappedImages, result: dict[str, Any]) -> list[str]:
    """Return a semantic network's sections."""
    seen, colours = _look(predictor, images)
    ordered = sorted(seen, key=lambda s: s.right)
    spread = seen[:: max(1, len(seen) // SHOWN)][:SHOWN]
    names = predictor.names or images.names
    return [
        f"<h2>Predictions</h2>{_legend(names, colours, spread)}{_rows(spread, colours)}",
        f"<h2>Worst images</h2><p>The fewest pixels right among {len(seen)} held-out images that were looked at.</p>"
        f"{_rows(ordered[:SHOWN], colours)}",
        attention_section(predictor, [(s.image, s.path.rpartition("/")[2]) for s in seen[:EXPLAINED]]),
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
    lines = "".join(
        f"<tr><td>{escape(r['name'])}</td><td>{r['pixels']:,}</td><td>{share(r['iou'])}</td>"
        f"<td>{share(r['accuracy'])}</td><td>{share(r.get('boundary_f1'))}</td></tr>"
        for r in rows[:200]
    )
    names = [row["name"] for row in result["per_class"]]
    return (
        "<h2>Classes</h2><div class=scroll><table><tr><th>class</th><th>true pixels</th><th>IoU</th>"
        f"<th>found (accuracy)</th><th>boundary F1</th></tr>{lines}</table></div>"
        f"<h2>Confusion</h2>{confusion_table(names, result['confusion'], shares=True)}"
    )


def _look(predictor: Predictor, images: MappedImages) -> tuple[list[_Seen], Palette]:
    """Predict held-out images, at most `EXAMINED` spread over the set; those that cannot be used are left out."""
    matched, names = match_classes(SemanticKit(), images, predictor.model)
    seen: list[_Seen] = []
    for index in range(0, len(matched), -(-len(matched) // EXAMINED)):
        try:
            image, truth = matched.load(index), matched.target(index)
            check_fit(image, truth)
        except (DataError, NotFoundError):
            continue
        (prediction,) = predictor.predict(image)
        assert prediction.label_map is not None
        seen.append(_Seen(image, truth, prediction.label_map, matched.path(index)))
    return seen, predictor.model.info.colours or distinct_colours(len(names))
